//! Request bodies: how much of them, and `block_files` against Werkzeug (attacks.md M1).

mod generated;
mod real_clients;
mod shapes;

use bytes::Bytes;

use crate::harness::{Answer, Backend, Client, Flask, Raw, Relay, on_h1_and_h2, raw};
use shapes::{Part, Shape, form, shapes};

const BLOCK_FILES: &str = r#"
    [[paths]]
    prefix = "/api/v1/channel"
    action = "proxy"
    block_files = true
"#;
const MESSAGES: &str = "/api/v1/channel/1/messages";

on_h1_and_h2! {
    async fn m1_a_file_is_403_and_a_plain_form_goes_through(version) {
        let flask = Flask::start(&[]).await;
        let relay = Relay::builder().self_signed().toml(BLOCK_FILES).backend(flask.address()).start().await;
        let client = Client::https(&relay, version);
        let file = Part::file("files", "a.txt", "text");
        let fields = [Part::field("content", "a\r\nb"), Part::field("content", "ü \"q\""), Part::field("empty", "")];

        for parts in [&[file.clone()][..], &[fields[0].clone(), file.clone(), fields[1].clone()]] {
            let answer = post(&client, &form("x", parts)).await;
            answer.assert_error(403, "file uploads are not allowed");
        }
        assert_eq!(flask.seen().await.iter().map(|seen| seen.files).sum::<usize>(), 0);

        let answer = post(&client, &form("x", &fields)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.json()["form"],
            serde_json::json!([["content", "a\r\nb"], ["content", "ü \"q\""], ["empty", ""]])
        );
    }

    async fn m1_a_file_ends_the_upload_at_once(version) {
        let flask = Flask::start(&[]).await;
        let relay = Relay::builder().self_signed().toml(BLOCK_FILES).backend(flask.address()).start().await;
        let client = Client::https(&relay, version);
        let (call, body) = client
            .call("POST", MESSAGES)
            .header("content-type", "multipart/form-data; boundary=x")
            .streamed();
        let head = "--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\n";
        body.try_send(Bytes::from(head)).unwrap();
        // The body never ends.
        let answer = call.open().await;
        assert_eq!(answer.status(), 403);
        drop(body);
    }

    async fn max_content_length_is_413_before_anything_is_sent(version) {
        let backend = Backend::start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[server]\nmax_content_length = 1000")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let answer = client.call("POST", "/api/v1/x").body(vec![0; 1001]).send().await;
        answer.assert_error(413, "content too big");
        assert_eq!(backend.requests().len(), 0);
        assert_eq!(client.call("POST", "/api/v1/x").body(vec![0; 1000]).send().await.status, 200);
        assert_eq!(backend.only().length, 1000);
    }

    async fn max_content_length_is_413_at_the_byte_that_passes_it(version) {
        let backend = Backend::start().await;
        let relay = Relay::builder()
            .self_signed()
            .backend(backend.address())
            .toml("[server]\nmax_content_length = 1000")
            .start()
            .await;
        let client = Client::https(&relay, version);
        let (call, body) = client.call("POST", "/api/v1/x").streamed();
        let feeding = tokio::spawn(async move {
            for _ in 0..11 {
                // An error: the relay has answered already.
                if body.send(Bytes::from(vec![0; 100])).await.is_err() {
                    break;
                }
            }
        });
        let answer = call.open().await;
        assert_eq!(answer.status(), 413);
        feeding.await.unwrap();
        backend.wait("the relay to give up", |requests| requests.iter().all(|request| request.abandoned)).await;
        assert!(backend.requests().iter().all(|request| request.length <= 1000 && request.ended.is_none()));

        let (call, body) = client.call("POST", "/api/v1/y").streamed();
        body.try_send(Bytes::from(vec![0; 1000])).unwrap();
        drop(body);
        assert_eq!(call.send().await.status, 200, "exactly as much is allowed");
        assert_eq!(backend.last().length, 1000);
    }

    async fn other_bodies_than_forms_are_untouched_by_block_files(version) {
        let backend = Backend::start().await;
        let relay = Relay::builder().self_signed().toml(BLOCK_FILES).backend(backend.address()).start().await;
        let client = Client::https(&relay, version);
        for (content_type, body) in [
            ("application/json", "{\"a\": \"--x\\r\\nfilename=\"}"),
            ("application/x-www-form-urlencoded", "a=1&b=%20+&filename=x"),
            ("text/plain; charset=utf-8", "--x\r\n"),
        ] {
            let answer = client.call("POST", MESSAGES).header("content-type", content_type).body(body).send().await;
            assert_eq!(answer.status, 200);
            assert_eq!(backend.last().body, body.as_bytes());
            assert_eq!(backend.last().header("content-type"), Some(content_type));
        }
        let answer = client.call("POST", MESSAGES).send().await;
        assert_eq!(answer.status, 200, "no body is no file");
    }
}

