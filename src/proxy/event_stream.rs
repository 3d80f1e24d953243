//! Stream continuity: an EventSource that is never told anything but what it can live with.
//!
//! A browser's EventSource gives up for good on any answer but 200 (measured: one 502 while the backend
//! restarts ends live updates in every open tab); a 200 that ends is opened again after `retry:`. So a stream
//! whose backend cannot be had is answered 200 and kept open with comments, and joined to the backend's own
//! stream as soon as that can be opened; and a running stream that the backend breaks ends well.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, ORIGIN, RETRY_AFTER},
};
use http_body::Frame;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Interval, MissedTickBehavior},
};

use super::{
    live_stream::Live,
    pace::{self, Pace},
    send::{Answer, Errand, Sender},
    stream::{Download, Progress},
};
use crate::{
    body::Body,
    budget::{Budget, share::Share},
    client::Client,
    drain::Drain,
    error::BodyError,
    framing::is_event_stream,
    metrics::Counted,
};

/// Between two comments on a stream that waits: proxies on the way close what is silent for half a minute.
const COMMENT_EVERY: Duration = Duration::from_secs(10);
const COMMENT: &[u8] = b": waiting for the server\n\n";
/// The pauses between two tries for one stream.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// When a browser comes back: spread, so that a thousand do not come in one instant.
const COME_BACK: std::ops::Range<Duration> = Duration::from_millis(500)..Duration::from_secs(3);

/// How long a stream that its client has left still counts where streams are bounded: its Waitress thread ends with the second write after
/// a reset (measured; the third after a plain close), and Sova writes a comment every 10 s. If it did not count, a
/// reload of every tab would take the threads that are left to ordinary requests.
pub(super) const LINGER: Duration = Duration::from_secs(20);

/// One client has at most this part of the slots, so that no one can have them all.
const PARTS: usize = 2;

/// How event streams of an origin are kept.
pub(crate) struct Streams {
    /// One permit for each stream that the origin feeds.
    pub(crate) slots: Budget,
    /// How long a stream waits for the origin.
    pub(crate) hold_for: Duration,
    pub(crate) bounded_by: Bound,
    /// Says when the relay ends: streams end first, since they never would by themselves.
    pub(crate) drain: Drain,
}

/// What runs out first when an origin feeds too many streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Bound {
    /// Our connections to it: one is free as soon as it is closed.
    Connections,
    /// What it feeds them with, such as threads: free when it has noticed.
    Origin,
}

impl Streams {
    /// A slot for a stream that nobody asked for as one; `None`: they are taken, or the client's share of them is.
    ///
    /// SECURITY: what makes it a stream is the answer. Without a slot a client that leaves `Accept` away has more than
    /// its share, and all of them more than the backend feeds.
    pub(super) fn slot(&self, client: &Client, sender: &Sender) -> Option<Slot> {
        let place = (self.slots.try_share(client, PARTS)?, self.slots.try_take().ok()?);
        Some(Slot { place, bounded_by: self.bounded_by, _live: sender.health.metrics().live.count() })
    }
}

/// A stream that a client asked for, to be opened as often as it takes.
pub(super) struct Wanted {
    pub(super) sender: Arc<Sender>,
    pub(super) slots: Budget,
    pub(super) hold_for: Duration,
    pub(super) bounded_by: Bound,
    pub(super) drain: Drain,
    pub(super) client: Client,
    /// The largest response body, in bytes.
    pub(super) limit: Option<u64>,
    /// Without a body.
    pub(super) request: Request<()>,
}

/// What came of a try.
pub(super) enum Tried {
    /// The backend's own stream.
    Live(Answer, Slot),
    /// Another answer, which the client is to see: 401, 403, 404 … It keeps its place until it has one as a request.
    Other(Answer, Place),
    /// Nothing that an EventSource can live with.
    Later(Later),
}

/// A stream's share of the budget, counted.
pub(super) struct Slot {
    pub(super) place: Place,
    pub(super) bounded_by: Bound,
    _live: Counted,
}

/// What a stream takes: of its client's share first, then of the budget. Dropped together.
pub(super) type Place = (Share, OwnedSemaphorePermit);

/// When to try again.
pub(super) enum Later {
    /// When the pace says so.
    Paced,
    /// When the backend said so.
    At(Instant),
    /// When another stream has ended, of the same client where that has its share.
    SlotFree,
}

