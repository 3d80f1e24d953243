//! Bodies on their way through: counted, bounded, with a deadline between two frames.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::pool::Lease;
use crate::{
    error::BodyError,
    least_rate::{Allowance, LeastRate},
};

/// Ends a body that stands still, or moves too slowly.
struct Patience {
    allowance: Allowance,
    /// Set up when a body first has to be waited for: most never have to be.
    sleep: Option<Pin<Box<Sleep>>>,
    /// Since when it is waited for.
    waiting: Option<Instant>,
}

impl Patience {
    fn new(rate: LeastRate) -> Self {
        Self { allowance: Allowance::new(rate), sleep: None, waiting: None }
    }

    fn moved(&mut self, bytes: usize) {
        if let Some(since) = self.waiting.take() {
            self.allowance.waited(since.elapsed());
        }
        self.allowance.moved(bytes);
    }

    /// Ready when it was waited for as long as it may be.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.allowance.left();
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if self.waiting.is_none() {
            let now = Instant::now();
            self.waiting = Some(now);
            sleep.as_mut().reset(now + limit);
        }
        sleep.as_mut().poll(cx)
    }
}

/// How far an upload has come, for whoever waits for its response.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    /// Milliseconds after `began` at which a frame last went upstream; `WAITING` while the client owes one.
    moved: AtomicU64,
}

const WAITING: u64 = u64::MAX;

impl Progress {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), moved: AtomicU64::new(0) }
    }

    /// When the backend was last given something. While it is the client that keeps us waiting, that is now:
    /// the upload has a deadline of its own.
    pub(crate) fn last(&self) -> Instant {
        match self.moved.load(Ordering::Relaxed) {
            WAITING => Instant::now(),
            millis => self.began + Duration::from_millis(millis),
        }
    }

    fn moved(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(WAITING - 1);
        self.moved.store(millis, Ordering::Relaxed);
    }

    fn waiting(&self) {
        self.moved.store(WAITING, Ordering::Relaxed);
    }
}

/// A client's body on its way to the backend, without its trailers (attacks.md S8).
pub(crate) struct Upload {
    inner: Incoming,
    /// How many more bytes may come.
    left: u64,
    patience: Patience,
    progress: Arc<Progress>,
}

impl Upload {
    pub(crate) fn new(inner: Incoming, limit: u64, rate: LeastRate, progress: Arc<Progress>) -> Self {
        Self { inner, left: limit, patience: Patience::new(rate), progress }
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
                this.progress.waiting();
                ready!(this.patience.poll_end(cx));
                return Poll::Ready(Some(Err(BodyError::UploadIdle)));
            };
            let length = |frame: &Frame<Bytes>| frame.data_ref().map_or(0, Bytes::len);
            this.patience.moved(frame.as_ref().and_then(|frame| frame.as_ref().ok()).map_or(0, length));
            this.progress.moved();
            let data = match frame {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Client(error)))),
                Some(Ok(frame)) => frame.into_data(),
            };
            let Ok(data) = data else { continue };
            let Some(left) = this.left.checked_sub(data.len() as u64) else {
                return Poll::Ready(Some(Err(BodyError::UploadTooBig)));
            };
            this.left = left;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A backend's body on its way to the client; gives the connection back when it is dropped.
pub(crate) struct Download {
    inner: Incoming,
    /// How many more bytes may come, where a rule has a `max_size`.
    left: Option<u64>,
    /// `None` for an event stream, which may be silent for as long as it likes.
    patience: Option<Patience>,
    /// Dropped after `inner`, so that a body that was not read to its end has closed its connection by then.
    lease: Lease,
}

impl Download {
    pub(crate) fn new(inner: Incoming, limit: Option<u64>, idle: Option<Duration>, lease: Lease) -> Self {
        // Whose connection it is that is slow is not the client's business.
        let any_rate = |pause| Patience::new(LeastRate { pause, bytes_per_second: 0 });
        Self { inner, left: limit, patience: idle.map(any_rate), lease }
    }

    /// Gives up what has not come yet, for good: the backend is to notice as soon as it can.
    pub(crate) fn abandon(self) {
        self.lease.reset_when_dropped();
    }
}

impl http_body::Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
                let Some(patience) = &mut this.patience else {
                    return Poll::Pending;
                };
                ready!(patience.poll_end(cx));
                return Poll::Ready(Some(Err(BodyError::DownloadIdle)));
            };
            if let Some(patience) = &mut this.patience {
                patience.moved(1);
            }
            let data = match frame {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Backend(error)))),
                Some(Ok(frame)) => frame.into_data(),
            };
            let Ok(data) = data else { continue };
            if let Some(left) = &mut this.left {
                match left.checked_sub(data.len() as u64) {
                    Some(rest) => *left = rest,
                    None => return Poll::Ready(Some(Err(BodyError::DownloadTooBig))),
                }
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
