//! `[[paths]]`: entries become rules, and rules that are hardly meant are warned about.

mod undone;

use std::{error::Error, fmt, str::FromStr};

use http::{HeaderValue, Method, StatusCode};
use toml::de::DeValue;

use self::undone::Way;
use super::{
    error::{Faults, Reason, Warning},
    raw::{FrontendMode, RawFrontend, RawRule, RuleAction},
    reader::{Value, integer},
    setting::Setting,
    source::Place,
    types::UriPrefix,
    url::BackendUrl,
};
use crate::methods::METHODS;
use crate::rules::{Action, Pattern, ProxyPolicy, Rule, Rules};

/// A method that a rule can name, in any letter case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RuleMethod(Method);

/// What a redirect sends as `Location`: visible ASCII, not empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Target(HeaderValue);

/// A redirect's status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Code(StatusCode);

/// Why a value of a rule is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RuleError {
    Method,
    Target,
    Code,
}

/// The rules that hold without a file: the backend's own routes.
pub(crate) fn default_rules(uri_prefix: &UriPrefix) -> Rules {
    let routes = ["/api/v1", "/pfp", "/attachment", "/health"];
    Rules::new(
        routes
            .into_iter()
            .filter_map(|prefix| Pattern::new(uri_prefix.as_path(), prefix).ok())
            .map(|pattern| Rule {
                pattern,
                methods: Vec::new(),
                action: Action::Proxy(ProxyPolicy::default()),
            })
            .collect(),
    )
}

/// A front end that is forwarded to the backend itself: what no rule matches gets there too.
pub(crate) struct BackDoor {
    /// What goes before the request's path; empty mostly.
    pub(crate) base: Box<str>,
    pub(crate) place: Place,
}

impl BackDoor {
    pub(crate) fn find(frontend: &RawFrontend, backend: &Setting<BackendUrl>) -> Option<Self> {
        let Setting::Given(FrontendMode::Forward, _) = frontend.mode else {
            return None;
        };
        let Setting::Given(url, place) = &frontend.url else {
            return None;
        };
        let default = BackendUrl::default();
        let backend = match backend {
            Setting::Given(backend, _) => backend,
            Setting::Absent => &default,
            Setting::Faulty => return None,
        };
        (url.origin == *backend).then(|| Self { base: url.base.clone(), place: place.clone() })
    }
}

/// The rules of a file.
pub(crate) fn rules(
    entries: Vec<RawRule>,
    uri_prefix: &UriPrefix,
    back_door: Option<&BackDoor>,
    faults: &mut Faults,
    warnings: &mut Vec<Warning>,
) -> Rules {
    let mut rules = Vec::with_capacity(entries.len());
    let mut places = Vec::with_capacity(entries.len());
    for entry in entries {
        let prefix = entry.prefix.place();
        let methods = entry.methods.place();
        let whole = entry.place.clone();
        if let Some(rule) = rule(entry, uri_prefix, faults) {
            places.push((prefix.or(whole), methods));
            rules.push(rule);
        }
    }
    for (number, rule) in rules.iter().enumerate() {
        let (prefix, methods) = &places[number];
        if rule.methods.is_empty() && methods.is_some() {
            let text = "an empty list means every method: leave the key out, or name methods";
            warnings.push(Warning::new(text, methods.clone()));
        }
        if leaves_head_open(rule, &rules) {
            warnings.push(Warning::new(
                "this rule blocks GET and leaves HEAD open: add \"HEAD\" to its methods",
                methods.clone(),
            ));
        }
        if let Some(earlier) = rules[..number].iter().position(|earlier| covers(earlier, rule)) {
            let text =
                format!("this rule is never reached: number {} matches all that it matches", earlier + 1);
            warnings.push(Warning::new(text, prefix.clone()));
        }
        if let Some(undone) = undone::undone(&rules, number, back_door.map(|door| &*door.base)) {
            let at = match undone.way {
                Way::Rule(other) => places[other].0.as_ref().and_then(Place::line),
                Way::Frontend => back_door.and_then(|door| door.place.line()),
            };
            let place = methods.clone().or_else(|| prefix.clone());
            warnings.push(Warning::new(undone.text(rule, at), place));
        }
    }
    Rules::new(rules)
}

