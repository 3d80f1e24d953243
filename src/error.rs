//! What can go wrong with a request, and what the client is told of it.

use std::{fmt, io, time::Duration};

use http::{StatusCode, uri::Authority};

use crate::{
    form::error::FormError,
    methods,
    path::PathError,
    wire::{BodyFault, Fault},
};

/// Why a request is answered by the relay and not by whom it asked.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// Over HTTP/1: there is no request that can be read in one way only.
    Wire(Fault),
    /// The request's chunked body goes on with something else.
    Body(BodyFault),
    /// The request target has no canonical path.
    Path(PathError),
    /// The head contradicts itself; the text says how.
    Head(&'static str),
    /// Over TLS: a host that is none of those that are served.
    Misdirected,
    /// A method that is not let through here, and those that are.
    Method { allow: &'static str },
    /// An `Expect` other than `100-continue`.
    Expectation,
    /// A `block` rule.
    Blocked,
    /// A file in the front end that is not there, or no front end.
    NotFound,
    /// The request body is larger than `max_content_length`.
    BodyTooBig,
    /// The response body is larger than the rule's `max_size`.
    ContentTooBig,
    /// The backend did not say how large the response is, and the rule has a `max_size`.
    SizeUnknown,
    /// A multipart body that carries a file, or that is not strictly well-formed.
    Form(FormError),
    /// The client sent its body slower than it may.
    BodyTimeout,
    /// The client broke its request off.
    ClientGone,
    /// No connection to the backend.
    Connect(ConnectError),
    /// The backend broke the exchange before its response's head was whole.
    Exchange(hyper::Error),
    /// No response head in time.
    ResponseTimeout,
    /// All connections to the backend are taken.
    Busy,
    /// The client asked too often, and may again after this long.
    TooManyRequests(Duration),
    /// A front-end file that is there could not be read.
    File(io::Error),
    /// The backend's response contradicts itself or the request; the text says how.
    BadResponse(&'static str),
}

/// Why there is no connection to an origin.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// Refused, unreachable, no such name, no port free.
    Io(io::Error),
    /// The source address that stands for a client cannot be bound.
    Source(io::Error),
    /// Nothing within the connect limit.
    Timeout,
    /// The proxy on the way, at this host and port, is not there, refused or broke off.
    Proxy(Authority, Box<dyn std::error::Error + Send + Sync>),
    /// HTTP could not be started on the connection.
    Http(hyper::Error),
}

/// Whose fault it is: picks the log level and a label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    Client,
    Relay,
    Backend,
}

/// Why a body ended before its end.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// The client's connection broke, or what it sent is no body.
    Client(hyper::Error),
    /// The backend's connection broke.
    Backend(hyper::Error),
    /// The client sent more bytes than are allowed.
    UploadTooBig,
    /// The client sent slower than it may.
    UploadIdle,
    /// The backend sent more bytes than the rule's `max_size`.
    DownloadTooBig,
    /// The backend sent nothing for too long.
    DownloadIdle,
    /// `block_files` refused it.
    Form(FormError),
    /// A front-end file could not be read to its end.
    File(io::Error),
}

impl BodyError {
    /// What is wrong with a chunked body that hyper could not go on with.
    pub(crate) fn fault(&self) -> Option<BodyFault> {
        let Self::Client(error) = self else { return None };
        let error = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
        error.get_ref()?.downcast_ref().copied()
    }

    /// Whose fault it is.
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::Client(_) | Self::UploadTooBig | Self::UploadIdle | Self::Form(_) => Origin::Client,
            Self::Backend(_) | Self::DownloadTooBig | Self::DownloadIdle => Origin::Backend,
            Self::File(_) => Origin::Relay,
        }
    }
}

