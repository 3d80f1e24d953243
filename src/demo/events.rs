//! The live stream: an event a second, each with the time it left.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::Frame;
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::{Interval, MissedTickBehavior};

use crate::error::BodyError;

/// An endless body of server-sent events, the first of which is there at once.
pub(super) struct EventStream {
    ticks: Interval,
    /// The number of the last event that was sent.
    sent: u64,
    /// Whether the `retry:` line, which goes before everything, is still to be sent.
    preamble: Option<&'static str>,
    /// When the backend was started.
    started: Instant,
    open: OpenStream,
}

impl EventStream {
    /// A stream whose first event has the number after `last`.
    pub(super) fn after(last: u64, started: Instant, open: OpenStream) -> Self {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        // A reader that was away gets the event of now, not a burst of those that it missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self { ticks, sent: last, preamble: Some("retry: 1000\n\n"), started, open }
    }
}

impl http_body::Body for EventStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        ready!(this.ticks.poll_tick(cx));
        this.sent = this.sent.wrapping_add(1);
        let data = json!({
            "n": this.sent,
            "time": now(),
            "uptime": this.started.elapsed().as_secs(),
            "streams_open": this.open.count(),
        });
        let preamble = this.preamble.take().unwrap_or_default();
        let event = format!("{preamble}id: {}\ndata: {data}\n\n", this.sent);
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }
}

/// How many streams are open.
#[derive(Clone, Default)]
pub(super) struct StreamCount(Arc<AtomicU64>);

/// One open stream; it is counted until it is dropped.
pub(super) struct OpenStream(Arc<AtomicU64>);

impl StreamCount {
    pub(super) fn open(&self) -> OpenStream {
        self.0.fetch_add(1, Ordering::Relaxed);
        OpenStream(self.0.clone())
    }
}

impl OpenStream {
    /// All streams that are open, this one too.
    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The time in UTC with milliseconds, as RFC 3339 writes it.
pub(super) fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let (hour, minute, second, millisecond) = now.time().as_hms_milli();
    format!("{}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z", now.date())
}
