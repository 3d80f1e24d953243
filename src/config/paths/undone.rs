//! Rules that keep nothing back, because what they leave out gets to the backend by another way.
//!
//! It is found by example: a request that fits the rule's own prefix is decided as the relay decides it. What is
//! told of is therefore true; what only stranger paths would show is not told of.

use http::Method;

use crate::{
    methods::METHODS,
    rules::{Action, ProxyPolicy, Rule},
};

/// How a request gets to the backend that a rule was to keep away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// By a later rule, counted from 0.
    Rule(usize),
    Frontend,
}

/// A rule that is undone.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Undone {
    pub(super) way: Way,
    methods: Vec<Method>,
    /// Where the same is asked for by another path, the front end's own before its base.
    by_path: bool,
}

/// Whether rule `number` is undone by what comes after it. `base`: where a front end is forwarded to the
/// backend's own origin, what goes before its paths.
pub(super) fn undone(rules: &[Rule], number: usize, base: Option<&str>) -> Option<Undone> {
    let rule = &rules[number];
    let path = rule.pattern.text().replace('*', "x");
    match &rule.action {
        Action::Proxy(policy) if !rule.methods.is_empty() => limit(rules, number, *policy, &path, base),
        Action::Block => block(rules, number, &path, base),
        Action::Proxy(_) | Action::Redirect { .. } => None,
    }
}

/// A proxy rule that names methods: it is undone when another way takes the others, and would take its own as
/// well, in the same manner. Else it makes an exception, from a block or from a check, as it is meant to.
fn limit(
    rules: &[Rule],
    number: usize,
    policy: ProxyPolicy,
    path: &str,
    base: Option<&str>,
) -> Option<Undone> {
    let own = &rules[number].methods;
    if !own.iter().all(|method| decide(rules, 0, method, path) == Some(number)) {
        return None;
    }
    let way = |method: &Method| match decide(rules, number + 1, method, path) {
        // A rule that names methods itself was meant for them.
        Some(later) if rules[later].methods.is_empty() && rules[later].action == Action::Proxy(policy) => {
            Some(Way::Rule(later))
        }
        Some(_) => None,
        None if base == Some("") && policy == ProxyPolicy::default() => Some(Way::Frontend),
        None => None,
    };
    let way_of_own = way(own.first()?)?;
    if !own.iter().all(|method| way(method) == Some(way_of_own)) {
        return None;
    }
    // HEAD says no more than GET, and OPTIONS changes nothing.
    let left_out = METHODS.into_iter().filter(|method| {
        let harmless = *method == Method::OPTIONS || *method == Method::HEAD && own.contains(&Method::GET);
        !harmless && !own.contains(method)
    });
    let reach = |method: &Method| {
        // What an earlier rule decides is no concern of this one.
        let first = decide(rules, 0, method, path);
        first.is_none_or(|first| first > number) && way(method) == Some(way_of_own)
    };
    let methods: Vec<_> = left_out.filter(reach).collect();
    (!methods.is_empty()).then_some(Undone { way: way_of_own, methods, by_path: false })
}

/// A block: it is undone when the front end puts `base` before a path and so asks the backend for what is blocked.
fn block(rules: &[Rule], number: usize, path: &str, base: Option<&str>) -> Option<Undone> {
    let base = base.filter(|base| !base.is_empty())?;
    let other = path.strip_prefix(base).filter(|rest| rest.starts_with('/'))?;
    let blocked = |method: &Method| decide(rules, 0, method, path) == Some(number);
    let methods: Vec<_> = METHODS
        .into_iter()
        .filter(|method| blocked(method) && decide(rules, 0, method, other).is_none())
        .collect();
    (!methods.is_empty()).then_some(Undone { way: Way::Frontend, methods, by_path: true })
}

/// The first rule from `from` on that decides, counted from 0; none: the front end.
fn decide(rules: &[Rule], from: usize, method: &Method, path: &str) -> Option<usize> {
    let matches = |rule: &Rule| {
        rule.pattern.matches(path) && (rule.methods.is_empty() || rule.methods.contains(method))
    };
    rules[from..].iter().position(matches).map(|found| from + found)
}

