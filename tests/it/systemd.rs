//! What a service manager is told, and what it passes: the protocols of sd_notify(3) and sd_listen_fds(3), against
//! a real datagram socket and real descriptors.

use std::{
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{
    Backend, Client, DEADLINE, Raw, Relay, Version, raw, relay::RelayBuilder, relay::field,
};

/// A service manager's end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    _dir: TempDir,
}

impl Manager {
    fn new() -> (Self, String) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        (Self { socket, _dir: dir }, path.to_str().unwrap().to_owned())
    }

    /// The next message, as its lines.
    fn next(&self) -> Vec<String> {
        self.next_within(DEADLINE).expect("the manager is told nothing")
    }

    fn next_within(&self, limit: Duration) -> Option<Vec<String>> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).ok()?;
        let text = std::str::from_utf8(&message[..length]).unwrap();
        Some(text.lines().map(str::to_owned).collect())
    }

    /// The next message that has this line.
    fn until(&self, line: &str) -> Vec<String> {
        loop {
            let message = self.next();
            if message.iter().any(|found| found == line) {
                return message;
            }
        }
    }
}

fn value<'a>(message: &'a [String], name: &str) -> &'a str {
    let found = message.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {message:?}"))
}

fn relay(notify: &str) -> RelayBuilder {
    Relay::builder().self_signed().env("NOTIFY_SOCKET", notify)
}

