//! The binary that is given away: static, and it runs.

use std::process::Command;

use crate::harness::{Backend, Client, Relay, Version};

/// `dist/build.sh` makes it; the variable says where it is.
const VARIABLE: &str = "PARLEY_RELAY_STATIC";

#[tokio::test]
async fn the_static_binary_needs_nothing_and_serves() {
    let Some(binary) = std::env::var_os(VARIABLE) else {
        assert!(std::env::var_os("CI").is_none(), "{VARIABLE} names no binary, and in CI it must");
        println!("skipped: {VARIABLE} names no binary; dist/build.sh makes one");
        return;
    };
    let file = Command::new("file").arg("--brief").arg(&binary).output().unwrap();
    let file = String::from_utf8(file.stdout).unwrap();
    assert!(file.contains("static-pie linked") || file.contains("statically linked"), "{file}");
    let ldd = Command::new("ldd").arg(&binary).output().unwrap();
    let ldd = String::from_utf8([ldd.stdout, ldd.stderr].concat()).unwrap();
    assert!(ldd.contains("not a dynamic executable") || ldd.contains("statically linked"), "{ldd}");

    let backend = Backend::start().await;
    let relay = Relay::builder().binary(&binary).self_signed().backend(backend.address()).start().await;
    for version in [Version::Http1, Version::Http2] {
        let answer = Client::https(&relay, version).call("POST", "/x").body("body").send().await;
        assert_eq!(answer.text(), "ok");
        assert_eq!(backend.last().body, b"body");
    }
}