impl Undone {
    /// What is told. `line`: where the other way stands in the file.
    pub(super) fn text(&self, rule: &Rule, line: Option<usize>) -> String {
        let at = line.map_or_else(String::new, |line| format!(" (line {line})"));
        let methods: Vec<_> = self.methods.iter().map(Method::as_str).collect();
        let methods = methods.join(", ");
        if self.by_path {
            return format!(
                "this rule can be gone round: [frontend] `url`{at} leads to the backend too and puts its path before \
                 the request's, so that {methods} of what is blocked gets there by a path without it; \
                 block that path too, or give [frontend] a `url` without a path"
            );
        }
        let way = match self.way {
            Way::Rule(number) => format!("rule number {}{at}", number + 1),
            Way::Frontend => format!("[frontend] `url`{at}"),
        };
        let own: Vec<_> = rule.methods.iter().map(Method::as_str).collect();
        format!(
            "this rule keeps nothing to {}: {methods} of the same paths gets to the backend by {way}; \
             put a `block` rule for the same prefix behind this one",
            own.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Pattern;

    /// A rule as `GET,POST proxy /a`; `*` for every method; `check` is a proxy that checks.
    fn rules(lines: &[&str]) -> Vec<Rule> {
        let rule = |line: &&str| {
            let words: Vec<_> = line.split(' ').collect();
            let [methods, action, prefix] = words[..] else {
                panic!("{line}");
            };
            let methods = methods.split(',').filter(|method| *method != "*");
            Rule {
                pattern: Pattern::new("", prefix).unwrap(),
                methods: methods.map(|method| method.parse().unwrap()).collect(),
                action: match action {
                    "proxy" => Action::Proxy(ProxyPolicy::default()),
                    "check" => Action::Proxy(ProxyPolicy { block_files: true, max_size: None }),
                    _ => Action::Block,
                },
            }
        };
        lines.iter().map(rule).collect()
    }

    fn told(lines: &[&str], base: Option<&str>) -> Option<(Way, String)> {
        let undone = undone(&rules(lines), 0, base)?;
        let methods: Vec<_> = undone.methods.iter().map(Method::as_str).collect();
        Some((undone.way, methods.join(",")))
    }

    #[test]
    fn a_rule_for_some_methods_is_undone_by_a_front_end_at_the_backend() {
        let all = Some((Way::Frontend, "POST,PUT,PATCH,DELETE".to_owned()));
        assert_eq!(told(&["GET proxy /api/*"], Some("")), all);
        assert_eq!(told(&["GET proxy /api", "* proxy /pfp"], Some("")), all);
        assert_eq!(told(&["GET proxy /api", "* block /api/v1"], Some("")), all);
        let some = told(&["GET proxy /api", "POST,PUT block /api"], Some(""));
        assert_eq!(some, Some((Way::Frontend, "PATCH,DELETE".to_owned())));
        assert_eq!(told(&["POST proxy /api"], Some("")).unwrap().1, "GET,HEAD,PUT,PATCH,DELETE");
    }

    #[test]
    fn a_rule_for_some_methods_is_undone_by_a_later_rule_for_all() {
        let all = Some((Way::Rule(1), "POST,PUT,PATCH,DELETE".to_owned()));
        assert_eq!(told(&["GET proxy /api/admin", "* proxy /api"], None), all);
        assert_eq!(told(&["GET check /api/admin", "* check /api"], None), all);
    }

    #[test]
    fn a_rule_that_does_something_is_not_called_undone() {
        for (lines, base) in [
            // Nothing else leads to the backend, or not to the same path there.
            (&["GET proxy /api"][..], None),
            (&["GET proxy /api"], Some("/mura")),
            // What is left out is blocked.
            (&["GET proxy /api", "* block /api"], Some("")),
            (&["GET proxy /api", "POST,PUT,PATCH,DELETE block /api"], Some("")),
            (&["GET proxy /api/admin", "* block /api", "* proxy /*"], Some("")),
            // Every method, and another method that is named.
            (&["* proxy /api"], Some("")),
            (&["GET proxy /api", "POST proxy /api"], None),
            // An exception from a block, and from a check.
            (&["GET proxy /api/x", "GET block /api", "* proxy /api"], None),
            (&["GET proxy /api", "* check /api"], None),
            (&["POST check /api", "* proxy /api"], None),
            (&["POST check /api"], Some("")),
            // Blocks of some methods mean to let the others pass.
            (&["POST block /api", "* proxy /api"], Some("")),
            (&["* block /api"], Some("")),
        ] {
            assert_eq!(told(lines, base), None, "{lines:?} {base:?}");
        }
        let late = rules(&["POST,PUT,PATCH,DELETE block /api", "GET proxy /api"]);
        assert_eq!(undone(&late, 1, Some("")), None, "an earlier rule blocks the others");
    }

    #[test]
    fn a_block_is_gone_round_by_a_front_end_that_puts_the_blocked_path_together() {
        let found = told(&["POST block /api/v1/admin"], Some("/api"));
        assert_eq!(found, Some((Way::Frontend, "POST".to_owned())));
        for (lines, base) in [
            (&["POST block /api/v1/admin"][..], "/ap"),
            (&["POST block /api/v1/admin"], "/mura"),
            (&["POST block /api/v1/admin", "* block /v1"], "/api"),
            (&["POST block /api/v1/admin", "* proxy /v1"], "/api"),
        ] {
            assert_eq!(told(lines, Some(base)), None, "{lines:?} {base}");
        }
    }
}
