//! The part of the harness that ACME's tests rely on, without ACME.

use std::{process::Command, sync::Arc, time::Duration};

use crate::harness::{
    Pebble, Raw, Relay,
    pebble::{Clock, Fault, SmallDisk, Step},
    pki,
    raw::{self, RawResponse},
};

/// A request to the front.
async fn send(pebble: &Pebble, method: &str, path: &str) -> Raw {
    let authority = pebble.front.authority();
    let address = authority.replace("localhost", "127.0.0.1").parse().unwrap();
    let config = pki::client_config(pebble.ca_root().as_bytes(), &[]);
    let stream = raw::handshake(address, Arc::clone(&config), "localhost").await.unwrap();
    let mut raw = Raw::over(stream);
    raw.send(format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: test\r\n\r\n")).await;
    raw
}

async fn get(pebble: &Pebble, path: &str) -> RawResponse {
    send(pebble, "GET", path).await.read_response().await
}

#[tokio::test]
async fn the_front_passes_on_what_it_is_not_told_to_break_and_counts_it() {
    let pebble = Pebble::start().await;
    let directory = get(&pebble, "/dir").await;
    let directory: serde_json::Value = serde_json::from_slice(&directory.body).unwrap();
    let order = format!("https://{}/order-plz", pebble.front.authority());
    assert_eq!(directory["newOrder"], order, "what it names leads to the front again");
    assert_eq!(get(&pebble, "/nonce-plz").await.status(), 204);
    let front = &pebble.front;
    assert_eq!((front.count(Step::Directory), front.accepted(Step::NewNonce)), (1, 1));
    assert_eq!(front.seen(Step::Directory)[0].user_agent, "test");
    assert!(pebble.issuing_root().await.starts_with("-----BEGIN CERTIFICATE"));
}

#[tokio::test]
async fn the_front_breaks_what_it_is_told_to_until_it_is_healed() {
    let pebble = Pebble::start().await;
    let front = &pebble.front;
    let refusal = Fault::Refuse { status: 429, retry_after: Some(17) };
    front.fault(Step::NewOrder, refusal);
    let refused = get(&pebble, "/order-plz").await;
    assert_eq!((refused.status(), refused.header("retry-after")), (429, Some("17")));
    front.fault(Step::Finalize, Fault::Cut);
    assert_eq!(send(&pebble, "GET", "/finalize-order/1").await.read_to_end().await, b"");
    front.fault(Step::Directory, Fault::Hold);
    let mut held = send(&pebble, "GET", "/dir").await;
    front.wait(Step::Directory, 1).await;
    tokio::time::timeout(Duration::from_millis(50), held.read(1)).await.unwrap_err();
    front.heal();
    assert_eq!(held.read_response().await.status(), 200);
    front.wait_answered(Step::Directory, 1).await;
    assert_eq!(get(&pebble, "/nonce-plz").await.status(), 204);
    front.down();
    let address = front.authority().replace("localhost", "127.0.0.1");
    let mut down = Raw::plain(address.parse().unwrap()).await;
    assert_eq!(down.read_to_end().await, b"");
}

#[tokio::test]
async fn the_newer_pebble_has_renewal_information_and_profiles() {
    let Some(pebble) = Pebble::newer() else { return };
    let pebble = pebble.offers_short_lived().start().await;
    let directory = get(&pebble, "/dir").await;
    let directory: serde_json::Value = serde_json::from_slice(&directory.body).unwrap();
    assert!(directory["renewalInfo"].is_string(), "{directory}");
    assert!(directory["meta"]["profiles"]["shortlived"].is_string(), "{directory}");
}

#[tokio::test]
async fn the_hook_puts_a_record_into_the_dns_and_takes_it_away() {
    let pebble = Pebble::start().await;
    let run = |action: &str, name: &str| {
        let mut hook = Command::new(pebble.dns.hook());
        hook.args([action, name, "value"]).env("CERTBOT_DOMAIN", "a.test").env("CERTBOT_VALIDATION", "value");
        hook.status().unwrap()
    };
    let server = format!("@{}", pebble.address());
    let look = || {
        let mut dig = Command::new("dig");
        dig.args([&server, "-p", "8053", "+short", "TXT", "_acme-challenge.a.test"]);
        String::from_utf8(dig.output().unwrap().stdout).unwrap()
    };
    assert!(run("present", "_acme-challenge.a.test").success());
    assert_eq!(look(), "\"value\"\n");
    assert!(run("cleanup", "_acme-challenge.a.test").success());
    assert_eq!(look(), "");
    assert_eq!(run("present", "_acme-challenge.refused.test").code(), Some(3));
    assert_eq!(pebble.dns.hook_calls()[0], "present _acme-challenge.a.test value a.test value");
}

#[tokio::test]
async fn a_clock_is_ahead_for_the_relay_alone_and_jumps_while_it_runs() {
    let clock = Clock::ahead_by_days(3650);
    let relay = Relay::builder().self_signed().binary(clock.relay()).start().await;
    let now = time::OffsetDateTime::now_utc().year();
    let line = relay.log_with(&["ready"]).await;
    let year: i32 = line[..4].parse().unwrap();
    assert!((now + 9..=now + 10).contains(&year), "{line}");
}

#[tokio::test]
async fn a_small_disk_can_be_full_and_read_only() {
    let Some(disk) = SmallDisk::mount() else { return };
    let file = disk.path().join("file");
    disk.fill();
    std::fs::write(&file, "x").unwrap_err();
    disk.empty();
    std::fs::write(&file, "x").unwrap();
    disk.make_read_only();
    std::fs::write(&file, "y").unwrap_err();
}
