//! attacks.md U1: a backend that breaks its responses. The client sees a whole true response or a broken one that it can
//! tell from a whole one, and nobody else sees anything of it.

mod faults;

use std::{sync::Arc, time::Duration};

use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

use crate::harness::{
    Client, Relay,
    client::next_chunk,
    faulty::{Faulty, Step, response},
    on_h1_and_h2, raw, within,
};
use faults::{Fault, faults, streams};

/// What a client makes of a response.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Sees {
    /// The relay's own error.
    Error(u16),
    /// A response that it knows to be whole: status and body.
    Whole(u16, String),
    /// A response that it knows not to be whole.
    Broken,
}

fn whole(status: u16, body: &str) -> Sees {
    Sees::Whole(status, body.to_owned())
}

async fn relay(backend: &Faulty, more: &str) -> Relay {
    let config = "[backend]\nresponse_timeout = \"1s\"\nretry_for = \"1s\"\nclient_address = \"header\"";
    Relay::builder().self_signed().backend(backend.address()).toml(config).toml(more).start().await
}

/// Asks, and reads to the end, however that comes.
async fn look(client: &Client, method: &str, target: &str) -> Sees {
    look_as(client, "203.0.113.1", method, target).await
}

/// The same for a client that a proxy names.
async fn look_as(client: &Client, address: &str, method: &str, target: &str) -> Sees {
    let call = client.call(method, target).header("X-Forwarded-For", address);
    let call = if method == "POST" { call.body("a body") } else { call };
    // A body that breaks at once can take the head with it that was not on its way yet.
    let Ok(response) = call.try_open().await else { return Sees::Broken };
    let status = response.status().as_u16();
    let is_json = response.headers().get("content-type").is_some_and(|value| value == "application/json");
    for (name, value) in response.headers() {
        assert!(!name.as_str().starts_with("x-evil"), "{method} {target}: {name}: {value:?}");
    }
    match within("the end of the body", response.into_body().collect()).await {
        Err(_) => Sees::Broken,
        Ok(body) => {
            let trailers = body.trailers().cloned();
            assert_eq!(trailers, None, "{method} {target}");
            let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            match status {
                502 | 504 if is_json || method == "HEAD" => Sees::Error(status),
                status => whole(status, &body),
            }
        }
    }
}

