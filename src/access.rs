//! The access log: one line a request, written when its body has ended.

use std::{
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};

use crate::{
    body::Body,
    error::{BodyError, Origin, RequestError},
    in_flight::InFlight,
};

/// Whether every request is logged, or only those that failed on our side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AccessLog {
    All,
    FailuresOnly,
}

/// What is known of a request while it runs.
#[derive(Debug)]
pub(crate) struct Entry {
    log: AccessLog,
    began: Instant,
    client: IpAddr,
    method: Method,
    /// As the redactor shows it; `-` for a target that has no canonical path.
    path: String,
    rule: Decider,
    failure: Option<(Origin, String)>,
}

/// What decided a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Decider {
    /// Refused before any rule was asked.
    None,
    /// The rule with this number in the file, counted from 1.
    Rule(usize),
    Frontend,
}

impl std::fmt::Display for Decider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::Rule(number) => number.fmt(f),
            Self::Frontend => f.write_str("frontend"),
        }
    }
}

impl Entry {
    pub(crate) fn new(log: AccessLog, client: IpAddr, method: Method) -> Self {
        let began = Instant::now();
        Self { log, began, client, method, path: "-".to_owned(), rule: Decider::None, failure: None }
    }

    /// Notes the masked path; made only if it will be written.
    pub(crate) fn path(&mut self, shown: impl FnOnce() -> String) {
        self.path = shown();
    }

    pub(crate) fn client(&mut self, client: IpAddr) {
        self.client = client;
    }

    pub(crate) fn decided(&mut self, rule: Decider) {
        self.rule = rule;
    }

    pub(crate) fn failed(&mut self, error: &RequestError) {
        self.failure = Some((error.origin(), error.to_string()));
    }

    /// The response with a body that writes the line at its end.
    pub(crate) fn follow(self, response: Response<Body>, in_flight: InFlight) -> Response<Logged> {
        let status = response.status();
        // These have no body whatever their headers say; hyper never polls it.
        let bodiless = self.method == Method::HEAD
            || matches!(
                status,
                StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT | StatusCode::SWITCHING_PROTOCOLS
            );
        response.map(|body| {
            let length = if bodiless { Some(0) } else { body.size_hint().exact() };
            let end = if length == Some(0) { End::Whole } else { End::Aborted };
            Logged { body, length, sent: 0, status, end, entry: self, _in_flight: in_flight }
        })
    }

    fn write(&self, status: StatusCode, bytes: u64, end: End) {
        let Self { client, method, path, rule, .. } = self;
        let ms = (self.began.elapsed().as_secs_f64() * 1e4).round() / 10.0;
        let status = status.as_u16();
        match &self.failure {
            Some((Origin::Relay | Origin::Backend, error)) => {
                tracing::warn!(%client, %method, %path, status, bytes, ms, %rule, %end, error, "access");
            }
            _ if self.log == AccessLog::FailuresOnly => {}
            Some((Origin::Client, error)) => {
                tracing::info!(%client, %method, %path, status, bytes, ms, %rule, %end, error, "access");
            }
            None => tracing::info!(%client, %method, %path, status, bytes, ms, %rule, %end, "access"),
        }
    }
}

/// How a response body ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// All of it was sent.
    Whole,
    /// The client went away before.
    Aborted,
    /// It broke on its way here.
    Broken,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::Aborted => "aborted",
            Self::Broken => "broken",
        })
    }
}

/// A response body that is counted, and logged when it has ended or is dropped.
pub(crate) struct Logged {
    body: Body,
    length: Option<u64>,
    sent: u64,
    status: StatusCode,
    end: End,
    entry: Entry,
    _in_flight: InFlight,
}

impl http_body::Body for Logged {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.end = End::Whole,
            Some(Err(error)) => {
                self.end = End::Broken;
                self.entry.failure.get_or_insert_with(|| (error.origin(), error.to_string()));
            }
            Some(Ok(frame)) => {
                self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                // Of a body whose length is known hyper does not ask for the end.
                if self.length == Some(self.sent) {
                    self.end = End::Whole;
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.entry.write(self.status, self.sent, self.end);
    }
}
