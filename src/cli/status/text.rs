//! The status for people.

use std::{fmt::Write as _, time::Duration};

use time::{OffsetDateTime, macros::format_description};

use crate::control::status::{Certificate, Origin, Status};

/// One screen.
pub(super) fn page(status: &Status, now: OffsetDateTime) -> String {
    let mut page = String::new();
    let up = span(Duration::from_secs(status.uptime_seconds));
    // Writing to a string does not fail.
    let _ = writeln!(page, "parley-relay {}, process {}, up for {up}", status.version, status.pid);
    if let Some(file) = status.config.files.first() {
        let loaded = status.config.loaded.map(|at| format!(", as it was at {}", minute(at)));
        line(&mut page, "config", &format!("{}{}", file.path, loaded.unwrap_or_default()));
    }
    for listener in &status.listeners {
        line(&mut page, &listener.kind, &listener.address);
    }
    for certificate in &status.certificates {
        page.push('\n');
        describe(&mut page, certificate, now);
    }
    page.push('\n');
    clients(&mut page, status);
    page.push('\n');
    origin(&mut page, "backend", &status.backend);
    if status.backend.streams_most > 0 {
        streams(&mut page, &status.backend);
    }
    if let Some(frontend) = &status.frontend {
        page.push('\n');
        origin(&mut page, "front end", frontend);
    }
    page
}

fn line(page: &mut String, name: &str, value: &str) {
    // What a CA or a config says is shown, and not obeyed.
    let _ = writeln!(page, "  {name:<12}{}", value.replace(char::is_control, " "));
}

fn describe(page: &mut String, certificate: &Certificate, now: OffsetDateTime) {
    let names = certificate.names.join(", ").replace(char::is_control, " ");
    let _ = writeln!(page, "certificate for {names}");
    if certificate.temporary {
        line(page, "temporary", "nobody trusts it; it serves until the CA has issued one");
    } else {
        line(page, "issuer", &certificate.issuer);
        if let Some(expires) = certificate.expires {
            let when = if expires > now {
                format!("in {}", span((expires - now).unsigned_abs()))
            } else {
                "it is over".to_owned()
            };
            line(page, "expires", &format!("{} ({when})", minute(expires)));
        }
        if let Some(renewal) = certificate.next_renewal {
            line(page, "renewal", &format!("{}, by the relay", minute(renewal)));
        }
    }
    if let Some(error) = &certificate.last_error {
        line(page, "failed", error);
    }
    if let Some(next) = certificate.next_try {
        line(page, "next try", &minute(next));
    }
}

fn clients(page: &mut String, status: &Status) {
    let clients = &status.clients;
    let open = clients.handshake + clients.http1 + clients.http2 + clients.redirect + clients.tunnel;
    let _ = writeln!(page, "clients");
    let states = [
        (clients.http2, "HTTP/2"),
        (clients.http1, "HTTP/1.1"),
        (clients.tunnel, "tunnels"),
        (clients.redirect, "redirects"),
        (clients.handshake, "in the handshake"),
    ];
    let states: Vec<_> = states
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    let states = if states.is_empty() { String::new() } else { format!(": {}", states.join(", ")) };
    line(page, "connections", &format!("{open} of {}{states}", clients.most));
    let mut since = format!("{} accepted, {} refused", clients.accepted, clients.refused);
    if clients.refused > 0 {
        let _ = write!(since, " (a client may have {})", clients.most_per_client);
    }
    if clients.exhausted > 0 {
        let _ = write!(since, "; {} failed tries, for want of descriptors or memory", clients.exhausted);
    }
    line(page, "since start", &since);
    let [c1, c2, c3, c4, c5] = status.requests.answered;
    let mut requests = format!("{} answered", c1 + c2 + c3 + c4 + c5);
    let classes = [(c1, "1xx"), (c2, "2xx"), (c3, "3xx"), (c4, "4xx"), (c5, "5xx")];
    let classes: Vec<_> = classes
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    if !classes.is_empty() {
        let _ = write!(requests, ": {}", classes.join(", "));
    }
    if status.requests.aborted > 0 {
        let _ = write!(requests, "; {} given up by the client", status.requests.aborted);
    }
    if status.requests.limited > 0 {
        let _ = write!(requests, "; {} over the rate", status.requests.limited);
    }
    line(page, "requests", &requests);
}

fn origin(page: &mut String, name: &str, origin: &Origin) {
    let state = match origin.away_seconds {
        None => "answers".to_owned(),
        Some(away) => format!("has not answered for {}", span(Duration::from_secs(away))),
    };
    let _ = writeln!(page, "{name} {} {state}", origin.url);
    let (busy, idle) = (origin.connections_busy, origin.connections_idle);
    let mut connections = format!("{busy} busy, {idle} idle, of {}", origin.connections_most);
    if origin.waiting > 0 {
        let _ = write!(connections, "; {} requests wait for one", origin.waiting);
    }
    line(page, "connections", &connections);
    if origin.retries > 0 {
        line(page, "retries", &origin.retries.to_string());
    }
}

