//! The TLS edge of a Parley Chat server.

mod access;
mod body;
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

/// Runs the command line.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
