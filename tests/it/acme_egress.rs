//! The way to the CA, where it goes through a proxy.

use crate::harness::{Microsocks, Pebble, Tinyproxy};

const NAME: &str = "chat.example.org";

#[tokio::test]
async fn the_way_to_the_ca_goes_through_a_socks_proxy_that_resolves_its_name() {
    let pebble = Pebble::start().await;
    let proxy = Microsocks::start(Some(("user", "secret"))).await;
    let relay = pebble
        .relay(&[NAME])
        .toml(&format!("[tls.acme]\nproxy = \"socks5h://user:secret@{}\"", proxy.address()))
        .start()
        .await;
    pebble.issued(&relay, NAME).await;
    proxy.connected_to(&pebble.front.authority()).await;
    assert!(!relay.logs().join("\n").contains("secret"));
}

#[tokio::test]
async fn the_way_to_the_ca_goes_through_the_upstream_http_proxy() {
    let pebble = Pebble::start().await;
    let proxy = Tinyproxy::start(None).await;
    let relay = pebble
        .relay(&[NAME])
        .toml(&format!(
            "[upstream_proxy]\nenabled = true\nurl = \"http://{}\"\n[tls.acme]\nproxy = \"upstream\"",
            proxy.address()
        ))
        .start()
        .await;
    pebble.issued(&relay, NAME).await;
    proxy.asked(&format!("CONNECT {}", pebble.front.authority())).await;
}
