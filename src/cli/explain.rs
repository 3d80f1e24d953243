//! `explain METHOD URL`: what becomes of a request, and why.

use std::{fmt::Write, process::ExitCode};

use super::ConfigArgs;
use crate::{
    config::{Config, Environment, Frontend, UriPrefix},
    methods::METHODS,
    path::CanonicalPath,
    rules::{Action, Rule, Verdict},
};

/// What `explain` has to be told.
#[derive(clap::Args, Clone)]
#[command(mut_arg("config", |config| config.help(super::CONFIG_HELP)))]
pub(crate) struct ExplainArgs {
    /// The request's method
    #[arg(value_name = "METHOD")]
    method: String,

    /// The request's path, or its whole URL
    #[arg(value_name = "URL")]
    url: String,

    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

/// Loads the configuration as `run` does, and explains the request.
pub(crate) fn run(arguments: &ExplainArgs) -> ExitCode {
    let config = arguments.config.clone().or_installed(&Environment::of_process());
    match config.load() {
        Ok(loaded) => {
            let explained = explain(&loaded.config, &arguments.method, &arguments.url);
            super::answer(&format!("config   {}\n{explained}", source(&config)))
        }
        Err(error) => super::refuse(&error),
    }
}

/// By what configuration it is explained.
fn source(config: &ConfigArgs) -> String {
    match &config.config {
        Some(file) => file.display().to_string(),
        None if config.flags.mean_something() => "none: the flags and the built-in rules".to_owned(),
        None => "none: the built-in rules".to_owned(),
    }
}

/// A line each for the path, every rule, and the outcome. The secret prefix is shown as `<prefix>`, so that the
/// text can be passed on.
fn explain(config: &Config, method: &str, url: &str) -> String {
    let Some(method) = METHODS.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(method)) else {
        return "outcome  refused: 405, the method is let in nowhere\n".to_owned();
    };
    let path = match CanonicalPath::parse(path_of(url)) {
        Ok(path) => path,
        Err(error) => return format!("outcome  refused: 400, {error}\n"),
    };
    let shown = config.uri_prefix.mask(path.encoded());
    let mut text = format!("request  {method} {shown}\n");
    let below = config.uri_prefix.strip(path.decoded()).is_some();
    if !below {
        text.push_str("prefix   the path is not below /<prefix>, as every rule is: none can match\n");
    }
    let mut decisive = None;
    let verdicts = config.rules.explain(&method, &path);
    for ((rule, verdict), number) in verdicts.into_iter().zip(1..) {
        if verdict == Verdict::Decides {
            decisive = Some(rule);
        }
        // Writing to a String does not fail.
        let _ = write!(text, "rule {number:<3} {}", describe(&config.uri_prefix, rule));
        text.push_str(if below { reason(verdict) } else { "" });
        text.push('\n');
    }
    let outcome = match decisive.map(|rule| &rule.action) {
        Some(Action::Proxy(_)) => format!("proxied to {}{shown}", config.backend.url),
        Some(Action::Block) => "blocked: 403".to_owned(),
        Some(Action::Redirect { target, code }) => {
            let target = config.uri_prefix.mask(target.to_str().unwrap_or_default());
            format!("redirected: {} to {target}", code.as_u16())
        }
        None => frontend(config, &path, &shown),
    };
    let _ = writeln!(text, "outcome  {outcome}");
    text
}

/// The path of a URL, without scheme, host, query and fragment.
fn path_of(url: &str) -> &str {
    let rest = url.split(['?', '#']).next().unwrap_or_default();
    match rest.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => rest,
    }
}

fn describe(uri_prefix: &UriPrefix, rule: &Rule) -> String {
    let mut text = uri_prefix.mask(rule.pattern.text());
    for method in &rule.methods {
        text.push(' ');
        text.push_str(method.as_str());
    }
    text.push_str(match &rule.action {
        Action::Proxy(_) => " proxy",
        Action::Block => " block",
        Action::Redirect { .. } => " redirect",
    });
    if let Action::Proxy(policy) = &rule.action {
        if policy.block_files {
            text.push_str(", no files");
        }
        if let Some(bytes) = policy.max_size {
            // Writing to a String does not fail.
            let _ = write!(text, ", at most {bytes} bytes");
        }
    }
    text
}

fn reason(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Decides => ": decides",
        Verdict::NotReached => ": not reached",
        Verdict::OtherPath => ": another path",
        Verdict::OtherMethod => ": another method",
    }
}

