//! The flags that say something about the configuration: they win over the file.

use std::{error::Error, fmt, path::PathBuf, str::FromStr};

use super::{
    error::{Faults, Reason},
    raw::{FrontendMode, Raw, RawTls, TlsMode},
    reader::Choice,
    setting::Setting,
    source::Place,
    types::SubjectError,
};

/// The flags of `run`, `check` and `explain`, as typed. No `Debug`: they may hold the secret prefix and
/// a proxy's password.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct Flags {
    /// A name or address to serve over HTTPS; can be given more than once
    #[arg(long, value_name = "NAME")]
    pub(crate) domain: Vec<String>,

    /// The backend, as http://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub(crate) backend: Option<String>,

    /// The secret first path segment, the same as the backend's
    #[arg(long, value_name = "SEGMENT")]
    pub(crate) uri_prefix: Option<String>,

    /// Read the prefix, the address, the body limit and who serves the front end from the backend's own config.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) sova: Option<PathBuf>,

    /// What answers outside the API: a directory of files, a URL to forward to, or off
    #[arg(long, value_name = "DIR|URL|off")]
    pub(crate) frontend: Option<String>,

    /// The address to listen on
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) host: Option<String>,

    /// The main port [default: 443]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<String>,

    /// The port that redirects to HTTPS, 0 for none [default: 80]
    #[arg(long, value_name = "PORT")]
    pub(crate) http_port: Option<String>,

    /// A proxy on the way to the backend: http://, socks5:// or socks5h://
    #[arg(long, value_name = "URL")]
    pub(crate) upstream_proxy: Option<String>,

    /// Use certificates of a local CA
    #[arg(long, conflicts_with = "cert")]
    pub(crate) self_signed: bool,

    /// A certificate chain in PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,

    /// Its private key in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,

    /// Where keys and certificates are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) storage: Option<PathBuf>,

    /// How to log: a level (error, warn, info, debug, trace), a format (text, json), or both
    #[arg(long, value_name = "WORDS")]
    pub(crate) log: Option<String>,
}

impl Flags {
    /// Whether any of them says what is to be served, or where that keeps its state.
    pub(crate) fn mean_something(&self) -> bool {
        let Self {
            domain,
            backend,
            uri_prefix,
            sova,
            frontend,
            host,
            port,
            http_port,
            upstream_proxy,
            self_signed,
            cert,
            key,
            storage,
            log: _,
        } = self;
        let texts = [backend, uri_prefix, frontend, host, port, http_port, upstream_proxy];
        let files = [sova, cert, key, storage];
        !domain.is_empty()
            || *self_signed
            || texts.into_iter().any(Option::is_some)
            || files.into_iter().any(Option::is_some)
    }

    /// Whether any of them turns HTTPS on.
    pub(crate) fn ask_for_tls(&self) -> bool {
        !self.domain.is_empty() || self.self_signed || self.cert.is_some()
    }

    /// Puts what the flags say in the place of what the file says.
    pub(crate) fn apply(&self, raw: &mut Raw, faults: &mut Faults) {
        set(&mut raw.backend.url, "--backend", &self.backend, faults);
        set(&mut raw.uri_prefix, "--uri-prefix", &self.uri_prefix, faults);
        set(&mut raw.server.host, "--host", &self.host, faults);
        set(&mut raw.server.http_port, "--http-port", &self.http_port, faults);
        if let Some(port) = &self.port {
            raw.server.port = match port.parse() {
                Ok(port) => Setting::Given(port, Place::Flag("--port")),
                Err(_) => fault(faults, "--port", super::units::UnitError::Port.into()),
            };
        }
        if self.upstream_proxy.is_some() {
            set(&mut raw.upstream_proxy.url, "--upstream-proxy", &self.upstream_proxy, faults);
            raw.upstream_proxy.enabled = Setting::Given(true, Place::Flag("--upstream-proxy"));
        }
        self.apply_frontend(raw, faults);
        self.apply_tls(raw, faults);
        self.apply_log(raw, faults);
    }

