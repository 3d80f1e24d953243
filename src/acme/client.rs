//! The HTTP client that ACME is spoken with: every call has a time limit and a size limit.

use std::{
    error::Error,
    fmt,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
    response::Parts,
    uri::Authority,
};
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::{
    ClientConfig,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};
use time::OffsetDateTime;

use super::persist::IssuerNames;
use crate::{
    config::{
        ProxyUrl,
        acme::{self, Transport},
    },
    error::Chain,
    proxy::egress,
};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// From the first byte that goes out to the last that comes in.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// More than any answer of a CA: chains have a few kilobytes.
const BODY_LIMIT: usize = 1 << 20;

/// A client for one try with one CA. Clones share what the CA asked for.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// The proxy on the way, without its password.
    through: Option<Authority>,
    /// When the CA wants to see us again: `Retry-After` of its last refusal. The ACME library drops it.
    retry_after: Arc<Mutex<Option<SystemTime>>>,
    issuer_names: IssuerNames,
}

/// Why a call to a CA came to nothing, or cannot be made at all.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// The roots of a private CA cannot be read.
    Roots {
        file: PathBuf,
        source: pem::Error,
    },
    /// One of them is no root.
    Root {
        file: PathBuf,
        source: rustls::Error,
    },
    Build(reqwest::Error),
    /// No whole answer in time. Keeps no URL: those of accounts and orders are the CA's and our business.
    Call {
        host: String,
        through: Option<Authority>,
        source: reqwest::Error,
    },
    /// An answer that is no ACME: of a proxy, or of a server in maintenance.
    Status {
        host: String,
        status: StatusCode,
    },
    TooLarge {
        host: String,
    },
}

impl Client {
    /// Reads the roots anew: a private CA may have got another one since.
    pub(crate) fn new(authority: &acme::Authority) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            // The environment's proxies are not ours: what is used stands in the config.
            .no_proxy()
            .tls_backend_preconfigured(tls(authority.ca_root.as_ref())?)
            .https_only(authority.transport == Transport::HttpsOnly)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(CALL_LIMIT);
        if let Some(proxy) = &authority.proxy {
            builder = builder.proxy(through(proxy).map_err(ClientError::Build)?);
        }
        Ok(Self {
            http: builder.build().map_err(ClientError::Build)?,
            through: authority.proxy.as_ref().map(|proxy| proxy.authority.clone()),
            retry_after: Arc::default(),
            issuer_names: IssuerNames::default(),
        })
    }

    /// When the CA wants to see us again, if it said so with its last refusal.
    pub(crate) fn retry_after(&self) -> Option<OffsetDateTime> {
        let told = *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner);
        told.map(OffsetDateTime::from)
    }

    /// What the CA calls itself in the challenges that came by here.
    pub(super) fn issuer_names(&self) -> &IssuerNames {
        &self.issuer_names
    }

    async fn call(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, ClientError> {
        let (parts, body) = self.exchange(request).await?;
        Ok(BytesResponse { parts, body: Box::new(body) })
    }

    /// One request, and its answer.
    pub(super) async fn exchange(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<(Parts, Bytes), ClientError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let failed = |source: reqwest::Error| ClientError::Call {
            host: host.clone(),
            through: self.through.clone(),
            source: source.without_url(),
        };
        let (mut parts, body) = request.into_parts();
        let agent = concat!("parley-relay/", env!("CARGO_PKG_VERSION"));
        parts.headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        // Its error is `Infallible`.
        let body = body.collect().await.map_or_else(|never| match never {}, |body| body.to_bytes());
        let request = reqwest::Request::try_from(Request::from_parts(parts, body)).map_err(failed)?;
        let is_post = request.method() == http::Method::POST;
        let mut response = self.http.execute(request).await.map_err(failed)?;

        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            let told = retry_after(response.headers(), SystemTime::now());
            *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = told;
        }
        let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| {
            let kind = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
            kind.trim_ascii().ends_with(b"json")
        });
        // The library looks at the status of answers to POST alone, and takes every refusal for JSON.
        if !(status.is_success() || is_json && is_post) {
            return Err(ClientError::Status { host, status });
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > BODY_LIMIT {
                return Err(ClientError::TooLarge { host });
            }
            body.extend_from_slice(&chunk);
        }
        self.issuer_names.learn(&body);
        let mut answer = Response::new(());
        *answer.status_mut() = status;
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        Ok((answer.into_parts().0, body.freeze()))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let call = self.clone().call(request);
        Box::pin(async move { call.await.map_err(|error| instant_acme::Error::Other(Box::new(error))) })
    }
}