fn frontend(config: &Config, path: &CanonicalPath, shown: &str) -> String {
    let below = config.uri_prefix.strip(path.decoded()).is_some();
    match &config.frontend {
        Frontend::Serve { only_below_prefix: true, .. } if !below => {
            "not found: 404, the path is outside of the prefix".to_owned()
        }
        Frontend::Serve { directory, .. } => format!("the front end: a file from {}", directory.display()),
        Frontend::Forward(url) => {
            format!("the front end: forwarded to {}{shown}", config.uri_prefix.mask(&url.to_string()))
        }
        Frontend::Disabled => "not found: 404, there is no front end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::PathBuf};

    use super::*;
    use crate::config::{self, Flags, User};

    fn config(text: &str) -> Config {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let environment = Environment {
            state_directory: None,
            runtime_directory: None,
            user: User::Root,
            data_home: None,
            home: None,
            sova: PathBuf::from("/nonexistent"),
            installed: "/nonexistent/config.toml".into(),
        };
        config::load(Some(file.path()), &Flags::default(), &environment).unwrap().config
    }

    const RULES: &str = r#"
version = 1
uri_prefix = "s3cret"
[frontend]
mode = "disabled"
[[paths]]
prefix = "/api/v1/channel"
methods = ["post"]
action = "proxy"
block_files = true
max_size = 10
[[paths]]
prefix = "/old"
action = "redirect"
target = "/new"
code = 307
[[paths]]
prefix = "/pfp"
action = "block"
[[paths]]
prefix = "/api/v1"
action = "proxy"
"#;

    #[test]
    fn that_a_path_is_not_below_the_prefix_is_told_once_and_plainly() {
        let config = config(RULES);
        for url in ["/api/v1/me", "https://h/api/v1/me?x"] {
            assert_eq!(
                explain(&config, "GET", url),
                "request  GET /api/v1/me\n\
                 prefix   the path is not below /<prefix>, as every rule is: none can match\n\
                 rule 1   /<prefix>/api/v1/channel POST proxy, no files, at most 10 bytes\n\
                 rule 2   /<prefix>/old redirect\n\
                 rule 3   /<prefix>/pfp block\n\
                 rule 4   /<prefix>/api/v1 proxy\n\
                 outcome  not found: 404, there is no front end\n"
            );
        }
        assert!(explain(&config, "GET", "/s3cretx/pfp").contains("not below"));
        for url in ["/s3cret", "/s3cret/x"] {
            assert!(!explain(&config, "GET", url).contains("not below"), "{url}");
        }
    }

    #[test]
    fn each_rule_is_told_with_its_verdict_and_then_the_outcome() {
        let config = config(RULES);
        assert_eq!(
            explain(&config, "get", "https://chat.example.org/s3cret/%61pi/v1/channel/1?token=x"),
            "request  GET /<prefix>/api/v1/channel/1\n\
             rule 1   /<prefix>/api/v1/channel POST proxy, no files, at most 10 bytes: another method\n\
             rule 2   /<prefix>/old redirect: another path\n\
             rule 3   /<prefix>/pfp block: another path\n\
             rule 4   /<prefix>/api/v1 proxy: decides\n\
             outcome  proxied to http://127.0.0.1:42836/<prefix>/api/v1/channel/1\n"
        );
        let outcome = |method: &str, url: &str| {
            let text = explain(&config, method, url);
            text.lines().last().unwrap_or_default().to_owned()
        };
        assert_eq!(outcome("GET", "/s3cret/old/x"), "outcome  redirected: 307 to /new");
        assert_eq!(outcome("HEAD", "/s3cret/pfp"), "outcome  blocked: 403");
        assert_eq!(outcome("GET", "http://h"), "outcome  not found: 404, there is no front end");
        assert!(
            explain(&config, "POST", "/s3cret/api/v1/channel")
                .contains("rule 4   /<prefix>/api/v1 proxy: not reached")
        );
    }

    #[test]
    fn it_says_which_config_is_explained() {
        let of = |config: Option<&str>, backend: Option<&str>| {
            let flags = Flags { backend: backend.map(str::to_owned), ..Flags::default() };
            source(&ConfigArgs { config: config.map(PathBuf::from), flags })
        };
        assert_eq!(of(Some("/etc/c.toml"), None), "/etc/c.toml");
        assert_eq!(of(None, None), "none: the built-in rules");
        assert_eq!(of(None, Some("http://h")), "none: the flags and the built-in rules");
    }

    #[test]
    fn a_refused_request_is_told_with_the_reason() {
        let config = config(RULES);
        assert_eq!(explain(&config, "TRACE", "/"), "outcome  refused: 405, the method is let in nowhere\n");
        assert!(explain(&config, "GET", "/a/../b").starts_with("outcome  refused: 400, "));
    }

    #[test]
    fn the_front_end_is_told_as_it_is_configured() {
        let dir = tempfile::tempdir().unwrap();
        let serve = config(&format!(
            "version = 1\nuri_prefix = \"p\"\n[frontend]\ndirectory = {:?}\nonly_below_prefix = true",
            dir.path()
        ));
        assert!(explain(&serve, "GET", "/p/").ends_with(&format!("a file from {}\n", dir.path().display())));
        assert!(explain(&serve, "GET", "/").contains("outside of the prefix"));
        let forward = config("version = 1\n[frontend]\nmode = \"forward\"\nurl = \"http://h/base\"");
        assert!(explain(&forward, "GET", "/a b").ends_with("forwarded to http://h:80/base/a%20b\n"));
    }
}
