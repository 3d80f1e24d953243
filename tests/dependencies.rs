//! What is built in: no version below one that has been mended, one TLS library, one crypto library.

use std::{collections::BTreeSet, process::Command};

/// The lowest versions without a known hole that matters here. A crate that is not a dependency is not looked
/// for: some come with later features, and are held from the day they do.
const LOWEST_SAFE: [(&str, [u64; 3]); 7] = [
    ("aws-lc-sys", [0, 39, 0]),
    ("h2", [0, 4, 18]),
    ("hickory-proto", [0, 26, 1]),
    ("hyper", [1, 11, 0]),
    ("rustls-webpki", [0, 103, 13]),
    ("time", [0, 3, 47]),
    ("tracing-subscriber", [0, 3, 20]),
];

/// A second crypto library would be a second one to watch, and some link the system's.
const UNWANTED: [&str; 5] = ["native-tls", "openssl", "openssl-sys", "ring", "rustls-pemfile"];

/// Names and versions in `Cargo.lock`.
fn locked() -> Vec<(String, String)> {
    let text = include_str!("../Cargo.lock");
    let lock: toml::Table = text.parse().expect("cargo writes TOML");
    let packages = lock["package"].as_array().expect("a list of packages");
    let field = |package: &toml::Value, key| package[key].as_str().expect("a string").to_owned();
    packages.iter().map(|package| (field(package, "name"), field(package, "version"))).collect()
}

/// Names and versions of what a build links. `Cargo.lock` holds more: what an optional dependency of a
/// dependency would bring if it were switched on.
fn linked() -> BTreeSet<(String, String)> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs, since it runs this");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(" v")?;
            Some((name.to_owned(), rest.split(' ').next()?.to_owned()))
        })
        .collect()
}

/// Numbers of a version, without what follows `-` or `+`.
fn numbers(version: &str) -> [u64; 3] {
    let plain = version.split(['-', '+']).next().unwrap_or(version);
    let mut parts = plain.split('.').map(|part| part.parse().expect("a number"));
    [(); 3].map(|()| parts.next().expect("three numbers"))
}

#[test]
fn no_locked_version_is_below_the_lowest_safe_one() {
    let locked = locked();
    for (name, lowest) in LOWEST_SAFE {
        for (_, version) in locked.iter().filter(|(locked, _)| locked == name) {
            assert!(numbers(version) >= lowest, "{name} {version} is older than {lowest:?}");
        }
    }
    for name in ["h2", "hyper", "rustls-webpki"] {
        assert!(locked.iter().any(|(locked, _)| locked == name), "{name} is gone: is this list read at all?");
    }
}

#[test]
fn there_is_one_crypto_library_and_one_rustls() {
    let linked = linked();
    let versions = |wanted: &str| linked.iter().filter(|(name, _)| name == wanted).count();
    assert_eq!(versions("rustls"), 1, "{linked:?}");
    assert_eq!(versions("aws-lc-rs"), 1, "{linked:?}");
    for name in UNWANTED {
        assert_eq!(versions(name), 0, "{name} is linked");
    }
}
