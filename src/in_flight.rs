//! The requests of a connection: what its deadlines go by.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    least_rate::{Allowance, LeastRate},
    wire::Fault,
};

/// How many bodies of a connection may be given up before it ends as well. A person leaves a few downloads unread; who
/// leaves many keeps the backend from others (attacks.md A1).
const GIVEN_UP: usize = 4;

/// The requests of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Requests(Arc<State>);

#[derive(Debug)]
struct State {
    /// Times below are after this.
    born: Instant,
    /// Whether responses have windows of their own, which the client may leave shut: in HTTP/1 what holds up a
    /// response holds up the socket.
    has_windows: AtomicBool,
    /// Whether the connection has become a tunnel: what it carries is no HTTP.
    tunnel: AtomicBool,
    /// Whether the next response is to be the last.
    closing: AtomicBool,
    /// Whether the connection ends with what is being written.
    farewell: AtomicBool,
    /// Requests that ever began.
    begun: AtomicUsize,
    /// Requests that are being answered.
    in_flight: AtomicUsize,
    /// Those among them whose responses may come as slowly as the client likes.
    slow: AtomicUsize,
    /// When the last of them ended, in milliseconds.
    ended: AtomicU64,
    /// Who is to be woken when no request is being answered any more, and whether there is anybody.
    waiting: Mutex<Option<Waker>>,
    is_waited_for: AtomicBool,
    /// Whether a response of HTTP/1 broke off.
    broken: AtomicBool,
    /// What is wrong with the last request of the connection, which no client can send after it.
    refused: OnceLock<Fault>,
    /// Each bounded response body of HTTP/2.
    bodies: Mutex<Vec<Arc<Mutex<Movement>>>>,
    /// How many of them were ever given up.
    given_up: AtomicUsize,
}

/// How a response body came along.
#[derive(Debug)]
struct Movement {
    /// When it last moved, or was asked to.
    last: Instant,
    /// Whether the client asked for more than there was: then it is not the client that holds it up.
    asked: bool,
    /// Whether it moved, but too late.
    late: bool,
    allowance: Allowance,
    /// The task of its stream.
    stream: Waker,
    /// Whether that is to end.
    given_up: bool,
}

impl Movement {
    fn is_stalled(&self, source: Duration) -> bool {
        let limit =
            if self.asked { self.allowance.pause().saturating_add(source) } else { self.allowance.left() };
        self.late || self.last.elapsed() >= limit
    }
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    requests: Requests,
    /// Whether it is among the slow ones.
    slow: bool,
}

/// A response body that has to move, until it is dropped.
#[derive(Debug)]
pub(crate) struct Moving {
    movement: Arc<Mutex<Movement>>,
    requests: Requests,
}

impl Requests {
    /// Of a connection that begins now.
    pub(crate) fn new() -> Self {
        Self(Arc::new(State {
            has_windows: AtomicBool::new(false),
            born: Instant::now(),
            tunnel: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            farewell: AtomicBool::new(false),
            begun: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            slow: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            waiting: Mutex::default(),
            is_waited_for: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            refused: OnceLock::new(),
            bodies: Mutex::default(),
            given_up: AtomicUsize::new(0),
        }))
    }

    /// The same, of a connection that speaks HTTP/2.
    pub(crate) fn with_windows(self) -> Self {
        self.0.has_windows.store(true, Ordering::Relaxed);
        self
    }

    /// Notes a request.
    pub(crate) fn begin(&self) -> InFlight {
        // Before it counts as begun, so that it is never taken for one that has ended.
        let in_flight = self.another();
        self.0.begun.fetch_add(1, Ordering::AcqRel);
        in_flight
    }

    fn another(&self) -> InFlight {
        self.0.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight { requests: self.clone(), slow: false }
    }

