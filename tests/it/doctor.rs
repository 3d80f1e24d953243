//! `doctor`: what is well around a relay, what is not, and what to do.

use std::{os::unix::fs::chown, process::Output};

use crate::harness::{
    Backend, Microsocks, Pebble, Relay, Reply, Tinyproxy,
    peers::free_address,
    relay::{RelayBuilder, run, stderr},
};

/// A relay on a port that stands in its config.
fn on_port(port: u16) -> RelayBuilder {
    Relay::builder()
        .toml(&format!("uri_prefix = \"s3cret\"\n[server]\nport = {port}"))
        .toml("[tls]\nmode = \"self-signed\"\ndomains = [\"localhost\"]\nstorage = \"{dir}/storage\"")
}

async fn well() -> Backend {
    Backend::builder()
        .on("/s3cret/health", |_| Reply::ok("{}"))
        .on("/health", |_| Reply::status("404 NOT FOUND"))
        .start()
        .await
}

/// What `doctor` says, and its exit code.
async fn doctor(relay: &Relay) -> (String, Option<i32>) {
    let output = Relay::with_args(["doctor", "--config"])
        .arg(relay.path("config.toml"))
        .env("RUNTIME_DIRECTORY", relay.path(""))
        .run()
        .await;
    told(&output)
}

fn told(output: &Output) -> (String, Option<i32>) {
    assert!(!stderr(output).contains("error"), "{}", stderr(output));
    (String::from_utf8(output.stdout.clone()).unwrap(), output.status.code())
}

/// Fails unless a line begins like this.
#[track_caller]
fn assert_line(said: &str, grade: &str, about: &str, text: &str) {
    let begin = format!("{grade:7}  {about:9}  {text}");
    assert!(said.lines().any(|line| line.starts_with(&begin)), "no line {begin:?} in:\n{said}");
}

#[tokio::test]
async fn all_is_well_around_a_relay_that_runs() {
    let backend = well().await;
    let port = free_address().port();
    let relay = on_port(port).backend(backend.address()).start().await;
    let (said, code) = doctor(&relay).await;
    assert_eq!(code, Some(0), "{said}");
    assert_line(&said, "ok", "names", "localhost leads each machine to itself");
    assert_line(&said, "ok", "ports", &format!("the relay answers at https://127.0.0.1:{port};"));
    assert_line(&said, "ok", "backend", &format!("http://{} answers, and says", backend.address()));
    assert_line(&said, "ok", "storage", &relay.path("storage").display().to_string());
    assert_line(&said, "ok", "storage", "the local CA's certificate is good until ");
    assert!(!said.contains("s3cret"), "{said}");
}

#[tokio::test]
async fn a_relay_that_runs_by_flags_is_found_by_its_storage() {
    let port = free_address().port();
    let relay = on_port(port).start().await;
    // The relay's socket is there, as it is in the storage directory of one that has no other.
    let output = Relay::with_args(["doctor", "--domain", "localhost", "--http-port", "0"])
        .arg("--port")
        .arg(port.to_string())
        .arg("--storage")
        .arg(relay.path(""))
        .env("RUNTIME_DIRECTORY", "")
        .run()
        .await;
    let (said, _) = told(&output);
    assert_line(&said, "ok", "ports", &format!("the relay answers at https://127.0.0.1:{port};"));
}

#[tokio::test]
async fn a_prefix_that_is_not_the_backends_is_told_and_not_shown() {
    let backend = Backend::builder().on("/s3cret/health", |_| Reply::status("404 NOT FOUND")).start().await;
    let relay = on_port(free_address().port()).backend(backend.address()).start().await;
    let (said, code) = doctor(&relay).await;
    assert_eq!(code, Some(1), "{said}");
    let text = format!("http://{} answers, and has no /health below uri_prefix", backend.address());
    assert_line(&said, "error", "backend", &text);
    assert!(said.contains("the one in Sova's config.toml") && !said.contains("s3cret"), "{said}");
}

#[tokio::test]
async fn a_backend_that_is_away_or_not_well_is_an_error() {
    let (away, ill) = (free_address(), Backend::builder());
    let ill = ill.on("/s3cret/health", |_| Reply::status("503 SERVICE UNAVAILABLE")).start().await;
    for (address, text) in [
        (away, "no connection to the backend: Connection refused"),
        (ill.address(), "answers /health with 503 Service Unavailable"),
    ] {
        let relay = on_port(free_address().port()).backend(address).start().await;
        let (said, code) = doctor(&relay).await;
        assert_eq!(code, Some(1), "{said}");
        assert_line(&said, "error", "backend", &format!("http://{address}"));
        assert!(said.contains(text), "{said}");
    }
}