/// One entry as a rule; `None` when it has a fault.
fn rule(entry: RawRule, uri_prefix: &UriPrefix, faults: &mut Faults) -> Option<Rule> {
    let RawRule { place, prefix, methods, action, block_files, max_size, target, code } = entry;

    let pattern = match prefix {
        Setting::Given(prefix, place) => match Pattern::new(uri_prefix.as_path(), &prefix) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                faults.add("paths.prefix", Reason::Value(Box::new(error)), Some(place));
                None
            }
        },
        Setting::Absent => missing(faults, "paths.prefix", "every entry needs a prefix", &place),
        Setting::Faulty => None,
    };
    let methods = match methods {
        // An empty list means every method, as it did to the original relay.
        Setting::Given(methods, _) => Some(methods.into_iter().map(|RuleMethod(method)| method).collect()),
        Setting::Absent => Some(Vec::new()),
        Setting::Faulty => None,
    };
    match action {
        Setting::Given(RuleAction::Proxy, _) => {}
        Setting::Given(RuleAction::Block | RuleAction::Redirect, _) => {
            let reason = "it goes only with `action = \"proxy\"`";
            misplaced(faults, "paths.block_files", reason, &block_files);
            misplaced(faults, "paths.max_size", reason, &max_size);
        }
        Setting::Absent | Setting::Faulty => {}
    }
    match action {
        Setting::Given(RuleAction::Redirect, _) => {}
        Setting::Given(RuleAction::Proxy | RuleAction::Block, _) => {
            let reason = "it goes only with `action = \"redirect\"`";
            misplaced(faults, "paths.target", reason, &target);
            misplaced(faults, "paths.code", reason, &code);
        }
        Setting::Absent | Setting::Faulty => {}
    }
    let action = match action {
        Setting::Given(RuleAction::Proxy, _) => Some(Action::Proxy(ProxyPolicy {
            block_files: block_files.or(false),
            max_size: max_size.given().map(|size| size.0),
        })),
        Setting::Given(RuleAction::Block, _) => Some(Action::Block),
        Setting::Given(RuleAction::Redirect, at) => match target {
            Setting::Given(Target(target), _) => Some(Action::Redirect {
                target,
                code: code.given().map_or(StatusCode::MOVED_PERMANENTLY, |code| code.0),
            }),
            Setting::Absent => missing(faults, "paths.target", "a redirect needs a target", &Some(at)),
            Setting::Faulty => None,
        },
        Setting::Absent => missing(
            faults,
            "paths.action",
            "every entry needs an action: `proxy`, `block` or `redirect`",
            &place,
        ),
        Setting::Faulty => None,
    };
    Some(Rule { pattern: pattern?, methods: methods?, action: action? })
}

fn missing<T>(
    faults: &mut Faults,
    key: &'static str,
    reason: &'static str,
    place: &Option<Place>,
) -> Option<T> {
    faults.add(key, Reason::Rule(reason), place.clone());
    None
}

fn misplaced<T>(faults: &mut Faults, key: &'static str, reason: &'static str, setting: &Setting<T>) {
    if let Some(place) = setting.place() {
        faults.add(key, Reason::Rule(reason), Some(place));
    }
}

/// Whether GET is blocked here, and HEAD of the same paths by no rule (attacks P2).
fn leaves_head_open(rule: &Rule, rules: &[Rule]) -> bool {
    let blocks = |rule: &Rule, method: &Method| {
        rule.action == Action::Block && (rule.methods.is_empty() || rule.methods.contains(method))
    };
    blocks(rule, &Method::GET)
        && !rules
            .iter()
            .any(|other| other.pattern.text() == rule.pattern.text() && blocks(other, &Method::HEAD))
}

/// Whether `earlier` matches all that `later` matches, as far as that can be told without wildcards.
fn covers(earlier: &Rule, later: &Rule) -> bool {
    let (earlier_text, later_text) = (earlier.pattern.text(), later.pattern.text());
    let below = || {
        !earlier_text.contains('*')
            && later_text.strip_prefix(earlier_text).is_some_and(|rest| rest.starts_with('/'))
    };
    earlier.methods.is_empty() && (earlier_text == later_text || below())
}

impl FromStr for RuleMethod {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        METHODS
            .into_iter()
            .find(|method| method.as_str().eq_ignore_ascii_case(text))
            .map(Self)
            .ok_or(RuleError::Method)
    }
}

impl FromStr for Target {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(RuleError::Target);
        }
        HeaderValue::from_str(text).map(Self).map_err(|_| RuleError::Target)
    }
}

impl Value for Code {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        match integer(value) {
            Some(301) => Ok(Self(StatusCode::MOVED_PERMANENTLY)),
            Some(302) => Ok(Self(StatusCode::FOUND)),
            Some(307) => Ok(Self(StatusCode::TEMPORARY_REDIRECT)),
            Some(308) => Ok(Self(StatusCode::PERMANENT_REDIRECT)),
            Some(_) | None => Err(Reason::Value(Box::new(RuleError::Code))),
        }
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "a method is GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS",
            Self::Target => "a target is a URL or a path, percent-encoded where it has to be",
            Self::Code => "the code of a redirect is 301, 302, 307 or 308",
        })
    }
}

impl Error for RuleError {}
