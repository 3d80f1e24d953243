//! One question to a relay, and its answer.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header, uri::Scheme};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName as TlsName, UnixTime},
};
use time::{OffsetDateTime, macros::format_description};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{Greeting, Question, Target};
use crate::{config::ServerName, error::Chain, tls::certificate};

/// From the first packet to the answer's head.
const LIMIT: Duration = Duration::from_secs(10);

/// A relay that answers.
#[derive(Debug)]
pub(crate) struct Healthy {
    /// Who answered.
    what: &'static str,
    /// Where it was asked.
    url: String,
    /// `None`: over plain HTTP, or it cannot be read.
    certificate: Option<Shown>,
}

/// What can be said of the certificate that was shown.
#[derive(Debug)]
struct Shown {
    issuer: String,
    not_after: OffsetDateTime,
}

/// Why a relay is not well.
#[derive(Debug)]
pub(crate) enum HealthError {
    Connect(io::Error),
    Tls(io::Error),
    Http(hyper::Error),
    /// Nothing within the limit.
    Timeout,
    /// It is well, and the backend's answer is not.
    Backend(StatusCode),
}

/// Asks one question; the certificate may be anyone's, and may be over: this is about whether it answers.
pub(crate) async fn ask(target: &Target) -> Result<Healthy, HealthError> {
    tokio::time::timeout(LIMIT, ask_unbounded(target)).await.unwrap_or(Err(HealthError::Timeout))
}

async fn ask_unbounded(target: &Target) -> Result<Healthy, HealthError> {
    let mut tcp =
        TcpStream::connect((target.host.as_str(), target.port)).await.map_err(HealthError::Connect)?;
    match target.greeting {
        Greeting::Nothing => {}
        Greeting::Proxy => tcp.write_all(b"PROXY UNKNOWN\r\n").await.map_err(HealthError::Connect)?,
    }
    let (certificate, status) = if target.scheme == Scheme::HTTPS {
        let name = tls_name(target).map_err(|error| HealthError::Tls(io::Error::other(error)))?;
        let tls = connector().connect(name, tcp).await.map_err(HealthError::Tls)?;
        let shown = tls.get_ref().1.peer_certificates().and_then(|chain| Shown::of(chain.first()?));
        (shown, converse(tls, target).await?)
    } else {
        (None, converse(tcp, target).await?)
    };
    let what = match &target.question {
        Question::Relay => "the relay answers",
        Question::Backend { .. } if status.is_success() => "the relay and the backend answer",
        Question::Backend { .. } => return Err(HealthError::Backend(status)),
    };
    Ok(Healthy { what, url: target.to_string(), certificate })
}

/// Sends the question, and gives the answer's status.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    target: &Target,
) -> Result<StatusCode, HealthError> {
    status(stream, request(target)).await.map_err(HealthError::Http)
}

/// Sends one request on a connection of its own, and gives the answer's status.
pub(crate) async fn status(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> hyper::Result<StatusCode> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the exchange, or when the runtime does.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    Ok(sender.send_request(request).await?.status())
}

fn request(target: &Target) -> Request<Empty<Bytes>> {
    let host = match &target.name {
        Some(name) => name.to_host(),
        None if target.host.contains(':') => format!("[{}]", target.host),
        None => target.host.clone(),
    };
    let (method, path) = match &target.question {
        Question::Relay => (Method::OPTIONS, "*"),
        Question::Backend { path } => (Method::GET, path.as_str()),
    };
    let mut request = Request::new(Empty::new());
    *request.method_mut() = method;
    // A prefix of unreserved characters, a checked URL's path, a host that was parsed: neither can fail.
    *request.uri_mut() = path.parse().unwrap_or_default();
    if let Ok(host) = format!("{host}:{}", target.port).parse() {
        request.headers_mut().insert(header::HOST, host);
    }
    let agent = concat!("parley-relay/", env!("CARGO_PKG_VERSION"), " health");
    request.headers_mut().insert(header::USER_AGENT, http::HeaderValue::from_static(agent));
    request
}

/// The name of the ClientHello; for an address none is sent.
fn tls_name(target: &Target) -> Result<TlsName<'static>, rustls::pki_types::InvalidDnsNameError> {
    match &target.name {
        Some(ServerName::Ip(address)) => Ok(TlsName::from(*address)),
        Some(ServerName::Dns(name)) => TlsName::try_from(name.to_string()),
        None => TlsName::try_from(target.host.clone()),
    }
}

fn connector() -> TlsConnector {
    let mut config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyones(Arc::new(aws_lc_rs::default_provider()))))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Takes every certificate whose key the server holds.
///
/// SECURITY: for asking whether a relay answers, and for nothing else: no secret is sent to it but the prefix,
/// to an address of this machine or one that was given with it.
#[derive(Debug)]
struct Anyones(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyones {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &TlsName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl Shown {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        Some(Self {
            issuer: certificate::issuer(&parsed),
            not_after: OffsetDateTime::from_unix_timestamp(parsed.validity().not_after.timestamp()).ok()?,
        })
    }
}

impl Healthy {
    /// Until when its certificate is good; `None`: over plain HTTP, or it cannot be read.
    pub(crate) fn not_after(&self) -> Option<OffsetDateTime> {
        Some(self.certificate.as_ref()?.not_after)
    }

    /// One line.
    pub(crate) fn describe(&self, now: OffsetDateTime) -> String {
        let Self { what, url, certificate } = self;
        let Some(Shown { issuer, not_after }) = certificate else {
            return format!("{what} at {url}");
        };
        let format = format_description!("[year]-[month]-[day]");
        // A date always has a year, a month and a day.
        let date = not_after.format(format).unwrap_or_default();
        let left = *not_after - now;
        let expiry = if left.is_negative() {
            format!("expired on {date}")
        } else {
            format!("expires on {date}, in {} days", left.whole_days())
        };
        // What the other side says is shown, and not obeyed.
        let issuer = issuer.replace(char::is_control, " ");
        format!("{what} at {url}; the certificate is by {issuer} and {expiry}")
    }
}

impl fmt::Display for HealthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "does not answer: {error}"),
            Self::Tls(error) => write!(f, "does not speak TLS as it should: {error}"),
            Self::Http(error) => write!(f, "does not speak HTTP as it should: {}", Chain(error)),
            Self::Timeout => write!(f, "does not answer within {} s", LIMIT.as_secs()),
            Self::Backend(status) => write!(f, "answers, and the backend's /health does not: {status}"),
        }
    }
}

impl Error for HealthError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Connect(error) | Self::Tls(error) => Some(error),
            // Its message holds the whole chain.
            Self::Http(_) | Self::Timeout | Self::Backend(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn healthy(not_after: Option<OffsetDateTime>) -> Healthy {
        let certificate = not_after.map(|not_after| Shown { issuer: "R\x1b[2J11".to_owned(), not_after });
        Healthy { what: "the relay answers", url: "https://127.0.0.1:443".to_owned(), certificate }
    }

    #[test]
    fn the_line_tells_who_vouches_and_until_when() {
        let now = datetime!(2026-11-25 12:00 UTC);
        let line = |not_after| healthy(not_after).describe(now);
        assert_eq!(
            line(Some(datetime!(2026-12-25 13:00 UTC))),
            "the relay answers at https://127.0.0.1:443; the certificate is by R [2J11 \
             and expires on 2026-12-25, in 30 days"
        );
        assert!(line(Some(datetime!(2026-11-24 12:00 UTC))).ends_with("and expired on 2026-11-24"));
        assert_eq!(line(None), "the relay answers at https://127.0.0.1:443");
    }
}
