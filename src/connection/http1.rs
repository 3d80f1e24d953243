//! The limits of an HTTP/1 connection that are hyper's to keep. reading.rs and paced.rs keep the others.

use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioTimer;

use crate::wire::Bounds;

/// What hyper reads at once, at the least: bodies come in pieces of up to this.
const BUFFER: usize = 64 << 10;
/// The number of headers that hyper takes unless it is told another.
const HEADERS: usize = 100;

/// For connections whose request heads have these bounds.
pub(super) fn builder(bounds: Bounds) -> Builder {
    let mut builder = Builder::new();
    // Heads and idle connections have deadlines of ours.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_header_size(bounds.head)
        .max_buf_size(bounds.head.max(BUFFER));
    // A number of headers, even its own, takes hyper a list on the heap for each head (measured: 2 % of a small
    // request's instructions).
    if bounds.headers > HEADERS {
        builder.max_headers(bounds.headers);
    }
    builder
}
