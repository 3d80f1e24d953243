//! What the relay can learn from the backend's own config file.
//!
//! Sova's `config.toml` says under which prefix and address it listens, how large a body it takes, and whether
//! it serves the front end itself. All of its other keys are its own affair.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::uri::{Authority, Scheme};

use super::{
    raw::{FrontendMode, Raw},
    reader::Table,
    setting::Setting,
    types::{ByteSize, ServerName, UriPrefix},
    units::{Count, OptionalCount},
    url::BackendUrl,
};

/// The keys of Sova's that matter here.
pub(crate) struct Sova {
    uri_prefix: Setting<UriPrefix>,
    server: Server,
    hosted: Setting<bool>,
}

#[derive(Default)]
struct Server {
    host: Setting<ServerName>,
    port: Setting<u16>,
    max_content_length: Setting<ByteSize>,
    /// Waitress threads; a stream holds one of them.
    threads: Setting<Count>,
}

impl Sova {
    pub(crate) fn read(table: &mut Table<'_, '_>) -> Self {
        let server = table.table("server", |table| Server {
            host: table.text("host"),
            port: table.take("port"),
            max_content_length: table.take("max_content_length"),
            threads: table.take("threads"),
        });
        Self {
            uri_prefix: table.text("uri_prefix"),
            server: server.or_default(),
            hosted: table.table("frontend", |table| table.take("hosted")).or_default(),
        }
    }

    /// Fills in how many streams it bears, where it is the backend that flags or the relay's own file name: once each
    /// of its threads has a stream, it answers nobody (measured).
    pub(crate) fn bound_streams(self, raw: &mut Raw) {
        if self.is_backend_of(raw) {
            fill_streams(raw, self.server.threads);
        }
    }

    /// Whether it is the backend that is meant, and has another prefix: below its own, no rule is asked.
    pub(crate) fn has_another_prefix(&self, raw: &Raw) -> bool {
        let its = self.uri_prefix.as_given().map_or("", UriPrefix::as_path);
        let ours = raw.uri_prefix.as_given().map_or("", UriPrefix::as_path);
        !raw.uri_prefix.is_faulty() && its != ours && self.is_backend_of(raw)
    }

    fn is_backend_of(&self, raw: &Raw) -> bool {
        let Server { host, port, .. } = &self.server;
        let Some(its) = port.as_given().and_then(|port| url(host.as_given().cloned(), *port)) else {
            return false;
        };
        let meant = raw.backend.url.as_given().cloned().unwrap_or_default();
        its == meant || its.loopback().is_some_and(|address| meant.loopback() == Some(address))
    }

    /// Fills in what neither a flag nor the relay's own file says.
    pub(crate) fn apply(self, raw: &mut Raw) {
        let Server { host, port, max_content_length, threads } = self.server;
        raw.uri_prefix.fill(self.uri_prefix);
        raw.server.max_content_length.fill(max_content_length);
        fill_streams(raw, threads);
        if let Setting::Given(port, place) = port
            && let Some(url) = url(host.given(), port)
        {
            raw.backend.url.fill(Setting::Given(url, place));
        }
        if let Setting::Given(hosted, place) = self.hosted
            && raw.frontend.mode.is_absent()
        {
            if hosted {
                raw.forward_frontend_to_backend(place);
            } else {
                raw.frontend.mode = Setting::Given(FrontendMode::Disabled, place);
            }
        }
    }
}

/// A quarter of the threads is left to ordinary requests, of as many as there are connections for.
fn fill_streams(raw: &mut Raw, threads: Setting<Count>) {
    if let Setting::Given(Count(threads), place) = threads {
        let connections = raw.backend.max_connections.as_given().map_or(usize::MAX, |Count(most)| *most);
        let streams = OptionalCount(Some((threads - threads / 4).min(connections)));
        raw.backend.max_streams.fill(Setting::Given(streams, place));
    }
}

/// The address to reach a backend at that listens on `host`.
fn url(host: Option<ServerName>, port: u16) -> Option<BackendUrl> {
    let host = match host {
        Some(ServerName::Ip(IpAddr::V6(Ipv6Addr::UNSPECIFIED))) => ServerName::Ip(Ipv6Addr::LOCALHOST.into()),
        None | Some(ServerName::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED))) => {
            ServerName::Ip(Ipv4Addr::LOCALHOST.into())
        }
        Some(host @ (ServerName::Dns(_) | ServerName::Ip(_))) => host,
    };
    let authority: Authority = format!("{}:{port}", host.to_host()).parse().ok()?;
    Some(BackendUrl { scheme: Scheme::HTTP, authority })
}
