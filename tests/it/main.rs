//! The relay's behaviour, tested from outside: the real binary, real sockets, real peers.
//!
//! A file a behaviour; the names of the tests are the specification. The harness starts the relay on ports that
//! the system chooses, reads them from its log, and kills it when the test ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that meets the unexpected fails")]

mod harness;
mod harness_itself;

mod acme;
mod acme_cert;
mod acme_challenges;
mod acme_check;
mod acme_egress;
mod acme_faults;
mod acme_harness;
mod acme_renewal;
mod acme_storage;
mod budget;
mod command_line;
mod config_check;
mod connections;
mod demo;
mod event_stream;
mod forwarding;
mod frontend;
mod headers;
mod identity;
mod logs;
mod manual;
mod paths;
mod redirect;
mod retries;
mod routing;
mod shutdown;
mod size;
mod static_binary;
mod streaming;
mod timeouts;
mod tls;
mod tls_abuse;
mod trusted;
mod uploads;
mod upstream_proxy;
