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
    assert_eq!(run(["init"]).await.status.code(), Some(64));
}
