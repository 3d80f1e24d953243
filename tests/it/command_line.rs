//! Flags: alone, over a file, and wrong.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
};

use crate::harness::{
    Backend, Client, Relay, Version,
    peers::free_address,
    relay::{run, stderr},
};

#[tokio::test]
async fn a_wrong_command_line_is_64() {
    for args in [&["--prot", "1"][..], &["--config"], &["chek"], &[]] {
        let output = run(args).await;
        assert_eq!(output.status.code(), Some(64), "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty());
    }
}

#[tokio::test]
async fn a_port_that_is_taken_says_which_and_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = Relay::builder().toml(&format!("[server]\nport = {port}")).run().await;
    assert!(!output.status.success());
    let stderr = stderr(&output);
    assert!(stderr.contains(&format!("127.0.0.1:{port}")), "{stderr}");
    assert!(stderr.contains("--port") && !stderr.contains("INFO ready"), "{stderr}");
}

#[tokio::test]
async fn a_port_that_is_taken_names_the_flag_that_chooses_it_and_another_port() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (key, flag, other) in [("port", "--port", "--http-port"), ("http_port", "--http-port", "--port")] {
        let output = Relay::builder().self_signed().toml(&format!("[server]\n{key} = {port}")).run().await;
        assert!(!output.status.success());
        let stderr = stderr(&output);
        assert!(stderr.contains(&format!("127.0.0.1:{port}")), "{key}: {stderr}");
        assert!(!stderr.contains(&format!(" {other} ")), "{key}: {stderr}");
        let (_, advice) =
            stderr.split_once(&format!(" {flag} ")).unwrap_or_else(|| panic!("{key}: {stderr}"));
        let advised: u16 = advice.split_whitespace().next().unwrap().parse().unwrap();
        assert_ne!(advised, port, "{key}: {stderr}");
    }
}

#[tokio::test]
async fn explain_never_shows_the_secret_prefix() {
    let config = "version = 1\nuri_prefix = \"s3cretprefix\"\n\
        [frontend]\nmode = \"forward\"\nurl = \"http://127.0.0.1:1/s3cretprefix\"\n\
        [[paths]]\nprefix = \"/old\"\naction = \"redirect\"\ntarget = \"https://chat.example.org/s3cretprefix/new\"\n\
        [[paths]]\nprefix = \"/blocked\"\naction = \"block\"\n\
        [[paths]]\nprefix = \"/api/v1\"\naction = \"proxy\"\n";
    for (method, path, outcome) in [
        (
            "GET",
            "https://chat.example.org/s3cretprefix/old",
            "redirected: 301 to https://chat.example.org/<prefix>/new",
        ),
        (
            "GET",
            "/%73%33cretprefix/api/v1/x?s3cretprefix",
            "proxied to http://127.0.0.1:42836/<prefix>/api/v1/x",
        ),
        ("POST", "/s3cretprefix/blocked", "blocked: 403"),
        ("GET", "/s3cretprefix/page", "forwarded to http://127.0.0.1:1/<prefix>/<prefix>/page"),
        ("GET", "/x/s3cretprefix/page", "forwarded to http://127.0.0.1:1/<prefix>/x/<prefix>/page"),
        ("GET", "/s3cretprefix/../page", "refused: 400"),
    ] {
        let output = Relay::with_args(["explain", method, path, "--config"])
            .file("relay.toml", config)
            .arg("{dir}/relay.toml")
            .run()
            .await;
        let text = String::from_utf8(output.stdout.clone()).unwrap() + &stderr(&output);
        assert!(text.contains(outcome), "{path}: {text}");
        assert!(!text.contains("s3cret"), "{path}: {text}");
    }
}

