//! How control over a name is shown, and what strangers see of it.

use crate::harness::{
    Backend, Client, Pebble, Raw,
    pebble::{Fault, Served, Step, Stored, credulous_client, make_due, meta},
    raw,
};

const NAME: &str = "chat.example.org";

fn challenges(kinds: &[&str]) -> String {
    format!("[tls.acme]\nchallenges = {kinds:?}")
}

#[tokio::test]
async fn tls_alpn_01_answers_in_the_handshake_and_closes_and_others_see_nothing_of_it() {
    let pebble = Pebble::start().await;
    let relay = pebble.relay(&[NAME]).toml(&challenges(&["tls-alpn-01"])).start().await;
    pebble.front.fault(Step::Challenge, Fault::Hold);
    pebble.front.wait(Step::Challenge, 1).await;
    let challenge = Served::with_alpn(relay.https(), NAME, &["acme-tls/1"]).await.unwrap();
    assert_eq!(challenge.names(), [NAME]);
    assert!(challenge.has_critical_extension("1.3.6.1.5.5.7.1.31"), "RFC 8737, section 3");
    let stream = raw::handshake(relay.https(), credulous_client(&["acme-tls/1"]), NAME).await.unwrap();
    assert_eq!(Raw::over(stream).read_to_end().await, b"");
    for alpn in [&["h2"][..], &["http/1.1"], &["h2", "http/1.1"], &[]] {
        let other = Served::with_alpn(relay.https(), NAME, alpn).await.unwrap();
        assert!(!other.has_critical_extension("1.3.6.1.5.5.7.1.31"), "{alpn:?}");
    }
    Served::with_alpn(relay.https(), "other.example.org", &["acme-tls/1"]).await.unwrap_err();
    pebble.front.heal();
    pebble.issued(&relay, NAME).await;
}

#[tokio::test]
async fn dns_01_by_a_hook_brings_a_wildcard_and_a_certbot_hook_would_do() {
    let pebble = Pebble::start().await;
    let Some(binary) = pebble.dns.relay() else { return };
    let hook = pebble.dns.hook();
    let relay = pebble
        .relay(&["*.example.org", "example.org"])
        .toml(&format!("[tls.acme.dns]\nhook = {hook:?}\npropagation = \"5s\""))
        .toml(&challenges(&["dns-01"]))
        .binary(binary)
        .start()
        .await;
    for (asked, name) in [
        ("a.example.org", "*.example.org"),
        ("b.example.org", "*.example.org"),
        ("example.org", "example.org"),
    ] {
        let served = pebble.issued(&relay, asked).await;
        assert_eq!(served.names(), [name]);
    }
    Served::at(relay.https(), "a.b.example.org").await.unwrap_err();
    let stored = Stored::read(&relay.path("storage"), "*.example.org").unwrap();
    assert_eq!(stored.meta["challenge"], "dns-01");

    let calls = pebble.dns.hook_calls();
    let calls: Vec<Vec<&str>> = calls.iter().map(|call| call.split(' ').collect()).collect();
    for call in &calls {
        let [_, name, value, certbot_name, certbot_value] = call[..] else {
            panic!("{call:?}");
        };
        assert_eq!((name, certbot_name), ("_acme-challenge.example.org", "example.org"));
        assert_eq!(value, certbot_value);
    }
    let count = |action: &str| calls.iter().filter(|call| call[0] == action).count();
    assert_eq!((count("present"), count("cleanup")), (2, 2), "{calls:?}");
}

#[tokio::test]
async fn a_hook_that_fails_ends_the_order_and_its_words_are_told() {
    let pebble = Pebble::start().await;
    let hook = pebble.dns.hook();
    let name = "refused.example.org";
    let relay = pebble
        .relay(&[name])
        .toml(&format!("[tls.acme.dns]\nhook = {hook:?}"))
        .toml(&challenges(&["dns-01"]))
        .start()
        .await;
    relay.log_with(&["the provider says no"]).await;
    assert_eq!(pebble.front.count(Step::Challenge), 0, "the CA is not asked to look");
    assert!(!Served::at(relay.https(), name).await.unwrap().is_pebbles());
}

#[tokio::test]
async fn dns_01_by_the_relays_own_responder_renews_by_itself() {
    let pebble = Pebble::builder().asks_the_responder().start().await;
    let relay = pebble
        .relay(&["*.example.org"])
        .toml(&format!("[tls.acme.dns]\nlisten = \"{}\"", pebble.responder()))
        .toml(&challenges(&["dns-01"]))
        .start()
        .await;
    let served = pebble.issued(&relay, "chat.example.org").await;
    assert_eq!(served.names(), ["*.example.org"]);
}

