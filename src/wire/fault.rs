//! Why bytes are no requests that can be read in one way only.

use std::fmt;

/// What is wrong with a head; the text says how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// Two parsers could read it in two ways, or none at all.
    Malformed(&'static str),
    /// A transfer coding beside chunked.
    Coding,
    /// A version of HTTP other than 1.0 and 1.1.
    Version,
    /// A method that is none here, whatever its target.
    Method,
    /// The request target is larger than `target_size`.
    Target,
    /// The head is larger than `head_size`.
    Size,
    /// There are more headers than `headers`.
    Headers,
    /// It was begun, and not ended within `request_head`.
    Late,
}

/// What is wrong with a chunked body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BodyFault(pub(super) &'static str);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed(reason) => reason,
            Self::Coding => "a transfer coding other than chunked",
            Self::Version => "a version of HTTP other than 1.0 and 1.1",
            Self::Method => "the method is not allowed here",
            Self::Target => "the request target is larger than target_size",
            Self::Size => "the request head is larger than head_size",
            Self::Headers => "the request has more headers than `headers` allows",
            Self::Late => "the request head was not whole in time",
        })
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BodyFault {}