#[tokio::test]
async fn m1_no_file_reaches_werkzeug_in_any_shape() {
    let flask = Flask::start(&[]).await;
    let relay = Relay::builder().toml(BLOCK_FILES).backend(flask.address()).start().await;
    let shapes = shapes();
    assert!(shapes.len() >= 60, "{}", shapes.len());
    let mut real = Vec::new();
    for Shape { name, content_types, body } in &shapes {
        let request = request(content_types, body);

        // Past the relay: does Werkzeug see a file in it?
        let mut direct = Raw::plain(flask.address()).await;
        direct.send(&request).await;
        direct.read_to_end().await;
        let is_file = flask.seen().await.iter().any(|seen| seen.files > 0);
        if is_file {
            real.push(name);
        }

        let mut through = Raw::plain(relay.http()).await;
        // The relay may answer before it has read all.
        through.try_send(&request).await;
        let answer = String::from_utf8_lossy(&through.read_to_end().await).into_owned();
        let seen = flask.seen().await;
        assert!(seen.iter().all(|seen| seen.files == 0), "{name}: {seen:?}");
        let status = raw::status(&answer);
        // What is no file to Werkzeug may be a plain form to the relay too.
        assert!([400, 403].contains(&status) || !is_file && status == 200, "{name}: {answer}");
    }
    assert!(real.len() >= 30, "only these are files to Werkzeug: {real:?}");
}

#[tokio::test]
async fn m1_a_form_that_two_parsers_read_in_two_ways_is_400() {
    let backend = Backend::start().await;
    let relay = Relay::builder().toml(BLOCK_FILES).backend(backend.address()).start().await;
    let ambiguous = [
        "two Content-Types",
        "two Content-Types, turned round",
        "multipart/form-data; boundary=x; boundary=y",
        "multipart/form-data; boundary*=UTF-8''x",
        "LF alone",
        "CR alone",
        "no blank line in a plain form",
        "no final boundary of a plain form",
        "no last line end before the final boundary",
    ];
    let shapes = shapes();
    for name in ambiguous {
        let shape = shapes.iter().find(|shape| shape.name == name).unwrap();
        let mut raw = Raw::plain(relay.http()).await;
        raw.send(request(&shape.content_types, &shape.body)).await;
        let answer = String::from_utf8(raw.read_to_end().await).unwrap();
        assert_eq!(raw::status(&answer), 400, "{name}: {answer}");
    }
    assert!(backend.requests().iter().all(|request| request.ended.is_none()), "none went up whole");
}

#[tokio::test]
async fn m1_honest_forms_arrive_value_for_value() {
    let flask = Flask::start(&[]).await;
    let relay = Relay::builder().toml(BLOCK_FILES).backend(flask.address()).start().await;
    let client = Client::http(relay.http());
    let long = "0123456789abcdef\r\n".repeat(15_000);
    let values = [
        ("content", "hello"),
        ("content", "again"),
        ("empty", ""),
        ("lines", "a\r\nb\nc\rd\r\n"),
        ("dashes", "--\r\n--x\r\n----WebKitFormBoundary"),
        ("text", "سلام 🎉 é"),
        ("filename", "filename=\"a.txt\""),
        ("long", &long),
    ];
    let parts: Vec<Part> = values.iter().map(|(name, value)| Part::field(name, value)).collect();
    let expected: Vec<[&str; 2]> = values.iter().map(|(name, value)| [*name, *value]).collect();
    for boundary in [
        // Chromium, Firefox, curl, httpx and Python's requests, Safari's older form.
        "----WebKitFormBoundary7MA4YWxkTrZu0gW",
        "---------------------------9051914041544843365972754266",
        "------------------------d74496d66958873e",
        "3a8b1a0c8e3f4d2bb0ad5c5a2d9e7f60",
        "----geckoformboundary4b5e6f",
        "0",
    ] {
        let answer = post(&client, &form(boundary, &parts)).await;
        assert_eq!(answer.status, 200, "{boundary}: {answer:?}");
        assert_eq!(answer.json()["form"], serde_json::json!(expected), "{boundary}");
        assert_eq!(answer.json()["files"], serde_json::json!([]));
    }
    let quoted = Shape {
        // Python's email package.
        content_types: vec![
            "multipart/form-data; boundary=\"===============7330845974216740156==\"".to_owned(),
        ],
        ..form("===============7330845974216740156==", &parts)
    };
    let answer = post(&client, &quoted).await;
    assert_eq!(answer.json()["form"], serde_json::json!(expected), "{answer:?}");
    let none = form("x", &[]);
    assert_eq!(post(&client, &none).await.status, 200, "a form without fields");
}

#[tokio::test]
async fn without_block_files_forms_with_files_pass_byte_for_byte() {
    let backend = Backend::start().await;
    let relay = Relay::builder().backend(backend.address()).start().await;
    let shape = form("x", &[Part::file("files", "a.bin", "\0\u{1}\r\n--y"), Part::field("content", "")]);
    let answer = post(&Client::http(relay.http()), &shape).await;
    assert_eq!(answer.status, 200);
    assert_eq!(backend.only().body, shape.body);
    assert_eq!(backend.only().header("content-type"), Some(&*shape.content_types[0]));
}

async fn post(client: &Client, shape: &Shape) -> Answer {
    let mut call = client.call("POST", MESSAGES);
    for content_type in &shape.content_types {
        call = call.header("content-type", content_type);
    }
    call.body(shape.body.clone()).send().await
}

fn request(content_types: &[String], body: &[u8]) -> Vec<u8> {
    let mut request = format!("POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for content_type in content_types {
        request.push_str(&format!("Content-Type: {content_type}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [request.as_bytes(), body].concat()
}