#[tokio::test]
async fn the_backend_is_asked_on_the_way_that_requests_take() {
    let backend = well().await;
    let (http, socks) = (Tinyproxy::start(Some(("user", "password"))).await, Microsocks::start(None).await);
    for proxy in
        [format!("http://user:password@{}", http.address()), format!("socks5h://{}", socks.address())]
    {
        let relay = on_port(free_address().port())
            .backend(backend.address())
            .toml(&format!("[upstream_proxy]\nenabled = true\nurl = \"{proxy}\""))
            .start()
            .await;
        let (said, code) = doctor(&relay).await;
        assert_eq!(code, Some(0), "{said}");
    }
    http.asked(&format!("GET http://{}/s3cret/health", backend.address())).await;
    socks.connected_to(&backend.address().to_string()).await;
}

#[tokio::test]
async fn a_proxy_that_is_away_is_named_without_its_password() {
    for (scheme, backend) in
        [("http", "http://127.0.0.1:1"), ("http", "https://127.0.0.1:1"), ("socks5", "http://127.0.0.1:1")]
    {
        let (away, ca_proxy) = (free_address(), free_address());
        let output = Relay::with_args(["doctor", "--config"])
            .file(
                "relay.toml",
                format!(
                    "version = 1\n[server]\nport = {}\nhttp_port = 0\n[backend]\nurl = \"{backend}\"\n\
                     [frontend]\nmode = \"disabled\"\n[upstream_proxy]\nenabled = true\n\
                     url = \"{scheme}://user:hunter2@{away}\"\n[tls]\ndomains = [\"127.0.0.1\"]\n\
                     mode = \"acme\"\nstorage = \"{{dir}}/none\"\n[tls.acme]\n\
                     directory = \"https://127.0.0.1:1/dir\"\nproxy = \"{scheme}://user:hunter2@{ca_proxy}\"\n",
                    free_address().port()
                ),
            )
            .arg("{dir}/relay.toml")
            .run()
            .await;
        let (said, code) = told(&output);
        assert_eq!(code, Some(1), "{said}");
        let text = format!("{backend}: no connection through the upstream proxy at {away}: ");
        assert_line(&said, "error", "backend", &text);
        assert!(said.contains(&format!("[upstream_proxy] at {away}: does the proxy run")), "{said}");
        assert!(said.contains(&format!("cannot be reached through the proxy at {ca_proxy}: ")), "{said}");
        assert!(!said.contains("hunter2") && !stderr(&output).contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn a_config_that_was_changed_and_not_loaded_is_a_warning_until_it_is() {
    let backend = well().await;
    let relay = on_port(free_address().port())
        .backend(backend.address())
        .file("sova.toml", "uri_prefix = \"s3cret\"\n")
        .arg("--sova")
        .arg("{dir}/sova.toml")
        .start()
        .await;
    let config = relay.path("config.toml");
    let as_it_is = format!("the relay runs with {} as it is now", config.display());
    let (said, _) = doctor(&relay).await;
    assert_line(&said, "ok", "config", &as_it_is);

    relay.set_config(&format!("{}# Changed.\n", relay.config()));
    std::fs::write(relay.path("sova.toml"), "uri_prefix = \"s3cret\" # Too.\n").unwrap();
    let (said, code) = doctor(&relay).await;
    assert_eq!(code, Some(0), "{said}");
    for file in [&config, &relay.path("sova.toml")] {
        assert_line(&said, "warning", "config", &format!("{} was changed at 20", file.display()));
    }
    assert!(said.contains("; the relay runs with what it loaded at 20"), "{said}");
    assert!(said.contains("systemctl reload parley-relay loads it") && !said.contains("s3cret"), "{said}");

    relay.reload("reloaded").await;
    let (said, _) = doctor(&relay).await;
    assert_line(&said, "ok", "config", &as_it_is);
}

#[tokio::test]
async fn a_name_server_that_does_not_answer_is_told_once_with_its_address() {
    let doctor = Relay::with_args(["doctor", "--config"])
        .file("resolv.conf", "nameserver 127.0.0.9\n")
        .file(
            "relay.toml",
            format!(
                "version = 1\n[server]\nport = {}\nhttp_port = 0\n[frontend]\nmode = \"disabled\"\n\
                 [backend]\nurl = \"http://sova.example.net:1\"\n[tls]\nmode = \"acme\"\n\
                 domains = [\"chat.example.net\", \"www.example.net\"]\nstorage = \"{{dir}}/none\"\n",
                free_address().port()
            ),
        )
        .arg("{dir}/relay.toml");
    let resolv_conf = doctor.path("resolv.conf");
    let output = doctor
        .env("RESOLV_CONF", resolv_conf)
        .under(&[
            "unshare",
            "--mount",
            "sh",
            "-c",
            "mount --bind \"$RESOLV_CONF\" /etc/resolv.conf && exec \"$0\" \"$@\"",
        ])
        .run()
        .await;
    let (said, code) = told(&output);
    assert_eq!(code, Some(1), "{said}");
    assert_line(&said, "error", "names", "no name server answers: /etc/resolv.conf leads to 127.0.0.9");
    assert_eq!(said.matches("/etc/resolv.conf").count(), 1, "{said}");
    for (about, what) in [
        ("authority", "https://acme-v02.api.letsencrypt.org/directory"),
        ("names", "chat.example.net"),
        ("names", "www.example.net"),
        ("backend", "http://sova.example.net:1"),
    ] {
        assert_line(&said, "error", about, &format!("{what} is not found: no name server answers"));
    }
}

#[tokio::test]
async fn where_no_relay_runs_its_ports_are_free_or_somebody_has_them() {
    let backend = well().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (free, taken) = (free_address().port(), taken.local_addr().unwrap().port());
    let config = |port: u16, http_port: u16| {
        let backend = format!("[backend]\nurl = \"http://{}\"", backend.address());
        let server = format!("host = \"127.0.0.1\"\nport = {port}\nhttp_port = {http_port}");
        format!(
            "version = 1\nuri_prefix = \"s3cret\"\n[server]\n{server}\n[tls]\nmode = \"self-signed\"\n\
             domains = [\"localhost\"]\nstorage = \"{{dir}}/none\"\n[frontend]\nmode = \"disabled\"\n{backend}\n"
        )
    };
    let examined = async |port, http_port| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        let text = config(port, http_port).replace("{dir}", dir.path().to_str().unwrap());
        std::fs::write(&file, text).unwrap();
        told(&run(["doctor".as_ref(), "--config".as_ref(), file.as_os_str()]).await)
    };
    let (said, code) = examined(free, 0).await;
    assert_eq!(code, Some(0), "{said}");
    assert_line(&said, "ok", "ports", &format!("the relay does not run; port {free} is free"));
    assert!(said.contains("none is not there yet: the relay makes it when it starts"), "{said}");
    for (port, http_port, key) in [(taken, 0, "port"), (free, taken, "http_port")] {
        let (said, code) = examined(port, http_port).await;
        assert_eq!(code, Some(1), "{said}");
        let text = format!("the relay does not run, and cannot listen on 127.0.0.1:{taken}");
        assert_line(&said, "error", "ports", &text);
        assert!(said.contains(&format!("ss -ltnp 'sport = :{taken}'")), "{said}");
        assert!(said.contains(&format!("[server] {key} = {}", taken + 1)), "{said}");
    }
}

#[tokio::test]
async fn a_storage_directory_that_its_owner_cannot_write_is_an_error() {
    let backend = well().await;
    let relay = on_port(free_address().port()).backend(backend.address()).start().await;
    let storage = relay.path("storage");
    // As install.sh has it: the relay's user owns it.
    if chown(&storage, Some(65534), Some(65534)).is_err() {
        eprintln!("skipped: only root gives directories away");
        return;
    }
    std::fs::set_permissions(&storage, std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    let (said, code) = doctor(&relay).await;
    assert_eq!(code, Some(1), "{said}");
    assert_line(&said, "error", "storage", "");
    assert!(said.contains("has to belong to the relay's user"), "{said}");
}

#[tokio::test]
async fn the_ca_is_asked_for_what_is_configured_of_it_and_for_the_time() {
    let backend = well().await;
    let Some(pebble) = Pebble::newer() else { return };
    let pebble = pebble.offers_short_lived().start().await;
    let relay = pebble.relay(&["localhost.example.org"]).backend(backend.address()).start().await;
    let (said, _) = doctor(&relay).await;
    let directory = format!("https://{}/dir", pebble.front.authority());
    assert_line(&said, "ok", "authority", &format!("{directory} answers, and says when to renew (ARI)"));
    assert_line(&said, "ok", "clock", "in step with localhost");
    assert_line(&said, "error", "names", "localhost.example.org leads nowhere: ");

    drop(relay);
    let relay = pebble.relay(&["chat.example.org"]).toml("[tls.acme]\nprofile = \"forever\"").start().await;
    let (said, code) = doctor(&relay).await;
    assert_eq!(code, Some(1), "{said}");
    assert_line(&said, "error", "authority", &format!("{directory} has no profile \"forever\""));
    assert!(said.contains("[tls.acme] profile can be: ") && said.contains("shortlived"), "{said}");

    pebble.front.down();
    let (said, code) = doctor(&relay).await;
    assert_eq!(code, Some(1), "{said}");
    assert_line(&said, "error", "authority", &format!("{directory} gives no directory: "));
    assert!(said.contains("[tls.acme] proxy = \"upstream\""), "{said}");
}

#[tokio::test]
async fn a_config_that_is_wrong_or_not_there_is_told_before_anything_is_looked_at() {
    let output = Relay::with_args(["doctor", "--config"])
        .file("relay.toml", "version = 1\nnonsense = 1\n")
        .arg("{dir}/relay.toml")
        .run()
        .await;
    assert_eq!(output.status.code(), Some(78));
    assert!(output.stdout.is_empty() && stderr(&output).contains("nonsense"), "{}", stderr(&output));
    if !std::path::Path::new("/etc/parley-relay/config.toml").exists() {
        let output = run(["doctor"]).await;
        assert_eq!(output.status.code(), Some(64));
        assert!(stderr(&output).contains("give --config FILE"), "{}", stderr(&output));
    }
}

/// The certificate that is served has to be good, and whatever the config names has to be readable for the relay's user.
#[tokio::test]
async fn a_certificate_that_is_over_and_files_that_the_relays_user_cannot_read_are_errors() {
    let backend = well().await;
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2025, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let port = free_address().port();
    let relay = Relay::builder()
        .toml(&format!("uri_prefix = \"s3cret\"\n[server]\nport = {port}"))
        .toml("[tls]\nmode = \"files\"\ndomains = [\"localhost\"]\ncert = \"{dir}/c.pem\"\nkey = \"{dir}/k.pem\"\nstorage = \"{dir}/s\"")
        .file("c.pem", cert.pem())
        .file("k.pem", key.serialize_pem())
        .file("s/mine", "")
        .file("site/index.html", "<html>")
        .toml("[frontend]\nmode = \"serve\"\ndirectory = \"{dir}/site\"")
        .backend(backend.address())
        .start()
        .await;
    let (said, code) = doctor(&relay).await;
    assert_eq!(code, Some(1), "{said}");
    assert_line(&said, "error", "ports", &format!("the relay answers at https://127.0.0.1:{port};"));
    assert!(said.contains("and expired on 2025-01-01"), "{said}");
    assert!(!said.contains("cannot read"), "{said}");

    if chown(relay.path("s"), Some(65534), None).is_err() {
        eprintln!("skipped: only root gives directories away");
        return;
    }
    for (path, what) in [("site", "the front end"), ("k.pem", "the key")] {
        std::fs::set_permissions(relay.path(path), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        let (said, code) = doctor(&relay).await;
        assert_eq!(code, Some(1), "{said}");
        let text =
            format!("the relay's user cannot read {what}, {}: Permission denied", relay.path(path).display());
        assert_line(&said, "error", "files", &text);
    }
}

#[tokio::test]
async fn an_automatic_update_that_failed_is_told() {
    let backend = well().await;
    let relay = on_port(free_address().port()).backend(backend.address()).start().await;
    let told_where = |state: &str| {
        let systemctl = relay.path("systemctl");
        let stub =
            format!("#!/bin/sh\n[ \"$*\" = \"is-failed parley-relay-update.service\" ] && echo {state}\n");
        std::fs::write(&systemctl, stub).unwrap();
        std::fs::set_permissions(&systemctl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", relay.path("").display(), std::env::var("PATH").unwrap());
        let asked = Relay::with_args(["doctor", "--config"]).arg(relay.path("config.toml"));
        asked.env("RUNTIME_DIRECTORY", relay.path("")).env("PATH", path).run()
    };
    let (said, code) = told(&told_where("failed").await);
    assert_eq!(code, Some(0), "{said}");
    let text = "the last automatic update failed: journalctl -u parley-relay-update tells why";
    assert_line(&said, "warning", "updates", text);
    for state in ["inactive", "active", "unknown"] {
        let (said, _) = told(&told_where(state).await);
        assert!(!said.contains("automatic update"), "{state}: {said}");
    }
}
