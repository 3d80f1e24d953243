//! Renewal: when it is due, once, and without anyone noticing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::harness::{
    Backend, Pebble, Raw, Relay,
    pebble::{Clock, Fault, Served, Step, credulous_client, make_due},
    raw,
};

const NAME: &str = "chat.example.org";

#[tokio::test]
async fn a_stored_certificate_serves_without_asking_anyone() {
    let pebble = Pebble::start().await;
    let relay = pebble.relay(&[NAME]).start().await;
    let first = pebble.issued(&relay, NAME).await;
    pebble.front.down();
    let relay = pebble.relay_after(relay, &[NAME]).start().await;
    let again = Served::at(relay.https(), NAME).await.unwrap();
    assert_eq!(again.serial(), first.serial());
    pebble.front.heal();
    pebble.front.no_more_than(Step::NewOrder, 1).await;
}

#[tokio::test]
async fn without_renewal_information_it_is_due_at_two_thirds_of_the_lifetime_and_then_once() {
    let pebble = Pebble::start().await;
    let relay = pebble.relay(&[NAME]).start().await;
    let first = pebble.issued(&relay, NAME).await;
    let early = Clock::ahead_by_days(50);
    let relay = pebble.relay_after(relay, &[NAME]).binary(early.relay()).start().await;
    pebble.front.no_more_than(Step::NewOrder, 1).await;
    assert_eq!(Served::at(relay.https(), NAME).await.unwrap().serial(), first.serial());
    let due = Clock::ahead_by_days(70);
    let relay = pebble.relay_after(relay, &[NAME]).binary(due.relay()).start().await;
    assert!(Served::at(relay.https(), NAME).await.unwrap().is_pebbles(), "the old one serves");
    pebble.renewed(&relay, NAME, &first).await;
    // By that clock the new one is as old as the first was, and is left alone all the same.
    pebble.front.no_more_than(Step::NewOrder, 2).await;
}

#[tokio::test]
async fn k10_a_clock_that_jumps_a_year_costs_one_order_and_nobody_is_turned_away() {
    let pebble = Pebble::start().await;
    let clock = Clock::ahead_by_days(0);
    let mut relay = pebble.relay(&[NAME]).binary(clock.relay()).start().await;
    pebble.issued(&relay, NAME).await;
    for days in [365, 1, -1, 366] {
        clock.jump_to_days(days);
        // Longer than the clock is cached.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        Served::at(relay.https(), NAME).await.unwrap();
    }
    clock.jump_to_days(365);
    for _ in 0..2 {
        relay = pebble.relay_after(relay, &[NAME]).binary(clock.relay()).start().await;
        Served::at(relay.https(), NAME).await.unwrap();
    }
    pebble.front.no_more_than(Step::NewOrder, 2).await;
}

#[tokio::test]
async fn renewal_information_is_obeyed_and_the_order_says_what_it_replaces() {
    let Some(pebble) = Pebble::newer() else { return };
    let pebble = pebble.start().await;
    let relay = pebble.relay(&[NAME]).start().await;
    let storage = relay.path("storage");
    let first = pebble.issued(&relay, NAME).await;
    pebble.front.wait_answered(Step::RenewalInfo, 1).await;
    pebble.set_renewal_window(&first, "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z").await;
    let next = pebble.relay_after(relay, &[NAME]);
    make_due(&storage, NAME, "ask_window_at");
    let relay = next.start().await;
    let second = pebble.renewed(&relay, NAME, &first).await;
    let orders = pebble.front.seen(Step::NewOrder);
    assert_eq!(orders.len(), 2);
    assert_eq!(orders[1].payload["replaces"], first.ari_id());
    let asked = pebble.front.seen(Step::RenewalInfo);
    assert!(asked[0].path.ends_with(&first.ari_id()), "{asked:?}");
    assert_ne!(second.public_key(), first.public_key(), "a new key each time");
    pebble.front.no_more_than(Step::NewOrder, 2).await;
}

#[tokio::test]
async fn a_window_that_lies_ahead_holds_back_what_would_be_due_without_it() {
    let Some(pebble) = Pebble::newer() else { return };
    let pebble = pebble.start().await;
    let relay = pebble.relay(&[NAME]).start().await;
    let storage = relay.path("storage");
    let first = pebble.issued(&relay, NAME).await;
    pebble.front.wait_answered(Step::RenewalInfo, 1).await;
    let in_days = |days| {
        let time = time::OffsetDateTime::now_utc() + time::Duration::days(days);
        time.format(&time::format_description::well_known::Rfc3339).unwrap()
    };
    pebble.set_renewal_window(&first, &in_days(75), &in_days(80)).await;
    let next = pebble.relay_after(relay, &[NAME]);
    make_due(&storage, NAME, "ask_window_at");
    let relay = next.start().await;
    pebble.front.wait_answered(Step::RenewalInfo, 2).await;
    pebble.front.no_more_than(Step::NewOrder, 1).await;
    let clock = Clock::ahead_by_days(70);
    let relay = pebble.relay_after(relay, &[NAME]).binary(clock.relay()).start().await;
    pebble.front.no_more_than(Step::NewOrder, 1).await;
    let served = Served::at(relay.https(), NAME).await.unwrap();
    assert_eq!(served.serial(), first.serial());
}

#[tokio::test]
async fn the_swap_on_a_live_listener_fails_no_handshake_and_no_request() {
    let pebble = Pebble::start().await;
    let backend = Backend::start().await;
    pebble.front.fault(Step::Finalize, Fault::Hold);
    let relay = Arc::new(pebble.relay(&[NAME]).backend(backend.address()).start().await);
    let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|number| {
            let (relay, stop, requests) = (Arc::clone(&relay), Arc::clone(&stop), Arc::clone(&requests));
            // Half of them shake hands for each request, half keep their connection over the swap.
            let per_connection = if number % 2 == 0 { 1 } else { usize::MAX };
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    ask_until(&relay, per_connection, &stop, &requests).await;
                }
            })
        })
        .collect();
    pebble.front.wait(Step::Finalize, 1).await;
    let before = requests.load(Ordering::Relaxed);
    assert!(!Served::at(relay.https(), NAME).await.unwrap().is_pebbles());
    pebble.front.heal();
    pebble.issued(&relay, NAME).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    for client in load {
        client.await.expect("no request failed");
    }
    assert!(requests.load(Ordering::Relaxed) > before + 20);
}

/// One request after the other on one connection; panics where one fails.
async fn ask_until(relay: &Relay, count: usize, stop: &AtomicBool, requests: &AtomicUsize) {
    let stream =
        raw::handshake(relay.https(), credulous_client(&["http/1.1"]), NAME).await.expect("the handshake");
    let mut raw = Raw::over(stream);
    for _ in 0..count {
        raw.send(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n")).await;
        assert_eq!(raw.read_response().await.status(), 200);
        requests.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}
