//! SIGHUP: a new configuration as a whole, or none, and nobody notices (attacks.md K5).

use std::{
    fs,
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use crate::harness::{
    Backend, Client, Frames, Relay, Reply, Version,
    client::next_chunk,
    frames::{HEADERS, INITIAL_WINDOW_SIZE},
    load::{Amount, Load, ticking},
    on_h1_and_h2,
    pki::{self, Pki},
    process::raise_descriptor_limit,
    raw, within,
};

/// A port that nobody has, on any address: not one of those that the system gives to whoever connects.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 1000).unwrap() * 20;
    (0..20)
        .map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed) % 20)
        .find(|port| TcpListener::bind(("::", *port)).is_ok())
        .expect("one of twenty ports is free")
}

/// A rule before all others.
fn blocking(relay: &Relay, path: &str) -> String {
    format!("{}\n[[paths]]\nprefix = \"{path}\"\naction = \"block\"\n", relay.config())
}

on_h1_and_h2! {
    async fn new_rules_hold_for_the_next_request(version) {
        let backend = Backend::start().await;
        let relay = Relay::builder()
            .self_signed()
            .toml("[[paths]]\nprefix = \"/later\"\naction = \"block\"")
            .backend(backend.address())
            .start()
            .await;
        let client = Client::https(&relay, version);
        assert_eq!(client.get("/later").await.status, 403);
        relay.set_config(&relay.config().replace("/later", "/sooner"));
        relay.reload("reloaded").await;
        assert_eq!(client.get("/later").await.status, 404, "no rule, and no front end");
        assert_eq!(client.get("/sooner").await.status, 403);
    }

    async fn a_stream_goes_on_under_the_rules_it_began_with(version) {
        let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
        let other = Backend::start().await;
        let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
        let client = Client::https(&relay, version);
        let mut body = client.call("GET", "/events").header("Accept", "text/event-stream").open().await.into_body();
        let feed = backend.feed().await;
        feed.send("data: 1\n\n").await;
        assert_eq!(next_chunk(&mut body).await.unwrap(), "data: 1\n\n");
        // Everything that it depends on goes: its rule, its backend, its port's name.
        relay.set_config(
            &relay
                .config()
                .replace(&backend.address().to_string(), &other.address().to_string())
                .replace("action = \"proxy\"", "action = \"block\""),
        );
        relay.reload("reloaded").await;
        assert_eq!(client.get("/events").await.status, 403);
        feed.send("data: 2\n\n").await;
        assert_eq!(next_chunk(&mut body).await.unwrap(), "data: 2\n\n");
        drop(feed);
        assert_eq!(next_chunk(&mut body).await, None);
    }

    async fn an_upload_goes_on_under_the_limit_it_began_with(version) {
        let backend = Backend::builder().on("/echo", |_| Reply::echo()).start().await;
        let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
        let client = Client::https(&relay, version);
        let (call, upload) = client.call("POST", "/echo").streamed();
        let (first, answer) = (upload.send("first".into()), call.open());
        let (sent, answer) = tokio::join!(first, answer);
        sent.unwrap();
        let mut body = answer.into_body();
        assert_eq!(next_chunk(&mut body).await.unwrap(), "first");
        relay.change_config("[server]\nmax_content_length = 3");
        relay.reload("reloaded").await;
        upload.send("second".into()).await.unwrap();
        assert_eq!(next_chunk(&mut body).await.unwrap(), "second");
        drop(upload);
        assert_eq!(next_chunk(&mut body).await, None);
        assert_eq!(client.call("POST", "/echo").body("four").send().await.status, 413);
    }

    async fn a_held_stream_stays_unless_its_backend_is_another(version) {
        let nobody = crate::harness::peers::free_address();
        let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
        let relay = Relay::builder().self_signed().backend(nobody).start().await;
        let client = Client::https(&relay, version);
        let mut body = client.call("GET", "/events").header("Accept", "text/event-stream").open().await.into_body();
        assert!(next_chunk(&mut body).await.unwrap().starts_with(b"retry: "));
        relay.set_config(&blocking(&relay, "/else"));
        relay.reload("reloaded").await;
        let next = tokio::time::timeout(Duration::from_millis(500), next_chunk(&mut body)).await;
        assert!(next.is_err(), "{next:?}");
        // The old one may never come back: whoever waits for it asks the new one instead.
        relay.set_config(&relay.config().replace(&nobody.to_string(), &backend.address().to_string()));
        relay.reload("reloaded").await;
        assert_eq!(next_chunk(&mut body).await, None);
    }
}

