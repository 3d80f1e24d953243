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
//! thin. `relay` owns every task that lives long, `ports` what is listened on, `site` is what one configuration
//! makes of requests. `upgrade` hands all of it to the next process.

mod access;
mod acme;
mod admission;
mod body;
mod budget;
mod cli;
mod client;
mod config;
mod connection;
mod control;
mod demo;
mod drain;
mod error;
mod error_pages;
mod form;
mod framing;
mod frontend;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handler;
mod head;
mod in_flight;
mod keeper;
mod least_rate;
mod listener;
mod log;
mod methods;
mod metrics;
mod moment;
mod path;
mod ports;
mod proxy;
mod redact;
mod redirect;
mod relay;
mod rules;
mod run_file;
mod signal;
mod site;
mod storage;
mod systemd;
mod tcp;
mod tls;
mod upgrade;
mod wire;

use std::process::ExitCode;

use cli::{Cli, Command};

/// Does what the command line says, and gives the exit code: 64 for usage, 78 for a bad configuration or a
/// port that cannot be had, 70 for what should not happen.
pub fn main() -> ExitCode {
    tls::install_provider();
    match Cli::parse_args() {
        Err(code) => code,
        Ok(Cli { command }) => match command {
            Command::Run(arguments) => cli::run::run(&arguments),
            Command::Check(arguments) => cli::check::run(arguments),
            Command::Explain(arguments) => cli::explain::run(&arguments),
            Command::Demo(arguments) => cli::demo::run(&arguments),
            Command::Ca(arguments) => cli::ca::run(&arguments),
            Command::Cert(arguments) => cli::cert::run(arguments),
            Command::Status(arguments) => cli::status::run(&arguments),
            Command::Doctor(arguments) => cli::doctor::run(arguments),
            Command::Health(arguments) => cli::health::run(&arguments),
            Command::Update(arguments) => cli::update::run(arguments),
            Command::Generate(arguments) => cli::generate::run(&arguments),
            Command::Init(arguments) => cli::init::run(*arguments),
            Command::Unit(arguments) => cli::unit::run(arguments),
            Command::Upgrade(arguments) => cli::upgrade::run(&arguments),
        },
    }
}
