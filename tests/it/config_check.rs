//! What a wrong configuration is told, and that nothing is started with it.

use crate::harness::{
    Pki, Relay,
    relay::{RelayBuilder, run, stderr},
};

/// A relay whose config file is exactly `text`.
fn verbatim(text: impl AsRef<[u8]>) -> RelayBuilder {
    Relay::with_args(["--config"]).file("relay.toml", text).arg("{dir}/relay.toml")
}

/// The start refuses `text` with 78, and shows the line that holds `marked` with a caret below it, and `reason`.
async fn refused(text: &str, marked: &str, reason: &str) {
    let output = verbatim(text).run().await;
    let stderr = stderr(&output);
    let said = format!("{text}\n---\n{stderr}");
    assert_eq!(output.status.code(), Some(78), "{said}");
    let line = 1 + text.lines().position(|line| line.contains(marked)).expect("the test's own mark");
    assert!(stderr.contains(&format!("relay.toml:{line}:")), "line {line} is not named: {said}");
    assert!(stderr.contains(marked) && stderr.contains('^'), "no caret below {marked}: {said}");
    assert!(stderr.contains(reason), "{reason:?} is not said: {said}");
    assert!(!stderr.contains("listening"), "{said}");
    assert!(!stderr.contains('\u{1b}'), "no colours where there is no terminal: {said}");
}

#[tokio::test]
async fn each_fault_is_told_with_its_line_a_caret_and_the_reason() {
    let rule = |keys: &str| format!("version = 1\n[[paths]]\n{keys}\n");
    for (text, marked, reason) in [
        ("version = 2\n", "version", "version = 1"),
        ("version = 1\nuri_prefx = \"x\"\n", "uri_prefx", "uri_prefix"),
        ("version = 1\n[server]\nprot = 1\n", "prot", "port"),
        ("version = 1\n[sever]\nport = 1\n", "sever", "server"),
        ("version = 1\n[server]\nport = 70000\n", "70000", "port"),
        ("version = 1\n[server]\nport = \"x\"\n", "\"x\"", "port"),
        // The value is a secret and not shown.
        ("version = 1\nuri_prefix = \"a/b\"\n", "uri_prefix", "segment"),
        ("version = 1\n[server\n", "[server", "TOML"),
        ("version = 1\n[backend]\nurl = \"http://h:1/path\"\n", "/path", "path"),
        ("version = 1\n[backend]\nurl = \"ftp://h:1\"\n", "ftp", "http"),
        ("version = 1\n[backend]\nconnect_timeout = \"5 parsecs\"\n", "parsecs", "connect_timeout"),
        ("version = 1\n[server]\ntrusted_proxies = [\"10.0.0.0/33\"]\n", "/33", "trusted_proxies"),
        ("version = 1\n[frontend]\nmode = \"server\"\n", "\"server\"", "serve"),
        ("version = 1\n[frontend]\nmode = \"forward\"\n", "forward", "url"),
        ("version = 1\n[upstream_proxy]\nenabled = true\nurl = \"ftp://h:1\"\n", "ftp", "socks5"),
        ("version = 1\n[tls]\nmode = \"files\"\ndomains = [\"localhost\"]\n", "files", "cert"),
        ("version = 1\n[log]\nlevel = \"loud\"\n", "loud", "info"),
        (&rule("prefix = \"api\"\naction = \"proxy\""), "\"api\"", "/"),
        (&rule("prefix = \"/a//b\"\naction = \"proxy\""), "/a//b", "segment"),
        (&rule("prefix = \"/a\"\naction = \"prox\""), "\"prox\"", "proxy"),
        (&rule("prefix = \"/a\"\naction = \"redirect\"\ntarget = \"/b\"\ncode = 303"), "303", "308"),
        (&rule("prefix = \"/a\"\naction = \"redirect\""), "redirect", "target"),
        (&rule("prefix = \"/a\"\naction = \"proxy\"\nmax_size = 0"), "max_size = 0", "max_size"),
        (&rule("prefix = \"/a\""), "[[paths]]", "action"),
    ] {
        refused(text, marked.trim(), reason).await;
    }
}

#[tokio::test]
async fn a_backend_url_with_a_password_is_refused_without_showing_it() {
    let output = verbatim("version = 1\n[backend]\nurl = \"http://user:canary@h:1\"\n").run().await;
    assert_eq!(output.status.code(), Some(78));
    let stderr = stderr(&output);
    assert!(stderr.contains("backend.url") || stderr.contains("url"), "{stderr}");
    assert!(!stderr.contains("canary"), "{stderr}");
}