fn streams(page: &mut String, backend: &Origin) {
    let mut streams = format!("{} live, of {}", backend.streams_live, backend.streams_most);
    if backend.streams_held > 0 {
        let _ = write!(streams, "; {} wait for it", backend.streams_held);
    }
    if backend.streams_given_up > 0 {
        let _ = write!(streams, "; {} waited in vain", backend.streams_given_up);
    }
    line(page, "streams", &streams);
}

/// In the two largest units.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let day = if days == 1 { "day" } else { "days" };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, 0, _) => format!("{days} {day}"),
        (..) => format!("{days} {day} {hours} h"),
    }
}

/// To the minute, in UTC.
fn minute(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]Z");
    // The parts are those that every instant has: it does not fail.
    at.to_utc().format(format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{Clients, ConfigFile, Configured, Listener, Requests};
    use time::macros::datetime;

    fn status() -> Status {
        Status {
            version: "1.2.3".into(),
            pid: 4711,
            uptime_seconds: 273_840,
            listeners: vec![
                Listener { kind: "redirect".into(), address: "[::]:80".into() },
                Listener { kind: "https".into(), address: "[::]:443".into() },
            ],
            certificates: vec![Certificate {
                names: vec!["chat.example.org".into()],
                issuer: "Some CA R1".into(),
                expires: Some(datetime!(2027-02-01 12:30 UTC)),
                next_renewal: Some(datetime!(2027-01-01 10:00 UTC)),
                ..Certificate::default()
            }],
            clients: Clients {
                most: 10_000,
                most_per_client: 256,
                http1: 2,
                http2: 7,
                accepted: 31,
                ..Clients::default()
            },
            config: Configured {
                loaded: Some(datetime!(2027-01-01 09:30 UTC)),
                files: vec![ConfigFile {
                    path: "/etc/parley-relay/config.toml".into(),
                    ..ConfigFile::default()
                }],
            },
            requests: Requests { answered: [0, 1500, 30, 4, 0], aborted: 2, limited: 0 },
            backend: Origin {
                url: "http://127.0.0.1:42836".into(),
                connections_busy: 6,
                connections_idle: 3,
                connections_most: 90,
                streams_live: 5,
                streams_most: 24,
                ..Origin::default()
            },
            ..Status::default()
        }
    }

    #[test]
    fn a_relay_that_is_well_has_one_screen_without_noise() {
        let expected = "\
parley-relay 1.2.3, process 4711, up for 3 days 4 h
  config      /etc/parley-relay/config.toml, as it was at 2027-01-01 09:30Z
  redirect    [::]:80
  https       [::]:443

certificate for chat.example.org
  issuer      Some CA R1
  expires     2027-02-01 12:30Z (in 31 days 2 h)
  renewal     2027-01-01 10:00Z, by the relay

clients
  connections 9 of 10000: 7 HTTP/2, 2 HTTP/1.1
  since start 31 accepted, 0 refused
  requests    1534 answered: 1500 2xx, 30 3xx, 4 4xx; 2 given up by the client

backend http://127.0.0.1:42836 answers
  connections 6 busy, 3 idle, of 90
  streams     5 live, of 24
";
        assert_eq!(page(&status(), datetime!(2027-01-01 10:00 UTC)), expected);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let mut status = status();
        status.certificates[0].temporary = true;
        status.certificates[0].last_error = Some("the CA said\n\u{1b}[31mno".into());
        status.certificates[0].next_try = Some(datetime!(2027-01-01 10:05 UTC));
        (status.clients.refused, status.clients.exhausted) = (3, 1);
        status.requests.limited = 8;
        let backend = &mut status.backend;
        (backend.away_seconds, backend.waiting, backend.retries) = (Some(64), 12, 40);
        (backend.streams_live, backend.streams_held, backend.streams_given_up) = (0, 5, 1);
        status.frontend = Some(Origin { url: "https://front.example".into(), ..Origin::default() });
        let expected = "\
certificate for chat.example.org
  temporary   nobody trusts it; it serves until the CA has issued one
  failed      the CA said  [31mno
  next try    2027-01-01 10:05Z

clients
  connections 9 of 10000: 7 HTTP/2, 2 HTTP/1.1
  since start 31 accepted, 3 refused (a client may have 256); 1 failed tries, for want of descriptors or memory
  requests    1534 answered: 1500 2xx, 30 3xx, 4 4xx; 2 given up by the client; 8 over the rate

backend http://127.0.0.1:42836 has not answered for 1 min 4 s
  connections 6 busy, 3 idle, of 90; 12 requests wait for one
  retries     40
  streams     0 live, of 24; 5 wait for it; 1 waited in vain

front end https://front.example answers
  connections 0 busy, 0 idle, of 0
";
        let page = page(&status, datetime!(2027-01-01 10:00 UTC));
        assert!(page.ends_with(expected), "{page}");
    }
}
