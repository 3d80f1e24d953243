use std::collections::VecDeque;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::wire::tests::{mutated, soup};

const SECOND: Duration = Duration::from_secs(1);
const BOUNDS: Bounds = Bounds { head: 16 << 10, target: 8 << 10, headers: 100 };
const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A connection as hyper reads it.
struct Client<S> {
    reading: Reading,
    requests: Requests,
    stream: S,
}

impl<S> Client<S> {
    fn new(stream: S) -> Self {
        let heads = Heads { within: 10 * SECOND, bounds: BOUNDS };
        Self { reading: Reading::new(heads), requests: Requests::new(), stream }
    }

    /// Answers what hyper was given.
    fn answer(&self) {
        while self.requests.begun() < self.reading.given {
            drop(self.requests.begin());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Client<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.reading.poll(&mut this.stream, &this.requests, cx, buf)
    }
}

fn pair() -> (Client<DuplexStream>, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    (Client::new(ours), theirs)
}

/// What can be read now.
async fn now<S: AsyncRead + Unpin>(client: &mut Client<S>) -> io::Result<Vec<u8>> {
    let mut read = vec![0; 32 << 10];
    match tokio::time::timeout(Duration::from_millis(1), client.read(&mut read)).await {
        Err(_) => Ok(Vec::new()),
        Ok(length) => {
            read.truncate(length?);
            Ok(read)
        }
    }
}

#[tokio::test]
async fn a_head_is_given_when_it_is_whole_and_a_body_as_it_comes() {
    let (mut client, mut peer) = pair();
    for byte in &HEAD[..HEAD.len() - 1] {
        peer.write_all(&[*byte]).await.unwrap();
        assert_eq!(now(&mut client).await.unwrap(), b"");
    }
    peer.write_all(b"\n").await.unwrap();
    assert_eq!(now(&mut client).await.unwrap(), HEAD);
    client.answer();
    let head = b"PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\n";
    peer.write_all(&[head, &b"ab"[..]].concat()).await.unwrap();
    assert_eq!(now(&mut client).await.unwrap(), [head, &b"ab"[..]].concat());
    peer.write_all(b"cdGET").await.unwrap();
    assert_eq!(now(&mut client).await.unwrap(), b"cd");
}

#[tokio::test]
async fn nothing_is_kept_between_requests() {
    let (mut client, mut peer) = pair();
    for _ in 0..3 {
        peer.write_all(&HEAD[..9]).await.unwrap();
        assert_eq!(now(&mut client).await.unwrap(), b"");
        peer.write_all(&HEAD[9..]).await.unwrap();
        assert_eq!(now(&mut client).await.unwrap(), HEAD);
        client.answer();
        peer.write_all(b"\r\n\r\n").await.unwrap();
        assert_eq!(now(&mut client).await.unwrap(), b"");
        assert_eq!((client.reading.held.capacity(), client.reading.since), (0, None));
    }
}

#[tokio::test]
async fn s9_a_request_waits_until_the_one_before_it_is_answered() {
    let (mut client, mut peer) = pair();
    peer.write_all(&HEAD.repeat(3)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(now(&mut client).await.unwrap(), HEAD);
        assert_eq!(now(&mut client).await.unwrap(), b"");
        let in_flight = client.requests.begin();
        assert_eq!(now(&mut client).await.unwrap(), b"");
        drop(in_flight);
    }
}

#[tokio::test]
async fn s9_a_request_that_waits_is_read_as_soon_as_the_one_before_it_is_answered() {
    for behind in [HEAD.to_vec(), vec![b'x'; BOUNDS.head * 2]] {
        let (mut client, mut peer) = pair();
        peer.write_all(HEAD).await.unwrap();
        client.read_exact(&mut [0; HEAD.len()]).await.unwrap();
        let in_flight = client.requests.begin();
        peer.write_all(&behind).await.unwrap();
        let reading = tokio::spawn(async move { client.read_u8().await.unwrap() });
        tokio::task::yield_now().await;
        drop(in_flight);
        let read = tokio::time::timeout(SECOND, reading).await.expect("it is woken").unwrap();
        assert!(read == b'G' || read == b'-');
    }
}

#[tokio::test]
async fn k3_a_client_that_leaves_after_a_second_request_is_seen_to_leave() {
    let (mut client, mut peer) = pair();
    peer.write_all(&HEAD.repeat(2)).await.unwrap();
    client.read_exact(&mut [0; HEAD.len()]).await.unwrap();
    let _in_flight = client.requests.begin();
    drop(peer);
    assert_eq!(client.read(&mut [0; 64]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_comes_before_its_turn_has_a_bound() {
    let (mut client, mut peer) = pair();
    peer.write_all(HEAD).await.unwrap();
    client.read_exact(&mut [0; HEAD.len()]).await.unwrap();
    let flood = tokio::spawn(async move { while peer.write_all(&[b'x'; 1024]).await.is_ok() {} });
    for _ in 0..100 {
        assert_eq!(now(&mut client).await.unwrap(), b"");
    }
    assert!(client.reading.held.len() <= BOUNDS.head + (32 << 10), "{}", client.reading.held.len());
    drop(client);
    flood.await.unwrap();
}

#[tokio::test]
async fn s5_what_is_no_head_is_replaced_and_nothing_after_it_is_read() {
    for (bytes, replaced) in [
        (&b"GET / HTTP/1.1\nHost: a\r\n\r\nGET /x"[..], &b"GET / HTTP/1.1\r\n\r\n"[..]),
        (b"HEAD / HTTP/1.1\r\nHost : a\r\n", b"HEAD / HTTP/1.1\r\n\r\n"),
        (b"\x16\x03\x01\r\n\r\n", b"- / HTTP/1.1\r\n\r\n"),
        (b"BREW / HTTP/1.1\r\n x\r\n", b"- / HTTP/1.1\r\n\r\n"),
    ] {
        let (mut client, mut peer) = pair();
        peer.write_all(bytes).await.unwrap();
        assert_eq!(now(&mut client).await.unwrap(), replaced);
        peer.write_all(HEAD).await.unwrap();
        assert_eq!(now(&mut client).await.unwrap(), b"");
        assert!(client.requests.refused().is_some());
    }
}

#[tokio::test]
async fn s9_what_is_no_head_behind_a_body_never_becomes_part_of_it() {
    let (mut client, mut peer) = pair();
    let request = b"PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    peer.write_all(&[&request[..], b"GET / HTTP/1.1\n"].concat()).await.unwrap();
    assert_eq!(now(&mut client).await.unwrap(), request);
    assert_eq!(now(&mut client).await.unwrap(), b"");
    assert_eq!(client.requests.refused(), None);
    client.answer();
    assert_eq!(now(&mut client).await.unwrap(), b"GET / HTTP/1.1\r\n\r\n");
}

#[tokio::test]
async fn s7_a_body_that_breaks_is_given_up_to_there_and_then_an_error() {
    let (mut client, mut peer) = pair();
    let good = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    peer.write_all(&[&good[..], b"x\r\n"].concat()).await.unwrap();
    assert_eq!(now(&mut client).await.unwrap(), good);
    let error = now(&mut client).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.get_ref().unwrap().is::<BodyFault>());
}

#[tokio::test(start_paused = true)]
async fn l1_a_head_that_drips_is_refused_after_its_limit() {
    let (mut client, mut peer) = pair();
    let drip = tokio::spawn(async move {
        while peer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(SECOND).await;
        }
    });
    let began = Instant::now();
    client.read_u8().await.unwrap();
    assert!((10..=11).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(client.requests.refused(), Some(Fault::Late));
    drop(client);
    drip.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn l1_between_two_requests_nothing_is_owed() {
    let (mut client, mut peer) = pair();
    peer.write_all(HEAD).await.unwrap();
    client.read_exact(&mut [0; HEAD.len()]).await.unwrap();
    client.answer();
    peer.write_all(b"\r\n").await.unwrap();
    assert!(tokio::time::timeout(600 * SECOND, client.read_u8()).await.is_err());
}

type Kind = std::mem::Discriminant<Fault>;

/// A stream that gives these pieces, one a read.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// All that hyper is given of these pieces, into buffers of this size, and how it ends.
async fn given(pieces: Vec<Vec<u8>>, size: usize) -> (Vec<u8>, Option<Kind>, Option<String>) {
    let mut client = Client::new(Pieces(pieces.into()));
    let (mut all, mut buf) = (Vec::new(), vec![0; size]);
    // What is wrong with a line may be seen before its end has come: the words differ then, and no more.
    let refused = |client: &Client<_>| client.requests.refused().map(|fault| std::mem::discriminant(&fault));
    loop {
        let read = tokio::select! {
            biased;
            read = client.read(&mut buf) => read,
            // It waits for the answer to what was refused.
            () = std::future::ready(()) => Ok(0),
        };
        match read {
            Ok(0) => return (all, refused(&client), None),
            Ok(length) => all.extend_from_slice(&buf[..length]),
            Err(error) => return (all, refused(&client), Some(error.to_string())),
        }
        client.answer();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_hyper_is_given_does_not_depend_on_how_the_bytes_are_cut(
        bytes in prop_oneof![soup(), mutated()],
        cuts in prop::collection::vec(1_usize..40, 0..60),
        size in 1_usize..200,
    ) {
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece.to_vec());
            rest = after;
        }
        pieces.push(rest.to_vec());
        pieces.retain(|piece| !piece.is_empty());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let cut = runtime.block_on(given(pieces, size));
        let whole = runtime.block_on(given(vec![bytes.clone()], 64 << 10));
        prop_assert_eq!(cut, whole, "{:?}", String::from_utf8_lossy(&bytes));
    }
}