impl RequestError {
    /// The status that the client gets.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Wire(Fault::Coding) => StatusCode::NOT_IMPLEMENTED,
            Self::Wire(Fault::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Wire(Fault::Target) => StatusCode::URI_TOO_LONG,
            Self::Wire(Fault::Size | Fault::Headers) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Wire(Fault::Late) => StatusCode::REQUEST_TIMEOUT,
            Self::Wire(Fault::Method) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Wire(Fault::Malformed(_)) | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::Path(_) | Self::Head(_) | Self::ClientGone => StatusCode::BAD_REQUEST,
            Self::Form(error) if error.is_file() => StatusCode::FORBIDDEN,
            Self::Form(_) => StatusCode::BAD_REQUEST,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Blocked => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::BodyTooBig | Self::ContentTooBig => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Connect(ConnectError::Timeout) | Self::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::SizeUnknown | Self::Connect(_) | Self::Exchange(_) | Self::BadResponse(_) => {
                StatusCode::BAD_GATEWAY
            }
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyRequests(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::File(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What the client is told: no cause, no address, nothing that it does not know already.
    pub(crate) fn message(&self) -> &'static str {
        match self {
            Self::Form(error) if error.is_file() => "file uploads are not allowed",
            Self::SizeUnknown => "cannot verify content size",
            Self::Wire(Fault::Malformed(_)) | Self::Body(_) => "bad request",
            Self::Path(_) | Self::Head(_) | Self::ClientGone | Self::Form(_) => "bad request",
            Self::Wire(Fault::Coding) => "not implemented",
            Self::Wire(Fault::Version) => "http version not supported",
            Self::Wire(Fault::Target) => "uri too long",
            Self::Wire(Fault::Size | Fault::Headers) => "request header fields too large",
            Self::Wire(Fault::Method) | Self::Method { .. } => "method not allowed",
            Self::Misdirected => "misdirected request",
            Self::Expectation => "expectation failed",
            Self::Blocked => "forbidden",
            Self::NotFound => "not found",
            Self::BodyTooBig | Self::ContentTooBig => "content too big",
            Self::Wire(Fault::Late) | Self::BodyTimeout => "request timeout",
            Self::Connect(ConnectError::Timeout) | Self::ResponseTimeout => "backend timeout",
            Self::Connect(_) | Self::Exchange(_) | Self::BadResponse(_) => "backend unavailable",
            Self::Busy => "server busy",
            Self::TooManyRequests(_) => "too many requests",
            Self::File(_) => "internal server error",
        }
    }

    /// Whose fault it is.
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::Wire(_)
            | Self::Body(_)
            | Self::Path(_)
            | Self::Head(_)
            | Self::Method { .. }
            | Self::Misdirected
            | Self::Expectation
            | Self::Blocked
            | Self::NotFound
            | Self::BodyTooBig
            | Self::ContentTooBig
            | Self::Form(_)
            | Self::BodyTimeout
            | Self::TooManyRequests(_)
            | Self::ClientGone => Origin::Client,
            Self::File(_) | Self::Busy => Origin::Relay,
            Self::SizeUnknown
            | Self::Connect(_)
            | Self::Exchange(_)
            | Self::ResponseTimeout
            | Self::BadResponse(_) => Origin::Backend,
        }
    }

    /// Whether nothing that may still come on an HTTP/1 connection is to be read as a request.
    pub(crate) fn ends_connection(&self) -> bool {
        matches!(self, Self::Wire(_) | Self::Body(_) | Self::Head(_) | Self::Expectation | Self::BodyTimeout)
            || matches!(self, Self::ClientGone)
    }

    /// The methods that the client could have used.
    pub(crate) fn allow(&self) -> Option<&'static str> {
        if let Self::Method { allow } = self {
            return Some(allow);
        }
        matches!(self, Self::Wire(Fault::Method)).then_some(methods::ALLOW)
    }

    /// Whether the client is told in JSON wherever it asked: it met a rule, not a page.
    pub(crate) fn is_of_a_rule(&self) -> bool {
        matches!(self, Self::Blocked | Self::ContentTooBig | Self::SizeUnknown)
            || matches!(self, Self::Form(_))
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(fault) => fault.fmt(f),
            Self::Body(fault) => fault.fmt(f),
            Self::Path(error) => error.fmt(f),
            Self::Head(reason) | Self::BadResponse(reason) => f.write_str(reason),
            Self::Misdirected => f.write_str("the Host is none of the names that are served"),
            Self::Method { .. } => f.write_str("the method is not allowed here"),
            Self::Expectation => f.write_str("an expectation other than 100-continue"),
            Self::Blocked => f.write_str("blocked by a rule"),
            Self::NotFound => f.write_str("no such file"),
            Self::BodyTooBig => f.write_str("the request body is larger than max_content_length"),
            Self::ContentTooBig => f.write_str("the response is larger than the rule's max_size"),
            Self::SizeUnknown => {
                f.write_str("the backend did not tell the size of a response with a max_size")
            }
            Self::Form(error) => error.fmt(f),
            Self::BodyTimeout => f.write_str("the client sent its body too slowly, or stopped"),
            Self::ClientGone => f.write_str("the client broke its request off"),
            Self::Connect(error) => error.fmt(f),
            Self::Exchange(error) => write!(f, "the backend broke the exchange: {}", Chain(error)),
            Self::ResponseTimeout => f.write_str("the backend did not answer in time"),
            Self::Busy => f.write_str("all connections to the backend are taken"),
            Self::TooManyRequests(_) => f.write_str("the client asks more often than requests_per_second"),
            Self::File(error) => write!(f, "a file of the front end cannot be read: {error}"),
        }
    }
}

impl std::error::Error for RequestError {}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "no connection to the backend: {error}"),
            Self::Source(error) => write!(f, "no connection from a source address of 127.64.0.0/10: {error}"),
            Self::Timeout => f.write_str("no connection to the backend in time"),
            Self::Proxy(proxy, error) => {
                write!(f, "no connection through the upstream proxy at {proxy}: {}", Chain(&**error))
            }
            Self::Http(error) => write!(f, "no HTTP on the connection to the backend: {}", Chain(error)),
        }
    }
}

impl std::error::Error for ConnectError {}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => write!(f, "the client broke off: {}", Chain(error)),
            Self::Backend(error) => write!(f, "the backend broke off: {}", Chain(error)),
            Self::UploadTooBig => f.write_str("the request body is larger than max_content_length"),
            Self::UploadIdle => f.write_str("the client sent its body too slowly, or stopped"),
            Self::DownloadTooBig => f.write_str("the response is larger than the rule's max_size"),
            Self::DownloadIdle => f.write_str("the backend stopped sending its body"),
            Self::Form(error) => error.fmt(f),
            Self::File(error) => write!(f, "a file cannot be read: {error}"),
        }
    }
}

impl std::error::Error for BodyError {}

/// An error with its sources on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
