//! What can be wrong with a configuration, and how it is told: file, line, caret, reason, nearest key.

use std::{error::Error, fmt, io, path::PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::source::{Hide, Place};

/// All faults of a configuration: never none.
#[derive(Debug)]
pub(crate) struct ConfigError {
    faults: Vec<Fault>,
}

/// One fault.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The key, with its table's name before it; empty for a fault of the whole file.
    key: String,
    reason: Reason,
    place: Option<Place>,
}

/// Why a value or a file cannot be taken.
#[derive(Debug)]
pub(crate) enum Reason {
    /// The config file itself cannot be read.
    Unreadable(PathBuf, io::Error),
    NotUtf8(PathBuf, std::str::Utf8Error),
    /// Not TOML. Only its message is shown: its own rendering would print the line with its secrets.
    Syntax(toml::de::Error),
    UnknownKey {
        nearest: Option<&'static str>,
    },
    Type {
        expected: &'static str,
        found: &'static str,
    },
    /// None of the words that the key knows.
    Choice {
        choices: Vec<&'static str>,
        nearest: Option<&'static str>,
    },
    /// The text does not mean a value of this kind.
    Value(Box<dyn Error + Send + Sync>),
    /// A file that the key names cannot be read.
    NamedFile(io::Error),
    /// A rule about the key, or about keys that go together.
    Rule(&'static str),
}

/// Something that is allowed but hardly meant.
#[derive(Debug)]
pub(crate) struct Warning {
    text: String,
    place: Option<Place>,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Style {
    Plain,
    Colours,
}

/// The faults found so far.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    pub(crate) fn add(&mut self, key: impl Into<String>, reason: Reason, place: Option<Place>) {
        self.0.push(Fault { key: key.into(), reason, place });
    }

    /// The faults as an error, in the order of their places; `Ok` when there are none.
    pub(crate) fn into_result(mut self) -> Result<(), ConfigError> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort_by(|a, b| a.place.as_ref().map(Place::order).cmp(&b.place.as_ref().map(Place::order)));
        Err(ConfigError { faults: self.0 })
    }
}

impl From<Reason> for ConfigError {
    /// A fault of a whole file.
    fn from(reason: Reason) -> Self {
        Self { faults: vec![Fault { key: String::new(), reason, place: None }] }
    }
}

impl ConfigError {
    /// The error of one fault.
    pub(crate) fn one(reason: Reason, place: Place) -> Self {
        Self { faults: vec![Fault { key: String::new(), reason, place: Some(place) }] }
    }

    /// The same, told by the names of the variables that these flags' values came from.
    pub(crate) fn of_variables(mut self, variables: &[(&'static str, &'static str)]) -> Self {
        for fault in &mut self.faults {
            if let Some(Place::Flag(named)) = &mut fault.place
                && let Some((_, variable)) = variables.iter().find(|(flag, _)| flag == named)
            {
                *named = variable;
            }
        }
        self
    }

    /// The faults of a file that can be done without.
    pub(crate) fn into_warnings(self, consequence: &str) -> impl Iterator<Item = Warning> {
        let warn = move |fault: Fault| Warning::new(format!("{consequence}: {fault}"), fault.place);
        self.faults.into_iter().map(warn)
    }

    /// Whether a config file is there, and closed to this user.
    pub(crate) fn is_denied(&self) -> bool {
        self.faults.iter().any(|fault| {
            matches!(&fault.reason, Reason::Unreadable(_, error) if error.kind() == io::ErrorKind::PermissionDenied)
        })
    }

    #[cfg(test)]
    pub(crate) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Every fault with its line and caret.
    pub(crate) fn render(&self, style: Style) -> String {
        let reports = self
            .faults
            .iter()
            .map(|fault| render(Level::ERROR, &fault.to_string(), fault.hint(), fault, style));
        reports.collect::<Vec<_>>().join("\n")
    }
}

impl Fault {
    /// The line in its file, counted from 1.
    #[cfg(test)]
    pub(crate) fn line(&self) -> Option<usize> {
        self.place.as_ref()?.line()
    }

    fn hint(&self) -> Option<String> {
        match &self.reason {
            Reason::UnknownKey { nearest } | Reason::Choice { nearest, .. } => {
                nearest.map(|nearest| format!("did you mean `{nearest}`?"))
            }
            Reason::Unreadable(..)
            | Reason::NotUtf8(..)
            | Reason::Syntax(_)
            | Reason::Type { .. }
            | Reason::Value(_)
            | Reason::NamedFile(_)
            | Reason::Rule(_) => None,
        }
    }
}

impl Warning {
    pub(crate) fn new(text: impl Into<String>, place: Option<Place>) -> Self {
        Self { text: text.into(), place }
    }

    /// What the warning says.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The line in its file, counted from 1.
    #[cfg(test)]
    pub(crate) fn line(&self) -> Option<usize> {
        self.place.as_ref()?.line()
    }

    /// The warning with its line and caret.
    pub(crate) fn render(&self, style: Style) -> String {
        let title = match &self.place {
            // There is no line that could be shown.
            Some(Place::Flag(flag)) => &format!("{flag}: {}", self.text),
            Some(Place::Text(..) | Place::File(_)) | None => &self.text,
        };
        render(Level::WARNING, title, None, self, style)
    }
}

/// What has a place that can be shown.
trait Placed {
    fn place(&self) -> Option<&Place>;
    fn hide(&self) -> Hide;
}

impl Placed for Fault {
    fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    fn hide(&self) -> Hide {
        if matches!(self.reason, Reason::UnknownKey { .. }) { Hide::Value } else { Hide::Nothing }
    }
}