#[tokio::test]
async fn the_manager_is_told_of_readiness_reloads_and_the_end() {
    let (manager, path) = Manager::new();
    let mut relay = relay(&path).start().await;
    let ready = manager.next();
    assert_eq!(ready[0], "READY=1", "{ready:?}");
    let status = value(&ready, "STATUS");
    assert!(status.starts_with("serving localhost; certificate until 20"), "{status}");
    assert!(status.ends_with("; streams: 0 live, 0 held"), "{status}");

    relay.reload("reloaded").await;
    let reloading = manager.next();
    assert_eq!(reloading[0], "RELOADING=1", "{reloading:?}");
    let usec: i64 = value(&reloading, "MONOTONIC_USEC").parse().unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    assert!((now.tv_sec - usec / 1_000_000).abs() < 60, "{usec}");
    assert_eq!(manager.next()[0], "READY=1");

    relay.set_config("nonsense");
    relay.reload("refused").await;
    assert_eq!(manager.next()[0], "RELOADING=1");
    assert_eq!(manager.next()[0], "READY=1", "a reload that was refused is over too");

    relay.signal(Signal::TERM);
    let stopping = manager.next();
    assert_eq!(stopping[0], "STOPPING=1");
    assert_eq!(relay.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_manager_at_an_abstract_address_is_told_too() {
    let name = format!("parley-relay-test-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let manager = Manager { socket, _dir: TempDir::new().unwrap() };
    let _relay = relay(&format!("@{name}")).start().await;
    assert_eq!(manager.next()[0], "READY=1");
}

#[tokio::test]
async fn a_manager_that_is_not_there_is_no_reason_not_to_serve() {
    let relay = relay("/nowhere/notify").start().await;
    assert_eq!(Client::https(&relay, Version::Http2).get("/").await.status, 404);
}

#[tokio::test]
async fn the_status_follows_the_streams() {
    let (manager, path) = Manager::new();
    let backend = Backend::builder().on("/events", |_| crate::harness::Reply::events()).start().await;
    let relay = relay(&path).backend(backend.address()).start().await;
    let client = Client::https(&relay, Version::Http2);
    let _stream = client.call("GET", "/events").header("Accept", "text/event-stream").open().await;
    assert_eq!(manager.next()[0], "READY=1");
    let status = manager.next();
    assert!(value(&status, "STATUS").ends_with("; streams: 1 live, 0 held"), "{status:?}");
}

#[tokio::test]
async fn the_watchdog_hears_twice_in_its_time_and_only_from_whom_it_watches() {
    let (manager, path) = Manager::new();
    let relay = relay(&path).env("WATCHDOG_USEC", "400000").start().await;
    manager.until("READY=1");
    let began = Instant::now();
    for _ in 0..5 {
        manager.until("WATCHDOG=1");
    }
    let took = began.elapsed();
    assert!((Duration::from_millis(600)..Duration::from_secs(5)).contains(&took), "{took:?}");
    // A process that does not run does not say that it does.
    relay.signal(Signal::STOP);
    while manager.next_within(Duration::from_millis(500)).is_some() {}
    relay.signal(Signal::CONT);
    manager.until("WATCHDOG=1");

    let (manager, path) = Manager::new();
    let watched = relay_of_another(&path).start().await;
    manager.until("READY=1");
    assert_eq!(manager.next_within(Duration::from_secs(1)), None);
    drop(watched);
}

/// A relay that inherits the watchdog of a process that it is not.
fn relay_of_another(notify: &str) -> RelayBuilder {
    relay(notify).env("WATCHDOG_USEC", "400000").env("WATCHDOG_PID", "1")
}

#[tokio::test]
async fn sockets_that_are_passed_are_used_by_their_names_or_ports() {
    for names in [["https", "http"], ["main", "redirect"], ["unknown", "unknown"]] {
        let [main, redirect] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [main_at, redirect_at] = [&main, &redirect].map(|socket| socket.local_addr().unwrap());
        let mut builder = Relay::builder().self_signed();
        // By name the port in the config means nothing: that one could not be bound.
        let (port, http_port) = match names {
            ["unknown", _] => (main_at.port(), redirect_at.port()),
            _ => (9, 10),
        };
        builder = builder.toml(&format!("[server]\nport = {port}\nhttp_port = {http_port}"));
        let relay = builder.start_with_sockets([(main, names[0]), (redirect, names[1])]).await;
        assert_eq!((relay.https(), relay.redirect()), (main_at, redirect_at), "{names:?}");
        assert_eq!(Client::https(&relay, Version::Http2).get("/").await.status, 404);
        let mut plain = Raw::plain(redirect_at).await;
        plain.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let answer = plain.read_response().await;
        let url = format!("https://localhost:{}/", main_at.port());
        assert_eq!(answer.header("location"), Some(&*url), "{names:?}");
    }
}

#[tokio::test]
async fn over_plain_http_a_socket_goes_by_its_port_and_one_too_many_is_told() {
    let [http, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [http_at, other_at] = [&http, &other].map(|socket| socket.local_addr().unwrap());
    let builder = Relay::builder().toml(&format!("[server]\nport = {}", http_at.port()));
    let relay = builder.start_with_sockets([(http, "http"), (other, "other")]).await;
    assert_eq!(relay.http(), http_at);
    assert_eq!(Client::http(http_at).get("/").await.status, 404);
    relay.log_with(&["has no use for", &other_at.to_string()]).await;
}

#[tokio::test]
async fn a_restart_with_passed_sockets_refuses_nobody() {
    // As systemd does: it keeps the sockets, and gives each process a copy.
    let [main, redirect] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let pass = || [(main.try_clone().unwrap(), "https"), (redirect.try_clone().unwrap(), "http")];
    let mut first = Relay::builder().self_signed().start_with_sockets(pass()).await;
    let config = first.tls_client(&["http/1.1"]);
    first.signal(Signal::TERM);
    assert_eq!(first.end().await.code(), Some(0));
    // Nobody serves, and nobody is refused.
    let waiting = tokio::spawn(raw::handshake(first.https(), config, "localhost"));
    let second = Relay::builder().in_the_place_of(&first).self_signed().start_with_sockets(pass()).await;
    let mut client = Raw::over(waiting.await.unwrap().unwrap());
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(client.read_response().await.head.starts_with("HTTP/1.1 404"));
    assert_eq!(field(&second.log_with(&["kind=https"]).await, "address").unwrap(), first.https().to_string());
}
