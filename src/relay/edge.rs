//! TLS as it is configured: what is served, and the task that keeps it up to date.

use std::sync::Arc;

use rustls::server::ProducesTickets;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    config::{self, CertificateSource},
    keeper::{Keeper, KeeperError},
    tls::{self, Certificates, Predecessor},
};

/// What a TLS listener serves. A reload that does not change it keeps it, and orders that are under way with it.
pub(super) struct Edge {
    config: config::Tls,
    pub(super) certificates: Arc<Certificates>,
    pub(super) acceptor: TlsAcceptor,
    /// One for the whole process: sessions outlive reloads.
    tickets: Arc<dyn ProducesTickets>,
    keeper: Option<Keeper>,
    keeping: Option<AbortOnDropHandle<()>>,
}

impl Edge {
    /// Loads or makes the first certificates.
    pub(super) fn open(
        config: config::Tls,
        before: Option<&Self>,
        predecessor: Predecessor,
    ) -> Result<Self, KeeperError> {
        let tickets = match before {
            Some(before) => Arc::clone(&before.tickets),
            None => tls::ticketer()?,
        };
        let (certificates, keeper) = Keeper::open(&config, predecessor)?;
        let server = tls::server_config(Arc::clone(&certificates), Arc::clone(&tickets));
        let acceptor = TlsAcceptor::from(Arc::new(server));
        Ok(Self { config, certificates, acceptor, tickets, keeper: Some(keeper), keeping: None })
    }

    /// Whether `config` asks for what is here. Files are read anew whatever it says: they may have changed.
    pub(super) fn is(&self, config: &config::Tls) -> bool {
        match &config.certificates {
            CertificateSource::Files { .. } => false,
            CertificateSource::LocalCa | CertificateSource::Acme(_) => self.config == *config,
        }
    }

    /// Starts to keep the certificates up to date.
    pub(super) fn keep(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            self.keeping = Some(AbortOnDropHandle::new(tokio::spawn(keeper.run())));
        }
    }

    /// Lets go of that: the next process does it. An order that is under way is left as on a kill, and the next one
    /// takes it up from the disk.
    pub(super) fn let_go(&mut self) {
        self.keeping = None;
    }

    /// Ends when the keeper does, whether it returned or panicked: nobody renews certificates any more.
    pub(super) async fn unkept(&mut self) {
        match &mut self.keeping {
            Some(keeping) => drop(keeping.await),
            None => std::future::pending().await,
        }
    }
}
