//! A network of its own, for clients that are not on this machine.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::process::Process;

/// A network of its own with one wire to this machine. Dropping it removes both.
pub(crate) struct Network {
    name: String,
    /// What tells it from others of this process and of other processes.
    number: u32,
    /// This machine's end of the wire.
    here: String,
}

impl Network {
    /// `None`, and a line that says so, where we may not make any.
    pub(crate) fn new() -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() * 8 + MADE.fetch_add(1, Ordering::Relaxed) % 8;
        // Of the network for benchmarks (RFC 2544), so as not to meet one that is in use.
        let wire = number % 256;
        let network = Self { name: format!("parley{number}"), number, here: format!("198.19.{wire}.1") };
        let Self { name, here, .. } = &network;
        let there = format!("198.19.{wire}.2");
        let (near, far) = (format!("pn{number}"), format!("pf{number}"));
        if !ip(&format!("netns add {name}")) {
            eprintln!("skipped: networks can be made by root alone");
            return None;
        }
        for step in [
            format!("link add {near} type veth peer name {far} netns {name}"),
            format!("addr add {here}/30 dev {near}"),
            format!("link set {near} up"),
            format!("-n {name} addr add {there}/30 dev {far}"),
            format!("-n {name} link set {far} up"),
        ] {
            assert!(ip(&step), "ip {step}");
        }
        Some(network)
    }

    /// This machine's address on the wire.
    pub(crate) fn here(&self) -> &str {
        &self.here
    }

    /// A program in it.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).args(arguments);
        command
    }

    /// The same, running.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Process {
        Process::spawn(self.command(program, arguments))
    }

    /// Cuts the wire at its far end: from now on nothing is answered.
    pub(crate) fn cut(&self) {
        let far = format!("pf{}", self.number);
        assert!(ip(&format!("-n {} link set {far} down", self.name)));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        ip(&format!("netns delete {}", self.name));
        ip(&format!("link delete pn{}", self.number));
    }
}

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).output().is_ok_and(|output| output.status.success())
}