impl Placed for Warning {
    fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    fn hide(&self) -> Hide {
        Hide::Nothing
    }
}

fn render(
    level: Level<'static>,
    title: &str,
    hint: Option<String>,
    placed: &impl Placed,
    style: Style,
) -> String {
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Colours => Renderer::styled(),
    };
    let title = level.primary_title(title);
    let group = match placed.place() {
        None | Some(Place::Flag(_)) => Group::with_title(title),
        Some(Place::File(source)) => title.element(Origin::path(source.path().to_string_lossy())),
        Some(Place::Text(source, span)) => {
            let excerpt = source.excerpt(span, placed.hide());
            let path = source.path().to_string_lossy();
            title.element(
                Snippet::source(excerpt.line)
                    .line_start(excerpt.number)
                    .path(path)
                    .annotation(AnnotationKind::Primary.span(excerpt.span).label(hint)),
            )
        }
    };
    let mut text = renderer.render(&[group]);
    text.push('\n');
    text
}

impl fmt::Display for Warning {
    /// One line, for a log: the place, as far as there is one, and the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(Place::Flag(flag)) => write!(f, "{flag}: ")?,
            Some(Place::File(source)) => write!(f, "{}: ", source.path().display())?,
            Some(place @ Place::Text(source, _)) => {
                write!(f, "{}:{}: ", source.path().display(), place.line().unwrap_or_default())?;
            }
            None => {}
        }
        f.write_str(&self.text)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(Style::Plain).trim_end())
    }
}

impl Error for ConfigError {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(Place::Flag(flag)) => write!(f, "{flag}: {}", self.reason),
            Some(Place::Text(..) | Place::File(_)) | None if self.key.is_empty() => self.reason.fmt(f),
            Some(Place::Text(..) | Place::File(_)) | None => write!(f, "`{}`: {}", self.key, self.reason),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => write!(f, "{} cannot be read: {error}", path.display()),
            Self::NotUtf8(path, error) => {
                write!(f, "{} is not UTF-8: {error}", path.display())
            }
            Self::Syntax(error) => write!(f, "not TOML: {}", error.message()),
            Self::UnknownKey { .. } => f.write_str("unknown key"),
            Self::Type { expected, found } => write!(f, "{expected} is expected, not {found}"),
            Self::Choice { choices, .. } => {
                f.write_str("it can be")?;
                for (choice, number) in choices.iter().zip(1..) {
                    let separator = match number {
                        1 => "",
                        _ if number == choices.len() => " or",
                        _ => ",",
                    };
                    write!(f, "{separator} `{choice}`")?;
                }
                Ok(())
            }
            Self::Value(error) => error.fmt(f),
            Self::NamedFile(error) => write!(f, "the file cannot be read: {error}"),
            Self::Rule(rule) => f.write_str(rule),
        }
    }
}

/// The one of `known` that `word` is most likely meant as; `None` when none is near.
pub(crate) fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    let word = word.to_lowercase();
    known
        .iter()
        .map(|known| (distance(&word, known), *known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// How many letters have to be put in, taken out, changed or swapped with the next to turn `a` into `b`.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::source::Source;

    #[test]
    fn the_nearest_key_is_named_only_when_it_is_near() {
        let known = ["host", "port", "http_port", "max_content_length"];
        for (word, expected) in [
            ("prot", Some("port")),
            ("Port", Some("port")),
            ("hots", Some("host")),
            ("max_content_lenght", Some("max_content_length")),
            ("max_size", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
    }

    #[test]
    fn a_fault_is_shown_with_file_line_caret_reason_and_hint() {
        let source = Arc::new(Source::new("c.toml", "version = 1\n[server]\n    prot = 80\n"));
        let mut faults = Faults::default();
        faults.add(
            "server.prot",
            Reason::UnknownKey { nearest: Some("port") },
            Some(Place::Text(source, 25..29)),
        );
        let error = faults.into_result().unwrap_err();
        let expected = "\
error: `server.prot`: unknown key
 --> c.toml:3:5
  |
3 |     prot = …
  |     ^^^^ did you mean `port`?
";
        assert_eq!(error.render(Style::Plain), expected);
        assert_eq!(error.faults()[0].line(), Some(3));
        assert!(error.render(Style::Colours).contains('\u{1b}'));
    }

    #[test]
    fn a_fault_of_a_flag_has_no_line() {
        let mut faults = Faults::default();
        faults.add("server.port", Reason::Rule("no"), Some(Place::Flag("--port")));
        let error = faults.into_result().unwrap_err();
        assert_eq!(error.to_string(), "error: --port: no");
    }

    #[test]
    fn a_warning_fits_on_one_line_of_a_log() {
        let source = Arc::new(Source::new("c.toml", "a\nb\n"));
        let warning = |place| Warning::new("hm", place).to_string();
        assert_eq!(warning(Some(Place::Text(Arc::clone(&source), 2..3))), "c.toml:2: hm");
        assert_eq!(warning(Some(Place::File(source))), "c.toml: hm");
        assert_eq!(warning(Some(Place::Flag("--port"))), "--port: hm");
        assert_eq!(warning(None), "hm");
    }

    #[test]
    fn faults_come_in_the_order_of_the_file() {
        let source = Arc::new(Source::new("c.toml", "a\nb\nc\n"));
        let mut faults = Faults::default();
        for at in [4, 0, 2] {
            faults.add("k", Reason::Rule("r"), Some(Place::Text(Arc::clone(&source), at..at + 1)));
        }
        let error = faults.into_result().unwrap_err();
        let lines: Vec<_> = error.faults().iter().map(Fault::line).collect();
        assert_eq!(lines, [Some(1), Some(2), Some(3)]);
    }
}
