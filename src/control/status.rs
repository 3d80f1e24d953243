//! How a relay is, as it tells it: JSON, which is a promise to scripts. No client, no path, no secret is in it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// All that is told. What an older relay does not tell is empty.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) pid: u32,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) started: Option<OffsetDateTime>,
    pub(crate) uptime_seconds: u64,
    pub(crate) config: Configured,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) clients: Clients,
    pub(crate) requests: Requests,
    pub(crate) backend: Origin,
    /// `None`: it is no other server.
    pub(crate) frontend: Option<Origin>,
}

/// The configuration in force.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Configured {
    /// When it was put in force: at the start, or by the last reload that was not refused.
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) loaded: Option<OffsetDateTime>,
    /// What it was read from: the config file first, then the backend's own. Empty: flags alone.
    pub(crate) files: Vec<ConfigFile>,
}

/// A file as it was when it was read.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct ConfigFile {
    pub(crate) path: String,
    /// Of its bytes, in hexadecimal: whether the file is still the same can be told, and not what is in it.
    pub(crate) sha256: String,
}

/// A listening socket.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Listener {
    /// `https`, `http` or `redirect`.
    pub(crate) kind: String,
    pub(crate) address: String,
}

/// A certificate that is served.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Certificate {
    pub(crate) names: Vec<String>,
    pub(crate) issuer: String,
    pub(crate) fingerprint: String,
    /// Whether it only stands for one that has not come yet, and nobody trusts it.
    pub(crate) temporary: bool,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) expires: Option<OffsetDateTime>,
    /// `None`: not by the relay.
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) next_renewal: Option<OffsetDateTime>,
    pub(crate) last_error: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) next_try: Option<OffsetDateTime>,
}

/// Client connections, now and since the start.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Clients {
    pub(crate) most: usize,
    pub(crate) most_per_client: usize,
    pub(crate) handshake: usize,
    pub(crate) http1: usize,
    pub(crate) http2: usize,
    pub(crate) redirect: usize,
    pub(crate) tunnel: usize,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) exhausted: u64,
}

/// Requests since the start.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Requests {
    /// By the first digit of the status, from 1xx to 5xx.
    pub(crate) answered: [u64; 5],
    /// Left before there was an answer.
    pub(crate) aborted: u64,
    /// Over `requests_per_second`.
    pub(crate) limited: u64,
}

/// The backend, or a front end elsewhere.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Origin {
    pub(crate) url: String,
    /// For how long it has not answered; `None`: it did, the last time that it was asked.
    pub(crate) away_seconds: Option<u64>,
    pub(crate) connections_busy: usize,
    pub(crate) connections_idle: usize,
    pub(crate) connections_most: usize,
    /// Requests that wait for a connection.
    pub(crate) waiting: usize,
    pub(crate) streams_live: usize,
    pub(crate) streams_held: usize,
    pub(crate) streams_most: usize,
    pub(crate) streams_given_up: u64,
    pub(crate) retries: u64,
}
