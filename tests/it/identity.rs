//! Who the backend takes its clients for: each reaches it from a loopback address of its own.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
};

use crate::harness::{Backend, Client, Flask, Frames, Relay, Reply, frames::RST_STREAM, on_h1_and_h2};

/// Whether an address is in 127.64.0.0/10.
fn stands_for_a_client(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[0] == 127 && address.octets()[1] & 0xc0 == 0x40)
}

/// The backend's peer for a request of the client at `address`, in the word of a trusted proxy.
async fn peer_of(client: &Client, backend: &Backend, address: &str) -> IpAddr {
    let answer = client.call("GET", "/x").header("X-Forwarded-For", address).send().await;
    assert_eq!(answer.status, 200);
    let request = backend.last();
    assert_eq!(request.header("x-forwarded-for"), Some(address), "the headers say it as well");
    request.peer.ip()
}

#[tokio::test]
async fn forty_clients_sign_up_where_the_limit_is_ten_an_address() {
    let flask = Flask::start(&[]).await;
    let relay = Relay::builder().backend(flask.address()).start().await;
    let client = Client::http(relay.http());
    let sign_up = async |address: &str| {
        client.call("POST", "/api/v1/signup").header("X-Forwarded-For", address).send().await
    };
    let mut seen = HashSet::new();
    for number in 1..=40 {
        let answer = sign_up(&format!("203.0.113.{number}")).await;
        assert_eq!(answer.status, 201, "client {number}: {answer:?}");
        let address: IpAddr = answer.json()["address"].as_str().unwrap().parse().unwrap();
        assert!(stands_for_a_client(address), "{address}");
        seen.insert(address);
    }
    assert_eq!(seen.len(), 40, "Sova tells them apart");

    for _ in 2..=10 {
        assert_eq!(sign_up("203.0.113.1").await.status, 201);
    }
    let eleventh = sign_up("203.0.113.1").await;
    assert_eq!(eleventh.status, 429, "the limit of one client is what it was");
    assert!(eleventh.header("x-ratelimit-reset").is_some());
}

#[tokio::test]
async fn clients_that_come_themselves_are_told_apart() {
    let flask = Flask::start(&[]).await;
    let relay = Relay::builder().backend(flask.address()).start().await;
    for number in 1..=40 {
        let client = Client::http_from(Ipv4Addr::new(127, 9, 0, number).into(), relay.http());
        assert_eq!(client.call("POST", "/api/v1/signup").send().await.status, 201, "client {number}");
    }
    let one = Client::http_from(Ipv4Addr::new(127, 9, 0, 1).into(), relay.http());
    for _ in 2..=10 {
        assert_eq!(one.call("POST", "/api/v1/signup").send().await.status, 201);
    }
    assert_eq!(one.call("POST", "/api/v1/signup").send().await.status, 429);
}

/// A port that was bound is kept from every program of the machine while a closed connection waits there.
#[tokio::test]
async fn closed_connections_to_the_backend_leave_no_port_behind() {
    let backend = Backend::start().await;
    let relay =
        Relay::builder().backend(backend.address()).toml("[backend]\nmax_connections = 1").start().await;
    let client = Client::http(relay.http());
    // Each makes room for itself by closing the idle connection of the one before.
    let peers: HashSet<_> = {
        let mut peers = HashSet::new();
        for number in 1..=30 {
            peers.insert(peer_of(&client, &backend, &format!("203.0.113.{number}")).await);
        }
        peers
    };
    assert!(peers.len() > 20 && backend.opened() > 20);
    let waiting = waiting_ports(&backend);
    assert!(waiting.is_empty(), "{waiting:?}");
}

/// The same of requests that end while the connection for them is being made.
#[tokio::test]
async fn a1_requests_that_are_reset_at_once_leave_no_port_behind() {
    const CANCEL: u32 = 8;
    // One that was answered before it was reset would leave a connection behind, idle and open.
    let backend = Backend::builder().on("/x", |_| Reply::silence()).start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    for _ in 0..5 {
        let mut frames = Frames::open(&relay, &[]).await;
        for stream in (1..200).step_by(2) {
            frames.get(stream, "/x").await;
            assert!(frames.send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()).await);
        }
        assert!(frames.ping().await);
    }
    backend.wait_open(0).await;
    let waiting = waiting_ports(&backend);
    assert!(waiting.is_empty(), "{waiting:?}");
}

/// The sources of clients whose connections to the backend are closed, and not forgotten by the system.
fn waiting_ports(backend: &Backend) -> Vec<String> {
    const TIME_WAIT: &str = "06";
    let port = format!(":{:04X}", backend.address().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|line| line[2].ends_with(&port) && line[3] == TIME_WAIT)
        // The look at the backend at the start was made from 127.0.0.1, and bound nothing.
        .filter(|line| !line[1].starts_with("0100007F:"))
        .map(|line| line[1].to_owned())
        .collect()
}