#[tokio::test]
async fn every_fault_of_a_new_configuration_is_told_and_the_old_one_stays() {
    let backend = Backend::start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let good = relay.config();
    relay.set_config(&good.replace("action = \"proxy\"", "action = \"prxy\"\nmax_sise = 1"));
    relay.reload("is refused, and the one before stays in force").await;
    for fault in ["did you mean `proxy`?", "did you mean `max_size`?", "^"] {
        relay.log_with(&[fault]).await;
    }
    let client = Client::https(&relay, Version::Http2);
    assert_eq!(client.get("/x").await.status, 200);
    fs::remove_file(relay.path("config.toml")).unwrap();
    relay.reload("is refused").await;
    assert_eq!(client.get("/x").await.status, 200);
    relay.set_config(&good);
    relay.reload("reloaded").await;
    assert_eq!(client.get("/x").await.status, 200);
}

#[tokio::test]
async fn a_port_that_cannot_be_had_refuses_the_whole_configuration() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::builder().self_signed().start().await;
    let good = relay.config();
    let port = taken.local_addr().unwrap().port();
    relay
        .set_config(&good.replace("http_port = 0", &format!("http_port = {port}")).replace("proxy", "block"));
    relay.reload("is refused").await;
    relay.log_with(&["cannot listen on 127.0.0.1", "in use"]).await;
    relay.log_with(&["take another port: [server] "]).await;
    assert_eq!(Client::https(&relay, Version::Http2).get("/x").await.status, 404);
    // Told once is enough: it is free now.
    drop(taken);
    relay.reload("reloaded").await;
    within("the redirect", TcpStream::connect(("127.0.0.1", port))).await.unwrap();
}

