//! `health`: whether a relay answers, asked over the network as a client would.

mod probe;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
};

use http::uri::Scheme;
use time::OffsetDateTime;
use tokio::runtime;

pub(crate) use probe::{HealthError, ask, status};

use super::{ConfigArgs, EXIT_INTERNAL, answer};
use crate::{
    client::Trust,
    config::{Config, Environment, FrontendUrl, ServerName},
};

/// It does not answer.
const EXIT_UNHEALTHY: u8 = 1;

/// Which relay `health` asks, and for what.
#[derive(clap::Args)]
#[command(mut_arg("config", |config| config.help(super::CONFIG_HELP)))]
pub(crate) struct HealthArgs {
    /// Ask this relay, instead of the one that the configuration makes
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "domain"])]
    url: Option<FrontendUrl>,

    /// Ask for the backend too: its /health, through the relay
    #[arg(long)]
    with_backend: bool,

    #[command(flatten)]
    config: ConfigArgs,
}

/// Where a relay is found, and what is asked there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    /// What is connected to: a name or an address, and a port.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What the client says it came for; `None`: an address, or whatever is served.
    pub(crate) name: Option<ServerName>,
    pub(crate) greeting: Greeting,
    pub(crate) question: Question,
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Greeting {
    Nothing,
    /// A PROXY header in which the peer speaks for itself: we look like a proxy that the relay trusts.
    Proxy,
}

/// What is asked.
#[derive(Clone, Eq, PartialEq)]
pub(crate) enum Question {
    /// `OPTIONS *`, the ping of HTTP (RFC 9110, section 9.3.7): whatever comes back, the relay itself sent it.
    Relay,
    /// The backend's own answer, through the relay.
    Backend { path: String },
}

/// Why it is not known which relay to ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TargetError {
    /// Port 0: the system chose one, and only the relay's log says which.
    NoPort,
}

/// Asks, and says in one line what came of it.
pub(crate) fn run(arguments: &HealthArgs) -> ExitCode {
    let target = match target(arguments) {
        Ok(target) => target,
        Err(code) => return code,
    };
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else {
        eprintln!("error: the system lets no runtime be started");
        return ExitCode::from(EXIT_INTERNAL);
    };
    match runtime.block_on(ask(&target)) {
        Ok(healthy) => answer(&format!("{}\n", healthy.describe(OffsetDateTime::now_utc()))),
        Err(error) => {
            eprintln!("error: {target} {error}");
            ExitCode::from(EXIT_UNHEALTHY)
        }
    }
}

/// `Err`: the reason has been printed.
fn target(arguments: &HealthArgs) -> Result<Target, ExitCode> {
    if let Some(url) = &arguments.url {
        return Ok(Target::of_url(url, arguments.with_backend));
    }
    let Some(config) = arguments.config.clone().if_any(&Environment::of_process()) else {
        eprintln!(
            "error: nothing says which relay to ask: give --url https://NAME:PORT, --config FILE, or the flags it runs with"
        );
        return Err(ExitCode::from(super::EXIT_USAGE));
    };
    let loaded = config.load().map_err(|error| super::refuse(&error))?;
    Target::of_config(&loaded.config, arguments.with_backend).map_err(|error| {
        eprintln!("error: {error}");
        ExitCode::from(super::EXIT_CONFIG)
    })
}

