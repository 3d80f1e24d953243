//! What one client may take: connections, and requests over time.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{
    Answer, Backend, Client, EventSource, Raw, Relay, Reply, Version, on_h1_and_h2,
    raw::handshake,
    relay::{RelayBuilder, run_check, stderr},
    within,
};

const FIRST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A connection from one of this machine's addresses.
async fn connect(source: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(address).await
}

/// Whether the relay closes a connection at once.
async fn is_closed(source: Ipv4Addr, address: SocketAddr) -> bool {
    // Refused so early that not even connecting is over.
    let Ok(stream) = connect(source, address).await else { return true };
    let closed = async { stream.readable().await.is_ok() };
    tokio::time::timeout(Duration::from_millis(500), closed).await.is_ok()
}

/// A connection that has been let in, as its handshake shows.
async fn let_in(relay: &Relay) -> Raw {
    let config = relay.tls_client(&["http/1.1"]);
    within("a place among the connections", async {
        loop {
            if let Ok(stream) = handshake(relay.https(), Arc::clone(&config), "localhost").await {
                return Raw::over(stream);
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_too_many_of_a_client_is_closed_before_its_handshake_whatever_the_port() {
    let relay = Relay::builder()
        .self_signed()
        .toml("[server]\nhttp_port = \"auto\"\n[limits]\nconnections_per_client = 3")
        .start()
        .await;
    let mut held = vec![let_in(&relay).await, let_in(&relay).await, let_in(&relay).await];
    for address in [relay.https(), relay.redirect()] {
        assert!(is_closed(FIRST, address).await);
        assert!(!is_closed(SECOND, address).await, "each client has its own");
    }
    relay.log_with(&["WARN", "client=127.0.0.1", "most=3", "connections_per_client"]).await;
    held.pop();
    let_in(&relay).await;
}

#[tokio::test]
async fn a_connection_has_its_place_for_as_long_as_it_lasts() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[limits]\nconnections_per_client = 1")
        .start()
        .await;
    for _ in 0..20 {
        let mut raw = let_in(&relay).await;
        raw.send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(raw.read_response().await.status(), 200);
        assert!(is_closed(FIRST, relay.https()).await);
    }
}

#[tokio::test]
async fn a_tunnel_has_a_place_among_its_clients_connections_until_it_ends() {
    let backend = Backend::builder().on("/ws", |_| Reply::tunnel("websocket")).start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[limits]\nconnections_per_client = 2")
        .start()
        .await;
    let mut tunnels = vec![tunnel(&relay).await, tunnel(&relay).await];
    assert!(is_closed(FIRST, relay.https()).await);
    // They are counted as what they are, once.
    let clients = relay.status_json().await["clients"].clone();
    assert_eq!((&clients["tunnel"], &clients["http1"]), (&2.into(), &0.into()));
    // The backend still has them, and each ends as it did.
    for tunnel in &mut tunnels {
        tunnel.send("still here").await;
        assert_eq!(tunnel.read(10).await, b"still here");
    }
    tunnels.pop();
    let_in(&relay).await;
}

#[tokio::test]
async fn a_tunnel_is_one_of_all_connections_until_it_ends() {
    let backend = Backend::builder().on("/ws", |_| Reply::tunnel("websocket")).start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[limits]\nconnections = 2")
        .start()
        .await;
    let tunnels = [tunnel(&relay).await, tunnel(&relay).await];
    let config = relay.tls_client(&["http/1.1"]);
    let mut third = std::pin::pin!(handshake(relay.https(), config, "localhost"));
    let waiting = tokio::time::timeout(Duration::from_millis(500), &mut third).await;
    assert!(waiting.is_err(), "a third was let in");
    drop(tunnels);
    within("room for a third", third).await.unwrap();
}

/// A connection that has become a WebSocket.
async fn tunnel(relay: &Relay) -> Raw {
    let mut raw = let_in(relay).await;
    raw.send("GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(raw.read_response().await.status(), 101);
    raw
}

#[tokio::test]
async fn it_is_the_client_that_a_trusted_proxy_names_whose_connections_count() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .backend(backend.address())
        .toml("[server]\nproxy_protocol = true\n[limits]\nconnections_per_client = 2")
        .start()
        .await;
    let open = async |header: &str| {
        let mut raw = Raw::plain(relay.http()).await;
        raw.send(format!("{header}\r\nGET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        raw
    };
    let named = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 5000 80");
    let mut held = Vec::new();
    // The proxy itself, which speaks for many or looks whether we are there, has no limit.
    for header in [named("192.0.2.1"), named("192.0.2.1"), named("192.0.2.2"), "PROXY UNKNOWN".into()] {
        let mut raw = open(&header).await;
        assert_eq!(raw.read_response().await.status(), 200, "{header}");
        held.push(raw);
    }
    assert_eq!(open(&named("192.0.2.1")).await.read_to_end().await, b"");
    for header in [named("192.0.2.2"), "PROXY UNKNOWN".into(), "PROXY UNKNOWN".into(), "PROXY UNKNOWN".into()]
    {
        let mut raw = open(&header).await;
        assert_eq!(raw.read_response().await.status(), 200, "{header}");
        held.push(raw);
    }
}

#[tokio::test]
async fn a_proxy_on_the_same_machine_may_have_all_connections() {
    let relay = Relay::start("[limits]\nconnections_per_client = 1").await;
    let mut held = Vec::new();
    for _ in 0..20 {
        assert!(!is_closed(FIRST, relay.http()).await);
        held.push(connect(FIRST, relay.http()).await.unwrap());
    }
}

#[tokio::test]
async fn without_a_word_in_the_config_a_client_has_256_connections() {
    let relay = Relay::with_args(["--self-signed", "--domain", "localhost", "--host", "127.0.0.1"])
        .arg("--port=0")
        .arg("--http-port=0")
        .arg("--storage={dir}/storage")
        .start()
        .await;
    let mut held = Vec::new();
    for _ in 0..256 {
        held.push(let_in(&relay).await);
    }
    assert!(is_closed(FIRST, relay.https()).await);
}

/// A relay that lets each client ask once a second, behind a proxy on this machine that names clients.
fn once_a_second(backend: &Backend) -> RelayBuilder {
    Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[server]\ntrusted_proxies = [\"127.0.0.1\"]\n[limits]\nrequests_per_second = 1")
}

/// Asks as `name` until that is too often.
async fn exhaust(client: &Client, name: &str) {
    for _ in 0..200 {
        if get_as(client, name).await.status == 429 {
            return;
        }
    }
    panic!("{name} may ask as often as it likes");
}

async fn get_as(client: &Client, name: &str) -> Answer {
    client.call("GET", "/x").header("x-forwarded-for", name).send().await
}

on_h1_and_h2! {
    async fn who_asks_too_often_is_told_when_to_ask_again(version) {
        let backend = Backend::start().await;
        let relay = once_a_second(&backend).start().await;
        let client = Client::https(&relay, version);
        let began = Instant::now();
        let (mut passed, mut refused) = (0, 0);
        while refused < 5 && passed < 200 {
            let answer = get_as(&client, "192.0.2.1").await;
            if answer.status == 200 {
                passed += 1;
                continue;
            }
            answer.assert_error(429, "too many requests");
            assert_eq!(answer.header("retry-after"), Some("1"));
            refused += 1;
        }
        let most = 10 + began.elapsed().as_secs() + 1;
        assert!((10..=most).contains(&passed), "{passed} of {most}");
        assert_eq!(backend.requests().len() as u64, passed, "what is refused does not reach the backend");
        assert_eq!(get_as(&client, "192.0.2.2").await.status, 200, "another client");
        // Neither an address of its own network, nor the proxy itself.
        for name in ["2001:db8::1", "2001:db8:0:1::1"] {
            assert_eq!(get_as(&client, name).await.status, 200, "{name}");
        }
        for _ in 0..20 {
            assert_eq!(client.get("/x").await.status, 200, "the proxy asks for itself");
        }
        // And again, as promised.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(get_as(&client, "192.0.2.1").await.status, 200);
    }

    async fn an_event_stream_that_is_asked_for_too_often_comes_back_by_itself(version) {
        let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
        let relay = once_a_second(&backend).start().await;
        let client = Arc::new(Client::https(&relay, version));
        exhaust(&client, "192.0.2.1").await;
        let answer = client
            .call("GET", "/events")
            .header("accept", "text/event-stream")
            .header("x-forwarded-for", "192.0.2.1")
            .header("origin", "https://elsewhere.example")
            .send()
            .await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, Some("text/event-stream")));
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert!(answer.text().starts_with("retry: ") && answer.text().ends_with("\n\n"), "{answer:?}");
        // A browser does so, and has its stream when its time has come.
        let source = EventSource::open(&client, "/events", &[("x-forwarded-for", "192.0.2.1")]);
        let feed = backend.feed().await;
        feed.send("data: 1\n\n").await;
        source.event("1").await;
    }
}

#[tokio::test]
async fn more_for_one_client_than_for_all_is_told_at_check() {
    let output =
        run_check("version = 1\n[limits]\nconnections = 100\nconnections_per_client = 101\n[frontend]\nmode = \"disabled\"").await;
    assert_eq!(output.status.code(), Some(0));
    let told = stderr(&output);
    assert!(told.contains("more than all clients may have together: `connections` is 100"), "{told}");
    assert!(told.contains("relay.toml:4:26"), "{told}");
    // And not to him who never asked for it.
    let output = run_check("version = 1\n[limits]\nconnections = 100\n[frontend]\nmode = \"disabled\"").await;
    assert!(!stderr(&output).contains("connections"), "{}", stderr(&output));
}

#[tokio::test]
async fn an_ipv6_client_is_its_network() {
    let backend = Backend::start().await;
    let relay = once_a_second(&backend).start().await;
    let client = Client::https(&relay, Version::Http2);
    for n in 0..100 {
        if get_as(&client, &format!("2001:db8::{n:x}")).await.status == 429 {
            return;
        }
    }
    panic!("a hundred addresses of one /64 were taken for a hundred clients");
}
