//! `init`: config files that the relay itself writes.

use std::fs;

use crate::harness::{
    Backend, Client, Relay, Version,
    relay::{run, stderr},
};

fn stdout(output: &std::process::Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn what_init_writes_is_what_the_relay_runs_with() {
    let backend = Backend::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    let output = run([
        "init",
        file.to_str().unwrap(),
        "--domain=localhost",
        "--uri-prefix=s3cret",
        &format!("--backend=http://{}", backend.address()),
        "--host=127.0.0.1",
        "--port=0",
        "--http-port=0",
        &format!("--storage={}/storage", directory.path().display()),
    ])
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = fs::read_to_string(&file).unwrap();
    let relay =
        Relay::with_args(["--config", file.to_str().unwrap()]).arg("--storage={dir}/storage").start().await;
    let answer = Client::https(&relay, Version::Http2).call("GET", "/s3cret/api/v1/x").send().await;
    assert_eq!(answer.text(), "ok", "{text}");
    assert_eq!(backend.last().target, "/s3cret/api/v1/x");
}

#[tokio::test]
async fn init_prints_to_standard_output_what_check_takes() {
    let output = run(["init", "--domain", "chat.example.org", "--email", "a@example.org"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(&file, stdout(&output)).unwrap();
    let checked = run(["check", file.to_str().unwrap()]).await;
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
}

#[tokio::test]
async fn init_writes_over_nothing_unless_told_to_and_tells_faults_by_flag() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(&file, "mine").unwrap();
    let path = file.to_str().unwrap();
    let output = run(["init", path, "--domain", "chat.lan"]).await;
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("--force"), "{}", stderr(&output));
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    let output = run(["init", path, "--domain", "chat.lan", "--port", "0x1bb", "--force"]).await;
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("--port"), "{}", stderr(&output));
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    let output = run(["init", path, "--domain", "chat.lan", "--force"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("config.toml.bak"), "{}", stdout(&output));
    assert_eq!(fs::read(directory.path().join("config.toml.bak")).unwrap(), b"mine");
}

#[tokio::test]
async fn init_without_anything_to_serve_says_what_is_missing() {
    let output = run(["init"]).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("give --domain NAME"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_domain_that_is_a_url_is_told_with_what_to_leave_out() {
    for (domain, echo) in [
        ("https://chat.example.org/s3cret", "\"https://chat.example.org/\""),
        ("chat.example.org/", "\"chat.example.org/\""),
        ("chat.example.org:8443", "\"chat.example.org:8443\""),
    ] {
        let output = run(["init", "--domain", domain]).await;
        assert_eq!(output.status.code(), Some(78));
        let told = stderr(&output);
        assert!(
            told.contains(echo) && told.contains("leave out scheme, path and port (--port gives it)"),
            "{told}"
        );
        assert!(!told.contains("s3cret"), "{told}");
    }
}

#[tokio::test]
async fn init_takes_what_is_secret_from_the_environment_and_a_flag_wins() {
    let init = |prefix: &'static str, flag: &'static str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_parley-relay"));
        command.args(["init", "--domain", "chat.example.org"]).args(flag.split_whitespace());
        command.env("PARLEY_RELAY_URI_PREFIX", prefix);
        command.env("PARLEY_RELAY_UPSTREAM_PROXY", "socks5://me:passw0rd@127.0.0.1:1080");
        command.env("PARLEY_RELAY_ACME_PROXY", "http://me:passw1rd@127.0.0.1:3128");
        async move {
            let output = command.output().await.unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            (stderr(&output), stdout(&output))
        }
    };
    let (told, text) = init("s3cret", "").await;
    assert_eq!(told, "");
    for part in ["\"s3cret\"", "passw0rd", "passw1rd"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(init("s3cret", "--uri-prefix another").await.1.contains("uri_prefix = \"another\""));
    // Set and empty, it says that there is none.
    assert_eq!(init("", "").await.0, "");
}

#[tokio::test]
async fn init_names_the_variable_or_the_line_that_a_fault_or_a_warning_is_about() {
    let init = async |name: &str, value: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_parley-relay"));
        command.args(["init", "--domain", "*.example.org"]).env("PARLEY_RELAY_URI_PREFIX", "s3cret");
        let output = command.env(name, value).output().await.unwrap();
        (output.status.code(), stderr(&output))
    };
    let (code, told) = init("PARLEY_RELAY_URI_PREFIX", "a b").await;
    assert_eq!(code, Some(78), "{told}");
    assert!(told.starts_with("error: PARLEY_RELAY_URI_PREFIX: the prefix is one path segment"), "{told}");
    let (_, told) = init("PARLEY_RELAY_UPSTREAM_PROXY", "ftp://h").await;
    assert!(told.starts_with("error: PARLEY_RELAY_UPSTREAM_PROXY: a proxy's URL begins with"), "{told}");
    let (code, told) = init("PARLEY_RELAY_UPSTREAM_PROXY", "http://h").await;
    assert_eq!(code, Some(0), "{told}");
    // No file of ours that is gone when people read this.
    assert!(told.contains("--> the new config file:") && told.contains("domains = ["), "{told}");
}

#[tokio::test]
async fn an_empty_prefix_that_nobody_asked_for_is_told() {
    if std::path::Path::new("/opt/parley-chat/config.toml").exists() {
        println!("skipped: there is a Sova here");
        return;
    }
    let output = run(["init", "--domain", "chat.example.org"]).await;
    let told = "no Sova config at /opt/parley-chat/config.toml: the secret prefix is empty; --uri-prefix gives one\n";
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), told));
    let output = run(["init", "--domain", "chat.example.org", "--backend", "http://127.0.0.1:1"]).await;
    assert!(stderr(&output).contains("the secret prefix is empty"), "{}", stderr(&output));
}