/// The public roots, and those of a private CA.
fn tls(ca_root: Option<&PathBuf>) -> Result<ClientConfig, ClientError> {
    let mut roots = egress::web_roots();
    if let Some(file) = ca_root {
        let unreadable = |source| ClientError::Roots { file: file.clone(), source };
        for root in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
            roots
                .add(root.map_err(unreadable)?)
                .map_err(|source| ClientError::Root { file: file.clone(), source })?;
        }
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// The proxy as reqwest wants it.
pub(crate) fn through(proxy: &ProxyUrl) -> reqwest::Result<reqwest::Proxy> {
    use crate::config::ProxyScheme;
    let scheme = match proxy.scheme {
        ProxyScheme::Http => "http",
        // The proxy resolves names in both cases: who needs one for ACME may have no honest resolver.
        ProxyScheme::Socks5 | ProxyScheme::Socks5h => "socks5h",
    };
    let through = reqwest::Proxy::all(format!("{scheme}://{}", proxy.authority))?;
    Ok(match &proxy.credentials {
        Some(credentials) => through.basic_auth(&credentials.user, &credentials.password.0),
        None => through,
    })
}

/// Seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<SystemTime> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => now.checked_add(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok(),
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roots { file, source } => write!(f, "{} cannot be read: {source}", file.display()),
            Self::Root { file, source } => write!(f, "{} holds no root: {source}", file.display()),
            Self::Build(error) => write!(f, "no HTTP client: {}", Chain(error)),
            Self::Call { host, through, source } => {
                write!(f, "{host} cannot be reached")?;
                if let Some(proxy) = through {
                    write!(f, " through the proxy at {proxy}")?;
                }
                write!(f, ": {}", Chain(source))
            }
            Self::Status { host, status } => write!(f, "{host} answers {status} and speaks no ACME"),
            Self::TooLarge { host } => write!(f, "{host} sends more than any answer has"),
        }
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Roots { source, .. } => Some(source),
            Self::Root { source, .. } => Some(source),
            // Their messages hold the whole chain.
            Self::Build(_) | Self::Call { .. } | Self::Status { .. } | Self::TooLarge { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k11_retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let at = |value: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            retry_after(&headers, now)
        };
        assert_eq!(at("60"), Some(now + Duration::from_secs(60)));
        assert_eq!(at("Thu, 01 Jan 1970 00:20:00 GMT"), Some(now + Duration::from_secs(200)));
        assert_eq!(at("soon"), None);
        assert_eq!(at("18446744073709551615"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    fn authority(proxy: Option<&str>) -> acme::Authority {
        acme::Authority {
            email: None,
            external_account: None,
            ca_root: None,
            proxy: proxy.map(|url| url.parse().unwrap()),
            transport: Transport::HttpOnLoopback,
        }
    }

    fn get(url: &str) -> Request<BodyWrapper<Bytes>> {
        Request::builder().uri(url).body(BodyWrapper::default()).unwrap()
    }

    /// A server on this machine that answers one request with these bytes, and its URL.
    async fn answering(answer: Vec<u8>) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            // The client may hang up in the middle.
            let _ = stream.write_all(&answer).await;
        });
        format!("http://{address}/dir")
    }

    #[tokio::test]
    async fn a_proxys_password_is_in_no_error() {
        crate::tls::install_provider();
        for proxy in ["http://user:s3cret@127.0.0.1:1", "socks5://user:s3cret@127.0.0.1:1"] {
            let client = Client::new(&authority(Some(proxy))).unwrap();
            let Err(error) = client.call(get("https://ca.example/dir")).await else {
                panic!("{proxy}: nobody listens there");
            };
            let text = format!("{error} {error:?}");
            assert!(text.contains("ca.example cannot be reached") && !text.contains("s3cret"), "{text}");
        }
    }

    #[tokio::test]
    async fn k11_what_is_no_acme_and_what_never_ends_are_errors_and_retry_after_is_kept() {
        crate::tls::install_provider();
        let client = Client::new(&authority(None)).unwrap();
        let page =
            b"HTTP/1.1 503 Busy\r\nRetry-After: 60\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nno";
        let answer = client.clone().call(get(&answering(page.to_vec()).await)).await;
        assert!(matches!(answer, Err(ClientError::Status { status, .. }) if status == 503));
        let wait = client.retry_after().unwrap() - OffsetDateTime::now_utc();
        assert!((55..=60).contains(&wait.whole_seconds()), "{wait}");
        let mut endless = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n".to_vec();
        endless.resize(BODY_LIMIT * 2, b' ');
        let answer = client.clone().call(get(&answering(endless).await)).await;
        assert!(matches!(answer, Err(ClientError::TooLarge { .. })));
        let moved = b"HTTP/1.1 301 Moved\r\nLocation: https://other.example/\r\nContent-Length: 0\r\n\r\n";
        let answer = client.call(get(&answering(moved.to_vec()).await)).await;
        assert!(matches!(answer, Err(ClientError::Status { status, .. }) if status == 301));
    }

    #[tokio::test]
    async fn plain_http_is_refused_unless_it_is_allowed() {
        crate::tls::install_provider();
        let strict = acme::Authority { transport: Transport::HttpsOnly, ..authority(None) };
        let answer = Client::new(&strict).unwrap().call(get("http://127.0.0.1:1/dir")).await;
        assert!(matches!(answer, Err(ClientError::Call { .. })));
    }
}
