//! Files by HTTP, over lines that are slow and break.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    StatusCode,
    header::{RANGE, USER_AGENT},
    uri::{Authority, Scheme},
};
use rustls::ClientConfig;

use super::{
    error::{FetchError, UpdateError},
    release::{Hasher, Sha256},
};
use crate::{
    acme,
    config::{FrontendUrl, ProxyUrl},
    proxy::egress,
};

const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// Between two reads. There is none for the whole: some lines are slow.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// How often a call is made before it counts as failed, and a body is gone on with that gained nothing.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Where GitHub's downloads lead takes two.
const REDIRECTS: usize = 5;

/// A web server with files below one URL.
pub(super) struct Web {
    client: reqwest::Client,
    base: FrontendUrl,
    /// The proxy on the way, without its password.
    through: Option<Authority>,
}

/// A file that is being written, counted, hashed and told of.
pub(super) struct Sink<'a> {
    path: &'a Path,
    out: &'a mut File,
    name: &'static str,
    limit: u64,
    hasher: Hasher,
    came: u64,
    /// As the other side says.
    expected: Option<u64>,
    progress: Progress,
}

/// A line on standard error that tells how far a download is; on a terminal it is drawn anew.
struct Progress {
    drawn: Option<Instant>,
    on_terminal: bool,
}

impl Web {
    pub(super) fn new(base: FrontendUrl, proxy: Option<&ProxyUrl>) -> reqwest::Result<Self> {
        let tls = ClientConfig::builder().with_root_certificates(egress::web_roots()).with_no_client_auth();
        let mut builder = reqwest::Client::builder()
            // The environment's proxies are not ours: what is used stands in the config.
            .no_proxy()
            .tls_backend_preconfigured(tls)
            // SECURITY: a redirect leads from no https:// mirror to plain HTTP.
            .https_only(base.origin.scheme == Scheme::HTTPS)
            .http1_only()
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(READ_LIMIT);
        if let Some(proxy) = proxy {
            builder = builder.proxy(acme::through(proxy)?);
        }
        Ok(Self { client: builder.build()?, base, through: proxy.map(|proxy| proxy.authority.clone()) })
    }

    /// A file of at most `limit` bytes, or a few more.
    pub(super) async fn small(&self, file: &'static str, limit: u64) -> Result<Vec<u8>, FetchError> {
        let mut response = self.get(file, 0).await?;
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk(file, &mut response).await? {
            text.extend_from_slice(&chunk);
            if text.len() as u64 > limit {
                break;
            }
        }
        Ok(text)
    }

    /// A file into `sink`. One that breaks off is gone on with where it broke, if the server can do that.
    pub(super) async fn large(&self, file: &'static str, sink: &mut Sink<'_>) -> Result<(), UpdateError> {
        let mut tries = TRIES;
        loop {
            let from = sink.came;
            let mut response = self.get(file, from).await?;
            if from == 0 {
                sink.expect(response.content_length());
            } else if response.status() != StatusCode::PARTIAL_CONTENT {
                return Err(sink.short().into());
            }
            let broken = loop {
                match self.chunk(file, &mut response).await {
                    Ok(Some(chunk)) => sink.take(&chunk)?,
                    Ok(None) if sink.is_whole() => return Ok(()),
                    Ok(None) => break sink.short(),
                    Err(error) => break error,
                }
            };
            tries = if sink.came > from { TRIES } else { tries - 1 };
            if tries == 0 {
                return Err(broken.into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A good answer's head. What may be a line's or a server's bad moment is tried again.
    async fn get(&self, file: &'static str, from: u64) -> Result<reqwest::Response, FetchError> {
        let mut left = TRIES;
        loop {
            left -= 1;
            let mut request = self
                .client
                .get(format!("{}/{file}", self.base))
                .header(USER_AGENT, concat!("parley-relay/", env!("CARGO_PKG_VERSION")));
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let error = match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let status = response.status();
                    let error = FetchError::Status { file, host: self.host(), status };
                    if !status.is_server_error() {
                        return Err(error);
                    }
                    error
                }
                Err(source) => self.call(file, source),
            };
            if left == 0 {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn chunk(
        &self,
        file: &'static str,
        response: &mut reqwest::Response,
    ) -> Result<Option<Bytes>, FetchError> {
        response.chunk().await.map_err(|source| self.call(file, source))
    }

    fn call(&self, file: &'static str, source: reqwest::Error) -> FetchError {
        let through = self.through.clone();
        FetchError::Call { file, host: self.host(), through, source: source.without_url() }
    }

    fn host(&self) -> String {
        self.base.origin.authority.host().to_owned()
    }
}

impl<'a> Sink<'a> {
    /// Into `out`, which lies at `path` and is empty; more than `limit` bytes are refused.
    pub(super) fn new(name: &'static str, limit: u64, path: &'a Path, out: &'a mut File) -> Self {
        let progress = Progress { drawn: None, on_terminal: io::stderr().is_terminal() };
        Self { path, out, name, limit, hasher: Hasher::new(), came: 0, expected: None, progress }
    }

    /// How long the other side says that it is.
    pub(super) fn expect(&mut self, length: Option<u64>) {
        self.expected = length;
    }

    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), UpdateError> {
        self.came += bytes.len() as u64;
        if self.came > self.limit {
            return Err(FetchError::TooLarge { file: self.name }.into());
        }
        self.out.write_all(bytes).map_err(|error| UpdateError::Write(self.path.to_owned(), error))?;
        self.hasher.update(bytes);
        self.progress.tell(self.name, self.came, self.expected);
        Ok(())
    }

    /// The digest of all that came.
    pub(super) fn finish(mut self) -> Sha256 {
        self.progress.end(self.name, self.came);
        self.hasher.finish()
    }

    fn is_whole(&self) -> bool {
        self.expected.is_none_or(|expected| self.came >= expected)
    }

    fn short(&self) -> FetchError {
        let expected = self.expected.unwrap_or_default();
        FetchError::Short { file: self.name, expected, came: self.came }
    }
}

impl Progress {
    const EVERY: Duration = Duration::from_millis(200);

    fn tell(&mut self, name: &str, came: u64, expected: Option<u64>) {
        if !self.on_terminal || self.drawn.is_some_and(|drawn| drawn.elapsed() < Self::EVERY) {
            return;
        }
        self.drawn = Some(Instant::now());
        let of = expected.filter(|expected| *expected > 0).map(|expected| {
            format!(" of {} ({} %)", megabytes(expected), came.min(expected) * 100 / expected)
        });
        eprint!("\r{name}: {}{}\x1b[K", megabytes(came), of.unwrap_or_default());
    }

    fn end(&mut self, name: &str, came: u64) {
        let start = if self.drawn.take().is_some() { "\r" } else { "" };
        let end = if start.is_empty() { "" } else { "\x1b[K" };
        eprintln!("{start}{name}: {}{end}", megabytes(came));
    }
}

fn megabytes(bytes: u64) -> String {
    // Tenths, for people.
    let tenths = bytes / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}
