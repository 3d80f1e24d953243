//! No descriptors left (attacks.md K6).

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::harness::{Backend, Client, Raw, Relay, Version};

const REQUEST: &str = "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn k6_a_flood_on_few_descriptors_costs_little_and_is_over_within_a_second() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .under(&["prlimit", "--nofile=64:64"])
        .self_signed()
        .backend(backend.address())
        .toml("[limits]\nhandshake = \"60s\"")
        .start()
        .await;
    // A client that is in, and its way to the backend.
    let mut early = Raw::tls(&relay).await;
    early.send(REQUEST).await;
    assert_eq!(early.read_response().await.status(), 200);

    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(TcpStream::connect(relay.https()).await.unwrap());
    }
    relay.log_with(&["WARN", "cannot accept connections for now"]).await;
    let (cpu, began) = (relay.cpu(), Instant::now());
    // It never ends: what leaves comes again.
    while began.elapsed() < Duration::from_secs(3) {
        flood.remove(0);
        flood.push(TcpStream::connect(relay.https()).await.unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let share = (relay.cpu() - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("{:.1} % of a core", share * 100.0);
    assert!(share < 0.2, "{:.1} % of a core", share * 100.0);
    early.send(REQUEST).await;
    assert_eq!(early.read_response().await.status(), 200, "who is in is served");
    let told = relay.logs().iter().filter(|line| line.contains("cannot accept")).count();
    assert!(told <= 2, "told {told} times");

    drop(flood);
    let over = Instant::now();
    assert_eq!(Client::https(&relay, Version::Http2).get("/x").await.text(), "ok");
    println!("well again after {:?}", over.elapsed());
    assert!(over.elapsed() < Duration::from_secs(1), "{:?}", over.elapsed());
    let status = relay.status_json().await;
    assert!(status["clients"]["exhausted"].as_u64().unwrap() > 0, "{status}");
}
