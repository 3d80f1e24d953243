//! `unit`: the systemd units, as they belong to this version of the program.

use std::process::ExitCode;

use clap::ValueEnum;

use super::answer;

/// Which unit is to be printed.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct UnitArgs {
    /// The unit
    #[arg(value_name = "UNIT", default_value = "parley-relay.service")]
    unit: Unit,
}

/// The units, named as their files are.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum Unit {
    /// The relay
    #[value(name = "parley-relay.service")]
    Service,
    /// Optional: systemd keeps the HTTPS port
    #[value(name = "parley-relay.socket")]
    Socket,
    /// Optional: systemd keeps the HTTP port
    #[value(name = "parley-relay-http.socket")]
    HttpSocket,
    /// A drop-in for parley-relay.service that goes with the sockets
    #[value(name = "parley-relay-socket.conf")]
    SocketDropIn,
    /// Looks for a new version
    #[value(name = "parley-relay-update.service")]
    Update,
    /// When to look for one
    #[value(name = "parley-relay-update.timer")]
    UpdateTimer,
}

impl Unit {
    const fn text(self) -> &'static str {
        match self {
            Self::Service => include_str!("../../dist/parley-relay.service"),
            Self::Socket => include_str!("../../dist/parley-relay.socket"),
            Self::HttpSocket => include_str!("../../dist/parley-relay-http.socket"),
            Self::SocketDropIn => include_str!("../../dist/parley-relay-socket.conf"),
            Self::Update => include_str!("../../dist/parley-relay-update.service"),
            Self::UpdateTimer => include_str!("../../dist/parley-relay-update.timer"),
        }
    }
}

/// Prints the unit.
pub(crate) fn run(arguments: UnitArgs) -> ExitCode {
    answer(arguments.unit.text())
}
