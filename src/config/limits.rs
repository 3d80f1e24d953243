//! `[limits]`: what clients may take of time, size and number.

use std::{num::NonZeroU32, time::Duration};

use super::{
    Limits, Warning,
    error::{Faults, Reason},
    raw::RawLimits,
    resolve::seconds,
    setting::Setting,
    types::ByteSize,
    units::{Count, OptionalCount},
};

/// The table with its defaults.
pub(super) fn limits(raw: RawLimits, faults: &mut Faults, warnings: &mut Vec<Warning>) -> Limits {
    if let Setting::Given(size, place) = &raw.head_size
        && !(8 << 10..=1 << 20).contains(&size.0)
    {
        // hyper reads heads into a buffer of at least 8 KiB, and panics when told otherwise.
        let reason = Reason::Rule("it is a size from 8KiB to 1MiB");
        faults.add("limits.head_size", reason, Some(place.clone()));
    }
    let connections = raw.connections.or(Count(10_000)).0;
    if let Setting::Given(Count(most), place) = &raw.connections_per_client
        && *most > connections
    {
        let text = format!("more than all clients may have together: `connections` is {connections}");
        warnings.push(Warning::new(text, Some(place.clone())));
    }
    let requests_per_second = raw.requests_per_second.or(OptionalCount(None)).0;
    Limits {
        connections,
        connections_per_client: raw.connections_per_client.or(Count(256)).0,
        requests_per_second: requests_per_second
            .and_then(|rate| u32::try_from(rate).ok())
            .and_then(NonZeroU32::new),
        handshake: seconds(raw.handshake, 5),
        request_head: seconds(raw.request_head, 10),
        idle_body: seconds(raw.idle_body, 60),
        idle_connection: seconds(raw.idle_connection, 75),
        head_size: raw.head_size.or(ByteSize(16 << 10)),
        drain: raw.drain.or(Duration::from_secs(30)),
    }
}
