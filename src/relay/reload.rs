//! A new configuration while everything runs: all of it, or none.

use std::sync::Arc;

use super::{
    Running, StartError,
    prepared::{Prepared, Present, Secured},
};
use crate::{
    config::{ConfigError, Loaded, Style},
    tls::Predecessor,
};

/// Why a configuration is not put in force.
pub(super) enum Refusal {
    Config(ConfigError),
    Start(StartError),
    /// What reads it panicked.
    Reading(tokio::task::JoinError),
}

impl Running {
    /// Puts a configuration in force; or says what is wrong with it, and everything stays.
    pub(super) async fn reload(&mut self, prepared: Result<Prepared, Refusal>) {
        match prepared {
            Ok(prepared) => self.put_in_force(prepared).await,
            Err(refusal) => {
                tracing::error!("the new configuration is refused, and the one before stays in force");
                // Not as a field: it has lines, and carets that point at something.
                for line in refusal.text().lines() {
                    tracing::error!("{line}");
                }
            }
        }
        self.manager.ready(&self.status());
    }

    /// Reads the configuration; nothing is in force yet.
    pub(super) async fn prepare(&self) -> Result<Prepared, Refusal> {
        let load = Arc::clone(&self.load);
        let loaded = tokio::task::spawn_blocking(move || load()).await.map_err(Refusal::Reading)?;
        let Loaded { config, warnings, sova: _ } = loaded.map_err(Refusal::Config)?;
        let site = self.sites.current();
        let present = Present {
            ports: &self.ports,
            drain: &self.drain,
            metrics: &self.metrics,
            clients: &self.clients,
            site: Some(&site),
            edge: self.edge.as_ref(),
            predecessor: if self.edge.is_some() { Predecessor::Running } else { Predecessor::None },
        };
        // Certificates may have to be made: other tasks are not to wait for that.
        let prepared = tokio::task::block_in_place(|| Prepared::new(config, present));
        let prepared = prepared.map_err(Refusal::Start)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Ok(prepared)
    }

    async fn put_in_force(&mut self, prepared: Prepared) {
        let Prepared {
            site,
            ports,
            serving,
            tls,
            names,
            url,
            connections,
            drain_for,
            log,
            control,
            files,
            served,
        } = prepared;
        self.logging.change(&log);
        self.sites.replace(site);
        let sites = &self.sites;
        self.ports
            .set(ports.into_iter().map(|(had, purpose)| (had, serving.of(purpose, sites))).collect())
            .await;
        self.ports.permits().resize(connections);
        self.reporter.store(Arc::new(serving.reporter(connections, files, served, sites)));
        if control != self.control {
            let directory = self.control.display();
            tracing::warn!(%directory, "the control socket stays where it is until a restart");
        }
        match tls {
            Secured::Same => {}
            // What kept the certificates before ends here, and lets go of what it has locked.
            Secured::Not => self.edge = None,
            Secured::New(edge) => self.edge.insert(*edge).keep(),
        }
        (self.names, self.drain_for) = (names, drain_for);
        let site = self.sites.current();
        tracing::info!(url, backend = %site.backend, front_end = %site.frontend, "reloaded");
    }
}

impl Refusal {
    fn text(&self) -> String {
        match self {
            Self::Config(error) => error.render(Style::Plain),
            Self::Start(error) => error.advised_by_config(),
            Self::Reading(error) => error.to_string(),
        }
    }
}
