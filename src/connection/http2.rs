//! The limits of an HTTP/2 connection that are h2's to keep, each of them on purpose. frames.rs and room.rs keep the others.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

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
        .max_local_error_reset_streams(256)
        // Finds clients that are gone without a word.
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
