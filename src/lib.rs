//! The TLS edge of a Parley Chat server.
//!
//! A request's way, from the socket to the backend and back:
//!
//! ```text
//! listener::accept → connection (PROXY header, TLS, h1 | h2) → handler
//!     → head (one host, one framing) → path (canonical) → rules.decide
//!     → Block | Redirect | proxy.forward | frontend.serve → access (counted, logged at its end)
//! ```
//!
//! Deciding (`path`, `rules`, `head`, `client`, `form`, `proxy::headers`) is pure; the tasks around it are
//! thin. `relay` owns every task that lives long, `site` is what one configuration makes of requests.

mod access;
mod body;
mod cli;
mod client;
mod config;
mod connection;
mod error;
mod form;
mod frontend;
mod handler;
mod head;
mod listener;
mod log;
mod path;
mod proxy;
mod redact;
mod redirect;
mod relay;
mod rules;
mod signal;
mod site;
mod storage;
mod tls;

use std::process::ExitCode;

use cli::{Cli, Command, ConfigArgs, EXIT_CONFIG, EXIT_INTERNAL};
use relay::{Ended, Relay};

/// Does what the command line says, and gives the exit code: 64 for usage, 78 for a bad configuration or a
/// port that cannot be had, 70 for what should not happen.
pub fn main() -> ExitCode {
    tls::install_provider();
    match Cli::parse_args() {
        Err(code) => code,
        Ok(Cli {
            command: Command::Run(arguments),
        }) => serve(&arguments),
        Ok(Cli {
            command: Command::Check(arguments),
        }) => cli::check::run(arguments),
        Ok(Cli {
            command: Command::Explain(arguments),
        }) => cli::explain::run(&arguments),
        Ok(Cli {
            command: Command::Demo(arguments),
        }) => todo!(),
        Ok(Cli {
            command: Command::Ca(arguments),
        }) => todo!(),
    }
}

fn serve(arguments: &ConfigArgs) -> ExitCode {
    let loaded = match arguments.load() {
        Ok(loaded) => loaded,
        Err(error) => return cli::refuse(&error),
    };
    log::start(&loaded.config.log);
    let _ = cli::warn(&loaded.warnings);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime cannot be started");
            return ExitCode::from(EXIT_INTERNAL);
        }
    };
    let ended = runtime.block_on(async { Relay::bind(loaded.config)?.run().await });
    // Connections that are still open after the drain end with the runtime.
    runtime.shutdown_background();
    match ended {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::Broken) => ExitCode::from(EXIT_INTERNAL),
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}
