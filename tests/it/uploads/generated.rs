//! attacks.md M1 through sockets: bodies by the thousand, cut and framed at random, to Flask behind the relay.
//!
//! The same bodies as those that the filter's own tests hold against Werkzeug, without sockets.

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{BLOCK_FILES, MESSAGES, shapes::shapes};
use crate::harness::{
    Client, Flask, Relay, Version,
    chance::{Chance, cases},
    kept::Kept,
    within,
};

#[path = "../../../src/form/generators.rs"]
mod generators;
#[path = "../../../src/form/shapes.rs"]
mod strict;

/// A request's `Content-Type` lines and its body.
type Request = (Vec<Vec<u8>>, Vec<u8>);

/// How a body goes to the relay.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    Chunked,
    Http2,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m1_no_generated_body_brings_a_file_to_flask() {
    let flask = Flask::start(&[]).await;
    let relay = Relay::builder().self_signed().toml(BLOCK_FILES).backend(flask.address()).start().await;
    let plain = Relay::builder().toml(BLOCK_FILES).backend(flask.address()).start().await;
    let mut random = generators::Random(0x5eed);
    let mut left = cases(4_000, 100_000);
    let (mut passed, mut tried) = (0, 0);
    while left > 0 {
        let batch: Vec<Request> = (0..left.min(2_000))
            .map(|_| {
                let (content_type, body) = generators::mutant(&mut random);
                (vec![content_type], body)
            })
            .collect();
        left -= batch.len();
        tried += batch.len();
        if tried == batch.len() {
            // Past the relay many of them are files: the test means something.
            let sample = &batch[..500];
            send_all(&relay, flask.address(), sample, |_| Framing::Length).await;
            let files = flask.seen().await.iter().filter(|seen| seen.files > 0).count();
            assert!(files > sample.len() / 10, "only {files} of {} are files to Flask", sample.len());
        }
        let framing = |at: usize| [Framing::Length, Framing::Chunked, Framing::Http2][at % 3];
        let statuses = send_all(&relay, plain.http(), &batch, framing).await;
        let seen = flask.seen().await;
        assert!(seen.iter().all(|seen| seen.files == 0), "a file came through");
        assert!(statuses.iter().all(|status| [200, 400, 403].contains(status)), "{statuses:?}");
        passed += statuses.iter().filter(|status| **status == 200).count();
        assert_eq!(seen.len(), statuses.iter().filter(|status| **status == 200).count(), "none went up cut");
    }
    assert!(passed > tried / 10, "only {passed} of {tried} passed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m1_no_shape_brings_a_file_to_flask_however_it_is_framed() {
    let flask = Flask::start(&[]).await;
    let relay = Relay::builder().self_signed().toml(BLOCK_FILES).backend(flask.address()).start().await;
    let plain = Relay::builder().toml(BLOCK_FILES).backend(flask.address()).start().await;
    let mut requests: Vec<Request> = Vec::new();
    requests.extend(strict::all().into_iter().map(|shape| (vec![shape.content_type.into()], shape.body)));
    requests.extend(
        shapes()
            .into_iter()
            .map(|shape| (shape.content_types.into_iter().map(String::into_bytes).collect(), shape.body)),
    );
    assert!(requests.len() >= 230, "{}", requests.len());
    for framing in [Framing::Length, Framing::Chunked, Framing::Http2] {
        let statuses = send_all(&relay, plain.http(), &requests, |_| framing).await;
        let seen = flask.seen().await;
        assert!(seen.iter().all(|seen| seen.files == 0), "{framing:?}: a file came through");
        for verdict in [strict::Verdict::File, strict::Verdict::Malformed, strict::Verdict::Passes] {
            let status = match verdict {
                strict::Verdict::Passes => 200,
                strict::Verdict::File => 403,
                strict::Verdict::Malformed => 400,
            };
            for (shape, got) in strict::all().iter().zip(&statuses) {
                if shape.verdict == verdict {
                    let body = shape.body[..shape.body.len().min(500)].escape_ascii();
                    assert_eq!(*got, status, "{framing:?}: {} {body}", shape.content_type);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m1_honest_forms_pass_however_they_are_cut() {
    let flask = Flask::start(&[]).await;
    let relay = Relay::builder().self_signed().toml(BLOCK_FILES).backend(flask.address()).start().await;
    let plain = Relay::builder().toml(BLOCK_FILES).backend(flask.address()).start().await;
    let mut random = generators::Random(0xface);
    let forms: Vec<Request> = (0..cases(600, 10_000))
        .map(|_| {
            let (content_type, body, _) = generators::honest(&mut random);
            (vec![content_type.into_bytes()], body)
        })
        .collect();
    let framing = |at: usize| [Framing::Length, Framing::Chunked, Framing::Http2][at % 3];
    let statuses = send_all(&relay, plain.http(), &forms, framing).await;
    assert_eq!(statuses.iter().filter(|status| **status != 200).count(), 0);
    assert_eq!(flask.seen().await.len(), forms.len());
}

/// Sends all of them, eight at a time, and gives the statuses in their order. `relay` is asked over HTTP/2, `address`
/// over HTTP/1.1.
async fn send_all(
    relay: &Relay,
    address: std::net::SocketAddr,
    requests: &[Request],
    framing: impl Fn(usize) -> Framing,
) -> Vec<u16> {
    let mut sending = JoinSet::new();
    for lane in 0..8 {
        let h2 = Client::https(relay, Version::Http2);
        let own: Vec<(usize, Framing, Request)> = requests
            .iter()
            .enumerate()
            .filter(|(at, _)| at % 8 == lane)
            .map(|(at, request)| (at, framing(at), request.clone()))
            .collect();
        sending.spawn(async move {
            let mut chance = Chance::new(lane as u64 + 1);
            let mut kept = Kept::new(address);
            let mut statuses = Vec::new();
            for (at, framing, request) in own {
                let status = match framing {
                    Framing::Http2 => over_http_2(&h2, &request, &mut chance).await,
                    Framing::Length | Framing::Chunked => {
                        kept.exchange(&pieces(framing, &request, &mut chance)).await.0
                    }
                };
                statuses.push((at, status));
            }
            statuses
        });
    }
    let mut statuses: Vec<(usize, u16)> = sending.join_all().await.into_iter().flatten().collect();
    statuses.sort_unstable();
    statuses.into_iter().map(|(_, status)| status).collect()
}

/// Cuts a body in places of chance.
fn cut(body: &[u8], chance: &mut Chance) -> Vec<Vec<u8>> {
    let largest = [3, 20, 200, 100_000][chance.below(4)].max(body.len() / 100);
    let (mut pieces, mut rest) = (Vec::new(), body);
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(rest.len().min(1 + chance.below(largest)));
        pieces.push(piece.to_vec());
        rest = tail;
    }
    pieces
}

fn pieces(framing: Framing, (content_types, body): &Request, chance: &mut Chance) -> Vec<Vec<u8>> {
    let mut head = format!("POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
    for content_type in content_types {
        // What would end the line is another attack.
        let value: Vec<u8> = content_type.iter().copied().filter(|byte| !b"\r\n\0".contains(byte)).collect();
        head.extend([b"Content-Type: ", &value[..], b"\r\n"].concat());
    }
    match framing {
        Framing::Length => {
            head.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            [vec![head], cut(body, chance)].concat()
        }
        Framing::Chunked | Framing::Http2 => {
            head.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            let chunk =
                |piece: Vec<u8>| [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
            let chunks = cut(body, chance).into_iter().map(chunk);
            // Cut once more, through the chunks' own lines.
            let bytes = chunks.chain([b"0\r\n\r\n".to_vec()]).flatten().collect::<Vec<_>>();
            [vec![head], cut(&bytes, chance)].concat()
        }
    }
}

async fn over_http_2(client: &Client, (content_types, body): &Request, chance: &mut Chance) -> u16 {
    let mut call = client.call("POST", MESSAGES);
    for content_type in content_types {
        let value: Vec<u8> = content_type
            .iter()
            .copied()
            .filter(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f)
            .collect();
        call = call.header_bytes("content-type", value.trim_ascii());
    }
    let (call, sender) = call.streamed();
    let feeding = cut(body, chance);
    let feed = async move {
        for piece in feeding {
            // An error: the relay has answered already.
            if sender.send(Bytes::from(piece)).await.is_err() {
                break;
            }
        }
    };
    let (response, ()) = within("an answer over HTTP/2", async { tokio::join!(call.open(), feed) }).await;
    response.status().as_u16()
}
