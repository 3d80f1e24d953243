//! A backend that is not there, with nothing configured about it (attacks.md K1); `timeouts.rs` has the limits one by one.

use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Client, Relay, Version, on_h1_and_h2,
    peers::{BlackHole, free_address},
};

const SECOND: Duration = Duration::from_secs(1);

on_h1_and_h2! {
    async fn k1_by_default_a_refused_request_is_502_when_it_was_tried_for_five_seconds(version) {
        let relay = Relay::builder().self_signed().backend(free_address()).start().await;
        let asked = Instant::now();
        Client::https(&relay, version).call("POST", "/api/v1/x").body("x").send().await.assert_error(502, "backend unavailable");
        assert!((3..7).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
    }

    async fn k1_by_default_a_black_hole_is_504_after_five_seconds(version) {
        let hole = BlackHole::new().await;
        let relay = Relay::builder().self_signed().backend(hole.address()).start().await;
        let asked = Instant::now();
        Client::https(&relay, version).get("/api/v1/x").await.assert_error(504, "backend timeout");
        assert!((5..8).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
    }

    async fn k1_who_waits_is_answered_within_a_second_of_its_return(version) {
        let address = free_address();
        let relay = Relay::builder().self_signed().backend(address).start().await;
        let client = Client::https(&relay, version);
        let start = async {
            // Long enough for the pauses between two tries to have become the longest.
            tokio::time::sleep(3 * SECOND).await;
            (Backend::builder().at(address).start().await, Instant::now())
        };
        let (answer, (_backend, back)) = tokio::join!(client.get("/api/v1/x"), start);
        assert_eq!(answer.text(), "ok");
        let took = back.elapsed();
        println!("{took:?}");
        assert!(took < SECOND + SECOND / 4, "{took:?}");
        let asked = Instant::now();
        assert_eq!(client.get("/api/v1/x").await.text(), "ok");
        assert!(asked.elapsed() < SECOND, "{:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn k1_a_name_that_does_not_exist_is_502_and_nobody_waits_for_its_return_in_vain() {
    let relay = Relay::builder()
        .self_signed()
        .toml(
            "[backend]\nurl = \"http://nobody.invalid:1\"\nretry_for = \"0s\"\n\
             [[paths]]\nprefix = \"/*\"\naction = \"proxy\"",
        )
        .start()
        .await;
    let client = Client::https(&relay, Version::Http2);
    client.get("/api/v1/x").await.assert_error(502, "backend unavailable");
}
