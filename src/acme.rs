//! Certificates from a CA that speaks ACME (RFC 8555): one for each name, over its whole life.
//!
//! ```text
//! stored? ── yes → serve it ─┬→ wait until it is due ──→ order ── came ──→ store, serve ─┐
//!         └─ no → a temporary one serves ──────────────↗   ↑└─ failed → wait, longer each time
//!                            └──────────────────────────────────────────────────────────┘
//! ```
//!
//! Nothing of that is in the way of serving: the CA is asked by tasks of their own, and what is served stays
//! until something better is there.

mod account;
mod alarm;
mod authorization;
mod client;
pub(crate) mod dns;
mod introduction;
mod issuer;
mod issuer_error;
mod ledger;
mod order;
mod order_error;
mod patience;
mod pending;
mod persist;
mod renewal;
mod schedule;
mod stored;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::{task::JoinSet, time::sleep};
use tracing::{debug, error, info, warn};

use crate::{
    config::AcmeConfig,
    moment::moment,
    storage::{Lock, Storage, StorageError},
    tls::{Certificates, Predecessor, challenges::Challenges},
};
pub(crate) use client::through;
pub(crate) use dns::caa::caa;
use dns::{Responder, responder::ResponderError};
pub(crate) use introduction::{Introduction, introduce};
pub(crate) use issuer::Issuer;
use issuer_error::WindowError;
use ledger::Step;
pub(crate) use ledger::directory;
pub(crate) use renewal::{AcmeError, renew};
use renewal::{note, random};
pub(crate) use stored::{ImportError, Otherwise, Stored, import, request_renewal, stored};

/// Between two looks at the wall clock and at the disk. No timer until the day of renewal: a clock that jumps,
/// or a machine that slept, is noticed at the next turn (K10), and so is what another process stored.
const TURN: Duration = Duration::from_secs(2);

/// Locked by the process that renews what is stored.
const LOCK: &str = "acme/lock";

/// When to ask again for a renewal window that could not be had.
const ASK_AGAIN: time::Duration = time::Duration::hours(6);

/// What keeps the certificates of a relay up to date.
#[derive(Debug)]
pub(crate) struct Manager {
    lives: Vec<Life>,
    /// The server that DNS-01 needs, where it is the relay's own.
    responder: Option<Responder>,
    storage: Storage,
    /// Says to other processes that somebody takes their requests.
    lock: Option<Lock>,
    predecessor: Predecessor,
}

/// Why certificates cannot be kept.
#[derive(Debug)]
pub(crate) enum ManagerError {
    Storage(StorageError),
    Responder(ResponderError),
}

/// One certificate's life.
#[derive(Debug)]
struct Life {
    issuer: Arc<Issuer>,
    stored: Stored,
    otherwise: Otherwise,
    on_failure: Option<PathBuf>,
}

impl Manager {
    /// Reads what is stored. Asks nobody.
    pub(crate) fn open(
        storage: &Storage,
        config: &AcmeConfig,
        challenges: Arc<Challenges>,
        predecessor: Predecessor,
    ) -> Result<Self, ManagerError> {
        let lock = match predecessor {
            Predecessor::None => storage.try_lock(LOCK).map_err(ManagerError::Storage)?,
            Predecessor::Running => None,
        };
        if lock.is_none() && predecessor == Predecessor::None {
            warn!(
                storage = %storage.path("").display(),
                "another process keeps certificates there; give each its own directory with --storage DIR"
            );
        }
        let opened =
            dns::open(&config.dns, &config.subjects, predecessor).map_err(ManagerError::Responder)?;
        let (solver, responder) = opened.unzip();
        let solver = solver.map(Arc::new);
        let issuer = Arc::new(Issuer::new(storage.clone(), config, challenges, solver));
        let lives = config.subjects.iter().map(|subject| {
            Ok(Life {
                issuer: Arc::clone(&issuer),
                stored: Stored::load(storage, subject.clone())?,
                otherwise: Otherwise::new(config.fallback, subject),
                on_failure: config.on_failure.clone(),
            })
        });
        Ok(Self {
            lives: lives.collect::<Result<_, _>>().map_err(ManagerError::Storage)?,
            responder: responder.flatten(),
            storage: storage.clone(),
            lock,
            predecessor,
        })
    }

    /// What is stored for each name, in the order of the config, and what serves it where nothing is.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&Stored, Otherwise)> {
        self.lives.iter().map(|life| (&life.stored, life.otherwise))
    }

    /// Lives all lives for as long as the process does. The certificate of the n-th name goes to the n-th place.
    pub(crate) async fn run(self, certificates: Arc<Certificates>) {
        let _lock = match self.predecessor {
            Predecessor::None => self.lock,
            Predecessor::Running => Some(wait_for_lock(&self.storage).await),
        };
        let mut lives = JoinSet::new();
        if let Some(responder) = self.responder {
            lives.spawn(answer(responder));
        }
        for (place, life) in self.lives.into_iter().enumerate() {
            lives.spawn(life.live(Arc::clone(&certificates), place));
        }
        // None of them ends but by a panic, and that ends them all.
        lives.join_next().await;
    }
}

