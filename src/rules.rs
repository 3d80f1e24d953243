//! The ordered list of path rules: the first whose prefix and method both match decides.

pub(crate) mod pattern;

use http::{HeaderValue, Method, StatusCode};

pub(crate) use pattern::Pattern;

use crate::path::CanonicalPath;

/// The rules in the order of the config file.
#[derive(Debug, Default)]
pub(crate) struct Rules(Vec<Rule>);

/// One `[[paths]]` entry.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) pattern: Pattern,
    /// Empty: every method.
    pub(crate) methods: Vec<Method>,
    pub(crate) action: Action,
}

/// What a rule does with a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    Proxy(ProxyPolicy),
    Block,
    Redirect { target: HeaderValue, code: StatusCode },
}

/// The checks of a `proxy` rule.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ProxyPolicy {
    /// Refuse multipart bodies that carry a file.
    pub(crate) block_files: bool,
    /// The largest response body to a GET or HEAD, in bytes.
    pub(crate) max_size: Option<u64>,
}

/// The rule that decides a request, with its number in the file, counted from 1; none: the front end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision<'a> {
    pub(crate) rule: Option<(usize, &'a Rule)>,
}

/// Why one rule did or did not decide.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Decides,
    /// An earlier rule decided already.
    NotReached,
    OtherPath,
    OtherMethod,
}

impl Rules {
    pub(crate) fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    #[cfg(test)]
    pub(crate) fn as_slice(&self) -> &[Rule] {
        &self.0
    }

    /// The rule that decides `method` on `path`.
    pub(crate) fn decide(&self, method: &Method, path: &CanonicalPath) -> Decision<'_> {
        let rule = self.0.iter().zip(1..).find(|(rule, _)| rule.verdict(method, path) == Verdict::Decides);
        Decision { rule: rule.map(|(rule, number)| (number, rule)) }
    }

    /// A verdict for each rule, in order: `decide` with its reasons.
    pub(crate) fn explain(&self, method: &Method, path: &CanonicalPath) -> Vec<(&Rule, Verdict)> {
        let mut decided = false;
        self.0
            .iter()
            .map(|rule| {
                let verdict = if decided { Verdict::NotReached } else { rule.verdict(method, path) };
                decided |= verdict == Verdict::Decides;
                (rule, verdict)
            })
            .collect()
    }
}

impl Rule {
    fn verdict(&self, method: &Method, path: &CanonicalPath) -> Verdict {
        if !self.pattern.matches(path.decoded()) {
            Verdict::OtherPath
        } else if !self.methods.is_empty() && !self.methods.contains(method) {
            Verdict::OtherMethod
        } else {
            Verdict::Decides
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: &str, methods: &[Method], action: Action) -> Rule {
        Rule { pattern: Pattern::new("/s", prefix).unwrap(), methods: methods.to_vec(), action }
    }

    fn read_only() -> Rules {
        Rules::new(vec![
            rule("/api/v1/channel", &[Method::POST, Method::PATCH], Action::Block),
            rule("/api/v1", &[], Action::Proxy(ProxyPolicy::default())),
        ])
    }

    fn path(raw: &str) -> CanonicalPath {
        CanonicalPath::parse(raw).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_path_and_method_decides() {
        let rules = read_only();
        let number = |method, raw| rules.decide(&method, &path(raw)).rule.map(|(number, _)| number);
        assert_eq!(number(Method::POST, "/s/api/v1/channel/1"), Some(1));
        assert_eq!(number(Method::GET, "/s/api/v1/channel/1"), Some(2));
        assert_eq!(number(Method::POST, "/s/api/v1/me"), Some(2));
        assert_eq!(number(Method::POST, "/api/v1/me"), None);
    }

    #[test]
    fn head_is_a_method_of_its_own() {
        let rules = Rules::new(vec![rule("/pfp", &[Method::GET], Action::Block)]);
        assert!(rules.decide(&Method::HEAD, &path("/s/pfp/1")).rule.is_none());
    }

    #[test]
    fn explain_says_of_each_rule_what_decide_made_of_it() {
        let rules = read_only();
        let verdicts = |method, raw| {
            rules.explain(&method, &path(raw)).into_iter().map(|(_, verdict)| verdict).collect::<Vec<_>>()
        };
        assert_eq!(verdicts(Method::GET, "/s/api/v1/channel"), [Verdict::OtherMethod, Verdict::Decides]);
        assert_eq!(verdicts(Method::POST, "/s/api/v1/channel"), [Verdict::Decides, Verdict::NotReached]);
        assert_eq!(verdicts(Method::POST, "/"), [Verdict::OtherPath, Verdict::OtherPath]);
    }
}
