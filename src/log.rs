//! Log lines on standard error: text for people and the journal, or JSON.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

/// Starts logging. Only our own events are logged: those of libraries can hold header values at `trace`.
pub(crate) fn start(log: &Log) {
    let ours = Targets::new().with_target("parley_relay", LevelFilter::from_level(log.level));
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry();
    // A logger that is there already can only be a test's.
    let _ = match log.format {
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal();
            registry.with(format.with_ansi(ansi).with_target(false).with_filter(ours)).try_init()
        }
        LogFormat::Json => registry.with(format.json().with_target(false).with_filter(ours)).try_init(),
    };
}
