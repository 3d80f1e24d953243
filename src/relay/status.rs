//! How the relay is, in a line for the service manager and in the log for who asks.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::task::TaskTracker;

use super::Running;
use crate::{
    moment::moment,
    signal::Asked,
    site::{Frontend, Sites},
    systemd::Manager,
};

/// How often the service manager is told, if there is something new.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What the service manager was told last.
pub(super) struct Told {
    status: String,
    tick: Interval,
}

impl Told {
    pub(super) fn new(status: String) -> Self {
        let mut tick = tokio::time::interval(TELL_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { status, tick }
    }

    /// When it is time to look again.
    pub(super) async fn due(&mut self) {
        self.tick.tick().await;
    }

    pub(super) fn tell(&mut self, manager: &Manager, status: String) {
        if status != self.status {
            manager.status(&status);
            self.status = status;
        }
    }
}

impl Running {
    /// Names, the first certificate, streams: in one line.
    pub(super) fn status(&self) -> String {
        let mut status = match (&*self.names, self.ports.main_address()) {
            ([], Some(address)) => format!("serving {address}"),
            ([], None) => "serving".to_owned(),
            ([first], _) => format!("serving {first}"),
            ([first, others @ ..], _) => format!("serving {first} and {} more", others.len()),
        };
        if let Some(first) = self.edge.as_ref().and_then(|edge| edge.certificates.first()) {
            let until = moment(first.not_after);
            status += &if first.is_temporary() {
                "; temporary certificate, none from the CA yet".to_owned()
            } else {
                format!("; certificate until {until}")
            };
        }
        let (live, held) = self.sites.current().backend.streams();
        status += &format!("; streams: {live} live, {held} held");
        status
    }
}

/// Writes what is under way into the log whenever SIGUSR1 asks for it.
pub(super) async fn answer_inquiries(mut inquiry: Asked, sites: Sites, connections: TaskTracker) {
    loop {
        inquiry.received().await;
        let site = sites.current();
        tracing::info!(clients = connections.len(), "status");
        site.backend.log_status();
        if let Frontend::Elsewhere(upstream) = &site.frontend {
            upstream.log_status();
        }
    }
}
