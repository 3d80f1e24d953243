//! The mirror and the flags of automatic updates, as install.sh writes them down and systemd reads them; an update by
//! hand goes by them too.

use std::{
    fmt::{self, Write as _},
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args as _, FromArgMatches as _};

use super::{RELEASES, UpdateArgs, mirror::PlainHttp};
use crate::storage;

pub(super) const FILE: &str = "/etc/parley-relay/update.env";
/// As install.sh has it.
const MODE: u32 = 0o644;
const MIRROR: &str = "MIRROR_BASE_URL";
const FLAGS: &str = "UPDATE_FLAGS";
const PLAIN_HTTP: &str = "--plain-http";

/// What the update service does not see: ProtectHome and PrivateTmp keep it away.
const UNSEEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// What the file says.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Kept {
    mirror: Option<String>,
    flags: Vec<String>,
}

/// What the file said before it was changed: to be put back. `None`: it was not there.
pub(super) struct Before(Option<String>);

/// Why nothing can be read from the file, or be kept in it.
#[derive(Debug)]
pub(super) enum KeptError {
    Unreadable(io::Error),
    Unwritable(io::Error),
    /// A line, counted from one, of which systemd might make something else than we do.
    Line(usize, &'static str),
    /// UPDATE_FLAGS are none of `update`.
    Flags(clap::Error),
    /// A mirror that systemd would read as another.
    Mirror(String),
    /// A directory that the update service does not see.
    Unseen(PathBuf),
}

impl Kept {
    /// What is in the file; nothing, where there is none.
    pub(super) fn read() -> Result<Self, KeptError> {
        text()?.as_deref().map_or_else(|| Ok(Self::default()), Self::parse)
    }

    fn parse(text: &str) -> Result<Self, KeptError> {
        let mut kept = Self::default();
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            if line.ends_with('\\') {
                return Err(KeptError::Line(number, "it goes on in the next one"));
            }
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let named = line.split_once('=').filter(|(name, _)| is_name(name));
            let (name, value) = named.ok_or(KeptError::Line(number, "it is no NAME=value"))?;
            if name != MIRROR && name != FLAGS {
                // For the environment of the service, which is none of ours.
                continue;
            }
            let value =
                plain(value).ok_or(KeptError::Line(number, "quotes or backslashes are in its value"))?;
            // As for systemd, the last one counts.
            if name == MIRROR {
                kept.mirror = Some(value.to_owned()).filter(|mirror| !mirror.is_empty());
            } else {
                kept.flags = value.split_whitespace().map(str::to_owned).collect();
            }
        }
        Ok(kept)
    }

    /// Completes arguments that name no mirror. Says so, and from where.
    pub(super) fn complete(self, given: UpdateArgs) -> Result<UpdateArgs, KeptError> {
        if self == Self::default() {
            return Ok(given);
        }
        let flags = UpdateArgs::augment_args(clap::Command::new(FLAGS).no_binary_name(true));
        let flags = flags.try_get_matches_from(&self.flags).map_err(KeptError::Flags)?;
        let flags = UpdateArgs::from_arg_matches(&flags).map_err(KeptError::Flags)?;
        eprintln!("{FILE} says{}, as for automatic updates; --mirror names another", self.names());
        Ok(UpdateArgs {
            check: given.check || flags.check,
            mirror: flags.mirror.or(self.mirror),
            public_key: given.public_key.or(flags.public_key),
            plain_http: given.plain_http || flags.plain_http,
            proxy: given.proxy.or(flags.proxy),
            config: given.config.or(flags.config),
            binary: given.binary.or(flags.binary),
            restart_with: given.restart_with.or(flags.restart_with),
            well_within: given.well_within.or(flags.well_within),
            any_version: given.any_version || flags.any_version,
            names_mirror: given.names_mirror,
        })
    }

    /// The mirror and the flags' names. SECURITY: a flag's value may hold a proxy's password.
    fn names(&self) -> String {
        let mirror = self.mirror.as_ref().map(|mirror| format!(" {MIRROR}={mirror}"));
        let flags = self.flags.iter().filter(|word| word.starts_with('-'));
        let flags = flags.map(|flag| flag.split('=').next().unwrap_or(flag));
        mirror.into_iter().chain(flags.map(|flag| format!(" {flag}"))).collect()
    }

