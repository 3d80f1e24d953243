//! What has to hold of every input, whatever it is: for `fuzz/`, which looks for inputs of which it does not, and for
//! the tests below, which go through the corpus and through random bytes.
//!
//! Each function takes bytes as they may come from outside, and panics where a promise is broken.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "to panic is how a broken promise is told")]

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, Request, Version, header};

use crate::{
    config::{self, Environment, Flags, Style, error::ConfigError},
    form::{self, Kind},
    head as request,
    path::CanonicalPath,
    rules::{Action, Pattern, Rule, Rules, Verdict},
    wire,
};

/// The heads of a connection lie where they lie however its bytes are cut, and each can be read in one way only.
pub fn head(input: &[u8]) {
    let whole = wire::heads(input, input.len().max(1));
    for cut in [1, 7] {
        assert_eq!(wire::heads(input, cut), whole, "cut after each {cut} bytes");
    }
    for head in whole.0.into_iter().map(|place| &input[place]) {
        let text = head.escape_ascii();
        let lines: Vec<_> = head.split(|byte| *byte == b'\n').collect();
        let ([lines @ .., b"\r", b""], true) = (&lines[..], !head.contains(&0)) else { panic!("{text}") };
        let names = lines.iter().skip(1).map(|line| {
            assert!(line.ends_with(b"\r") && !line[..line.len() - 1].contains(&b'\r'), "{text}");
            line.split(|byte| *byte == b':').next().unwrap_or_default().to_ascii_lowercase()
        });
        let framing = names.filter(|name| matches!(&name[..], b"content-length" | b"transfer-encoding"));
        assert!(framing.count() <= 1, "{text}");
    }
}

/// A path that has a canonical form is one that no parser reads in another way, and says the same when it is sent.
pub fn path(input: &[u8]) {
    let Ok(Ok(path)) = std::str::from_utf8(input).map(CanonicalPath::parse) else { return };
    let decoded = path.decoded();
    assert!(decoded.starts_with('/') && !decoded.contains("//") && !decoded.contains('\\'), "{decoded:?}");
    assert!(!decoded.chars().any(|character| character.is_ascii_control()), "{decoded:?}");
    assert!(!decoded.split('/').any(|segment| matches!(segment, "." | "..")), "{decoded:?}");
    let encoded = path.encoded();
    assert!(
        encoded.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\\\"<>".contains(&byte)),
        "{encoded:?}"
    );
    assert_eq!(CanonicalPath::parse(encoded).as_ref().map(CanonicalPath::decoded), Ok(decoded));
}

/// The first rule that matches decides, and a prefix covers all that is below it. Lines: a path, then a rule each.
pub fn rules(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.lines();
    let Some(Ok(path)) = lines.next().map(CanonicalPath::parse) else { return };
    let patterns: Vec<_> = lines.take(16).filter_map(|prefix| Pattern::new("/secret", prefix).ok()).collect();
    for pattern in &patterns {
        if pattern.matches(path.decoded()) {
            let below = format!("{}/below", path.decoded().trim_end_matches('/'));
            assert!(
                pattern.matches(&below),
                "{} matches {:?}, not {below:?}",
                pattern.text(),
                path.decoded()
            );
        }
        if !pattern.text().contains('*') {
            assert!(pattern.matches(pattern.text()), "{} does not match itself", pattern.text());
        }
    }
    let rules = patterns
        .into_iter()
        .enumerate()
        .map(|(at, pattern)| Rule {
            pattern,
            methods: if at % 2 == 0 { vec![] } else { vec![Method::POST] },
            action: Action::Block,
        })
        .collect();
    let rules = Rules::new(rules);
    for method in [Method::GET, Method::POST] {
        let verdicts: Vec<_> =
            rules.explain(&method, &path).into_iter().map(|(_, verdict)| verdict).collect();
        let decides: Vec<_> =
            (1..).zip(&verdicts).filter(|(_, verdict)| **verdict == Verdict::Decides).collect();
        assert!(decides.len() <= 1, "{verdicts:?}");
        let decided = rules.decide(&method, &path).rule.map(|(number, _)| number);
        assert_eq!(decided, decides.first().map(|(number, _)| *number), "{verdicts:?}");
    }
}