#[tokio::test]
async fn flags_win_over_the_file() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .toml("uri_prefix = \"old\"\n[[paths]]\nprefix = \"/api/v1\"\naction = \"proxy\"")
        .backend(free_address())
        .arg("--backend")
        .arg(format!("http://{}", backend.address()))
        .arg("--uri-prefix")
        .arg("new")
        .start()
        .await;
    let client = Client::http(relay.http());
    assert_eq!(client.get("/new/api/v1/x").await.text(), "ok");
    assert_eq!(client.get("/old/api/v1/x").await.status, 404);
}

#[tokio::test]
async fn flags_alone_make_a_server_with_the_four_rules_of_the_original() {
    let backend = Backend::start().await;
    let relay =
        Relay::with_args(["--domain", "localhost", "--host", "127.0.0.1", "--port", "0", "--http-port", "0"])
            .arg("--storage")
            .arg("{dir}/storage")
            .arg("--backend")
            .arg(format!("http://{}", backend.address()))
            .arg("--uri-prefix")
            .arg("abc")
            .arg("--frontend")
            .arg("off")
            .start()
            .await;
    let client = Client::https(&relay, Version::Http2);
    for path in ["/abc/api/v1/x", "/abc/pfp/1", "/abc/attachment/1", "/abc/health"] {
        assert_eq!(client.get(path).await.text(), "ok", "{path}");
    }
    assert_eq!(client.get("/abc/other").await.status, 404);
    assert_eq!(backend.requests().len(), 4);
}

#[tokio::test]
async fn sovas_own_config_can_be_read() {
    let backend = Backend::start().await;
    let sova = format!(
        "uri_prefix = \"abc\"\n[server]\nhost = \"127.0.0.1\"\nport = {}\n",
        backend.address().port()
    );
    let relay =
        Relay::with_args(["--domain", "localhost", "--host", "127.0.0.1", "--port", "0", "--http-port", "0"])
            .file("sova.toml", sova)
            .arg("--storage")
            .arg("{dir}/storage")
            .arg("--sova")
            .arg("{dir}/sova.toml")
            .start()
            .await;
    let client = Client::https(&relay, Version::Http1);
    assert_eq!(client.get("/abc/api/v1/x").await.text(), "ok");
    assert_eq!(backend.only().target, "/abc/api/v1/x");
}

#[tokio::test]
async fn the_start_says_where_its_settings_come_from_and_not_what_the_prefix_is() {
    let builder = || Relay::builder().toml("[backend]\nurl = \"http://127.0.0.1:9\"");
    let relay = builder().start().await;
    relay.log_with(&["configured config=", "config.toml", "backend_config=\"none\"", "prefix=none"]).await;
    let sova =
        builder().file("sova.toml", "uri_prefix = \"s3cretprefix\"\n").arg("--sova").arg("{dir}/sova.toml");
    let relay = sova.start().await;
    relay.log_with(&["configured", "backend_config=", "sova.toml", "prefix=set"]).await;
    assert!(!relay.logs().concat().contains("s3cretprefix"));
}

#[test]
fn who_may_not_read_the_config_is_told_to_use_sudo() {
    let directory = tempfile::tempdir().unwrap();
    let (config, program) = (directory.path().join("config.toml"), directory.path().join("parley-relay"));
    let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    fs::write(&config, "version = 1\n").unwrap();
    allow(&config, 0o000);
    // Another user finds the program here, wherever it was built.
    fs::copy(env!("CARGO_BIN_EXE_parley-relay"), &program).unwrap();
    allow(directory.path(), 0o755);
    for arguments in [
        &["doctor"][..],
        &["check"],
        &["health"],
        &["cert", "list"],
        &["ca"],
        &["status"],
        &["explain", "GET", "/"],
    ] {
        let mut command = Command::new(&program);
        command.args(arguments).arg("--config").arg(&config);
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        let output = command.output().unwrap();
        let told = stderr(&output);
        assert!(told.contains("config.toml cannot be read: Permission denied"), "{arguments:?}: {told}");
        assert!(told.ends_with("run it with sudo\n"), "{arguments:?}: {told}");
        assert_eq!(output.status.code(), Some(78), "{arguments:?}");
    }
}
