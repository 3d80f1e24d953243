//! One order for one name: under a lock, written down before and after, and what comes is stored.

use std::{fmt, sync::Arc};

use aws_lc_rs::rand;
use time::OffsetDateTime;
use tokio::task::block_in_place;
use tracing::{info, warn};

use super::{
    issuer::{Issuer, Success},
    issuer_error::Failure,
    ledger,
    stored::Stored,
};
use crate::{
    moment::moment,
    storage::{Storage, StorageError},
};

/// Why there is no new certificate.
#[derive(Debug)]
pub(crate) enum AcmeError {
    /// No CA issued one.
    Failed(Failure),
    /// It cannot be written down, so nothing is begun, or kept only in memory.
    Storage(StorageError),
    /// Another process is at it.
    Busy,
}

/// Orders once for what `stored` is for, stores what comes, and writes down how it went.
///
/// Nobody else orders for this name meanwhile. What another process has got since is taken instead.
pub(crate) async fn renew(
    issuer: &Issuer,
    stored: &mut Stored,
    now: OffsetDateTime,
) -> Result<(), AcmeError> {
    let storage = &issuer.storage;
    let place = ledger::directory(&stored.subject);
    let locked = block_in_place(|| storage.try_lock(&format!("{place}/lock")));
    let _lock = match locked {
        Ok(Some(lock)) => lock,
        Ok(None) => return Err(AcmeError::Busy),
        Err(error) => return Err(fail(stored, storage, AcmeError::Storage(error), now)),
    };
    if storage.generation(&place) != stored.generation {
        return Err(AcmeError::Busy);
    }
    stored.entry.begin(now, random());
    // What cannot be written down is not begun: a restart loop would order again and again.
    if let Err(error) = block_in_place(|| stored.entry.store(storage, &stored.subject)) {
        return Err(fail(stored, storage, AcmeError::Storage(error), now));
    }
    let current = stored.certificate.clone();
    match issuer.issue(&stored.subject, &stored.entry, current.as_deref(), now).await {
        Ok(success) => take(stored, storage, success),
        Err(failure) => {
            stored.entry.held.extend(failure.held.clone());
            let open_at = issuer.open_at(&stored.entry.held);
            let now = OffsetDateTime::now_utc();
            stored.entry.fail(failure.to_string(), open_at, now, random());
            note(storage, stored);
            Err(AcmeError::Failed(failure))
        }
    }
}

/// Serves and stores what came.
fn take(stored: &mut Stored, storage: &Storage, success: Success) -> Result<(), AcmeError> {
    let now = OffsetDateTime::now_utc();
    let Success { issued, ca } = success;
    let certificate = Arc::new(issued.certificate);
    // Whether it can be stored or not: it serves from memory, and its order can be fetched once more.
    stored.certificate = Some(Arc::clone(&certificate));
    let place = ledger::directory(&stored.subject);
    match block_in_place(|| storage.write_pair(&place, &issued.pair)) {
        Ok(generation) => stored.generation = Some(generation),
        Err(error) => return Err(fail(stored, storage, AcmeError::Storage(error), now)),
    }
    let validity = certificate.validity();
    stored.entry.challenge = issued.challenge.or(stored.entry.challenge);
    stored.entry.succeed(ca.to_string(), validity, now, random());
    note(storage, stored);
    if let Err(error) = storage.remove(&format!("{place}/order.json")) {
        warn!("{error}");
    }
    if stored.entry.hold_until.is_some() {
        warn!(
            now = moment(now),
            issued = moment(validity.not_before),
            "the clock of this machine is wrong, or the CA's is: set it, or browsers and certificates disagree"
        );
    }
    info!(
        name = %stored.subject,
        issuer = certificate.issuer,
        expires = moment(certificate.not_after),
        next_renewal = moment(stored.entry.renew_at.unwrap_or(certificate.not_after)),
        "certificate issued"
    );
    Ok(())
}

/// Notes a failure that no CA has to do with.
fn fail(stored: &mut Stored, storage: &Storage, error: AcmeError, now: OffsetDateTime) -> AcmeError {
    stored.entry.fail(error.to_string(), None, now, random());
    note(storage, stored);
    error
}

/// Writes the page down; where that fails it holds for as long as the process lives.
pub(super) fn note(storage: &Storage, stored: &Stored) {
    if let Err(error) = block_in_place(|| stored.entry.store(storage, &stored.subject)) {
        warn!(name = %stored.subject, "what was tried is not written down: {error}");
    }
}

/// Evenly in 0..1.
pub(super) fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter, and no TLS either.
    if rand::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

impl fmt::Display for AcmeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => failure.fmt(f),
            Self::Storage(error) => error.fmt(f),
            Self::Busy => f.write_str("another process orders a certificate for this name"),
        }
    }
}

impl std::error::Error for AcmeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(failure) => Some(failure),
            Self::Storage(error) => Some(error),
            Self::Busy => None,
        }
    }
}