/// A form comes out the same however it is cut, what comes out is a form again, and no part of it is a file. The first
/// line is the Content-Type; its length says where the body is cut.
pub fn form(input: &[u8]) {
    let mut halves = input.splitn(2, |byte| *byte == b'\n');
    let (Some(content_type), Some(body)) = (halves.next(), halves.next()) else { return };
    let Ok(value) = HeaderValue::from_bytes(content_type) else { return };
    let filtered = |value: &HeaderValue, body: &[u8], cut: usize| -> Option<(HeaderValue, Vec<u8>)> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value.clone())]);
        let Ok(Kind::Multipart(mut filter)) = form::kind(&headers) else { return None };
        let mut out = BytesMut::new();
        for piece in body.chunks(cut) {
            filter.push(piece, &mut out).ok()?;
        }
        filter.finish(&mut out).ok()?;
        Some((filter.content_type(), out.to_vec()))
    };
    let whole = filtered(&value, body, body.len().max(1));
    let pieces = filtered(&value, body, 1 + content_type.len() % 7);
    // Each has a boundary of its own, of one length.
    assert_eq!(whole.as_ref().map(|(_, out)| out.len()), pieces.as_ref().map(|(_, out)| out.len()));
    let Some((value, out)) = whole else { return };
    let boundary = value.to_str().unwrap().rsplit_once('=').expect("our own Content-Type").1;
    let text = String::from_utf8_lossy(&out).into_owned();
    for head in text.split(&format!("--{boundary}\r\n")).skip(1) {
        let line = head.split("\r\n").next().unwrap_or_default();
        // An input of a page that no file was chosen for has an empty name, and no value.
        let named = line.split("filename=").nth(1).filter(|name| *name != "\"\"");
        assert!(named.is_none() && !line.contains("filename*"), "a file came through: {line}");
    }
    let again = filtered(&value, &out, 64).expect("what comes out is a form");
    assert_eq!(again.1.len(), out.len());
}

/// Any file is a configuration or a list of faults that can be shown, in colours and without.
pub fn config(input: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), input).unwrap();
    let environment = Environment { sova: "/nonexistent/sova.toml".into(), ..Environment::of_process() };
    let loaded: Result<_, ConfigError> = config::load(Some(file.path()), &Flags::default(), &environment);
    match loaded {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| assert!(!warning.render(Style::Plain).is_empty()))
        }
        Err(error) => {
            assert!(error.render(Style::Plain).contains("error"));
            assert!(!error.render(Style::Colours).is_empty());
        }
    }
}

/// A head with any Host and any target is refused, or has one host that is a host. The first line is the Host, the
/// second the target.
pub fn host(input: &[u8]) {
    let mut lines = input.splitn(2, |byte| *byte == b'\n');
    let (Some(host), Some(target)) = (lines.next(), lines.next()) else { return };
    let Ok(value) = HeaderValue::from_bytes(host) else { return };
    for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
        let request = Request::builder().version(version).uri(target).header(header::HOST, &value).body(());
        let Ok(parts) = request.map(|request| request.into_parts().0) else { return };
        let Ok(target) = request::target(&parts) else { continue };
        let host = target.host.expect("a request with a Host has a host");
        assert!(host.as_str().eq_ignore_ascii_case(std::str::from_utf8(value.as_bytes()).unwrap()), "{host}");
        assert!(!host.host().is_empty() && !host.as_str().contains(['@', '/', '?', '#', ',', ' ']), "{host}");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 6] = [
        ("head", head),
        ("path", path),
        ("rules", rules),
        ("form", form),
        ("config", config),
        ("host", host),
    ];

    #[test]
    fn the_seed_corpus_holds() {
        for (name, target) in TARGETS {
            let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
            let seeds: Vec<_> = fs::read_dir(seeds).unwrap().map(|seed| seed.unwrap().path()).collect();
            assert!(seeds.len() >= 3, "{name}: {} seeds", seeds.len());
            for seed in seeds {
                target(&fs::read(&seed).unwrap());
            }
        }
    }

    /// The seeds of one target, damaged: random bytes alone do not get past the first check.
    fn damaged(name: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
        let seeds: Vec<_> =
            fs::read_dir(seeds).unwrap().map(|seed| fs::read(seed.unwrap().path()).unwrap()).collect();
        let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..6);
        (prop::sample::select(seeds), edits).prop_map(|(mut seed, edits)| {
            for (at, byte, kind) in edits {
                let at = at.index(seed.len().max(1));
                match kind {
                    _ if seed.is_empty() => seed.push(byte),
                    0 => seed[at] = byte,
                    1 => seed.insert(at, byte),
                    2 => drop(seed.remove(at)),
                    _ => seed.extend_from_within(at..),
                }
            }
            seed
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn s1_to_s7_any_head_holds(input in damaged("head")) { head(&input) }

        #[test]
        fn p1_any_path_holds(input in damaged("path")) { path(&input) }

        #[test]
        fn any_rules_hold(input in damaged("rules")) { rules(&input) }

        #[test]
        fn m1_any_form_holds(input in damaged("form")) { form(&input) }

        #[test]
        fn any_config_holds(input in damaged("config")) { config(&input) }

        #[test]
        fn s10_any_host_holds(input in damaged("host")) { host(&input) }
    }
}