    /// The file's text with another mirror: other lines stay as somebody wrote them. Trust in one mirror is none in
    /// another.
    fn rewritten(&self, text: &str, mirror: &str, plain_http: PlainHttp) -> String {
        let is_other =
            |line: &&str| line.split_once('=').is_none_or(|(name, _)| ![MIRROR, FLAGS].contains(&name));
        let mut lines: Vec<_> = text.lines().filter(is_other).map(str::to_owned).collect();
        let mut flags: Vec<_> =
            self.flags.iter().map(String::as_str).filter(|flag| *flag != PLAIN_HTTP).collect();
        if mirror != RELEASES {
            lines.push(format!("{MIRROR}={mirror}"));
            if plain_http == PlainHttp::Allow {
                flags.push(PLAIN_HTTP);
            }
        }
        if !flags.is_empty() {
            lines.push(format!("{FLAGS}={}", flags.join(" ")));
        }
        lines.into_iter().fold(String::new(), |mut text, line| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{line}");
            text
        })
    }
}

/// Keeps a mirror for later updates. `Ok(None)`: it is kept already.
pub(super) fn keep(mirror: &str, plain_http: PlainHttp) -> Result<Option<Before>, KeptError> {
    let before = text()?;
    let old = before.as_deref().unwrap_or_default();
    let kept = Kept::parse(old)?;
    let mirror = lasting(mirror)?;
    let plain_http = if mirror == RELEASES { PlainHttp::Refuse } else { plain_http };
    let trusted = kept.flags.iter().any(|flag| flag == PLAIN_HTTP);
    if kept.mirror.as_deref().unwrap_or(RELEASES) == mirror && trusted == (plain_http == PlainHttp::Allow) {
        return Ok(None);
    }
    let new = kept.rewritten(old, &mirror, plain_http);
    storage::replace(Path::new(FILE), MODE, new.as_bytes()).map_err(KeptError::Unwritable)?;
    Ok(Some(Before(before)))
}

impl Before {
    pub(super) fn put_back(self) -> Result<(), KeptError> {
        let put_back = match self.0 {
            Some(text) => storage::replace(Path::new(FILE), MODE, text.as_bytes()),
            None => fs::remove_file(FILE),
        };
        put_back.map_err(KeptError::Unwritable)
    }
}

fn text() -> Result<Option<String>, KeptError> {
    match fs::read_to_string(FILE) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(KeptError::Unreadable(error)),
    }
}

/// The mirror, as it means the same from everywhere.
fn lasting(mirror: &str) -> Result<String, KeptError> {
    // One that is no directory is a URL, or has been refused before.
    let directory = fs::canonicalize(mirror).ok().filter(|path| path.is_dir());
    if let Some(directory) = &directory
        && UNSEEN.iter().any(|unseen| is_below(directory, Path::new(unseen)))
    {
        return Err(KeptError::Unseen(directory.clone()));
    }
    let mirror = match &directory {
        Some(directory) => directory.to_str().ok_or_else(|| KeptError::Mirror(mirror.to_owned()))?,
        None => mirror.trim_end_matches('/'),
    };
    match plain(mirror) {
        Some(same) if same == mirror && !mirror.contains(char::is_control) => Ok(mirror.to_owned()),
        Some(_) | None => Err(KeptError::Mirror(mirror.to_owned())),
    }
}

