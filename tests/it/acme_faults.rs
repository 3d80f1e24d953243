//! A CA that is down, slow, wrong or angry: the relay serves all the same, and asks once (attacks.md K11).

use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Pebble, Raw, Relay,
    pebble::{Fault, Served, Step, Stored, credulous_client, make_due, meta, write_script},
    peers::free_address,
    raw, within,
};

const NAME: &str = "chat.example.org";
/// Where the relay does not listen.
const WRONG_PORT: u16 = 5003;

/// One request on a new connection, whatever the certificate.
async fn ask(relay: &Relay) -> u16 {
    let stream = raw::handshake(relay.https(), credulous_client(&["http/1.1"]), NAME).await.unwrap();
    let mut raw = Raw::over(stream);
    raw.send(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n")).await;
    raw.read_response().await.status()
}

/// Seconds from now to the next try that the ledger has.
fn until_next_try(relay: &Relay) -> i64 {
    let meta = meta(&relay.path("storage"), NAME);
    let next = meta["next_try"].as_str().unwrap_or_else(|| panic!("{meta}"));
    let format = &time::format_description::well_known::Rfc3339;
    let next = time::OffsetDateTime::parse(next, format).unwrap();
    (next - time::OffsetDateTime::now_utc()).whole_seconds()
}

#[tokio::test]
async fn k11_the_relay_answers_at_once_with_a_temporary_certificate_whatever_the_ca_does() {
    let backend = Backend::start().await;
    let pebble = Pebble::start().await;
    for fault in [
        None,
        Some(Fault::Hold),
        Some(Fault::Drip),
        Some(Fault::Cut),
        Some(Fault::Refuse { status: 503, retry_after: None }),
    ] {
        pebble.front.heal();
        match fault {
            None => pebble.front.down(),
            Some(fault) => pebble.front.fault(Step::Directory, fault),
        }
        let started = Instant::now();
        let relay = pebble.relay(&[NAME]).backend(backend.address()).start().await;
        assert_eq!(ask(&relay).await, 200);
        assert!(started.elapsed() < Duration::from_secs(3), "{fault:?}: {:?}", started.elapsed());
        let served = Served::at(relay.https(), NAME).await.unwrap();
        assert!(!served.is_pebbles());
        assert_eq!(served.names(), [NAME]);
        // A name that is not ours gets no temporary certificate either.
        Served::at(relay.https(), "other.example.org").await.unwrap_err();
    }
}

#[tokio::test]
async fn k11_a_ca_that_is_down_is_asked_once_and_no_restart_loop_asks_it_more() {
    let pebble = Pebble::start().await;
    let refusal = Fault::Refuse { status: 503, retry_after: None };
    pebble.front.fault(Step::NewOrder, refusal);
    let mut relay = pebble.relay(&[NAME]).start().await;
    pebble.front.wait_answered(Step::NewOrder, 1).await;
    relay.log_with(&[NAME, "the front says no", "next_try"]).await;
    for _ in 0..3 {
        relay = pebble.relay_after(relay, &[NAME]).start().await;
        assert!((30..=90).contains(&until_next_try(&relay)), "the first back-off is a minute");
        assert_eq!(ask(&relay).await, 404);
    }
    pebble.front.no_more_than(Step::NewOrder, 1).await;
}

#[tokio::test]
async fn k11_an_answer_that_drips_is_cut_off() {
    if !crate::harness::is_long() {
        eprintln!("skipped: it takes half a minute (tests/run --long)");
        return;
    }
    let pebble = Pebble::start().await;
    pebble.front.fault(Step::NewOrder, Fault::Drip);
    let relay = pebble.relay(&[NAME]).start().await;
    pebble.front.wait(Step::NewOrder, 1).await;
    tokio::time::sleep(Duration::from_secs(25)).await;
    relay.log_with(&[NAME, "next_try"]).await;
    assert_eq!(ask(&relay).await, 404);
}

#[tokio::test]
async fn who_is_to_be_told_that_a_certificate_does_not_come_is_told() {
    let pebble = Pebble::start().await;
    pebble.front.down();
    let told = tempfile::tempdir().unwrap();
    let (program, words) = (told.path().join("program"), told.path().join("words"));
    write_script(&program, &format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >>{}\n", words.display()));
    let relay = pebble.relay(&[NAME]).toml(&format!("[tls.acme]\non_failure = {program:?}")).start().await;
    within("the program to be run", async {
        while !words.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let words = std::fs::read_to_string(words).unwrap();
    assert!(words.starts_with(&format!("{NAME}\n")), "{words}");
    relay.log_with(&["ERROR", NAME]).await;
}

#[tokio::test]
async fn k11_a_429_is_obeyed_as_long_as_it_says() {
    let pebble = Pebble::start().await;
    let refusal = Fault::Refuse { status: 429, retry_after: Some(7200) };
    pebble.front.fault(Step::NewOrder, refusal);
    let relay = pebble.relay(&[NAME]).start().await;
    pebble.front.wait_answered(Step::NewOrder, 1).await;
    relay.log_with(&[NAME, "rateLimited", "next_try"]).await;
    let wait = until_next_try(&relay);
    assert!((7100..=9000).contains(&wait), "{wait}");
    pebble.front.heal();
    let relay = pebble.relay_after(relay, &[NAME]).start().await;
    pebble.front.no_more_than(Step::NewOrder, 1).await;
    assert_eq!(ask(&relay).await, 404);
}

#[tokio::test]
async fn the_second_ca_is_taken_when_the_first_is_down() {
    let pebble = Pebble::start().await;
    let relay = pebble
        .relay(&[NAME])
        .toml(&format!(
            "[tls.acme]\ndirectory = [\"https://{}/dir\", \"{}\"]",
            free_address(),
            pebble.directory()
        ))
        .start()
        .await;
    pebble.issued(&relay, NAME).await;
}

#[tokio::test]
async fn k11_nonces_that_are_called_bad_cost_a_request_and_not_the_order() {
    for (rejected, names) in
        [(20, &["a.example.org", "b.example.org", "c.example.org"][..]), (50, &["a.example.org"])]
    {
        let pebble = Pebble::builder().rejects_nonces(rejected).start().await;
        let relay = pebble.relay(names).start().await;
        for name in names {
            pebble.issued(&relay, name).await;
        }
        assert_eq!(pebble.front.accepted(Step::NewOrder), names.len());
    }
}

#[tokio::test]
async fn an_authorization_that_is_valid_already_needs_no_challenge() {
    let pebble = Pebble::builder().reuses_authorizations(100).start().await;
    let relay = pebble.relay(&[NAME]).start().await;
    let first = pebble.issued(&relay, NAME).await;
    std::fs::remove_dir_all(relay.path("storage/certificates")).unwrap();
    let relay = pebble.relay_after(relay, &[NAME]).start().await;
    pebble.renewed(&relay, NAME, &first).await;
    let front = &pebble.front;
    assert_eq!((front.count(Step::NewOrder), front.count(Step::Challenge)), (2, 1));
    assert_eq!(front.count(Step::NewAccount), 1);
}

#[tokio::test]
async fn a_challenge_that_fails_is_followed_by_the_next_and_what_worked_is_remembered() {
    let pebble = Pebble::builder().looks_for_http_on(WRONG_PORT).start().await;
    // Somebody else's web server, which answers everything.
    let _wrong = Backend::builder().at((pebble.address(), WRONG_PORT).into()).start().await;
    let config = "[tls.acme]\nchallenges = [\"http-01\", \"tls-alpn-01\"]";
    let relay = pebble.relay(&[NAME]).toml(config).start().await;
    let first = pebble.issued(&relay, NAME).await;
    let stored = Stored::read(&relay.path("storage"), NAME).unwrap();
    assert_eq!(stored.meta["challenge"], "tls-alpn-01", "{}", stored.meta);
    let (orders, tries) = (pebble.front.count(Step::NewOrder), pebble.front.count(Step::Challenge));
    assert_eq!((orders, tries), (2, 2), "an order that is invalid is done with");
    assert_eq!(first.names(), [NAME]);
}

#[tokio::test]
async fn an_order_that_goes_invalid_is_noted_with_the_cas_words_and_not_tried_at_once() {
    let pebble = Pebble::builder().looks_for_http_on(WRONG_PORT).looks_for_tls_on(WRONG_PORT).start().await;
    let relay = pebble.relay(&[NAME]).start().await;
    pebble.front.wait_answered(Step::Challenge, 2).await;
    let line = relay.log_with(&[NAME, "next_try"]).await;
    let meta = meta(&relay.path("storage"), NAME);
    assert_eq!(meta["failures"], 1, "{meta}");
    assert!((30..=90).contains(&until_next_try(&relay)), "{meta}");
    let error = meta["last_error"].to_string();
    assert!(
        error.contains("refused") || error.contains("unauthorized") || error.contains("onnect"),
        "{meta}\n{line}"
    );
    let orders = pebble.front.count(Step::NewOrder);
    let relay = pebble.relay_after(relay, &[NAME]).start().await;
    pebble.front.no_more_than(Step::NewOrder, orders).await;
    assert_eq!(ask(&relay).await, 404);
}

#[tokio::test]
async fn a_ca_that_is_cut_off_between_finalize_and_download_leaves_no_half_certificate() {
    let pebble = Pebble::start().await;
    pebble.front.fault(Step::Certificate, Fault::Cut);
    let relay = pebble.relay(&[NAME]).start().await;
    pebble.front.wait(Step::Certificate, 1).await;
    relay.log_with(&[NAME, "next_try"]).await;
    assert!(Stored::read(&relay.path("storage"), NAME).is_none());
    assert_eq!(ask(&relay).await, 404);
    pebble.front.heal();
    let relay = pebble.relay_after(relay, &[NAME]).start().await;
    pebble.front.no_more_than(Step::Certificate, 1).await;
    assert_eq!(ask(&relay).await, 404);
    // When its turn has come, what was ordered is fetched, and not ordered again.
    let storage = relay.path("storage");
    let next = pebble.relay_after(relay, &[NAME]);
    make_due(&storage, NAME, "next_try");
    let relay = next.start().await;
    pebble.issued(&relay, NAME).await;
    assert_eq!(pebble.front.count(Step::NewOrder), 1);
}

#[tokio::test]
async fn a_restart_in_mid_order_does_not_order_again_what_was_just_tried() {
    for step in [Step::Challenge, Step::Finalize] {
        let pebble = Pebble::start().await;
        pebble.front.fault(step, Fault::Hold);
        let relay = pebble.relay(&[NAME]).start().await;
        pebble.front.wait(step, 1).await;
        let relay = pebble.relay_after(relay, &[NAME]).start().await;
        pebble.front.heal();
        pebble.front.no_more_than(Step::NewOrder, 1).await;
        assert_eq!(ask(&relay).await, 404, "{step:?}");
    }
}

#[tokio::test]
async fn a_name_without_a_public_certificate_gets_a_local_one_only_where_the_config_says_so() {
    let pebble = Pebble::start().await;
    pebble.front.down();
    let relay = pebble.relay(&[NAME]).toml("[tls.acme]\nfallback = \"self-signed\"").start().await;
    let believer = crate::harness::pki::client_config(&relay.root(), &["http/1.1"]);
    raw::handshake(relay.https(), believer, NAME).await.unwrap();
}
