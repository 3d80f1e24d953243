//! Frames that a client sends on a connection of their own, and what must become of them.

use crate::harness::{
    Backend, Frames, Relay, Reply,
    frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, WINDOW_UPDATE, block, frame},
    within,
};

/// Error codes (RFC 9113, section 7).
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const STREAM_CLOSED: u32 = 5;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const COMPRESSION_ERROR: u32 = 9;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// A request to this path is in order; its answer never comes.
pub(crate) const PENDING: &str = "/pending";
/// The path of requests that must not reach the backend.
pub(crate) const REFUSED: &str = "/refused";
/// The path of requests that show that all is well.
pub(crate) const SERVED: &str = "/served";

/// What becomes of what a client sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// An answer.
    Status(u16),
    /// RST_STREAM; the connection goes on.
    Stream(u32),
    /// GOAWAY, and the connection ends.
    Connection(u32),
    /// The connection ends without a word.
    Closed,
}

/// What is wrong, the frames after the preface and SETTINGS, and what must become of them.
pub(crate) type Case = (&'static str, Vec<u8>, Outcome);

/// HEADERS that begin and end a block.
pub(crate) fn headers<N: AsRef<[u8]>, V: AsRef<[u8]>>(flags: u8, stream: u32, fields: &[(N, V)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(fields))
}

/// The fields of a request that is in order.
pub(crate) fn request<'a>(method: &'a str, path: &'a str) -> [(&'a str, &'a str); 4] {
    [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
}

/// A GET that is in order and gets no answer.
pub(crate) fn pending(stream: u32) -> Vec<u8> {
    headers(END_STREAM, stream, &request("GET", PENDING))
}

/// The head of a POST that is in order, and whose body is to come.
pub(crate) fn open(stream: u32) -> Vec<u8> {
    headers(0, stream, &request("POST", PENDING))
}

/// What a stream may carry at first, and so how much is too much.
pub(crate) const OUR_WINDOW: usize = 256 << 10;
/// The largest payload (SETTINGS_MAX_FRAME_SIZE).
pub(crate) const LARGEST: usize = 16 << 10;

/// The client takes a stream back.
pub(crate) fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Lets the relay send more.
pub(crate) fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

/// The payload of PRIORITY.
pub(crate) fn depends_on(stream: u32) -> [u8; 5] {
    let [a, b, c, d] = stream.to_be_bytes();
    [a, b, c, d, 15]
}

/// The block of a GET, in two.
pub(crate) fn halves(path: &str) -> (Vec<u8>, Vec<u8>) {
    let whole = block(&request("GET", path));
    let (one, two) = whole.split_at(20);
    (one.to_vec(), two.to_vec())
}

/// Runs the cases, and fails telling of each whose outcome is another, or that let anything whole through to the
/// backend.
pub(crate) async fn run(cases: Vec<Case>) {
    let (backend, relay) = served_by().await;
    let mut wrong = Vec::new();
    for (name, bytes, wanted) in &cases {
        let before = backend.requests().len();
        let outcome = outcome(&relay, bytes).await;
        if outcome != *wanted {
            wrong.push(format!("{name}: {outcome:?}, and not {wanted:?}"));
        }
        let requests = backend.requests();
        // A head may have gone before its body was seen to be wrong: a request that never ends is none.
        let through = requests[before..]
            .iter()
            .find(|request| request.ended.is_some() && ![PENDING, SERVED].contains(&request.path()));
        if let Some(request) = through {
            wrong.push(format!("{name}: the backend got {:?}", request.head));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{} cases", cases.len());
}

/// A relay, and the backend that its answers come from.
pub(crate) async fn served_by() -> (Backend, Relay) {
    let backend = Backend::builder().on(PENDING, |_| Reply::silence()).start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    (backend, relay)
}

/// What becomes of `bytes`. Where the connection should go on, it must.
pub(crate) async fn outcome(relay: &Relay, bytes: &[u8]) -> Outcome {
    const LAST: u32 = 9001;
    let mut frames = Frames::open(relay, &[]).await;
    frames.write(bytes).await;
    let outcome = within("an outcome", async {
        loop {
            let Some(frame) = frames.next().await else { return Outcome::Closed };
            match frame.kind {
                HEADERS => return Outcome::Status(frame.status()),
                RST_STREAM => return Outcome::Stream(frame.error_code()),
                GOAWAY => return Outcome::Connection(frame.error_code()),
                _ => {}
            }
        }
    })
    .await;
    match outcome {
        Outcome::Closed => {}
        Outcome::Connection(_) => frames.until_closed().await,
        Outcome::Status(_) | Outcome::Stream(_) => {
            frames.get(LAST, SERVED).await;
            within("an answer on the same connection", async {
                loop {
                    let frame = frames.next().await.expect("the connection goes on");
                    if frame.stream == LAST && frame.kind != DATA {
                        assert_eq!(frame.kind, HEADERS, "{frame:?}");
                        assert_eq!(frame.status(), 200);
                        return;
                    }
                }
            })
            .await;
        }
    }
    outcome
}