on_h1_and_h2! {
    async fn u1_a_broken_response_is_an_error_or_breaks_off_and_its_connection_is_not_used_again(version) {
        let faults = faults();
        assert!(faults.len() >= 90, "{}", faults.len());
        let backend = Faulty::start(faults.iter().map(|fault| fault.steps.clone()).collect()).await;
        let relay = relay(&backend, "").await;
        let client = Client::https(&relay, version);
        let mut wrong = Vec::new();
        for (number, Fault { name, get, head, .. }) in faults.iter().enumerate() {
            for (method, expected) in [("GET", get), ("HEAD", head), ("POST", get)] {
                let seen = look(&client, method, &format!("/api/v1/fault/{number}")).await;
                if !expected.contains(&seen) {
                    wrong.push(format!("{method}, {name}: {seen:?}, not one of {expected:?}"));
                }
                // Whatever it left behind is nobody else's.
                let other = look(&client, "GET", &format!("/api/v1/own-{number}")).await;
                if other != whole(200, &format!("own-{number}")) {
                    wrong.push(format!("the request after {method}, {name}: {other:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
        let spoils = |target: &str| {
            let number = target.split_once("/fault/").map(|(_, number)| number.parse::<usize>().unwrap());
            number.is_some_and(|number| !faults[number].may_be_used_again)
        };
        assert_eq!(backend.served_after(spoils), [""; 0]);
    }

    async fn u1_an_event_stream_is_held_where_another_request_is_an_error(version) {
        let faults = faults();
        let backend = Faulty::start(faults.iter().map(|fault| fault.steps.clone()).collect()).await;
        let relay = relay(&backend, "").await;
        let client = Client::https(&relay, version);
        let mut held = 0;
        for (number, Fault { name, get, .. }) in faults.iter().enumerate() {
            if !get.iter().all(|seen| matches!(seen, Sees::Error(_))) {
                continue;
            }
            let call = client.call("GET", &format!("/api/v1/fault/{number}"));
            let response = call.header("accept", "text/event-stream").open().await;
            assert_eq!(response.status(), 200, "{name}");
            let kind = response.headers().get("content-type");
            assert!(kind.is_some_and(|kind| kind == "text/event-stream"), "{name}: {response:?}");
            let first = next_chunk(&mut response.into_body()).await.unwrap();
            assert!(first.starts_with(b"retry: "), "{name}: {first:?}");
            held += 1;
        }
        assert!(held >= 40, "{held}");
    }

    async fn u1_a_stream_that_breaks_ends_well_with_nothing_in_it_but_its_events(version) {
        let streams = streams();
        let backend = Faulty::start(streams.iter().map(|(_, steps)| steps.clone()).collect()).await;
        let relay = relay(&backend, "").await;
        let client = Client::https(&relay, version);
        for (number, (name, _)) in streams.iter().enumerate() {
            for accept in ["text/event-stream", "*/*"] {
                let call = client.call("GET", &format!("/api/v1/fault/{number}"));
                let response = call.header("accept", accept).open().await;
                assert_eq!(response.status(), 200, "{name}");
                let body = within("the end", response.into_body().collect()).await;
                let body = body.unwrap_or_else(|error| panic!("{name}: {error:?}")).to_bytes();
                let body = String::from_utf8(body.to_vec()).unwrap();
                let Some(rest) = body.strip_prefix("data: 1\n\n") else { panic!("{name}: {body:?}") };
                // A browser drops an event without a blank line after it.
                let last = rest.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
                let is_retry = last.strip_prefix("retry: ").is_some_and(|ms| ms.parse::<u64>().is_ok());
                assert!(last.is_empty() || is_retry, "{name}: {body:?}");
                assert!(!rest.contains("HTTP/1.1"), "{name}: {body:?}");
            }
        }
        assert_eq!(backend.served_after(|_| true), [""; 0]);
    }

    async fn u1_an_answer_that_nobody_asked_for_is_nobodys(version) {
        // Behind the response in the same packet: it is there before the next request is.
        let evil = response("evil");
        let steps = vec![Step::Send(format!("{}{evil}", response("good")).into())];
        let backend = Faulty::start(vec![steps]).await;
        // One connection for all of them: who waits for it gets it as soon as the response before has ended.
        let relay = relay(&backend, "[backend]\nmax_connections = 1").await;
        let client = Arc::new(Client::https(&relay, version));
        for round in 0..25 {
            let mut asking = JoinSet::new();
            for number in 0..8 {
                let client = Arc::clone(&client);
                let (target, own) = match number % 2 {
                    0 => ("/api/v1/fault/0".to_owned(), "good".to_owned()),
                    _ => (format!("/api/v1/{round}-{number}"), format!("{round}-{number}")),
                };
                asking.spawn(async move { assert_eq!(look(&client, "GET", &target).await, whole(200, &own)) });
            }
            while let Some(result) = asking.join_next().await {
                result.unwrap();
            }
        }
        assert_eq!(backend.served_after(|target| target.contains("/fault/")), [""; 0]);
    }

    async fn u1_a_connection_that_speaks_while_it_is_idle_is_closed(version) {
        let late = vec![Step::Send(response("good").into()), Step::Drip(response("evil").into(), Duration::from_millis(2))];
        let backend = Faulty::start(vec![late]).await;
        let relay = relay(&backend, "").await;
        let client = Client::https(&relay, version);
        for round in 1..=5 {
            assert_eq!(look(&client, "GET", "/api/v1/fault/0").await, whole(200, "good"));
            backend.closed(round).await;
            assert_eq!(look(&client, "GET", &format!("/api/v1/{round}")).await, whole(200, &round.to_string()));
        }
    }

    // That it comes to another of the same client cannot be ruled out: who speaks first may have been asked by then.
    async fn u1_what_is_said_before_a_request_never_comes_to_another_client(version) {
        let config = "[backend]\nclient_address = \"loopback\"\n[server]\ntrusted_proxies = [\"127.0.0.0/8\"]";
        for greeting in [response("evil"), "HTTP/1.1 100 Continue\r\n\r\n".into(), "220 mail ready\r\n".into()] {
            let backend = Faulty::greeting(Vec::new(), greeting.as_bytes()).await;
            let relay = relay(&backend, config).await;
            let client = Client::https(&relay, version);
            for number in 0..10 {
                let (address, target) = (format!("203.0.113.{number}"), format!("/api/v1/{number}"));
                let seen = look_as(&client, &address, "POST", &target).await;
                // On a connection of its own it is the backend's word, if a hasty one.
                let answers = [whole(200, &number.to_string()), whole(200, "evil"), Sees::Error(502)];
                assert!(answers.contains(&seen), "{greeting:?}: {seen:?}");
            }
            assert_eq!(backend.served_after(|_| greeting.contains("evil")), [""; 0]);
        }
    }
}

/// The same in the clear, where another proxy asks, as nginx does: the end is a reset.
#[tokio::test]
async fn u1_a_client_of_http_1_0_can_tell_in_the_clear() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n";
    let cut = vec![Step::Send(chunked.into()), Step::Close];
    let whole = vec![Step::Send(format!("{chunked}0\r\n\r\n").into())];
    let backend = Faulty::start(vec![cut, whole]).await;
    let relay = Relay::builder().backend(backend.address()).start().await;
    for (number, is_whole) in [(0, false), (1, true)] {
        let mut stream = tokio::net::TcpStream::connect(relay.http()).await.unwrap();
        let request = format!("GET /api/v1/fault/{number} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let end = within("the end", stream.read_to_end(&mut answer)).await;
        assert_eq!(end.is_ok(), is_whole, "{end:?}: {}", answer.escape_ascii());
        assert!(!is_whole || answer.ends_with(b"\r\n\r\ngood"), "{}", answer.escape_ascii());
    }
}

/// HTTP/1.0 has no chunks: a body without a length ends with the connection, and a broken one has to end otherwise.
#[tokio::test]
async fn u1_a_client_of_http_1_0_can_tell_over_tls() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n";
    let cut = vec![Step::Send(chunked.into()), Step::Close];
    let whole = vec![Step::Send(format!("{chunked}0\r\n\r\n").into())];
    let backend = Faulty::start(vec![cut, whole]).await;
    let relay = relay(&backend, "").await;
    for (number, is_whole) in [(0, false), (1, true)] {
        let config = relay.tls_client(&["http/1.1"]);
        let mut stream = raw::handshake(relay.https(), config, "localhost").await.unwrap();
        let request = format!("GET /api/v1/fault/{number} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Without TLS's own goodbye the end is an error.
        let end = within("the end", stream.read_to_end(&mut answer)).await;
        assert_eq!(end.is_ok(), is_whole, "{end:?}: {}", answer.escape_ascii());
        assert!(!is_whole || answer.ends_with(b"\r\n\r\ngood"), "{}", answer.escape_ascii());
    }
}
