//! The TLS edge of a Parley Chat server.

mod body;
mod cli {
    mod ca;
}
mod config;
mod error;
mod form;
mod path;
mod rules;
mod storage;
mod tls;

/// Runs the command line.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