impl Wanted {
    /// Tries once to open the stream.
    pub(super) async fn attempt(&self) -> Tried {
        let Some(share) = self.slots.try_share(&self.client, PARTS) else {
            return Tried::Later(Later::SlotFree);
        };
        match self.slots.try_take() {
            Ok(permit) => self.attempt_in((share, permit)).await,
            Err(_) => Tried::Later(Later::SlotFree),
        }
    }

    async fn attempt_in(&self, place: Place) -> Tried {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = self.request.uri().clone();
        *request.headers_mut() = self.request.headers().clone();
        let sent = self.sender.send(request, &self.client, &Progress::new(), Errand::Stream).await;
        let Ok(answer) = sent else {
            return Tried::Later(Later::Paced);
        };
        match answer.0.status() {
            StatusCode::OK if is_event_stream(answer.0.headers()) => {
                let (bounded_by, live) = (self.bounded_by, self.sender.health.metrics().live.count());
                Tried::Live(answer, Slot { place, bounded_by, _live: live })
            }
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
            // Nobody asked for another protocol.
            | StatusCode::SWITCHING_PROTOCOLS => Tried::Later(Later::Paced),
            StatusCode::TOO_MANY_REQUESTS => {
                Tried::Later(reset(answer.0.headers(), SystemTime::now()).map_or(Later::Paced, Later::At))
            }
            _ => Tried::Other(answer, place),
        }
    }

    /// The answer to a stream that cannot be opened yet: 200, and a body that goes on trying.
    pub(super) fn hold(mut self, later: Later) -> Response<Body> {
        let is_cross_origin = self.request.headers().contains_key(ORIGIN);
        own_values(self.request.headers_mut());
        let outlet = Outlet::default();
        let state = State::Waiting(Box::pin(drive(self, later, outlet.clone())));
        response(Body::stream(Held { state, outlet }), is_cross_origin)
    }

    /// SECURITY: whether the page that asked may read a stream with these headers, as a browser decides it.
    fn may_be_read(&self, headers: &HeaderMap) -> bool {
        self.request.headers().get(ORIGIN).is_none_or(|origin| {
            headers
                .get(ACCESS_CONTROL_ALLOW_ORIGIN)
                .is_some_and(|allowed| allowed == "*" || allowed == origin)
        })
    }
}

/// The answer to a stream that its client asked for too often: one that ends, and is opened again after a while.
pub(crate) fn come_back_later(request: &HeaderMap) -> Response<Body> {
    response(Body::full(come_back()), request.contains_key(ORIGIN))
}

/// A stream of our own.
fn response(body: Body, is_cross_origin: bool) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if is_cross_origin {
        // Without it another site's EventSource is lost for good; our comments are no secret. What the
        // backend says is passed on only where it allows that itself.
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    response
}

/// When a 429 says that its time is over: `Retry-After` in seconds, or `X-RateLimit-Reset`, which Sova gives as
/// a Unix time.
fn reset(headers: &HeaderMap, now: SystemTime) -> Option<Instant> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let wait = number(RETRY_AFTER.as_str()).map(Duration::from_secs).or_else(|| {
        let reset = number("x-ratelimit-reset")?;
        // A number this large counts milliseconds.
        let reset =
            if reset > 100_000_000_000 { Duration::from_millis(reset) } else { Duration::from_secs(reset) };
        Some(reset.saturating_sub(now.duration_since(UNIX_EPOCH).ok()?))
    })?;
    // A moment after, by chance: all that were refused together would come back together.
    Instant::now().checked_add(wait.min(Duration::from_secs(3600)) + pace::between(PAUSES.0..PAUSES.1))
}

/// The retry field for one client.
pub(super) fn come_back() -> Bytes {
    format!("retry: {}\n\n", pace::between(COME_BACK).as_millis()).into()
}