/// The record that a log line asks for: its name and its value.
fn asked_for(line: &str) -> (String, String) {
    let plain = line.replace('\\', "");
    let (_, record) = plain.split_once("once and for good: ").unwrap_or_else(|| panic!("{line}"));
    let (name, rest) = record.split_once(". TXT \"").unwrap_or_else(|| panic!("{line}"));
    let (value, _) = rest.split_once('"').unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), value.to_owned())
}

#[tokio::test]
async fn dns_persist_01_asks_for_its_record_once_and_then_brings_a_wildcard() {
    let Some(pebble) = Pebble::newer() else { return };
    let pebble = pebble.calls_itself(&["pebble.example", "other.example"]).start().await;
    let Some(binary) = pebble.dns.relay() else { return };
    let names = ["*.example.org", "example.org"];
    let config = challenges(&["dns-persist-01"]);
    let relay = pebble.relay(&names).toml(&config).binary(binary.clone()).start().await;
    let mut told = Vec::new();
    for name in names {
        let line = relay.log_with(&[&format!("name={name}"), "next_try", "once and for good"]).await;
        told.push(asked_for(&line));
        assert!(meta(&relay.path("storage"), name)["last_error"].to_string().contains("once and for good"));
        relay.log_with(&[&format!("name={name}"), "the standing TXT record is not there"]).await;
    }
    let (name, value) = told[0].clone();
    assert_eq!(name, "_validation-persist.example.org");
    let account = value.strip_prefix("pebble.example; accounturi=").unwrap_or_else(|| panic!("{value}"));
    let account = account.strip_suffix("; policy=wildcard").unwrap_or_else(|| panic!("{value}"));
    assert!(account.starts_with("https://") && account.contains("/my-account/"), "{account}");
    assert_eq!(told[1], (name.clone(), format!("pebble.example; accounturi={account}")));

    // The wildcard's record does for the name itself as well.
    pebble.dns.set_txt(&name, &value);
    let storage = relay.path("storage");
    let next = pebble.relay_after(relay, &names).toml(&config).binary(binary);
    for name in names {
        make_due(&storage, name, "next_try");
    }
    let relay = next.start().await;
    for (asked, name) in [("a.example.org", names[0]), ("example.org", names[1])] {
        assert_eq!(pebble.issued(&relay, asked).await.names(), [name]);
        relay.log_with(&[&format!("name={name}"), "the standing TXT record is there"]).await;
        assert_eq!(meta(&storage, name)["challenge"], "dns-persist-01");
    }
}

#[tokio::test]
async fn dns_persist_01_that_a_ca_does_not_offer_is_followed_by_the_next() {
    let pebble = Pebble::start().await;
    let config = challenges(&["dns-persist-01", "tls-alpn-01"]);
    let relay = pebble.relay(&[NAME]).toml(&config).start().await;
    pebble.issued(&relay, NAME).await;
    relay.log_with(&[NAME, "dns-persist-01", "does not offer it"]).await;
    let stored = Stored::read(&relay.path("storage"), NAME).unwrap();
    assert_eq!(stored.meta["challenge"], "tls-alpn-01");
}

#[tokio::test]
async fn c1_tokens_that_are_none_of_ours_are_404_and_nothing_is_ever_proxied() {
    let pebble = Pebble::start().await;
    let backend = Backend::start().await;
    let relay =
        pebble.relay(&[NAME]).toml(&challenges(&["http-01"])).backend(backend.address()).start().await;
    pebble.front.fault(Step::Challenge, Fault::Hold);
    pebble.front.wait(Step::Challenge, 1).await;
    let client = Client::http(relay.redirect());
    let below = "/.well-known/acme-challenge/";
    let long = "x".repeat(4096);
    for token in [
        "",
        "unknown",
        "..",
        ".",
        "../acme-challenge/unknown",
        "a.b",
        "%2e%2e",
        "a/b",
        "a%2fb",
        "a%00",
        "?q",
        &long,
    ] {
        for method in ["GET", "HEAD"] {
            let answer = client.call(method, &format!("{below}{token}")).send().await;
            assert!([400, 404].contains(&answer.status.as_u16()), "{method} {token}: {answer:?}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = client.call(method, &format!("{below}{token}")).send().await;
            assert!([400, 404, 405].contains(&answer.status.as_u16()), "{method} {token}: {answer:?}");
        }
    }
    assert_eq!(client.get(&format!("{below}unknown")).await.status, 404);
    // Beside it everything is redirected as ever.
    assert_eq!(client.get("/.well-known/other").await.status, 301);
    assert_eq!(backend.requests().len(), 0);
    pebble.front.heal();
    pebble.issued(&relay, NAME).await;
    assert_eq!(backend.requests().len(), 0);
}
