//! Clients that are gone without a word: no FIN, no RST, as when a phone loses its network.

use std::{
    fs,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::SockRef;

use crate::harness::{Backend, Raw, Relay, Reply, network::Network};

/// Duplicates of the sockets that a process has open.
fn sockets_of(process: u32) -> Vec<OwnedFd> {
    let pid = Pid::from_raw(process.try_into().unwrap()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    descriptors
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let target = fs::read_link(entry.path()).ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            target
                .to_str()?
                .starts_with("socket:")
                .then(|| pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()))
        })
        .map(|found| found.expect("the process is a child of this one"))
        .collect()
}

#[tokio::test]
async fn every_connection_finds_a_peer_that_vanished_within_a_minute() {
    let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let client = tokio::net::TcpStream::connect(relay.https()).await.unwrap();
    let client_address = client.local_addr().unwrap();
    let stream = tokio_rustls::TlsConnector::from(relay.tls_client(&["http/1.1"]))
        .connect("localhost".try_into().unwrap(), client)
        .await
        .unwrap();
    let mut client = Raw::over(stream);
    client.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let feed = backend.feed().await;
    feed.send("data: 1\n\n").await;
    client.read_until("data: 1\n\n").await;

    let sockets = sockets_of(relay.id());
    for (which, peer) in [("a client's", client_address), ("the backend's", backend.address())] {
        let is_it = |socket: &&OwnedFd| {
            let found = SockRef::from(*socket).peer_addr().ok().and_then(|address| address.as_socket());
            found == Some(peer)
        };
        let socket = sockets.iter().find(is_it).unwrap_or_else(|| panic!("{which} is not there"));
        let socket = SockRef::from(socket);
        assert!(socket.keepalive().unwrap(), "{which}");
        let until_certain = socket.tcp_keepalive_time().unwrap()
            + socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        assert_eq!(until_certain, Duration::from_secs(60), "{which}");
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(60)), "{which}");
    }
}

/// What the client asks for, whether the backend goes on sending, and curl's arguments.
const CLIENTS: [(&str, &str, bool, &[&str]); 5] = [
    ("an idle stream over h1", "/events", false, &["--http1.1"]),
    ("a busy stream over h1", "/events", true, &["--http1.1"]),
    ("an idle stream over h2", "/events", false, &["--http2"]),
    ("a busy stream over h2", "/events", true, &["--http2"]),
    (
        "an idle tunnel",
        "/tunnel",
        false,
        &["--http1.1", "--header", "Connection: Upgrade", "--header", "Upgrade: websocket"],
    ),
];

#[tokio::test]
async fn a_client_that_vanished_is_let_go_of_after_a_minute() {
    if !crate::harness::is_long() {
        eprintln!("skipped: it takes more than a minute; run it with PARLEY_LONG=1");
        return;
    }
    let Some(network) = Network::new() else { return };
    let backend = Backend::builder()
        .on("/events", |_| Reply::events())
        .on("/tunnel", |_| Reply::tunnel("websocket"))
        .start()
        .await;
    let relay = Relay::builder()
        .self_signed()
        .toml("[server]\nhost = \"0.0.0.0\"")
        .backend(backend.address())
        .start()
        .await;
    let (mut clients, mut feeds) = (Vec::new(), Vec::new());
    for (number, (which, path, busy, arguments)) in CLIENTS.into_iter().enumerate() {
        let url = format!("https://{}:{}{path}", network.here(), relay.https().port());
        let arguments = [&["--silent", "--insecure", "--no-buffer", &url], arguments].concat();
        let client = network.run("curl", &arguments);
        if path == "/events" {
            let feed = backend.feed().await;
            feed.send("data: 1\n\n").await;
            client.line("the first event", |line| line == "data: 1").await;
            feeds.push((which, busy, feed));
        } else {
            backend.wait_open(number + 1).await;
        }
        clients.push(client);
    }
    // Another's stream is none of it.
    let mut other = Raw::tls(&relay).await;
    other.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let others = backend.feed().await;

    network.cut();
    let (cut, limit) = (Instant::now(), Duration::from_secs(75));
    let mut last = Instant::now();
    while backend.open() > 1 {
        assert!(cut.elapsed() < limit, "still open: {}, of {CLIENTS:?}", backend.open() - 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let send = last.elapsed() > Duration::from_secs(1);
        for (which, _, _) in feeds.extract_if(.., |(_, busy, feed)| {
            let sends = *busy && send;
            feed.is_closed() || sends && !feed.try_send("data: more\n\n")
        }) {
            println!("{which} ended after {:?}", cut.elapsed());
        }
        if send {
            last = Instant::now();
            others.send(": still here\n\n").await;
        }
    }
    println!("all had ended after {:?}", cut.elapsed());
    assert!(cut.elapsed() > Duration::from_secs(30), "the wire was not all that was cut");
    others.send("data: last\n\n").await;
    other.read_until("data: last\n\n").await;
    let status = relay.status_json().await;
    assert_eq!(
        (&status["clients"]["tunnel"], &status["clients"]["http2"]),
        (&0.into(), &0.into()),
        "{status}"
    );
}
