//! The requests of a connection: what its deadlines go by.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The requests of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Requests(Arc<State>);

#[derive(Debug)]
struct State {
    /// Times below are milliseconds after this.
    born: Instant,
    /// Whether the connection has become a tunnel: what it carries is no HTTP.
    tunnel: AtomicBool,
    /// Whether the next response is to be the last.
    closing: AtomicBool,
    /// Requests that are being answered.
    in_flight: AtomicUsize,
    /// When the last of them ended.
    ended: AtomicU64,
    /// Each bounded response body.
    bodies: Mutex<Vec<Arc<Movement>>>,
}

/// How a response body came along.
#[derive(Debug)]
struct Movement {
    /// When it last moved, or was asked to.
    last: AtomicU64,
    /// Whether the client asked for more than there was: then it is not the client that holds it up.
    asked: AtomicBool,
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Requests);

/// A response body that has to move, until it is dropped.
#[derive(Debug)]
pub(crate) struct Moving {
    movement: Arc<Movement>,
    requests: Requests,
}

impl Requests {
    /// Of a connection that begins now.
    pub(crate) fn new() -> Self {
        Self(Arc::new(State {
            born: Instant::now(),
            tunnel: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            bodies: Mutex::default(),
        }))
    }

    /// Notes a request.
    pub(crate) fn begin(&self) -> InFlight {
        self.0.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
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

    /// Whether any request is being answered.
    pub(crate) fn any(&self) -> bool {
        self.0.in_flight.load(Ordering::Acquire) > 0
    }

    /// Since when nothing is being answered; `None`: something is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (!self.any()).then(|| self.0.born + Duration::from_millis(self.0.ended.load(Ordering::Acquire)))
    }

    /// Whether a body has not moved for `limit`: a client that takes nothing, and holds what the body comes from.
    /// One that was asked for more may take as long as where it comes from, `source`, besides: no longer, since
    /// the client may have shut its window after it asked.
    pub(crate) fn stalled(&self, limit: Duration, source: Duration) -> bool {
        let now = self.now();
        self.bodies().iter().any(|body| {
            let limit = if body.asked.load(Ordering::Relaxed) { limit.saturating_add(source) } else { limit };
            Duration::from_millis(now.saturating_sub(body.last.load(Ordering::Relaxed))) >= limit
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A panic cannot leave the list half changed: each change is one call on it.
    fn bodies(&self) -> MutexGuard<'_, Vec<Arc<Movement>>> {
        self.0.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    /// The same, of a connection that becomes a tunnel now.
    pub(crate) fn into_tunnel(self) -> Self {
        self.0.0.tunnel.store(true, Ordering::Relaxed);
        self
    }

    /// Another on the same connection, for what outlives this one.
    pub(crate) fn another(&self) -> Self {
        self.0.begin()
    }

    /// Follows the response's body, which is no event stream and so has to move.
    pub(crate) fn moving(&self) -> Moving {
        let requests = self.0.clone();
        let last = AtomicU64::new(requests.now());
        let movement = Arc::new(Movement { last, asked: AtomicBool::new(false) });
        requests.bodies().push(Arc::clone(&movement));
        Moving { movement, requests }
    }
}

impl Moving {
    /// Notes that the client took some of it.
    pub(crate) fn moved(&self) {
        self.movement.last.store(self.requests.now(), Ordering::Relaxed);
        self.movement.asked.store(false, Ordering::Relaxed);
    }

    /// Notes that the client would take more than there is.
    pub(crate) fn asked(&self) {
        self.movement.last.store(self.requests.now(), Ordering::Relaxed);
        self.movement.asked.store(true, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let state = &self.0.0;
        state.ended.store(self.0.now(), Ordering::Release);
        state.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.requests.bodies().retain(|body| !Arc::ptr_eq(body, &self.movement));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_request() {
        let requests = Requests::new();
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
        let requests = Requests::new();
        let in_flight = requests.begin();
        let [stuck, moving] = [in_flight.moving(), in_flight.moving()];
        tokio::time::advance(59 * SECOND).await;
        moving.moved();
        assert!(!requests.stalled(60 * SECOND, 20 * SECOND));
        tokio::time::advance(SECOND).await;
        assert!(requests.stalled(60 * SECOND, 20 * SECOND));
        drop(stuck);
        assert!(!requests.stalled(60 * SECOND, 20 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn l1_a_body_that_was_asked_for_more_may_wait_for_its_source_too() {
        let requests = Requests::new();
        let body = requests.begin().moving();
        body.asked();
        tokio::time::advance(79 * SECOND).await;
        assert!(!requests.stalled(60 * SECOND, 20 * SECOND));
        tokio::time::advance(SECOND).await;
        assert!(requests.stalled(60 * SECOND, 20 * SECOND));
        body.moved();
        tokio::time::advance(60 * SECOND).await;
        assert!(requests.stalled(60 * SECOND, 20 * SECOND));
    }
}
