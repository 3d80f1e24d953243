//! Log lines on standard error: text for people and the journal, or JSON.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::{Layered, SubscriberExt},
    reload::{self, Handle},
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

type Filtered = Layered<reload::Layer<Targets, Registry>, Registry>;
type Lines = Box<dyn Layer<Filtered> + Send + Sync>;

/// The log that runs: its level and format may change.
pub(crate) struct Logging {
    level: Handle<Targets, Registry>,
    lines: Handle<Lines, Filtered>,
}

/// Starts logging. Only our own events are logged: those of libraries can hold header values at `trace`.
pub(crate) fn start(log: &Log) -> Logging {
    let (filter, level) = reload::Layer::new(ours(log));
    let (format, lines) = reload::Layer::new(lines(log.format));
    // A logger that is there already can only be a test's.
    let _ = tracing_subscriber::registry().with(filter).with(format).try_init();
    Logging { level, lines }
}

impl Logging {
    /// Logs like this from now on.
    pub(crate) fn change(&self, log: &Log) {
        let changed = self.level.reload(ours(log)).and_then(|()| self.lines.reload(lines(log.format)));
        if let Err(error) = changed {
            tracing::warn!(%error, "the log stays as it was");
        }
    }
}

fn ours(log: &Log) -> Targets {
    Targets::new().with_target("parley_relay", LevelFilter::from_level(log.level))
}

fn lines(format: LogFormat) -> Lines {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    }
}