/// Whether the path, which goes over no link, is in the directory, which may be one, as /home may be to /var/home.
fn is_below(path: &Path, directory: &Path) -> bool {
    let whole = fs::canonicalize(directory);
    path.starts_with(whole.as_deref().unwrap_or(directory))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A value without the quotes around it; `None`: there is more to it.
fn plain(value: &str) -> Option<&str> {
    let value = value.trim();
    let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    let inside = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
    (!inside.contains(['"', '\'', '\\'])).then_some(inside)
}

impl fmt::Display for KeptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "{FILE} cannot be read: {error}"),
            Self::Unwritable(error) => write!(f, "{FILE} cannot be written: {error}"),
            Self::Line(number, reason) => write!(
                f,
                "line {number} of {FILE} is not understood: {reason}; mend it, or give --mirror, which leaves the \
                 file aside"
            ),
            Self::Flags(error) => {
                let told = error.to_string();
                let told = told.lines().next().unwrap_or_default();
                let told = told.strip_prefix("error: ").unwrap_or(told);
                write!(f, "{FLAGS} in {FILE} is not understood: {told}")
            }
            Self::Mirror(mirror) => write!(f, "systemd would read the mirror {mirror} as another"),
            Self::Unseen(directory) => write!(
                f,
                "automatic updates do not see {}: home directories and /tmp are kept from them; a directory \
                 elsewhere, such as in /srv, can be kept",
                directory.display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://mirror.example/relay";

    fn kept(mirror: Option<&str>, flags: &[&str]) -> Kept {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Kept { mirror: mirror.map(str::to_owned), flags }
    }

    #[test]
    fn what_the_installer_writes_is_read_as_systemd_reads_it() {
        let flags = "UPDATE_FLAGS=\"--proxy http://127.0.0.1:1  --plain-http\"";
        for (text, wanted) in [
            (String::new(), kept(None, &[])),
            (format!("MIRROR_BASE_URL={URL}\n"), kept(Some(URL), &[])),
            (format!("MIRROR_BASE_URL=/a\nMIRROR_BASE_URL='{URL}'"), kept(Some(URL), &[])),
            ("MIRROR_BASE_URL=/media/My stick \n".into(), kept(Some("/media/My stick"), &[])),
            ("# no mirror\n; none\n\nLANG=\"it's\"\nMIRROR_BASE_URL=\n".into(), kept(None, &[])),
            (
                format!("{flags}\nMIRROR_BASE_URL=/a"),
                kept(Some("/a"), &["--proxy", "http://127.0.0.1:1", "--plain-http"]),
            ),
        ] {
            assert_eq!(Kept::parse(&text).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn what_could_mean_something_else_is_refused_by_its_line() {
        for line in [
            "MIRROR_BASE_URL",
            "export MIRROR_BASE_URL=/a",
            "MIRROR_BASE_URL =/a",
            "MIRROR_BASE_URL=/a\\ b",
            "MIRROR_BASE_URL='/a",
            "MIRROR_BASE_URL=/a'b",
            "UPDATE_FLAGS=--proxy \"x y\"",
            "LANG=C\\",
        ] {
            let refused = Kept::parse(&format!("# a comment\n{line}\n"));
            assert!(matches!(refused, Err(KeptError::Line(2, _))), "{line}: {refused:?}");
        }
    }

    #[test]
    fn another_mirror_takes_the_place_of_the_one_and_of_the_trust_in_it() {
        let text = format!("LANG=C\nUPDATE_FLAGS=--plain-http --any-version\nMIRROR_BASE_URL={URL}\n");
        let kept = Kept::parse(&text).unwrap();
        for (mirror, plain_http, wanted) in [
            (
                "http://a",
                PlainHttp::Allow,
                "MIRROR_BASE_URL=http://a\nUPDATE_FLAGS=--any-version --plain-http\n",
            ),
            ("/srv/a", PlainHttp::Refuse, "MIRROR_BASE_URL=/srv/a\nUPDATE_FLAGS=--any-version\n"),
            (RELEASES, PlainHttp::Allow, "UPDATE_FLAGS=--any-version\n"),
        ] {
            assert_eq!(kept.rewritten(&text, mirror, plain_http), format!("LANG=C\n{wanted}"));
        }
    }

    #[test]
    fn a_mirror_that_later_updates_could_not_use_is_not_kept() {
        assert_eq!(lasting(&format!("{URL}/")).unwrap(), URL);
        assert_eq!(lasting("/usr/").unwrap(), "/usr");
        assert!(matches!(lasting("https://a/'b'"), Err(KeptError::Mirror(_))));
        // Below /tmp.
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        assert!(matches!(lasting(directory.path().to_str().unwrap()), Err(KeptError::Unseen(_))));
    }

    #[test]
    fn a_directory_is_known_behind_a_link_to_it() {
        let root = tempfile::tempdir().unwrap();
        let (home, link) = (root.path().join("var-home"), root.path().join("home"));
        fs::create_dir_all(home.join("me")).unwrap();
        std::os::unix::fs::symlink(&home, &link).unwrap();
        let whole = fs::canonicalize(home.join("me")).unwrap();
        assert!(is_below(&whole, &home) && is_below(&whole, &link));
        assert!(!is_below(&whole, &root.path().join("none")));
    }

    #[test]
    fn no_value_of_a_flag_is_told() {
        let kept = kept(
            Some("/a"),
            &["--plain-http", "--proxy", "http://me:s3cret@a", "--proxy=http://me:s3cret@a"],
        );
        assert_eq!(kept.names(), " MIRROR_BASE_URL=/a --plain-http --proxy --proxy");
    }
}