#[tokio::test]
async fn all_faults_are_told_at_once() {
    let text = "version = 1\nuri_prefix = \"a/b\"\n[server]\nport = 70000\nhots = \"x\"\n[backend]\nurl = \"ftp://h\"\n\
                [[paths]]\nprefix = \"api\"\naction = \"prox\"\n";
    let output = verbatim(text).run().await;
    assert_eq!(output.status.code(), Some(78));
    let stderr = stderr(&output);
    for line in [2, 4, 5, 7, 9, 10] {
        assert!(stderr.contains(&format!("relay.toml:{line}:")), "line {line}: {stderr}");
    }
}

#[tokio::test]
async fn a_file_that_is_missing_or_no_text_is_refused() {
    let output = run(["--config", "/nonexistent/relay.toml"]).await;
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("/nonexistent/relay.toml"), "{}", stderr(&output));

    let output = verbatim(b"version = 1\n# \xff\n").run().await;
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("UTF-8"), "{}", stderr(&output));

    let output = verbatim("").run().await;
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("version = 1"), "{}", stderr(&output));
}

#[tokio::test]
async fn certificates_that_cannot_serve_are_refused() {
    let pki = Pki::new();
    let (leaf, other) = (pki.leaf(&["localhost"]), pki.leaf(&["localhost"]));
    for (cert, key, named) in [
        (None, Some(&leaf.key), "cert.pem"),
        (Some(&leaf.cert), None, "key.pem"),
        (Some(&leaf.cert), Some(&other.key), "key"),
        (Some(&leaf.key), Some(&leaf.key), "cert.pem"),
        (Some(&leaf.cert), Some(&leaf.cert), "key.pem"),
    ] {
        let mut builder = Relay::builder()
            .toml("[tls]\nmode = \"files\"\ndomains = [\"localhost\"]\ncert = \"{dir}/cert.pem\"\nkey = \"{dir}/key.pem\"\nstorage = \"{dir}/storage\"");
        for (name, content) in [("cert.pem", cert), ("key.pem", key)] {
            if let Some(content) = content {
                builder = builder.file(name, content);
            }
        }
        let output = builder.run().await;
        assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
        assert!(stderr(&output).contains(named), "{named}: {}", stderr(&output));
        assert!(!stderr(&output).contains("PRIVATE KEY"), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn check_tries_the_certificate_with_its_key_and_tells_all_other_faults_too() {
    let pki = Pki::new();
    let (leaf, other) = (pki.leaf(&["localhost"]), pki.leaf(&["localhost"]));
    let text = "version = 1\n[server]\nhots = \"::\"\n[frontend]\nmode = \"disabled\"\n";
    for (key, code) in [(&other.key, 78), (&leaf.key, 0)] {
        let text = if code == 0 { text.replace("hots", "host") } else { text.to_owned() };
        let output = Relay::with_args(["check"])
            .file("relay.toml", text)
            .file("cert.pem", &leaf.cert)
            .file("key.pem", key)
            .arg("{dir}/relay.toml")
            .arg("--cert")
            .arg("{dir}/cert.pem")
            .arg("--key")
            .arg("{dir}/key.pem")
            .run()
            .await;
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert_eq!(stderr.contains("belongs to another certificate"), code == 78, "{stderr}");
        assert_eq!(stderr.contains("relay.toml:3:"), code == 78, "{stderr}");
    }
}

#[tokio::test]
async fn check_tells_the_same_and_starts_nothing() {
    let builder = || Relay::with_args(["check"]);
    let output = builder().file("relay.toml", "version = 1\nbad = 1\n").arg("{dir}/relay.toml").run().await;
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("relay.toml:2:"), "{}", stderr(&output));

    let good = "version = 1\n[[paths]]\nprefix = \"/api/v1\"\naction = \"proxy\"\n";
    let output = builder().file("relay.toml", good).arg("{dir}/relay.toml").run().await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stderr(&output).contains("listening"));
}

#[tokio::test]
async fn check_warns_of_what_is_hardly_meant() {
    let builder = || Relay::with_args(["check"]);
    let open = "version = 1\n[[paths]]\nprefix = \"/x\"\nmethods = [\"GET\"]\naction = \"block\"\n\
                [[paths]]\nprefix = \"/\"\naction = \"proxy\"\n";
    let open = open.replace("\"/\"", "\"/*\"");
    let output = builder().file("relay.toml", open).arg("{dir}/relay.toml").run().await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("HEAD"), "P2: {}", stderr(&output));

    let output = builder().file("relay.toml", "version = 1\n").arg("{dir}/relay.toml").run().await;
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("paths"), "no rules at all: {}", stderr(&output));
}

