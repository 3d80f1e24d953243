//! `health`: exit code and one line.

use std::process::Output;

use crate::harness::{
    Backend, Relay, Reply,
    peers::free_address,
    relay::{run, stderr},
};

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

async fn health(arguments: &[&str]) -> Output {
    run([&["health"], arguments].concat()).await
}

#[tokio::test]
async fn a_relay_that_answers_is_0_and_its_certificate_is_told_whoever_made_it() {
    let relay = Relay::builder().self_signed().start().await;
    let url = format!("https://{}", relay.authority());
    let output = health(&["--url", &url]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let line = stdout(&output);
    assert!(line.starts_with(&format!("the relay answers at {url}; the certificate is by ")), "{line}");
    assert!(line.contains("local CA") && line.ends_with("in 89 days\n"), "{line}");
    assert_eq!(line.lines().count(), 1);
}

#[tokio::test]
async fn the_relay_of_a_config_is_asked_where_it_listens_and_by_its_name() {
    let port = free_address().port();
    let relay = Relay::builder()
        .toml(&format!("[server]\nhost = \"0.0.0.0\"\nport = {port}"))
        .toml("[tls]\nmode = \"self-signed\"\ndomains = [\"chat.lan\"]\nstorage = \"{dir}/storage\"")
        .start()
        .await;
    let config = relay.path("config.toml");
    let output = health(&["--config", config.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains(&format!("https://127.0.0.1:{port};")), "{}", stdout(&output));
}

#[tokio::test]
async fn nothing_that_listens_is_1_and_so_is_what_speaks_something_else() {
    let output = health(&["--url", &format!("https://{}", free_address())]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("does not answer: Connection refused"), "{}", stderr(&output));
    assert!(output.stdout.is_empty());

    let plain = Relay::start("").await;
    let output = health(&["--url", &format!("http://{}", plain.http())]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = health(&["--url", &format!("https://{}", plain.http())]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("TLS"), "{}", stderr(&output));
}

#[tokio::test]
async fn the_backend_is_asked_through_the_relay_when_that_is_wanted_and_not_otherwise() {
    let backend = Backend::builder()
        .on("/s3cret/health", |seen| {
            if seen.headers("user-agent").iter().any(|agent| agent.contains("health")) {
                Reply::ok("{}")
            } else {
                Reply::status("500 NO")
            }
        })
        .start()
        .await;
    let relay = Relay::builder()
        .toml("uri_prefix = \"s3cret\"\n[[paths]]\nprefix = \"/health\"\naction = \"proxy\"")
        .backend(backend.address())
        .self_signed()
        .start()
        .await;
    let url = format!("https://{}/s3cret", relay.authority());
    let output = health(&["--url", &url]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(backend.requests().len(), 0);
    let output = health(&["--with-backend", "--url", &url]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("the relay and the backend answer at"));
    assert_eq!(backend.only().path(), "/s3cret/health");
    assert!(!stdout(&output).contains("s3cret"));

    // The prefix is wrong, and the line that says so does not show it.
    let wrong = format!("https://{}/s3cretx", relay.authority());
    let output = health(&["--with-backend", "--url", &wrong]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("404") && !stderr(&output).contains("s3cret"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_port_that_the_system_chose_is_not_guessed() {
    let relay = Relay::start("").await;
    let output = health(&["--config", relay.path("config.toml").to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("--url"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_relay_that_trusts_this_machine_as_its_proxy_is_greeted_like_one() {
    let port = free_address().port();
    let relay = Relay::builder()
        .toml(&format!("[server]\nport = {port}\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.0/8\"]"))
        .start()
        .await;
    let output = health(&["--config", relay.path("config.toml").to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}