#[tokio::test]
async fn ports_are_added_and_removed_and_the_others_are_not_touched() {
    let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let config = relay.config();
    let (redirect, other) = (free_port(), free_port());
    let main = relay.https();
    relay.set_config(&config.replace("http_port = 0", &format!("http_port = {redirect}")));
    relay.reload("reloaded").await;
    relay.log_with(&["kind=redirect", &redirect.to_string()]).await;
    TcpStream::connect(("127.0.0.1", redirect)).await.unwrap();
    assert_eq!(relay.logs().iter().filter(|line| line.contains("kind=https")).count(), 1);

    // The main port moves. What is open on the old one ends well, and nobody new gets in.
    let client = Client::https(&relay, Version::Http2);
    let mut body = client.call("GET", "/events").open().await.into_body();
    let feed = backend.feed().await;
    relay.set_config(&config.replace("\nport = 0\n", &format!("\nport = {other}\n")));
    relay.reload("reloaded").await;
    relay.log_with(&["no longer listening", &redirect.to_string()]).await;
    relay.log_with(&["no longer listening", &main.to_string()]).await;
    for closed in [redirect, main.port()] {
        within("the port to close", async {
            while TcpStream::connect(("127.0.0.1", closed)).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
    feed.send("data: 1\n\n").await;
    assert_eq!(next_chunk(&mut body).await.unwrap(), "data: 1\n\n");
    let moved = Client::https_at(&relay, Version::Http2, ([127, 0, 0, 1], other).into());
    assert_eq!(moved.get("/x").await.status, 200);
}

#[tokio::test]
async fn a1_a_client_whose_windows_stay_shut_is_made_to_leave_a_port_that_was_closed_too() {
    let backend = Backend::builder().on("/large", |_| Reply::zeros(100_000)).start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[limits]\nidle_body = \"1s\"")
        .start()
        .await;
    let mut greedy = Frames::open(&relay, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    greedy.get(1, "/large").await;
    within("the response to begin", async { while greedy.next().await.unwrap().kind != HEADERS {} }).await;
    relay.set_config(&relay.config().replace("\nport = 0\n", &format!("\nport = {}\n", free_port())));
    relay.reload("reloaded").await;
    relay.log_with(&["no longer listening"]).await;
    let asked = Instant::now();
    greedy.until_closed().await;
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn another_address_of_the_same_port_takes_over_from_the_one_before() {
    let backend = Backend::start().await;
    let port = free_port();
    let relay = Relay::builder()
        .self_signed()
        .toml(&format!("[server]\nport = {port}"))
        .backend(backend.address())
        .start()
        .await;
    for host in ["::", "127.0.0.1", "0.0.0.0"] {
        let config = relay.config();
        let line = config.lines().find(|line| line.starts_with("host = ")).unwrap().to_owned();
        relay.set_config(&config.replace(&line, &format!("host = \"{host}\"")));
        relay.reload("reloaded").await;
        let client = Client::https(&relay, Version::Http1);
        assert_eq!(client.get("/x").await.status, 200, "{host}");
        // Another program gets the port no more than before.
        assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "{host}");
    }
}

#[tokio::test]
async fn a_certificate_is_replaced_at_once_and_a_broken_pair_is_refused() {
    let [(one, one_leaf), (two, two_leaf)] = [(); 2].map(|()| {
        let pki = Pki::new();
        let leaf = pki.leaf(&["localhost"]);
        (pki, leaf)
    });
    let relay = Relay::builder()
        .file("cert.pem", &one_leaf.cert)
        .file("key.pem", &one_leaf.key)
        .toml("[tls]\ncert = \"{dir}/cert.pem\"\nkey = \"{dir}/key.pem\"\nstorage = \"{dir}/storage\"")
        .start()
        .await;
    let accepts = async |pki: &Pki| {
        let client = pki::client_config(pki.root().as_bytes(), &["http/1.1"]);
        raw::handshake(relay.https(), client, "localhost").await.is_ok()
    };
    assert!(accepts(&one).await && !accepts(&two).await);
    fs::write(relay.path("cert.pem"), &two_leaf.cert).unwrap();
    relay.reload("is refused").await;
    relay.log_with(&["are no certificate with its key"]).await;
    assert!(accepts(&one).await);
    fs::write(relay.path("key.pem"), &two_leaf.key).unwrap();
    relay.reload("reloaded").await;
    assert!(accepts(&two).await && !accepts(&one).await);
}

#[tokio::test]
async fn names_and_the_log_follow_the_configuration() {
    let relay = Relay::builder().self_signed().toml("[log]\nlevel = \"info\"").start().await;
    let config = relay.tls_client(&["http/1.1"]);
    assert!(raw::handshake(relay.https(), config.clone(), "other.lan").await.is_err());
    relay.set_config(&relay.config().replace("[\"localhost\"]", "[\"localhost\", \"other.lan\"]"));
    relay.change_config("[log]\nformat = \"json\"\nlevel = \"debug\"");
    relay.reload("reloaded").await;
    assert!(raw::handshake(relay.https(), config, "other.lan").await.is_ok());
    let line = relay.log_with(&["DEBUG"]).await;
    assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
}

#[tokio::test]
async fn a_client_keeps_its_address_and_a_query_its_hash_over_reloads() {
    let backend = Backend::start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let client = Client::https(&relay, Version::Http1);
    let seen = async |path: &str| {
        client.get(&format!("{path}?t=1")).await;
        let shown = relay.access(path).await;
        let hash = shown.split('?').nth(1).unwrap().split(' ').next().unwrap().to_owned();
        (backend.last().peer.ip(), hash)
    };
    let before = seen("/before").await;
    // So that not even the connections are the same.
    relay.change_config("[backend]\nconnect_timeout = \"4s\"");
    relay.reload("reloaded").await;
    assert_eq!(seen("/after").await, before);
}

#[tokio::test]
async fn the_budget_of_streams_is_not_doubled_by_a_reload() {
    let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[backend]\nmax_streams = 2")
        .start()
        .await;
    let client = Client::https(&relay, Version::Http2);
    let open =
        async || client.call("GET", "/events").header("Accept", "text/event-stream").open().await.into_body();
    let first = [open().await, open().await];
    let feeds = [backend.feed().await, backend.feed().await];
    // Another way to the same backend.
    relay.change_config("[backend]\nconnect_timeout = \"4s\"");
    relay.reload("reloaded").await;
    let mut held = open().await;
    assert!(next_chunk(&mut held).await.unwrap().starts_with(b"retry: "));
    relay.change_config("[backend]\nmax_streams = 3");
    relay.reload("reloaded").await;
    let third = backend.feed().await;
    third.send("data: 1\n\n").await;
    assert_eq!(next_chunk(&mut held).await.unwrap(), "data: 1\n\n");
    drop((first, feeds));
}

#[tokio::test]
async fn k5_reloads_under_load_are_noticed_by_nobody() {
    raise_descriptor_limit();
    let long = crate::harness::is_long();
    let (reloads, amount): (usize, _) = if long { (100, Amount::LARGE) } else { (20, Amount::SMALL) };
    let (backend, ticks) = ticking(amount.tick).await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[backend]\nmax_connections = 2000\n[log]\naccess = false")
        .static_binary()
        .start()
        .await;
    let good = relay.config();
    let load = Load::start(&relay, amount).await;
    let client = Client::https(&relay, Version::Http2);
    let mut after_ten = 0;
    for reload in 0..reloads {
        if reload % 2 == 0 {
            // Each time another rule, and now and then another way to the backend.
            let timeout = 3 + reload / 10;
            let config =
                good.replace("[backend]\n", &format!("[backend]\nconnect_timeout = \"{timeout}s\"\n"));
            relay.set_config(&format!(
                "{}\n",
                config.replacen(
                    "[[paths]]",
                    &format!("[[paths]]\nprefix = \"/r{reload}\"\naction = \"block\"\n\n[[paths]]"),
                    1
                )
            ));
            relay.reload("reloaded").await;
        } else {
            relay.set_config(&good.replace("action = \"proxy\"", "action = \"prxy\""));
            relay.reload("is refused").await;
        }
        load.goes_on(if long { 50 } else { 10 }).await;
        // What holds is the last good one.
        let now = reload - reload % 2;
        assert_eq!(client.get(&format!("/r{now}")).await.status, 403);
        if now > 0 {
            assert_eq!(client.get(&format!("/r{}", now - 2)).await.status, 200);
        }
        if reload == 10 {
            after_ten = relay.rss();
        }
    }
    load.all_streams_go_on(&ticks).await;
    let (figures, streams) = load.stop().await;
    let at_end = relay.rss();
    for stream in &streams {
        let story = stream.until("its story", |_| true).await;
        assert_eq!((story.opened.len(), story.ended.len()), (1, 0), "{story:?}");
    }
    println!(
        "{reloads} reloads, {} streams, {} uploads: {figures}; {} MB after 10 reloads, {} MB at the end",
        amount.streams,
        amount.uploads,
        after_ten >> 20,
        at_end >> 20
    );
    assert!(at_end < after_ten + after_ten / 4 + (8 << 20), "{at_end} after {after_ten} bytes");
}
