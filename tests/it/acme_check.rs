//! Configurations for ACME that cannot work are told at `check` and at the start, and nothing is started.

use crate::harness::{Relay, relay};

const GOOD: &str = "
    [tls]
    mode = \"acme\"
    domains = [\"chat.example.org\"]
    storage = \"{dir}/storage\"";

/// What `check` and a start say of `toml`, which they refuse alike.
async fn refused(toml: &str) -> String {
    let builder = Relay::builder()
        .toml(GOOD)
        .file("not-executable", "#!/bin/sh\n")
        .file("not-base64url", "this is no key!\n")
        .toml(toml);
    let started = builder.run().await;
    let said = String::from_utf8(started.stderr).unwrap();
    assert_eq!(started.status.code(), Some(78), "{toml}\n{said}");

    let dir = tempfile::tempdir().unwrap();
    for (name, content) in [("not-executable", "#!/bin/sh\n"), ("not-base64url", "this is no key!\n")] {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    let path = dir.path().join("config.toml");
    let mut config: toml::Table = GOOD.parse().unwrap();
    merge_tables(&mut config, toml.parse().unwrap());
    config.insert("version".into(), 1.into());
    let text = config.to_string().replace("{dir}", dir.path().to_str().unwrap());
    std::fs::write(&path, text).unwrap();
    let checked = relay::run(["check".as_ref(), path.as_os_str()]).await;
    let told = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(78), "{toml}\n{told}");
    told
}

fn merge_tables(base: &mut toml::Table, new: toml::Table) {
    for (key, value) in new {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(new)) => merge_tables(base, new),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[tokio::test]
async fn each_fault_is_named_with_its_line() {
    for (toml, words) in [
        ("[tls]\ndomains = [\"not a name\"]", &["domains", "not a name"][..]),
        ("[tls]\ndomains = [\"a..example.org\"]", &["domains"]),
        ("[tls]\ndomains = [\"*.*.example.org\"]", &["domains"]),
        ("[tls.acme]\nemail = \"nobody\"", &["email"]),
        ("[tls.acme]\nemail = \"a@example.org?bcc=b@example.org\"", &["email"]),
        ("[tls.acme]\naccept_terms = false", &["accept_terms", "terms"]),
        ("[tls.acme.dns]\nhook = \"{dir}/missing\"", &["hook", "No such file"]),
        ("[tls.acme.dns]\nhook = \"{dir}/not-executable\"", &["hook", "chmod +x"]),
        ("[tls.acme]\non_failure = \"{dir}/missing\"", &["on_failure", "No such file"]),
        (
            "[tls.acme]\neab_kid = \"kid\"\neab_hmac_file = \"{dir}/not-base64url\"",
            &["eab_hmac_file", "base64url"],
        ),
        ("[tls.acme]\neab_kid = \"kid\"\neab_hmac_file = \"{dir}/missing\"", &["eab_hmac_file"]),
        ("[tls.acme]\neab_kid = \"kid\"", &["eab_hmac_file"]),
        ("[tls.acme]\ndirectory = \"http://ca.example.org/dir\"", &["directory", "https://"]),
        ("[tls.acme]\ndirectory = \"http://127.0.0.1:14000/dir\"", &["directory", "https://"]),
        (
            "[tls.acme]\nallow_insecure_directory = true\ndirectory = \"http://192.0.2.1/dir\"",
            &["directory", "https://"],
        ),
        ("[tls.acme]\ndirectory = \"letsencript\"", &["directory"]),
        ("[tls.acme]\ndirectory = []", &["directory"]),
        ("[tls.acme]\nca_root = \"{dir}/missing\"", &["ca_root"]),
        ("[tls.acme]\nchallenges = [\"http-02\"]", &["challenges"]),
        ("[tls.acme]\nchallenges = [\"dns-01\"]", &["challenges"]),
        ("[tls.acme]\nkey_type = \"rsa\"", &["key_type"]),
        ("[tls.acme]\nproxy = \"upstream\"", &["proxy", "upstream"]),
        ("[tls.acme]\nproxy = \"ftp://proxy\"", &["proxy"]),
        ("[tls.acme.dns]\nlisten = \"somewhere\"", &["listen"]),
        ("[tls.acme.dns]\npropagation = \"soon\"", &["propagation"]),
        ("[tls.acme]\nemial = \"a@example.org\"", &["emial", "email"]),
    ] {
        let told = refused(toml).await;
        for word in words {
            assert!(told.contains(word), "{toml}: {word:?} is not in\n{told}");
        }
        assert!(told.contains('^'), "{toml}: no caret in\n{told}");
    }
}

#[tokio::test]
async fn all_faults_are_told_at_once() {
    let told = refused(
        "[tls.acme]\nemail = \"nobody\"\nkey_type = \"rsa\"\n[tls.acme.dns]\nhook = \"{dir}/missing\"",
    )
    .await;
    for word in ["email", "key_type", "hook"] {
        assert!(told.contains(word), "{word:?} is not in\n{told}");
    }
}