impl Target {
    /// The relay that this configuration makes, on this machine.
    pub(crate) fn of_config(config: &Config, backend: bool) -> Result<Self, TargetError> {
        let Config { server, tls, uri_prefix, .. } = config;
        if server.port == 0 {
            return Err(TargetError::NoPort);
        }
        // Who listens on all addresses listens on this one; `::` takes IPv4 too.
        let address =
            if server.host.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { server.host };
        // The peer that the relay sees: on this machine, both ends have the same address.
        let trust = Trust::new(server.trusted_proxies.clone(), server.client_ip_header.clone());
        let greeting = if server.proxy_protocol && trust.believes(address) {
            Greeting::Proxy
        } else {
            Greeting::Nothing
        };
        Ok(Self {
            scheme: if tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP },
            host: address.to_string(),
            port: server.port,
            name: tls.as_ref().and_then(|tls| tls.names.first().cloned()),
            greeting,
            question: Question::new(backend, uri_prefix.as_path()),
        })
    }

    fn of_url(url: &FrontendUrl, backend: bool) -> Self {
        let authority = &url.origin.authority;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Self {
            scheme: url.origin.scheme.clone(),
            // Every origin of a URL has its port written out, and a host that is a name or an address.
            port: authority.port_u16().unwrap_or_default(),
            name: host.parse().ok(),
            host,
            greeting: Greeting::Nothing,
            question: Question::new(backend, &url.base),
        }
    }
}

impl Question {
    fn new(backend: bool, prefix: &str) -> Self {
        if backend { Self::Backend { path: format!("{prefix}/health") } } else { Self::Relay }
    }
}

impl fmt::Debug for Question {
    /// Without the path: the secret prefix is in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "Relay",
            Self::Backend { .. } => "Backend",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse() {
            Ok(address) => write!(f, "{}://{}", self.scheme, SocketAddr::new(address, self.port)),
            Err(_) => write!(f, "{}://{}:{}", self.scheme, self.host, self.port),
        }
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort => f.write_str(
                "the configuration lets the system choose a port: --url https://NAME:PORT says where the relay is",
            ),
        }
    }
}

impl std::error::Error for TargetError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Flags, User};

    fn of(config: &str) -> Result<Target, TargetError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, format!("version = 1\nuri_prefix = \"s3cret\"\n{config}")).unwrap();
        let environment = Environment {
            state_directory: Some(directory.path().into()),
            runtime_directory: None,
            user: User::Other,
            data_home: None,
            home: None,
            sova: directory.path().join("none"),
            installed: "/nonexistent/config.toml".into(),
        };
        let loaded = config::load(Some(&file), &Flags::default(), &environment).unwrap();
        Target::of_config(&loaded.config, false)
    }

    #[test]
    fn a_relay_on_all_addresses_is_asked_on_this_machines_own() {
        let target = of("[server]\nport = 8443\n[tls]\ndomains = [\"chat.lan\", \"b.lan\"]").unwrap();
        assert_eq!(target.to_string(), "https://127.0.0.1:8443");
        assert_eq!(target.name, "chat.lan".parse().ok());
        assert_eq!(target.greeting, Greeting::Nothing);
        assert_eq!(of("[server]\nhost = \"::1\"").unwrap().to_string(), "http://[::1]:7861");
        assert_eq!(of("[server]\nport = 0"), Err(TargetError::NoPort));
    }

    #[test]
    fn a_relay_that_takes_us_for_its_proxy_is_greeted_like_one() {
        let trusting = "[server]\nproxy_protocol = true\nport = 80\ntrusted_proxies = ";
        let greeting = |proxies: &str| of(&format!("{trusting}[\"{proxies}\"]")).unwrap().greeting;
        assert_eq!(greeting("127.0.0.0/8"), Greeting::Proxy);
        assert_eq!(greeting("10.0.0.0/8"), Greeting::Nothing);
    }

    #[test]
    fn a_url_says_where_and_below_what_prefix() {
        let target = Target::of_url(&"https://[::1]:8443/s3cret".parse().unwrap(), true);
        assert_eq!(target.to_string(), "https://[::1]:8443");
        assert_eq!(target.question, Question::Backend { path: "/s3cret/health".to_owned() });
        assert!(!format!("{target:?}").contains("s3cret"));
        let named = Target::of_url(&"http://chat.example.org".parse().unwrap(), false);
        assert_eq!(named.to_string(), "http://chat.example.org:80");
    }
}
