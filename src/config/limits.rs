//! `[limits]`: what clients may take of time, size and number.

use std::{num::NonZeroU32, time::Duration};

use super::{
    Limits, Warning,
    error::{Faults, Reason},
    raw::RawLimits,
    setting::Setting,
    types::ByteSize,
    units::{Count, OptionalCount, Rate},
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
    let head_size = raw.head_size.as_given().map_or(16 << 10, |size| size.0);
    if let Setting::Given(size, place) = &raw.target_size
        && !(256..=(32 << 10).min(head_size)).contains(&size.0)
    {
        let reason = Reason::Rule("it is a size from 256B to 32KiB, and not larger than head_size");
        faults.add("limits.target_size", reason, Some(place.clone()));
    }
    if let Setting::Given(Count(headers), place) = &raw.headers
        && !(16..=1000).contains(headers)
    {
        // Browsers send up to thirty.
        faults.add("limits.headers", Reason::Rule("it is a number from 16 to 1000"), Some(place.clone()));
    }
    if let Setting::Given(Rate(rate), place) = &raw.least_rate
        && *rate > 64 << 10
    {
        let reason =
            Reason::Rule("it is at most 64KiB a second: slow clients are honest ones more often than not");
        faults.add("limits.least_rate", reason, Some(place.clone()));
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
        handshake: raw.handshake.or_seconds(5),
        request_head: raw.request_head.or_seconds(10),
        idle_body: raw.idle_body.or_seconds(60),
        idle_connection: raw.idle_connection.or_seconds(75),
        least_rate: raw.least_rate.or(Rate(240)).0,
        head_size: raw.head_size.or(ByteSize(16 << 10)),
        target_size: raw.target_size.or(ByteSize(8 << 10)),
        headers: raw.headers.or(Count(100)).0,
        drain: raw.drain.or(Duration::from_secs(30)),
    }
}