on_h1_and_h2! {
    async fn a_client_has_one_address_for_all_its_requests(version) {
        let backend = Backend::start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let mut addresses = HashSet::new();
        for number in 1..=20 {
            let name = format!("203.0.113.{number}");
            let first = peer_of(&client, &backend, &name).await;
            assert!(stands_for_a_client(first), "{first}");
            // On other connections too, after those of others came between.
            peer_of(&client, &backend, "198.51.100.1").await;
            backend.close_idle().await;
            assert_eq!(peer_of(&client, &backend, &name).await, first);
            addresses.insert(first);
        }
        assert_eq!(addresses.len(), 20);
    }

    async fn a_connection_of_one_client_never_serves_another(version) {
        let backend = Backend::start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]")
            .start()
            .await;
        let client = Client::https(&relay, version);
        for round in 0..3 {
            for number in 1..=10 {
                peer_of(&client, &backend, &format!("203.0.113.{number}")).await;
                let request = backend.last();
                assert_eq!(request.connection, number, "round {round}: kept, and its client's alone");
            }
        }
    }

    async fn an_ipv6_client_is_its_64(version) {
        let backend = Backend::start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let one = peer_of(&client, &backend, "2001:db8::1").await;
        assert!(stands_for_a_client(one), "{one}");
        assert_eq!(peer_of(&client, &backend, "2001:db8::ffff:1").await, one, "one person has all of a /64");
        assert_ne!(peer_of(&client, &backend, "2001:db8:0:1::1").await, one);
    }
}

#[tokio::test]
async fn an_address_says_nothing_of_the_client_and_is_another_after_a_restart() {
    let backend = Backend::start().await;
    let mut seen = HashSet::new();
    for _ in 0..2 {
        let relay = Relay::builder().backend(backend.address()).start().await;
        seen.insert(peer_of(&Client::http(relay.http()), &backend, "203.0.113.1").await);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[tokio::test]
async fn with_header_the_backend_sees_the_relay_alone() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .backend(backend.address())
        .toml("[backend]\nclient_address = \"header\"")
        .start()
        .await;
    let client = Client::http(relay.http());
    for number in 1..=3 {
        let peer = peer_of(&client, &backend, &format!("203.0.113.{number}")).await;
        assert_eq!(peer, Ipv4Addr::LOCALHOST);
    }
    assert_eq!(backend.opened(), 1, "one connection serves them all");
}

/// An address of this machine's in another network, and IPv6's loopback address, of which there is but one.
fn elsewhere() -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs()
        .unwrap()
        .into_iter()
        .map(|interface| interface.ip())
        .filter(|address| address.is_ipv4() && !address.is_loopback())
        .take(1)
        .collect();
    addresses.push(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]));
    // Where IPv6 is turned off there is not even that.
    addresses.retain(|address| std::net::TcpListener::bind((*address, 0)).is_ok());
    addresses
}

#[tokio::test]
async fn for_a_backend_that_is_elsewhere_nothing_is_bound() {
    for address in elsewhere() {
        let backend = Backend::builder().at(SocketAddr::from((address, 0))).start().await;
        for setting in ["", "client_address = \"auto\""] {
            let relay = Relay::builder()
                .backend(backend.address())
                .toml(&format!("[backend]\n{setting}"))
                .start()
                .await;
            let client = Client::http(relay.http());
            let peer = peer_of(&client, &backend, "203.0.113.1").await;
            assert_eq!(peer, address, "as the system chooses");
            assert!(!relay.logs().join("\n").contains("127.64"), "nothing was tried: {:?}", relay.logs());
        }
    }
}

#[tokio::test]
async fn the_name_localhost_is_a_loopback_address() {
    let backend = Backend::start().await;
    let port = backend.address().port();
    let relay = Relay::builder()
        .backend(backend.address())
        .toml(&format!("[backend]\nurl = \"http://localhost:{port}\""))
        .start()
        .await;
    let peer = peer_of(&Client::http(relay.http()), &backend, "203.0.113.1").await;
    assert!(stands_for_a_client(peer), "{peer}");
}

/// A library that lets no address of 127.64.0.0/10 be bound, as on a system whose loopback has one address alone.
const ONE_LOOPBACK_ADDRESS: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
int bind(int fd, const struct sockaddr *address, socklen_t length) {
    const struct sockaddr_in *in = (const struct sockaddr_in *)address;
    if (address->sa_family == AF_INET && (ntohl(in->sin_addr.s_addr) & 0xffc00000) == 0x7f400000) {
        errno = EADDRNOTAVAIL;
        return -1;
    }
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    return next(fd, address, length);
}
"#;

#[tokio::test]
async fn where_no_such_address_can_be_bound_there_is_one_warning_and_the_plain_way() {
    let dir = tempfile::tempdir().unwrap();
    let (source, library) = (dir.path().join("bind.c"), dir.path().join("bind.so"));
    std::fs::write(&source, ONE_LOOPBACK_ADDRESS).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(built.unwrap().success());
    let backend = Backend::start().await;
    let relay = Relay::builder().backend(backend.address()).env("LD_PRELOAD", &library).start().await;
    let client = Client::http(relay.http());
    for number in 1..=10 {
        let peer = peer_of(&client, &backend, &format!("203.0.113.{number}")).await;
        assert_eq!(peer, Ipv4Addr::LOCALHOST);
    }
    let logs = relay.logs();
    let warnings: Vec<_> = logs.iter().filter(|line| line.contains("127.64.0.0/10")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("WARN") && !logs.join("\n").contains("does not answer"), "{logs:?}");
}
