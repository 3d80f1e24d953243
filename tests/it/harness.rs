//! A relay process, the peers on both sides of it, and clients that say exactly what they are told to.

pub(crate) mod backend;
pub(crate) mod chance;
pub(crate) mod client;
pub(crate) mod event_source;
pub(crate) mod faulty;
pub(crate) mod frames;
pub(crate) mod kept;
pub(crate) mod load;
pub(crate) mod machine;
pub(crate) mod mirror;
pub(crate) mod network;
pub(crate) mod pebble;
pub(crate) mod peers;
pub(crate) mod pki;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod relay;

use std::{future::Future, time::Duration};

pub(crate) use backend::{Backend, Reply};
pub(crate) use client::{Answer, Client, Version};
pub(crate) use event_source::EventSource;
pub(crate) use frames::Frames;
pub(crate) use machine::Machine;
pub(crate) use pebble::Pebble;
pub(crate) use peers::{Flask, Microsocks, Tinyproxy};
pub(crate) use pki::Pki;
pub(crate) use raw::Raw;
pub(crate) use relay::Relay;

/// How long a test waits for anything that should come at once. Long, because two cores are shared by many tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

/// Whether tests do all that they can, for releases, and not what tells soon.
pub(crate) fn is_long() -> bool {
    std::env::var_os("PARLEY_LONG").is_some()
}

/// Awaits `future`, or fails saying that `what` did not come.
#[track_caller]
pub(crate) fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(DEADLINE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{caller}: waited {DEADLINE:?} in vain for {what}"),
        }
    }
}

/// Runs each case over HTTP/1.1 and over HTTP/2, as the tests `name::h1` and `name::h2`.
macro_rules! on_h1_and_h2 {
    ($($(#[$meta:meta])* async fn $name:ident($version:ident) $body:block)+) => {$(
        mod $name {
            use super::*;

            $(#[$meta])*
            async fn case($version: $crate::harness::Version) $body

            #[tokio::test]
            async fn h1() {
                case($crate::harness::Version::Http1).await;
            }

            #[tokio::test]
            async fn h2() {
                case($crate::harness::Version::Http2).await;
            }
        }
    )+};
}
pub(crate) use on_h1_and_h2;
