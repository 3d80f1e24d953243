//! The TLS edge of a Parley Chat server.

mod body;
mod cli;
mod config;
mod error;
mod form;
mod path;
mod rules;

/// Runs the command line.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
