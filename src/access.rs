//! The access log: one line a request, written when its body has ended.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use time::OffsetDateTime;

use crate::{
    body::Body,
    error::{BodyError, Origin, RequestError},
    framing::is_event_stream,
    in_flight::{InFlight, Moving},
    least_rate::LeastRate,
};

/// Whether requests are logged, and how a line looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AccessLog {
    Off,
    Text,
    Json,
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
    /// `None` until there is a response.
    status: Option<StatusCode>,
    sent: u64,
    end: End,
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
        Self {
            log,
            began,
            client,
            method,
            path: "-".to_owned(),
            rule: Decider::None,
            failure: None,
            status: None,
            sent: 0,
            end: End::Aborted,
        }
    }

    /// Notes the masked path; made only if it will be written.
    pub(crate) fn path(&mut self, shown: impl FnOnce() -> String) {
        if self.log != AccessLog::Off {
            self.path = shown();
        }
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

    /// The response with a body that is counted until its end, on the `stream` of HTTP/2.
    pub(crate) fn follow(
        mut self,
        response: Response<Body>,
        mut in_flight: InFlight,
        (stream, rate): (Option<Waker>, LeastRate),
    ) -> Response<Logged> {
        let status = response.status();
        self.status = Some(status);
        // These have no body whatever their headers say; hyper never polls it.
        let bodiless = self.method == Method::HEAD
            || matches!(
                status,
                StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT | StatusCode::SWITCHING_PROTOCOLS
            );
        let length = if bodiless { Some(0) } else { response.body().size_hint().exact() };
        if length == Some(0) {
            self.end = End::Whole;
        }
        let mut moving = None;
        if is_event_stream(response.headers()) {
            in_flight.may_be_slow();
        } else if length != Some(0) {
            moving = stream.map(|stream| in_flight.moving(stream, rate));
        }
        response.map(|body| Logged { body, length, entry: self, moving, in_flight })
    }

    fn write(&self) {
        let line = match self.log {
            AccessLog::Off => return self.tell_fault(),
            AccessLog::Text => self.text(),
            AccessLog::Json => self.json(),
        };
        // One call a line, so that lines of several threads do not mix. Nobody can be told that it failed.
        drop(std::io::stderr().write_all(line.as_bytes()));
    }

    /// Without an access log, what went wrong here and not elsewhere is still told.
    fn tell_fault(&self) {
        if let Some((Origin::Relay, error)) = &self.failure {
            tracing::warn!(error, "a request failed");
        }
    }

    /// Like the other lines of the log. Written by hand: this is on every request's way, and costs a third of
    /// what an event of `tracing` does.
    fn text(&self) -> String {
        let Self { client, method, path, rule, sent, end, .. } = self;
        let (now, level, ms, status) = (now(), self.level(), self.ms(), self.status());
        let mut line = String::with_capacity(192 + path.len());
        // Writing to a string does not fail.
        let _ = write!(
            line,
            "{now} {level:>5} access client={client} method={method} path={path} status={status} bytes={sent} \
             ms={ms:.1} rule={rule} end={end}"
        );
        if let Some((_, error)) = &self.failure {
            let _ = write!(line, " error={error:?}");
        }
        line.push('\n');
        line
    }

    fn json(&self) -> String {
        let mut fields = serde_json::json!({
            "message": "access", "client": self.client.to_string(), "method": self.method.as_str(),
            "path": self.path, "status": self.status(), "bytes": self.sent, "ms": (self.ms() * 10.0).round() / 10.0,
            "rule": self.rule.to_string(), "end": self.end.to_string(),
        });
        if let Some((_, error)) = &self.failure {
            fields["error"] = error.as_str().into();
        }
        let mut line =
            serde_json::json!({ "timestamp": now(), "level": self.level(), "fields": fields }).to_string();
        line.push('\n');
        line
    }

    /// 499 where the client went away before there was a response, as nginx has it.
    fn status(&self) -> u16 {
        self.status.map_or(499, |status| status.as_u16())
    }

    fn level(&self) -> &'static str {
        match self.failure {
            Some((Origin::Relay | Origin::Backend, _)) => "WARN",
            Some((Origin::Client, _)) | None => "INFO",
        }
    }

    fn ms(&self) -> f64 {
        self.began.elapsed().as_secs_f64() * 1e3
    }
}

/// The time as the other lines of the log have it.
fn now() -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
    );
    // Every field of the format is one that a date with a time has.
    OffsetDateTime::now_utc().format(FORMAT).unwrap_or_default()
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

impl Drop for Entry {
    /// A request is logged however it ends: with its body, or when its handler is dropped since the client left.
    fn drop(&mut self) {
        self.write();
    }
}

/// A response body that is counted; the request is logged when it has ended or is dropped.
pub(crate) struct Logged {
    body: Body,
    length: Option<u64>,
    entry: Entry,
    moving: Option<Moving>,
    /// Held to the body's end.
    in_flight: InFlight,
}

impl http_body::Body for Logged {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            if let Some(moving) = &this.moving {
                moving.asked();
            }
            return Poll::Pending;
        };
        let entry = &mut this.entry;
        match &frame {
            None => entry.end = End::Whole,
            Some(Err(error)) => {
                entry.end = End::Broken;
                this.in_flight.broke_off();
                entry.failure.get_or_insert_with(|| (error.origin(), error.to_string()));
            }
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                entry.sent += length as u64;
                if let Some(moving) = &this.moving {
                    moving.moved(length);
                }
                // Of a body whose length is known hyper does not ask for the end.
                if this.length == Some(entry.sent) {
                    entry.end = End::Whole;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(status: StatusCode) -> Entry {
        let mut entry = Entry::new(AccessLog::Text, [192, 0, 2, 1].into(), Method::GET);
        entry.path(|| "/<prefix>/x?0a1b2c3d".to_owned());
        entry.decided(Decider::Rule(3));
        (entry.status, entry.end) = (Some(status), End::Whole);
        entry
    }

    #[test]
    fn a_line_of_text_has_every_field() {
        let line = entry(StatusCode::OK).text();
        let (time, rest) = line.split_once(' ').unwrap();
        assert_eq!(time.len(), "2026-11-23T08:07:01.815435Z".len(), "{time}");
        assert!(
            rest.starts_with(
                " INFO access client=192.0.2.1 method=GET path=/<prefix>/x?0a1b2c3d status=200 "
            )
        );
        assert!(rest.ends_with(" rule=3 end=whole\n"), "{rest}");
    }

    #[test]
    fn a_client_that_left_before_the_response_is_499() {
        let entry = Entry::new(AccessLog::Text, [192, 0, 2, 1].into(), Method::GET);
        let line = entry.text();
        assert!(line.contains(" path=- status=499 bytes=0 ") && line.ends_with("end=aborted\n"), "{line}");
    }

    #[test]
    fn g1_an_error_cannot_forge_a_line() {
        let mut entry = entry(StatusCode::BAD_GATEWAY);
        entry.failed(&RequestError::BadResponse("a\nb\u{1b}[31m\""));
        let line = entry.text();
        assert!(line.contains(" WARN access ") && line.contains(r#"error="a\nb\u{1b}[31m\"""#), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
        let json: serde_json::Value = serde_json::from_str(&entry.json()).unwrap();
        assert_eq!(json["fields"]["error"], "a\nb\u{1b}[31m\"");
        assert_eq!((&json["level"], &json["fields"]["status"]), (&"WARN".into(), &502.into()));
    }
}