/// Keeps a stream open until the backend's can be joined, and gives that; `None`: the browser is to come back.
async fn drive(wanted: Wanted, mut later: Later, outlet: Outlet) -> Option<Live> {
    let _held = wanted.sender.health.metrics().held.count();
    let mut give_up = std::pin::pin!(tokio::time::sleep(wanted.hold_for));
    let mut ending = wanted.drain.ending();
    let mut comments = Comments::new(&outlet);
    let mut pace = Pace::new(PAUSES);
    outlet.offer([come_back(), Bytes::from_static(COMMENT)].concat().into());
    loop {
        let next = async {
            match later {
                Later::Paced => tokio::time::sleep(pace.next()).await,
                Later::At(at) => tokio::time::sleep_until(at).await,
                Later::SlotFree => {}
            }
            let share = wanted.slots.share(&wanted.client, PARTS).await;
            // The semaphore is never closed.
            match wanted.slots.take().await {
                // Boxed: a stream that waits does not carry the room that a try takes (measured: 5 KB of 7).
                Ok(permit) => Box::pin(wanted.attempt_in((share, permit))).await,
                Err(_) => Tried::Later(Later::Paced),
            }
        };
        let tried = tokio::select! {
            tried = comments.during(next) => tried,
            // The browser comes back, and its stream is held anew.
            () = &mut give_up => {
                wanted.sender.health.metrics().given_up.add();
                return None;
            }
            () = &mut ending => return None,
            () = wanted.sender.replaced.cancelled() => return None,
        };
        match tried {
            Tried::Live((response, _), _) if !wanted.may_be_read(response.headers()) => return None,
            Tried::Live((response, lease), slot) => {
                let download = Download::new(response.into_body(), wanted.limit, None, lease);
                return Some(Live::new(download, Some(slot), &wanted.drain));
            }
            // The browser comes back to get this answer itself: a 200 has been said already.
            Tried::Other(..) => return None,
            Tried::Later(again) => later = again,
        }
    }
}

/// The comments that keep a waiting stream open.
struct Comments<'a> {
    outlet: &'a Outlet,
    tick: Interval,
}

impl<'a> Comments<'a> {
    fn new(outlet: &'a Outlet) -> Self {
        let mut tick = tokio::time::interval_at(Instant::now() + COMMENT_EVERY, COMMENT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { outlet, tick }
    }

    /// Does `work`, and writes comments meanwhile.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = self.tick.tick() => self.outlet.offer(Bytes::from_static(COMMENT)),
            }
        }
    }
}

/// What a driver has to say until its stream is joined. The body polls the driver and takes what it said, in one
/// task, so that nobody has to be woken: a channel would be three times the rest of a held stream's state.
#[derive(Clone, Default)]
struct Outlet(Arc<Mutex<Option<Bytes>>>);

impl Outlet {
    /// Says `bytes`, unless the client has not read what was said before: it has a comment to read already.
    fn offer(&self, bytes: Bytes) {
        self.said().get_or_insert(bytes);
    }

    fn take(&self) -> Option<Bytes> {
        self.said().take()
    }

    /// A panic cannot leave it half changed: each change is one assignment.
    fn said(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a stream that is held: it drives itself, and ends with whoever polls it.
struct Held {
    state: State,
    outlet: Outlet,
}

enum State {
    Waiting(Pin<Box<dyn Future<Output = Option<Live>> + Send>>),
    Joined(Box<Live>),
    Ended,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let State::Waiting(driver) = &mut this.state {
            if let Poll::Ready(live) = driver.as_mut().poll(cx) {
                this.state = live.map_or(State::Ended, |live| State::Joined(Box::new(live)));
            }
            if let Some(bytes) = this.outlet.take() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
        match &mut this.state {
            State::Waiting(_) => Poll::Pending,
            State::Joined(live) => Pin::new(live).poll_frame(cx),
            State::Ended => Poll::Ready(None),
        }
    }
}

/// Copies the values of headers into one buffer of their own: as hyper gives them, they keep the whole buffer alive
/// that a request was read into (measured: 8 KB for each held HTTP/1.1 stream).
fn own_values(headers: &mut HeaderMap) {
    let all: Bytes = headers.values().flat_map(|value| value.as_bytes()).copied().collect();
    let mut start = 0;
    for value in headers.values_mut() {
        let end = start + value.len();
        // What was a value is one.
        if let Ok(own) = HeaderValue::from_maybe_shared(all.slice(start..end)) {
            let sensitive = value.is_sensitive();
            *value = own;
            value.set_sensitive(sensitive);
        }
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_429_is_tried_again_when_it_says() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let wait = |name: &'static str, value: &'static str| {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))]);
            reset(&headers, now).map(|at| (at - Instant::now()).as_secs())
        };
        for (name, value, least) in [
            ("retry-after", "30", 30),
            ("x-ratelimit-reset", "1800000020", 20),
            ("x-ratelimit-reset", "1800000020000", 20),
            ("x-ratelimit-reset", "1", 0),
        ] {
            let got = wait(name, value).unwrap();
            assert!((least..=least + 5).contains(&got), "{name}: {value}: {got}");
        }
        assert_eq!(wait("retry-after", "soon"), None);
        assert_eq!(wait("x-other", "1"), None);
    }
}
