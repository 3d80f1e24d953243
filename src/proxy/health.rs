//! Whether an origin answers, and what is under way to it: one log line when it goes, one when it is back.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

/// What is known of an origin.
#[derive(Debug)]
pub(crate) struct Health {
    /// As the log names it.
    name: Box<str>,
    away: AtomicBool,
    since: Mutex<Option<Instant>>,
    /// Event streams that the origin feeds.
    live: Gauge,
    /// Event streams that wait for it.
    held: Gauge,
    /// Requests that were sent again.
    retries: AtomicU64,
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
            away: AtomicBool::new(false),
            since: Mutex::new(None),
            live: Gauge::default(),
            held: Gauge::default(),
            retries: AtomicU64::new(0),
        }
    }

    pub(crate) fn live(&self) -> &Gauge {
        &self.live
    }

    pub(crate) fn held(&self) -> &Gauge {
        &self.held
    }

    /// Notes an answer. Logged if it is the first after a failure.
    pub(crate) fn answered(&self) {
        // Looked at first: this is on every request's way, and a store would take the line from other cores.
        if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            let since = self.since.lock().unwrap_or_else(PoisonError::into_inner).take();
            let away = since.map_or(0.0, |since| since.elapsed().as_secs_f64());
            let (held, retries) = (self.held.value(), self.retries.load(Ordering::Relaxed));
            tracing::info!(origin = %self.name, away = %format_args!("{away:.1}s"), held, retries, "answers again");
        }
    }

    /// Notes that there was no connection, or that one broke before a response. Logged once until it answers.
    pub(crate) fn failed(&self, error: &dyn fmt::Display) {
        if !self.away.swap(true, Ordering::Relaxed) {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            let live = self.live.value();
            tracing::warn!(origin = %self.name, %error, live, "does not answer; requests wait, streams are kept open");
        }
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }
}