/// Waits until the one before has let go: two that order at once would take each other's challenges away.
async fn wait_for_lock(storage: &Storage) -> Lock {
    loop {
        match storage.try_lock(LOCK) {
            Ok(Some(lock)) => return lock,
            Ok(None) => {}
            Err(error) => warn!("certificates are not renewed yet: {error}"),
        }
        sleep(TURN).await;
    }
}

/// Answers DNS queries. Without that there is no DNS-01, which is no reason to serve nobody.
async fn answer(mut responder: Responder) {
    let mut told = false;
    while let Err(error) = responder.have_sockets() {
        if !std::mem::replace(&mut told, true) {
            error!("no DNS challenges are answered yet: {error}");
        }
        sleep(TURN).await;
    }
    if let Err(error) = responder.run().await {
        error!("the DNS responder ended: {error}; restart the relay to have it back");
    }
    std::future::pending().await
}

impl Life {
    async fn live(mut self, certificates: Arc<Certificates>, place: usize) {
        let mut served = self.stored.servable(self.otherwise, OffsetDateTime::now_utc());
        loop {
            let now = OffsetDateTime::now_utc();
            self.stored.entry.settle(now);
            self.take_what_another_process_stored();
            let asked = stored::take_request(&self.issuer.storage, &self.stored.subject);
            match self.stored.entry.step(self.stored.validity(), now) {
                _ if asked => self.renew(now).await,
                Step::Order => self.renew(now).await,
                Step::AskWindow => self.ask_window(now).await,
                Step::Wait => {}
            }
            let serves = self.stored.servable(self.otherwise, now);
            if serves.as_ref().map(Arc::as_ptr) != served.as_ref().map(Arc::as_ptr) {
                certificates.put(place, serves.clone());
                served = serves;
            }
            self.sound_alarm(now).await;
            sleep(TURN).await;
        }
    }

    /// A certificate that was imported, or ordered by hand.
    fn take_what_another_process_stored(&mut self) {
        let storage = &self.issuer.storage;
        let generation = storage.generation(&ledger::directory(&self.stored.subject));
        if generation == self.stored.generation {
            return;
        }
        if generation.is_none() {
            // Removed: what is in memory serves until it is due.
            self.stored.generation = None;
            return;
        }
        match Stored::load(storage, self.stored.subject.clone()) {
            Ok(found) if found.certificate.is_some() => {
                info!(name = %found.subject, "a new certificate was stored by another process");
                self.stored = found;
            }
            Ok(_) => self.stored.generation = generation,
            Err(error) => debug!(name = %self.stored.subject, "{error}"),
        }
    }

    async fn renew(&mut self, now: OffsetDateTime) {
        match renew(&self.issuer, &mut self.stored, now).await {
            Ok(()) => {}
            // At the next turn there is something to load, or to order.
            Err(AcmeError::Busy) => debug!(name = %self.stored.subject, "another process orders"),
            Err(error) => {
                let entry = &self.stored.entry;
                let next_try = entry.next_try.map(moment).unwrap_or_default();
                warn!(
                    name = %self.stored.subject,
                    failures = entry.failures,
                    next_try,
                    "no new certificate: {error}"
                );
            }
        }
    }

    async fn ask_window(&mut self, now: OffsetDateTime) {
        let (Some(certificate), Some(validity)) = (self.stored.certificate.clone(), self.stored.validity())
        else {
            return;
        };
        let answer = self.issuer.window(self.stored.entry.ca.as_deref(), &certificate).await;
        let (entry, name) = (&mut self.stored.entry, &self.stored.subject);
        match answer {
            Ok((window, ask_again)) => {
                let before = entry.renew_at;
                entry.learn_window(window, schedule::next_look(now, ask_again), validity, random());
                if let Some(renew_at) = entry.renew_at.filter(|_| entry.renew_at != before) {
                    info!(%name, renew_at = moment(renew_at), "the CA named its renewal window");
                }
            }
            Err(WindowError::Unknown) => entry.ask_window_at = None,
            Err(error) => {
                debug!(%name, "the renewal window is not known: {error}");
                entry.ask_window_at = Some(now + ASK_AGAIN);
            }
        }
        note(&self.issuer.storage, &self.stored);
    }

    /// Tells the log and the configured program, once a day, that the renewal keeps failing.
    async fn sound_alarm(&mut self, now: OffsetDateTime) {
        let (entry, validity) = (&self.stored.entry, self.stored.validity());
        if !entry.alarm_due(validity, now) {
            return;
        }
        let reason = entry.last_error.clone().unwrap_or_default();
        let since = entry.failing_since.unwrap_or(now);
        match validity {
            Some(validity) => error!(
                name = %self.stored.subject,
                since = moment(since),
                expires = moment(validity.not_after),
                "the certificate cannot be renewed: {reason}"
            ),
            None => {
                error!(name = %self.stored.subject, since = moment(since), "there is no certificate: {reason}")
            }
        }
        // Noted first: a program that hangs or a process that ends does not make it twice a day.
        self.stored.entry.last_alarm = Some(now);
        note(&self.issuer.storage, &self.stored);
        if let Some(program) = &self.on_failure {
            alarm::run(program, &self.stored.subject, &reason).await;
        }
    }
}

impl fmt::Display for ManagerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage(error) => error.fmt(f),
            Self::Responder(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ManagerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Storage(error) => Some(error),
            Self::Responder(error) => Some(error),
        }
    }
}
