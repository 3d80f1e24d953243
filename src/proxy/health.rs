//! Whether an origin answers, and what is under way to it: one log line when it goes, one when it is back.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// An origin that breaks exchanges off, and answers nothing in between for this long, does not answer at all.
/// Until then it may be one request that it cannot bear.
const CERTAIN_AFTER: Duration = Duration::from_secs(5);

/// What is known of an origin.
#[derive(Debug)]
pub(crate) struct Health {
    /// As the log names it.
    name: Box<str>,
    /// Whether there is a failure below.
    failing: AtomicBool,
    failure: Mutex<Option<Failure>>,
    /// Event streams that the origin feeds.
    live: Gauge,
    /// Event streams that wait for it.
    held: Gauge,
    /// Requests that were sent again.
    retries: AtomicU64,
    /// Streams that waited for the origin in vain.
    given_up: AtomicU64,
}

/// That it failed, and there was no answer since.
#[derive(Debug)]
struct Failure {
    since: Instant,
    told: bool,
}

/// How many there are of something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicUsize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Gauge {
    pub(crate) fn count(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    pub(crate) fn value(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Health {
    pub(crate) fn new(name: impl Into<Box<str>>) -> Self {
        Self {
            name: name.into(),
            failing: AtomicBool::new(false),
            failure: Mutex::new(None),
            live: Gauge::default(),
            held: Gauge::default(),
            retries: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        }
    }

    pub(crate) fn live(&self) -> &Gauge {
        &self.live
    }

    pub(crate) fn held(&self) -> &Gauge {
        &self.held
    }

    /// Notes an answer. Logged if it is the first after a failure that was.
    pub(crate) fn answered(&self) {
        // Looked at first: this is on every request's way, and a lock would take the line from other cores.
        if !self.failing.load(Ordering::Relaxed) {
            return;
        }
        let mut failure = self.failure();
        self.failing.store(false, Ordering::Relaxed);
        if let Some(Failure { since, told: true }) = failure.take() {
            let away = since.elapsed().as_secs_f64();
            let (held, retries) = (self.held.value(), self.retries.load(Ordering::Relaxed));
            tracing::info!(origin = %self.name, away = %format_args!("{away:.1}s"), held, retries, "answers again");
        }
    }

    /// Notes that there was no connection. Logged once until it answers.
    pub(crate) fn refused(&self, error: &dyn fmt::Display) {
        self.failed(error, Duration::ZERO);
    }

    /// Notes that a connection broke before a response. Logged once until it answers, if that is not soon.
    pub(crate) fn broke_off(&self, error: &dyn fmt::Display) {
        self.failed(error, CERTAIN_AFTER);
    }

    fn failed(&self, error: &dyn fmt::Display, certain_after: Duration) {
        let mut failure = self.failure();
        self.failing.store(true, Ordering::Relaxed);
        let failure = failure.get_or_insert_with(|| Failure { since: Instant::now(), told: false });
        if !failure.told && failure.since.elapsed() >= certain_after {
            failure.told = true;
            let live = self.live.value();
            tracing::warn!(origin = %self.name, %error, live, "does not answer; requests wait, streams are kept open");
        }
    }

    /// A panic cannot leave it half changed: each change is one assignment.
    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a stream that waited in vain.
    pub(crate) fn gave_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were sent again, and how many streams waited in vain.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.retries.load(Ordering::Relaxed), self.given_up.load(Ordering::Relaxed))
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }
}
