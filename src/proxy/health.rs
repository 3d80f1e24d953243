//! Whether an origin answers, and what is under way to it: one log line when it goes, one when it is back.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::metrics::Origin;

/// An origin that breaks exchanges off, and answers nothing in between for this long, does not answer at all.
/// Until then it may be one request that it cannot bear.
const CERTAIN_AFTER: Duration = Duration::from_secs(5);

/// What an origin is for, as people call it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    Backend,
    Frontend,
}

/// What is known of an origin.
#[derive(Debug)]
pub(crate) struct Health {
    role: Role,
    /// As the log names it.
    name: Box<str>,
    /// Whether there is a failure below.
    failing: AtomicBool,
    failure: Mutex<Option<Failure>>,
    /// What is under way to it.
    metrics: Arc<Origin>,
}

/// That it failed, and there was no answer since.
#[derive(Debug)]
struct Failure {
    since: Instant,
    told: bool,
}

impl Health {
    pub(crate) fn new(role: Role, name: impl Into<Box<str>>, metrics: Arc<Origin>) -> Self {
        Self { role, name: name.into(), failing: AtomicBool::new(false), failure: Mutex::new(None), metrics }
    }

    pub(crate) fn metrics(&self) -> &Origin {
        &self.metrics
    }

    /// For how long it has not answered, if that was told.
    pub(crate) fn away(&self) -> Option<Duration> {
        let failure = self.failure();
        failure.as_ref().filter(|failure| failure.told).map(|failure| failure.since.elapsed())
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
            let (held, retries) = (self.metrics.held.value(), self.metrics.retries.value());
            tracing::info!(
                origin = %self.name, away = %format_args!("{away:.1}s"), held, retries,
                "the {} answers again", self.role
            );
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
            let live = self.metrics.live.value();
            let meanwhile = match self.role {
                Role::Backend => "requests wait, streams are kept open",
                Role::Frontend => "requests wait",
            };
            tracing::warn!(origin = %self.name, %error, live, "the {} does not answer; {meanwhile}", self.role);
        }
    }

    /// A panic cannot leave it half changed: each change is one assignment.
    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backend => "backend",
            Self::Frontend => "front end's server",
        })
    }
}
