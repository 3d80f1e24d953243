//! The status in Prometheus' text format, version 0.0.4: for a node exporter's textfile collector, or whatever fetches it.

use std::fmt::Write as _;

use time::OffsetDateTime;

use crate::control::status::{Origin, Status};

/// What is said where there is no relay.
pub(super) const DOWN: &str = "\
# HELP parley_relay_up Whether a relay answers.
# TYPE parley_relay_up gauge
parley_relay_up 0
";

#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

/// A metric's values, each with its labels.
type Samples<'a> = &'a [(&'a [(&'a str, &'a str)], f64)];

struct Page(String);

impl Page {
    /// Writes one metric; nothing where it has no values.
    fn metric(&mut self, name: &str, kind: Kind, help: &str, samples: Samples<'_>) {
        if samples.is_empty() {
            return;
        }
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP parley_relay_{name} {help}\n# TYPE parley_relay_{name} {kind}\n");
        for (labels, value) in samples {
            let labels: Vec<_> =
                labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(self.0, "parley_relay_{name}{labels} {value}");
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Everything that has a number.
pub(super) fn exposition(status: &Status) -> String {
    let mut page = Page(String::with_capacity(8 << 10));
    use Kind::Gauge;
    page.metric("up", Gauge, "Whether a relay answers.", &[(&[], 1.0)]);
    let version: &[_] = &[("version", status.version.as_str())];
    page.metric("build_info", Gauge, "Always 1, with the version.", &[(version, 1.0)]);
    let started = status.started.map_or(0.0, |started| started.unix_timestamp() as f64);
    page.metric("start_time_seconds", Gauge, "When it started, as a Unix time.", &[(&[], started)]);
    clients(&mut page, status);
    requests(&mut page, status);
    let mut origins = vec![("backend", &status.backend)];
    origins.extend(status.frontend.as_ref().map(|frontend| ("frontend", frontend)));
    origin_metrics(&mut page, &origins);
    certificates(&mut page, status);
    page.0
}

fn clients(page: &mut Page, status: &Status) {
    let clients = &status.clients;
    page.metric(
        "client_connections",
        Kind::Gauge,
        "Open client connections, by what they are at.",
        &[
            (&[("state", "handshake")], clients.handshake as f64),
            (&[("state", "http1")], clients.http1 as f64),
            (&[("state", "http2")], clients.http2 as f64),
            (&[("state", "redirect")], clients.redirect as f64),
            (&[("state", "tunnel")], clients.tunnel as f64),
        ],
    );
    let help = "How many client connections there may be: [limits] connections.";
    page.metric("client_connections_limit", Kind::Gauge, help, &[(&[], clients.most as f64)]);
    let help = "Client connections that were accepted.";
    page.metric("client_connections_accepted_total", Kind::Counter, help, &[(&[], clients.accepted as f64)]);
    let help =
        "Client connections that were closed at once: their client had connections_per_client already.";
    page.metric("client_connections_refused_total", Kind::Counter, help, &[(&[], clients.refused as f64)]);
    let help = "Times that no connection could be accepted, for want of descriptors or memory.";
    page.metric("accept_failures_total", Kind::Counter, help, &[(&[], clients.exhausted as f64)]);
}

fn requests(page: &mut Page, status: &Status) {
    let requests = &status.requests;
    let [c1, c2, c3, c4, c5] = requests.answered.map(|count| count as f64);
    page.metric(
        "requests_total",
        Kind::Counter,
        "Requests, by the class of their answer; aborted: the client left before there was one.",
        &[
            (&[("class", "1xx")], c1),
            (&[("class", "2xx")], c2),
            (&[("class", "3xx")], c3),
            (&[("class", "4xx")], c4),
            (&[("class", "5xx")], c5),
            (&[("class", "aborted")], requests.aborted as f64),
        ],
    );
    let help = "Requests that went over requests_per_second, and were answered 429 or told to come back.";
    page.metric("requests_limited_total", Kind::Counter, help, &[(&[], requests.limited as f64)]);
}

/// One value of each origin, under the label `origin`.
fn each(page: &mut Page, origins: &[(&str, &Origin)], metric: (&str, Kind, &str), value: fn(&Origin) -> f64) {
    let (name, kind, help) = metric;
    let list: Vec<_> = origins.iter().map(|(role, origin)| ([("origin", *role)], value(origin))).collect();
    page.metric(name, kind, help, &samples(&list));
}

fn origin_metrics(page: &mut Page, origins: &[(&str, &Origin)]) {
    use Kind::{Counter, Gauge};
    let help = "Whether it answered when it was last asked.";
    each(page, origins, ("origin_up", Gauge, help), |origin| f64::from(origin.away_seconds.is_none()));
    let help = "For how long it has not answered.";
    each(page, origins, ("origin_away_seconds", Gauge, help), |origin| {
        origin.away_seconds.unwrap_or(0) as f64
    });
    let help = "Connections to it that a request or a stream has.";
    each(page, origins, ("origin_connections_busy", Gauge, help), |origin| origin.connections_busy as f64);
    let help = "Connections to it that are kept for the next request.";
    each(page, origins, ("origin_connections_idle", Gauge, help), |origin| origin.connections_idle as f64);
    let help = "How many connections there may be to it: [backend] max_connections.";
    each(page, origins, ("origin_connections_limit", Gauge, help), |origin| origin.connections_most as f64);
    let help = "Requests that wait for a connection to it.";
    each(page, origins, ("origin_waiting_requests", Gauge, help), |origin| origin.waiting as f64);
    let help = "Requests that were sent again, since they certainly had not arrived.";
    each(page, origins, ("origin_retries_total", Counter, help), |origin| origin.retries as f64);
    // Streams are kept for the backend alone.
    let backend = &origins[..1];
    let help = "Event streams that it feeds.";
    each(page, backend, ("event_streams_live", Gauge, help), |origin| origin.streams_live as f64);
    let help = "Event streams that are kept open until it feeds them.";
    each(page, backend, ("event_streams_held", Gauge, help), |origin| origin.streams_held as f64);
    let help = "How many event streams it feeds at most: [backend] max_streams.";
    each(page, backend, ("event_streams_limit", Gauge, help), |origin| origin.streams_most as f64);
    let help = "Event streams that waited for it as long as hold_streams, in vain.";
    each(page, backend, ("event_streams_given_up_total", Counter, help), |origin| {
        origin.streams_given_up as f64
    });
}

fn certificates(page: &mut Page, status: &Status) {
    let seconds = |at: OffsetDateTime| at.unix_timestamp() as f64;
    let (mut expiry, mut renewal): (Vec<Named<'_>>, Vec<Named<'_>>) = Default::default();
    for certificate in &status.certificates {
        let expires = certificate.expires.filter(|_| !certificate.temporary).map_or(0.0, seconds);
        for name in &certificate.names {
            let label = [("name", name.as_str())];
            // A name that two certificates have is served by the first.
            if expiry.iter().any(|(known, _)| *known == label) {
                continue;
            }
            expiry.push((label, expires));
            renewal.extend(certificate.next_renewal.map(|at| (label, seconds(at))));
        }
    }
    let help = "When the certificate of a name expires, as a Unix time; 0: it is a temporary one.";
    page.metric("certificate_expiry_timestamp_seconds", Kind::Gauge, help, &samples(&expiry));
    let help = "When the relay renews the certificate of a name, as a Unix time.";
    page.metric("certificate_renewal_timestamp_seconds", Kind::Gauge, help, &samples(&renewal));
}

/// A value under one label.
type Named<'a> = ([(&'a str, &'a str); 1], f64);

fn samples<'a>(list: &'a [Named<'a>]) -> Vec<(&'a [(&'a str, &'a str)], f64)> {
    list.iter().map(|(label, value)| (&label[..], *value)).collect()
}
