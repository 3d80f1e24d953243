//! `[backend]`: how the backend is reached, what is opened to it at once, and who it is told asks.

use std::time::Duration;

use super::{
    Backend, ClientAddress, Timeouts,
    error::{Faults, Reason},
    raw::{RawBackend, RawClientAddress},
    setting::Setting,
    units::{Count, OptionalCount},
    url::{BackendUrl, ProxyUrl},
};

/// The table with its defaults; `proxy` is the one on the way, if there is one.
pub(super) fn backend(raw: RawBackend, proxy: Option<&ProxyUrl>, faults: &mut Faults) -> Backend {
    raw.ca_file.readable("backend.ca_file", faults);
    let known = !raw.max_connections.is_faulty();
    let url = raw.url.or_default();
    let max_connections = raw.max_connections.or(Count(90)).0;
    if let Setting::Given(OptionalCount(Some(streams)), place) = &raw.max_streams
        && known
        && *streams > max_connections
    {
        let reason = Reason::Rule("more streams than `max_connections`: each takes a connection");
        faults.add("backend.max_streams", reason, Some(place.clone()));
    }
    Backend {
        client_address: client_address(raw.client_address, &url, proxy, faults),
        url,
        ca_file: raw.ca_file.given(),
        max_connections,
        max_streams: raw.max_streams.or(OptionalCount(None)).0,
        timeouts: Timeouts {
            connect: raw.connect_timeout.or_seconds(5),
            response: raw.response_timeout.or_seconds(60),
            idle: raw.idle_timeout.or_seconds(60),
            queue: raw.queue_for.or(Duration::from_secs(10)),
            retry: raw.retry_for.or(Duration::from_secs(5)),
            hold: raw.hold_streams.or(Duration::from_secs(600)),
        },
    }
}

/// A source address can only stand for a client where the backend is on this machine and nothing is between.
fn client_address(
    asked: Setting<RawClientAddress>,
    url: &BackendUrl,
    proxy: Option<&ProxyUrl>,
    faults: &mut Faults,
) -> ClientAddress {
    let possible = url.loopback().is_some() && proxy.is_none();
    match asked {
        Setting::Given(RawClientAddress::Loopback, place) if !possible => {
            let reason = Reason::Rule(
                "it needs a backend at an address in 127.0.0.0/8, or localhost, and no upstream proxy",
            );
            faults.add("backend.client_address", reason, Some(place));
            ClientAddress::Header
        }
        Setting::Given(RawClientAddress::Header, _) => ClientAddress::Header,
        Setting::Given(RawClientAddress::Auto | RawClientAddress::Loopback, _)
        | Setting::Absent
        | Setting::Faulty => {
            if possible {
                ClientAddress::Loopback
            } else {
                ClientAddress::Header
            }
        }
    }
}
