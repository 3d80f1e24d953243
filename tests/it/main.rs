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
mod backend_away;
mod backend_faults;
mod budget;
mod command_line;
mod config_check;
mod connections;
mod demo;
mod doctor;
mod event_stream;
mod fd_exhaustion;
mod forwarding;
mod frontend;
mod frontend_attacks;
mod h2_cases;
mod h2_fields;
mod h2_floods;
mod h2_honest;
mod h2_streams;
mod h2_strict;
mod header_attacks;
mod headers;
mod health;
mod identity;
mod init;
mod installer;
mod limits;
mod load;
mod log_attacks;
mod logs;
mod manual;
mod paths;
mod redirect;
mod release_files;
mod reload;
mod retries;
mod routing;
mod shutdown;
mod size;
mod slow_clients;
mod smuggling;
mod static_binary;
mod status;
mod streaming;
mod systemd;
mod timeouts;
mod tls;
mod tls_abuse;
mod trusted;
mod units;
mod update;
mod update_restart;
mod upgrade;
mod uploads;
mod upstream_proxy;
mod vanished;