    /// How many requests ever began.
    pub(crate) fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Acquire)
    }

    /// Notes that the next request, which nobody has seen yet, is none.
    pub(crate) fn refuse(&self, fault: Fault) {
        // A connection has one last request.
        let _ = self.0.refused.set(fault);
    }

    /// What is wrong with the request that begins now.
    pub(crate) fn refused(&self) -> Option<Fault> {
        self.0.refused.get().copied()
    }

    /// Whether a response broke off, and nothing but the connection's end can tell: HTTP/2 has a frame for it.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::Relaxed)
    }

    /// Whether the connection has become a tunnel.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.0.tunnel.load(Ordering::Relaxed)
    }

    /// Makes the next response the last.
    pub(crate) fn close(&self) {
        self.0.closing.store(true, Ordering::Relaxed);
    }

    /// Whether the next response is to be the last.
    pub(crate) fn is_closing(&self) -> bool {
        self.0.closing.load(Ordering::Relaxed)
    }

    /// Notes that the connection ends with what is being written.
    pub(crate) fn bid_farewell(&self) {
        self.0.farewell.store(true, Ordering::Relaxed);
    }

    /// Whether it does.
    pub(crate) fn is_at_farewell(&self) -> bool {
        self.0.farewell.load(Ordering::Relaxed)
    }

    /// Whether any request is being answered.
    pub(crate) fn any(&self) -> bool {
        self.0.in_flight.load(Ordering::Acquire) > 0
    }

    /// Wakes the task when no request is being answered any more.
    pub(crate) fn wake_when_answered(&self, cx: &Context<'_>) {
        *lock(&self.0.waiting) = Some(cx.waker().clone());
        // In one order with what the last request does at its end, or each could miss the other.
        self.0.is_waited_for.store(true, Ordering::SeqCst);
        // It may have ended since it was looked at.
        if self.0.in_flight.load(Ordering::SeqCst) == 0 {
            self.wake();
        }
    }

    /// Waits until no request is being answered. For one task of a connection at a time.
    pub(crate) async fn answered(&self) {
        poll_fn(|cx| {
            if self.any() {
                self.wake_when_answered(cx);
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    fn wake(&self) {
        if self.0.is_waited_for.load(Ordering::SeqCst)
            && self.0.is_waited_for.swap(false, Ordering::AcqRel)
            && let Some(waker) = lock(&self.0.waiting).take()
        {
            waker.wake();
        }
    }

    /// Whether the client may take what it is sent as slowly as it likes.
    pub(crate) fn may_be_slow(&self) -> bool {
        self.is_tunnel() || self.0.slow.load(Ordering::Relaxed) > 0
    }

    /// Since when nothing is being answered; `None`: something is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (!self.any()).then(|| self.last_ended())
    }

    /// Gives up each body of which the client takes nothing, or too little, and so holds what it comes from: its
    /// stream ends. A client that asked for more may take as long as where it comes from, `source`, besides a pause: no
    /// longer, since it may have shut its window after it asked.
    ///
    /// Tells whether the connection is to end, too: nothing else happens on it, or it has done that often.
    pub(crate) fn give_up_stalled(&self, source: Duration) -> bool {
        let in_flight = self.0.in_flight.load(Ordering::Acquire);
        let mut stalled = 0;
        let mut is_quiet = false;
        for body in lock(&self.0.bodies).iter() {
            let mut body = lock(body);
            if !body.given_up && body.is_stalled(source) {
                body.given_up = true;
                stalled += 1;
                is_quiet = self.last_ended().elapsed() >= body.allowance.pause();
                self.0.given_up.fetch_add(1, Ordering::Release);
                body.stream.wake_by_ref();
            }
        }
        let has_others = stalled < in_flight || !is_quiet;
        stalled > 0 && (!has_others || self.0.given_up.load(Ordering::Relaxed) > GIVEN_UP)
    }

    /// Whether a stream, by its task, has a body that was given up.
    pub(crate) fn has_given_up(&self, stream: &Waker) -> bool {
        self.0.given_up.load(Ordering::Acquire) > 0
            && lock(&self.0.bodies).iter().any(|body| {
                let body = lock(body);
                body.given_up && body.stream.will_wake(stream)
            })
    }

    /// The task of an HTTP/2 stream, asked from there; `None`: this is no HTTP/2.
    pub(crate) async fn stream(&self) -> Option<Waker> {
        if !self.0.has_windows.load(Ordering::Relaxed) {
            return None;
        }
        Some(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await)
    }

    fn last_ended(&self) -> Instant {
        self.0.born + Duration::from_millis(self.0.ended.load(Ordering::Acquire))
    }
}

/// A panic cannot leave anything half changed here: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InFlight {
    /// The same, of a connection that becomes a tunnel now.
    pub(crate) fn into_tunnel(self) -> Self {
        self.requests.0.tunnel.store(true, Ordering::Relaxed);
        self
    }

    /// Notes that the response broke off.
    pub(crate) fn broke_off(&self) {
        let state = &self.requests.0;
        state.broken.store(!state.has_windows.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Another on the same connection, for what outlives this one.
    pub(crate) fn another(&self) -> Self {
        self.requests.another()
    }

    /// Notes that the response is an event stream, which no client has to take at a least rate.
    pub(crate) fn may_be_slow(&mut self) {
        if !std::mem::replace(&mut self.slow, true) {
            self.requests.0.slow.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Follows the body of a response on an HTTP/2 `stream`, which has to move at the least rate. Over HTTP/1 the socket
    /// shows it.
    pub(crate) fn moving(&self, stream: Waker, rate: LeastRate) -> Moving {
        let requests = self.requests.clone();
        let movement = Movement {
            last: Instant::now(),
            asked: false,
            late: false,
            allowance: Allowance::new(rate),
            stream,
            given_up: false,
        };
        let movement = Arc::new(Mutex::new(movement));
        lock(&requests.0.bodies).push(Arc::clone(&movement));
        Moving { movement, requests }
    }
}

impl Moving {
    /// Notes that the client took so many bytes of it.
    pub(crate) fn moved(&self, bytes: usize) {
        let now = Instant::now();
        let mut movement = lock(&self.movement);
        if !movement.asked {
            let waited = now - movement.last;
            movement.late |= waited > movement.allowance.left();
            movement.allowance.waited(waited);
        }
        movement.allowance.moved(bytes);
        (movement.last, movement.asked) = (now, false);
    }

    /// Notes that the client would take more than there is.
    pub(crate) fn asked(&self) {
        let mut movement = lock(&self.movement);
        (movement.last, movement.asked) = (Instant::now(), true);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let state = &self.requests.0;
        if self.slow {
            state.slow.fetch_sub(1, Ordering::Relaxed);
        }
        let ended = u64::try_from(state.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        state.ended.store(ended, Ordering::Release);
        if state.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.requests.wake();
        }
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        lock(&self.requests.0.bodies).retain(|body| !Arc::ptr_eq(body, &self.movement));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RATE: LeastRate = LeastRate { pause: Duration::from_secs(60), bytes_per_second: 240 };

    fn nobody() -> Waker {
        Waker::noop().clone()
    }

    /// Whether there is a stalled body, where the source may pause for 20 seconds.
    fn stalled(requests: &Requests) -> bool {
        lock(&requests.0.bodies).iter().any(|body| lock(body).is_stalled(20 * SECOND))
    }

    #[tokio::test(start_paused = true)]
    async fn a1_a_body_that_is_given_up_ends_its_stream_and_at_last_the_connection() {
        let requests = Requests::new().with_windows();
        let _other = requests.begin();
        for number in 1..=GIVEN_UP + 1 {
            let in_flight = requests.begin();
            let _stuck = in_flight.moving(nobody(), RATE);
            assert!(!requests.give_up_stalled(20 * SECOND) && !requests.has_given_up(&nobody()));
            tokio::time::advance(60 * SECOND).await;
            assert_eq!(requests.give_up_stalled(20 * SECOND), number > GIVEN_UP);
            assert!(requests.has_given_up(&nobody()));
            assert!(!requests.give_up_stalled(20 * SECOND), "once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a1_a_connection_on_which_nothing_else_happens_ends_with_a_body_that_is_given_up() {
        for since_another in [59, 60] {
            let requests = Requests::new().with_windows();
            let in_flight = requests.begin();
            let _stuck = in_flight.moving(nobody(), RATE);
            tokio::time::advance(SECOND).await;
            drop(requests.begin());
            tokio::time::advance(since_another * SECOND).await;
            assert_eq!(requests.give_up_stalled(20 * SECOND), since_another == 60);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_request() {
        let requests = Requests::new().with_windows();
        assert_eq!(requests.idle_since(), Some(Instant::now()));
        let [one, two] = [requests.begin(), requests.begin()];
        tokio::time::advance(5 * SECOND).await;
        drop(one);
        assert_eq!(requests.idle_since(), None);
        tokio::time::advance(5 * SECOND).await;
        drop(two);
        let ended = Instant::now();
        tokio::time::advance(5 * SECOND).await;
        assert_eq!(requests.idle_since(), Some(ended));
    }

    #[tokio::test(start_paused = true)]
    async fn l1_a_body_that_does_not_move_is_stalled() {
        let requests = Requests::new().with_windows();
        let in_flight = requests.begin();
        let [stuck, moving] = [in_flight.moving(nobody(), RATE), in_flight.moving(nobody(), RATE)];
        tokio::time::advance(59 * SECOND).await;
        moving.moved(1);
        assert!(!stalled(&requests));
        tokio::time::advance(SECOND).await;
        assert!(stalled(&requests));
        drop(stuck);
        assert!(!stalled(&requests));
    }

    #[tokio::test(start_paused = true)]
    async fn l1_a_body_that_was_asked_for_more_may_wait_for_its_source_too() {
        let requests = Requests::new().with_windows();
        let body = requests.begin().moving(nobody(), RATE);
        body.asked();
        tokio::time::advance(79 * SECOND).await;
        assert!(!stalled(&requests));
        tokio::time::advance(SECOND).await;
        assert!(stalled(&requests));
        body.moved(1);
        tokio::time::advance(60 * SECOND).await;
        assert!(stalled(&requests));
    }

    #[tokio::test(start_paused = true)]
    async fn l1_a_body_that_the_client_takes_slower_than_the_least_rate_is_stalled() {
        let requests = Requests::new().with_windows();
        let body = requests.begin().moving(nobody(), RATE);
        let mut seconds = 0;
        while seconds < 1000 && !stalled(&requests) {
            tokio::time::advance(SECOND).await;
            body.moved(120);
            seconds += 1;
        }
        assert!((118..=120).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn l1_what_the_source_is_slow_with_is_not_held_against_the_client() {
        let requests = Requests::new().with_windows();
        let body = requests.begin().moving(nobody(), RATE);
        for _ in 0..600 {
            body.asked();
            tokio::time::advance(SECOND).await;
            body.moved(1);
            assert!(!stalled(&requests));
        }
    }

    #[test]
    fn l1_an_event_stream_may_be_slow_for_as_long_as_it_lasts() {
        let requests = Requests::new();
        let mut in_flight = requests.begin();
        assert!(!requests.may_be_slow());
        in_flight.may_be_slow();
        in_flight.may_be_slow();
        assert!(requests.may_be_slow());
        drop(in_flight);
        assert!(!requests.may_be_slow());
    }
}