    fn apply_frontend(&self, raw: &mut Raw, faults: &mut Faults) {
        const FLAG: &str = "--frontend";
        let Some(word) = &self.frontend else {
            return;
        };
        let frontend = &mut raw.frontend;
        let mode = if word == "off" {
            FrontendMode::Disabled
        } else if word.contains("://") {
            set(&mut frontend.url, FLAG, &self.frontend, faults);
            FrontendMode::Forward
        } else {
            frontend.directory = Setting::Given(word.into(), Place::Flag(FLAG));
            FrontendMode::Serve
        };
        frontend.mode = Setting::Given(mode, Place::Flag(FLAG));
    }

    fn apply_tls(&self, raw: &mut Raw, faults: &mut Faults) {
        if self.ask_for_tls() {
            let tls = raw.tls.get_or_insert_with(RawTls::default);
            if tls.mode.as_given() == Some(&TlsMode::Off) {
                tls.mode = Setting::Absent;
            }
        }
        // Without HTTPS nothing is stored.
        let Some(tls) = &mut raw.tls else {
            return;
        };
        if let Some(storage) = &self.storage {
            tls.storage = Setting::Given(storage.clone(), Place::Flag("--storage"));
        }
        if !self.domain.is_empty() {
            const FLAG: &str = "--domain";
            let mut names = Vec::with_capacity(self.domain.len());
            let mut all_good = true;
            for name in &self.domain {
                match name.parse() {
                    Ok(name) => names.push(name),
                    Err(error) => {
                        all_good = false;
                        let reason = value(DomainError { name: without_path(name).into(), source: error });
                        let _: Setting<()> = fault(faults, FLAG, reason);
                    }
                }
            }
            tls.domains = if all_good { Setting::Given(names, Place::Flag(FLAG)) } else { Setting::Faulty };
        }
        if self.self_signed {
            tls.mode = Setting::Given(TlsMode::SelfSigned, Place::Flag("--self-signed"));
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls.cert = Setting::Given(cert.clone(), Place::Flag("--cert"));
            tls.key = Setting::Given(key.clone(), Place::Flag("--key"));
            tls.mode = Setting::Given(TlsMode::Files, Place::Flag("--cert"));
        }
    }

    fn apply_log(&self, raw: &mut Raw, faults: &mut Faults) {
        const FLAG: &str = "--log";
        for word in self.log.iter().flat_map(|words| words.split(',')).map(str::trim) {
            if let Ok(format) = Choice::choose(word) {
                raw.log.format = Setting::Given(format, Place::Flag(FLAG));
            } else if let Ok(level) = Choice::choose(word) {
                raw.log.level = Setting::Given(level, Place::Flag(FLAG));
            } else {
                let reason = "the words are text, json, error, warn, info, debug and trace, parted by commas";
                let _: Setting<()> = fault(faults, FLAG, Reason::Rule(reason));
            }
        }
    }
}

/// Sets `setting` to what the flag says, if it was given.
fn set<T: FromStr<Err: Error + Send + Sync + 'static>>(
    setting: &mut Setting<T>,
    flag: &'static str,
    text: &Option<String>,
    faults: &mut Faults,
) {
    if let Some(text) = text {
        *setting = match text.parse() {
            Ok(parsed) => Setting::Given(parsed, Place::Flag(flag)),
            Err(error) => fault(faults, flag, value(error)),
        };
    }
}

/// Why a `--domain` is none, and which.
#[derive(Debug)]
struct DomainError {
    name: Box<str>,
    source: SubjectError,
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.name, self.source)?;
        if self.name.contains([':', '/']) {
            f.write_str("; leave out scheme, path and port (--port gives it)")?;
        }
        Ok(())
    }
}

impl Error for DomainError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// A URL up to where its path begins, in which the secret prefix may be.
fn without_path(name: &str) -> &str {
    let authority = name.find("://").map_or(0, |end| end + 3);
    let length = name[authority..].find('/').map_or(name.len(), |at| authority + at + 1);
    &name[..length]
}

fn value(error: impl Error + Send + Sync + 'static) -> Reason {
    Reason::Value(Box::new(error))
}

fn fault<T>(faults: &mut Faults, flag: &'static str, reason: Reason) -> Setting<T> {
    faults.add(flag, reason, Some(Place::Flag(flag)));
    Setting::Faulty
}
