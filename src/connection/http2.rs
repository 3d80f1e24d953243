//! The limits of an HTTP/2 connection that are h2's to keep, each of them on purpose. frames.rs and room.rs keep the others.

use std::{future::poll_fn, pin::pin, task::Poll};

use hyper::{rt::Executor, server::conn::http2::Builder};
use hyper_util::rt::TokioTimer;

use super::{frames::RESETS_AT_ONCE, room::Portion};
use crate::in_flight::Requests;

/// Runs the streams of a connection.
///
/// SECURITY: hyper does not poll a body that HTTP/2 flow control holds back, so the body's own deadline sleeps while it
/// keeps a connection to the backend (attacks.md A1, zero window). A stream whose body is given up is dropped with all
/// that it has, and h2 resets it.
#[derive(Clone)]
pub(super) struct Streams(Requests);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let requests = self.0.clone();
        tokio::spawn(async move {
            let mut stream = pin!(stream);
            poll_fn(|cx| {
                if requests.has_given_up(cx.waker()) {
                    return Poll::Ready(());
                }
                stream.as_mut().poll(cx)
            })
            .await;
        });
    }
}

/// For the connection of these requests, whose heads may have `head_size` bytes.
pub(super) fn builder(head_size: usize, requests: Requests, portion: Portion) -> Builder<Streams> {
    let mut builder = Builder::new(Streams(requests));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(portion.streams())
        // Beyond it a request is answered 431, and beyond four times of it the connection ends: an HPACK bomb
        // is never unpacked. CONTINUATION frames are counted against it too.
        .max_header_list_size(u32::try_from(head_size).unwrap_or(u32::MAX))
        // The least there is (RFC 9113 6.5.2): a frame is held whole until it is read.
        .max_frame_size(16 << 10)
        .header_table_size(4 << 10)
        // What clients may send before the backend takes it is held here: 20 Mbit/s an upload at a round trip of 100
        // ms, of a client with few connections.
        .initial_stream_window_size(portion.upload())
        .initial_connection_window_size(portion.uploads())
        // What h2 takes of a response at once; what all responses may hold is room.rs's.
        .max_send_buf_size(64 << 10)
        // Streams taken back before we looked at them, in one packet: as many as may be at once at all. h2's own 20
        // are less than a browser may have open here.
        .max_pending_accept_reset_streams(RESETS_AT_ONCE as usize)
        // Streams that we had to reset for the client's faults, over a connection's life (MadeYouReset, CVE-2025-8671):
        // each may have cost the backend a request. An honest client is at fault for an upload that was answered
        // early, with up to 16 frames when it hears of that late, and for streams it opens before it knows our limit.
        .max_local_error_reset_streams(256);
    // No PING to see whether the client is there: it would wait behind what the client has not taken yet, minutes of it
    // on a slow way with large buffers, and end a download that goes on. TCP itself finds who is gone (tcp.rs), and who
    // takes nothing is ended by paced.rs.
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::rt::TokioIo;
    use std::{convert::Infallible, time::Duration};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A client that takes what lies before it slowly answers a PING late, and one that sleeps not at all.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_for_an_hour_keeps_its_stream_as_far_as_http2_goes() {
        let (ours, mut client) = tokio::io::duplex(1 << 16);
        let answer = service_fn(|_: Request<Incoming>| async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
        });
        let builder = builder(16 << 10, Requests::new(), Portion::WHOLE);
        tokio::spawn(builder.serve_connection(TokioIo::new(ours), answer));
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        // GET, http, /, and a host (RFC 7541, appendix A).
        let request = [0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 1, b'a'];
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.write_all(&[&settings[..], &request].concat()).await.unwrap();
        let mut kinds = Vec::new();
        while kinds.last() != Some(&1) {
            let mut head = [0; 9];
            client.read_exact(&mut head).await.expect("the connection goes on");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            client.read_exact(&mut vec![0; length as usize]).await.unwrap();
            kinds.push(head[3]);
        }
        assert!(!kinds.contains(&6), "{kinds:?}");
    }
}
