//! `parley-relay status`: what the relay says of itself, at its control socket.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::harness::{
    Backend, Client, EventSource, Raw, Relay, Reply, Version, on_h1_and_h2,
    peers::free_address,
    raw,
    relay::{RelayBuilder, run, stderr},
    within,
};

const EXIT_UNAVAILABLE: i32 = 69;

fn stdout(output: &std::process::Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

async fn streaming() -> Backend {
    Backend::builder().on("/events", |_| Reply::events()).start().await
}

fn before(backend: &Backend) -> RelayBuilder {
    Relay::builder().self_signed().toml("[server]\nhttp_port = \"auto\"").backend(backend.address())
}

/// What Prometheus' own parser makes of an exposition: each metric's name, type, help and samples.
fn parsed(exposition: &str) -> Vec<Value> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
    let mut parser = Command::new(peers.join(".venv/bin/python"))
        .arg(peers.join("exposition.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tests/run makes the Python environment");
    parser.stdin.take().unwrap().write_all(exposition.as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success(), "{exposition}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The value of a sample.
fn value(families: &[Value], name: &str, labels: &Value) -> f64 {
    let samples = families.iter().flat_map(|family| family["samples"].as_array().unwrap());
    let found: Vec<_> = samples.filter(|sample| sample[0] == name && sample[1] == *labels).collect();
    assert_eq!(found.len(), 1, "{name} {labels}: {families:#?}");
    found[0][2].as_f64().unwrap()
}

on_h1_and_h2! {
    async fn it_tells_connections_requests_and_streams(version) {
        let backend = streaming().await;
        let relay = before(&backend).start().await;
        let client = Arc::new(Client::https(&relay, version));
        client.get("/x").await;
        let idle = relay.status_json().await;
        assert_eq!(idle["requests"]["answered"], serde_json::json!([0, 1, 0, 0, 0]), "{idle}");
        let stream = EventSource::open(&client, "/events", &[]);
        let feed = backend.feed().await;
        feed.send("data: 1\n\n").await;
        stream.event("1").await;

        let status = relay.status_json().await;
        let state = if version == Version::Http1 { "http1" } else { "http2" };
        assert_eq!(status["clients"][state], 1, "{status}");
        assert_eq!((&status["clients"]["handshake"], &status["clients"]["refused"]), (&0.into(), &0.into()));
        assert_eq!(status["requests"]["answered"][1], 2, "{status}");
        let backend = &status["backend"];
        assert_eq!((&backend["streams_live"], &backend["streams_held"]), (&1.into(), &0.into()), "{status}");
        assert_eq!((&backend["streams_most"], &backend["connections_most"]), (&79.into(), &90.into()));
        assert_eq!((&backend["connections_busy"], &backend["away_seconds"]), (&1.into(), &Value::Null));
        assert_eq!(status["listeners"].as_array().unwrap().len(), 2, "{status}");
        assert_eq!(status["certificates"][0]["names"][0], "localhost", "{status}");
        assert!(status["certificates"][0]["next_renewal"].is_string(), "{status}");
        drop(stream);
        relay.until_status("the stream to end", |status| status["backend"]["streams_live"] == 0).await;
    }

    async fn a_backend_that_is_away_and_the_streams_that_wait_for_it_are_told(version) {
        let nobody = free_address();
        let relay = Relay::builder().self_signed().backend(nobody).toml("[backend]\nretry_for = \"0s\"").start().await;
        let client = Arc::new(Client::https(&relay, version));
        client.get("/api/v1/x").await.assert_error(502, "backend unavailable");
        let stream = EventSource::open(&client, "/events", &[]);
        relay.until_status("a stream to wait", |status| status["backend"]["streams_held"] == 1).await;
        let status = relay.status_json().await;
        assert!(status["backend"]["away_seconds"].is_u64(), "{status}");
        assert_eq!(status["requests"]["answered"][4], 1, "{status}");
        let text = relay.status(&[]).await;
        assert!(stdout(&text).contains(&format!("backend http://{nobody} has not answered for ")), "{text:?}");
        assert!(stdout(&text).contains("1 wait for it"), "{text:?}");

        let backend = Backend::builder().on("/events", |_| Reply::events()).at(nobody).start().await;
        let feed = backend.feed().await;
        feed.send("data: 1\n\n").await;
        stream.event("1").await;
        let status = relay.status_json().await;
        assert_eq!(status["backend"]["away_seconds"], Value::Null, "{status}");
        assert_eq!((&status["backend"]["streams_live"], &status["backend"]["streams_held"]), (&1.into(), &0.into()));
    }

    async fn streams_that_waited_in_vain_and_requests_that_were_sent_again_are_counted(version) {
        let relay = Relay::builder()
            .self_signed()
            .backend(free_address())
            .toml("[backend]\nhold_streams = \"500ms\"\nretry_for = \"500ms\"")
            .start()
            .await;
        let client = Arc::new(Client::https(&relay, version));
        client.get("/api/v1/x").await.assert_error(502, "backend unavailable");
        let retries = relay.status_json().await["backend"]["retries"].as_u64().unwrap();
        assert!((1..10).contains(&retries), "{retries}");
        let stream = client.call("GET", "/events").header("accept", "text/event-stream").send().await;
        assert_eq!(stream.status, 200);
        let status = relay.status_json().await;
        assert_eq!((&status["backend"]["streams_given_up"], &status["backend"]["streams_held"]), (&1.into(), &0.into()));
    }

    async fn a_client_that_leaves_before_its_answer_is_counted(version) {
        let backend = Backend::builder().on("/silent", |_| Reply::silence()).start().await;
        let relay = before(&backend).start().await;
        let client = Client::https(&relay, version);
        let asked = tokio::time::timeout(Duration::from_millis(300), client.call("GET", "/silent").open());
        assert!(asked.await.is_err());
        drop(client);
        relay.until_status("it to be counted", |status| status["requests"]["aborted"] == 1).await;
    }
}

#[tokio::test]
async fn a_tunnel_a_handshake_and_a_redirect_are_told_apart() {
    let backend = Backend::builder().on("/tunnel", |_| Reply::tunnel("websocket")).start().await;
    let relay = before(&backend).start().await;
    let mut tunnel = Raw::tls(&relay).await;
    tunnel
        .send("GET /tunnel HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(raw::status(&tunnel.read_head().await), 101);
    let _handshake = Raw::plain(relay.https()).await;
    let redirect = Raw::plain(relay.redirect()).await;
    relay
        .until_status("all three", |status| {
            let clients = &status["clients"];
            let count = |state: &str| clients[state].as_u64().unwrap();
            (count("tunnel"), count("handshake"), count("redirect"), count("http1")) == (1, 1, 1, 0)
        })
        .await;
    drop((tunnel, redirect));
    relay
        .until_status("them to end", |status| {
            status["clients"]["tunnel"] == 0 && status["clients"]["redirect"] == 0
        })
        .await;
}

#[tokio::test]
async fn what_limits_refuse_is_counted() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[limits]\nconnections_per_client = 1\nrequests_per_second = 1")
        .start()
        .await;
    let client = Client::https(&relay, Version::Http2);
    for _ in 0..12 {
        client.get("/x").await;
    }
    assert!(Raw::is_refused(relay.https()).await);
    let status = relay.status_json().await;
    assert_eq!(status["clients"]["refused"], 1);
    // Ten at once, and perhaps another while they were asked.
    let limited = status["requests"]["limited"].as_u64().unwrap();
    assert!((1..=2).contains(&limited), "{status}");
    assert_eq!(status["requests"]["answered"][3], limited, "{status}");
    let text = relay.status(&[]).await;
    assert!(stdout(&text).contains("1 refused (a client may have 1)"), "{text:?}");
    assert!(stdout(&text).contains(&format!("{limited} over the rate")), "{text:?}");
}

#[tokio::test]
async fn metrics_are_what_prometheus_reads() {
    let backend = streaming().await;
    let relay = before(&backend).start().await;
    let client = Arc::new(Client::https(&relay, Version::Http2));
    client.get("/x").await;
    let _stream = EventSource::open(&client, "/events", &[]);
    let _feed = backend.feed().await;
    relay.until_status("the stream", |status| status["backend"]["streams_live"] == 1).await;

    let output = relay.status(&["--metrics"]).await;
    assert!(output.status.success());
    let families = parsed(stdout(&output));
    for family in &families {
        let (name, kind) = (family["name"].as_str().unwrap(), family["type"].as_str().unwrap());
        assert!(name.starts_with("parley_relay_"), "{family}");
        assert!(matches!(kind, "gauge" | "counter"), "{family}");
        assert!(family["help"].as_str().unwrap().ends_with('.'), "{family}");
        for sample in family["samples"].as_array().unwrap() {
            // A counter, and nothing else, ends in `_total`, so its samples' name tells the type.
            assert_eq!(sample[0].as_str().unwrap().ends_with("_total"), kind == "counter", "{family}");
        }
    }
    let of = |name: &str, labels: Value| value(&families, &format!("parley_relay_{name}"), &labels);
    let none = || serde_json::json!({});
    let backend = || serde_json::json!({"origin": "backend"});
    assert_eq!(of("up", none()), 1.0);
    assert_eq!(of("client_connections", serde_json::json!({"state": "http2"})), 1.0);
    assert_eq!(of("requests_total", serde_json::json!({"class": "2xx"})), 2.0);
    assert_eq!(of("event_streams_live", backend()), 1.0);
    assert_eq!(of("event_streams_limit", backend()), 79.0);
    assert_eq!(of("origin_up", backend()), 1.0);
    assert_eq!(of("origin_connections_busy", backend()), 1.0);
    assert!(of("certificate_expiry_timestamp_seconds", serde_json::json!({"name": "localhost"})) > 1.7e9);
    assert!(of("start_time_seconds", none()) > 1.7e9);
}

#[tokio::test]
async fn nothing_of_clients_paths_and_secrets_is_told() {
    let backend = streaming().await;
    let relay = before(&backend).toml("uri_prefix = \"canary-prefix\"").start().await;
    let mut client = Raw::tls(&relay).await;
    client
        .send(
            "GET /canary-prefix/canary-path?authorization=canary-token HTTP/1.1\r\nHost: localhost\r\n\
             Authorization: canary-header\r\nCookie: canary-cookie\r\nUser-Agent: canary-agent\r\n\r\n",
        )
        .await;
    client.read_response().await;
    for args in [&[][..], &["--json"], &["--metrics"]] {
        let output = relay.status(args).await;
        let told = stdout(&output);
        assert!(output.status.success() && told.len() > 200, "{output:?}");
        assert!(!told.contains("canary"), "{told}");
    }
    // The listeners' addresses and the backend's are this one, and no client is listed beside them.
    let status = relay.status_json().await;
    assert_eq!(
        status.to_string().matches("127.0.0.1").count(),
        3 + certificate_addresses(&status),
        "{status}"
    );
}

/// How often the local CA's leaf is for this address.
fn certificate_addresses(status: &Value) -> usize {
    status["certificates"].to_string().matches("127.0.0.1").count()
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_group() {
    let relay = Relay::start("").await;
    relay.until_status("an answer", |_| true).await;
    let mode = relay.path("control.sock").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[tokio::test]
async fn it_tells_which_files_are_in_force_by_their_digests_and_not_what_is_in_them() {
    let relay = Relay::start("uri_prefix = \"s3cret\"").await;
    relay.until_status("an answer", |_| true).await;
    let sha256sum = || {
        let output = Command::new("sha256sum").arg(relay.path("config.toml")).output().unwrap();
        stdout(&output)[..64].to_owned()
    };
    let first = sha256sum();
    let status = relay.status_json().await;
    let told = &status["config"]["files"];
    let path = relay.path("config.toml").display().to_string();
    assert_eq!(*told, serde_json::json!([{"path": path, "sha256": first}]), "{status}");
    assert!(status["config"]["loaded"].is_string() && !status.to_string().contains("s3cret"), "{status}");
    assert!(stdout(&relay.status(&[]).await).contains(&path));

    relay.set_config(&format!("{}nonsense = 1\n", relay.config()));
    relay.reload("is refused").await;
    assert_eq!(relay.status_json().await["config"], status["config"]);
    relay.set_config(&format!("{}# Changed.\n", relay.config().replace("nonsense = 1", "")));
    relay.reload("reloaded").await;
    let status = relay.status_json().await;
    assert_ne!(sha256sum(), first);
    assert_eq!(status["config"]["files"][0]["sha256"], sha256sum(), "{status}");
}

#[tokio::test]
async fn without_a_relay_that_is_said_and_metrics_say_so_too() {
    for args in [&["status"][..], &["status", "--json"]] {
        let output = run(args).await;
        assert_eq!(output.status.code(), Some(EXIT_UNAVAILABLE), "{output:?}");
        assert!(output.stdout.is_empty() && stderr(&output).contains("no relay answers in "), "{output:?}");
    }
    let output = run(["status", "--metrics"]).await;
    assert_eq!(output.status.code(), Some(EXIT_UNAVAILABLE));
    assert_eq!(value(&parsed(stdout(&output)), "parley_relay_up", &serde_json::json!({})), 0.0);
}

#[tokio::test]
async fn a_killed_relays_socket_is_replaced() {
    let relay = Relay::start("").await;
    relay.until_status("an answer", |_| true).await;
    let left = relay.path("control.sock");
    let place = Relay::builder().in_the_place_of(&relay);
    drop(relay);
    assert!(left.exists(), "nobody was there to remove it");
    let relay = place.start().await;
    relay.until_status("an answer", |_| true).await;
}

#[tokio::test]
async fn a_second_relay_in_one_directory_does_not_take_the_firsts_socket_and_has_it_afterwards() {
    let first = Relay::start("").await;
    first.until_status("an answer", |_| true).await;
    let pid = first.status_json().await["pid"].clone();
    let second = Relay::builder().in_the_place_of(&first).start().await;
    second.log_with(&["another relay has the control socket"]).await;
    assert_eq!(second.status_json().await["pid"], pid);
    drop(first);
    within("the second to answer", async {
        loop {
            let output = second.status(&["--json"]).await;
            if output.status.success() {
                let status: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_ne!(status["pid"], pid);
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_relay_on_another_port_than_the_config_says_is_not_the_one_that_was_meant() {
    let relay = Relay::start("").await;
    relay.until_status("an answer", |_| true).await;
    let port = relay.http().port();
    let other = if port == 1 { 2 } else { port - 1 };
    for (port, code) in [(port, 0), (other, EXIT_UNAVAILABLE)] {
        let file = relay.path("other.toml");
        let text = format!("version = 1\n[server]\nport = {port}\n[frontend]\nmode = \"disabled\"");
        std::fs::write(&file, text).unwrap();
        let output = relay.status(&["--config", file.to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
}

#[tokio::test]
async fn who_asks_nonsense_or_nothing_does_not_keep_others_from_their_answer() {
    let relay = Relay::start("").await;
    relay.until_status("an answer", |_| true).await;
    let socket = relay.path("control.sock");
    for nonsense in [&b"reload\n"[..], b"status", &[b'x'; 100_000]] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        // An error: it has read enough of it.
        let _ = stream.write_all(nonsense).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = within("an answer or an end", stream.read_to_end(&mut answer)).await;
        assert!(read.is_err() || answer == br#"{"error":"unknown request"}"#, "{answer:?}");
    }
    let _silent = UnixStream::connect(&socket).await.unwrap();
    relay.status_json().await;
}
