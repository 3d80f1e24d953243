//! The TLS edge of a Parley Chat server.

mod body;
mod client;
mod config;
mod error;
mod form;
mod head;
mod path;
mod proxy;
mod rules;

/// Runs the command line.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