#[tokio::test]
async fn check_warns_with_line_and_caret_of_what_will_not_do_what_it_says() {
    let text = "version = 1\n[tls]\nmode = \"acme\"\nstorage = \"{dir}/storage\"\ndomains = [\"chat.lan\"]\n\
                [backend]\nurl = \"http://127.0.0.1:9\"\n[frontend]\nmode = \"forward\"\nurl = \"http://127.0.0.1:9\"\n\
                [[paths]]\nprefix = \"/api/*\"\nmethods = [\"GET\"]\naction = \"proxy\"\n";
    let output = Relay::with_args(["check"]).file("relay.toml", text).arg("{dir}/relay.toml").run().await;
    let stderr = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    for part in [
        "warning: no public CA issues for chat.lan",
        "relay.toml:5:",
        "self-signed",
        "warning: this rule keeps nothing to GET",
        "relay.toml:13:",
        "POST, PUT, PATCH, DELETE",
        "[frontend] `url` (line 10)",
    ] {
        assert!(stderr.contains(part), "{part:?}: {stderr}");
    }
    let carets = stderr.lines().filter(|line| line.trim_start_matches([' ', '|']).starts_with('^'));
    assert_eq!(carets.count(), 2, "a caret for each: {stderr}");
}

#[tokio::test]
async fn a_warning_names_the_flag_that_it_is_about_and_the_file_that_lacks_a_key() {
    let warned = async |args: &[&str], expected: &[&str]| {
        let file = Relay::with_args(["check"]).file("relay.toml", "version = 1\n");
        let output = args.iter().fold(file, |builder, arg| builder.arg(arg)).run().await;
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{told}");
        for warning in expected {
            assert!(told.contains(&format!("warning: {warning}")), "{warning:?}:\n{told}");
        }
    };
    let lan =
        ["--domain", "chat.lan", "--storage", "{dir}/s", "--host", "127.0.0.1", "--frontend", "/nonexistent"];
    warned(&lan, &["--host: only this machine can reach it", "--frontend: there is no such directory"]).await;
    warned(&["--http-port", "80"], &["--http-port: `http_port` redirects to HTTPS"]).await;
    warned(&["--domain", "*.example.org", "--storage", "{dir}/s"], &["--domain: a wildcard"]).await;
    let output =
        Relay::with_args(["check"]).file("relay.toml", "version = 1\n").arg("{dir}/relay.toml").run().await;
    let told = stderr(&output);
    let (_, after) = told.split_once("warning: the front end has no `directory`").unwrap_or_default();
    assert!(after.lines().nth(1).is_some_and(|line| line.ends_with("relay.toml")), "{told}");
}

#[tokio::test]
async fn the_example_file_is_valid() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");
    let output = run(["check", example]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[tokio::test]
async fn every_fixture_of_the_original_is_valid() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/original");
    let mut checked = 0;
    for file in std::fs::read_dir(fixtures).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let text = if text.contains("version = 1") { text } else { format!("version = 1\n{text}") };
        let output =
            Relay::with_args(["check"]).file("relay.toml", &text).arg("{dir}/relay.toml").run().await;
        assert_eq!(output.status.code(), Some(0), "{text}\n{}", stderr(&output));
        checked += 1;
    }
    assert_eq!(checked, 17);
}

#[tokio::test]
async fn who_checks_a_name_that_the_local_ca_cannot_vouch_for_is_told_of_the_new_root() {
    let text = "a NEW local CA will be made: the present one cannot vouch for example.org; every device has to \
                trust the new one";
    let relay = Relay::builder()
        .toml("[tls]\nmode = \"self-signed\"\ndomains = [\"chat.lan\"]\nstorage = \"{dir}/s\"")
        .file("site/index.html", "")
        .toml("[frontend]\nmode = \"serve\"\ndirectory = \"{dir}/site\"")
        .start()
        .await;
    let before = std::fs::read_to_string(relay.path("config.toml")).unwrap();
    let config = before.replace("[\"chat.lan\"]", "[\"chat.lan\", \"example.org\"]");
    let told = |storage: &str| {
        let changed =
            config.replace(relay.path("s").to_str().unwrap(), relay.path(storage).to_str().unwrap());
        assert_ne!(changed, before);
        std::fs::write(relay.path("new.toml"), changed).unwrap();
        let file = relay.path("new.toml");
        async move {
            let checked = Relay::with_args(["check"]).arg(&file).run().await;
            let made = Relay::with_args(["init", "--from"]).arg(&file).run().await;
            assert_eq!(
                (checked.status.code(), made.status.code()),
                (Some(0), Some(0)),
                "{}",
                stderr(&checked)
            );
            [stderr(&checked), stderr(&made)]
        }
    };
    for said in told("s").await {
        assert!(said.contains(text), "{said}");
    }
    // There is no root yet: what is made then is new to nobody.
    for said in told("none").await {
        assert!(!said.contains("NEW"), "{said}");
    }
}
