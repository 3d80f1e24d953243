//! The requests of a connection: what its deadlines go by.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The requests of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Heads that were read to their end.
    begun: AtomicUsize,
    /// Requests that are being answered.
    in_flight: AtomicUsize,
}

/// One that is being answered, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Requests);

impl Requests {
    /// Notes that a head was read to its end.
    pub(crate) fn begin(&self) -> InFlight {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
    }

    /// How many heads were read to their end so far.
    pub(crate) fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }

    /// Whether any request is being answered.
    pub(crate) fn any(&self) -> bool {
        self.0.in_flight.load(Ordering::Acquire) > 0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
