//! `demo`: the real edge with the backend that is built in, for a first look.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use super::{EXIT_INTERNAL, run};
use crate::{
    config::{self, Environment, Flags, Loaded},
    demo::DemoBackend,
    log,
    relay::{Ended, Relay, Surroundings},
    systemd,
    tls::local_ca,
};

/// What `demo` can be told.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// The port to listen on
    #[arg(long, default_value_t = 8443)]
    pub(super) port: u16,

    /// The address to listen on; 0.0.0.0 lets other devices in
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(super) host: IpAddr,

    /// Where the demo's certificates are kept [default: "demo" in the relay's own directory]
    #[arg(long, value_name = "DIR")]
    storage: Option<PathBuf>,
}

/// Runs backend and edge until a signal ends them.
pub(crate) fn run(arguments: &DemoArgs) -> ExitCode {
    let runtime = match run::runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let backend = match runtime.block_on(DemoBackend::bind(loopback)) {
        Ok(backend) => backend,
        Err(error) => {
            eprintln!("error: the demo's backend cannot listen on {loopback}: {error}");
            return EXIT_INTERNAL.into();
        }
    };
    let environment = Environment::of_process();
    let storage = arguments.storage.clone().unwrap_or_else(|| environment.storage().join("demo"));
    let flags = Flags {
        domain: names(arguments.host),
        backend: Some(format!("http://{}", backend.local_addr())),
        host: Some(arguments.host.to_string()),
        port: Some(arguments.port.to_string()),
        http_port: Some("0".to_owned()),
        self_signed: true,
        storage: Some(storage.clone()),
        ..Flags::default()
    };
    let Loaded { config, .. } = match config::load(None, &flags, &environment) {
        Ok(loaded) => loaded,
        Err(error) => return super::refuse(&error),
    };
    let surroundings = Surroundings {
        logging: log::start(&config.log),
        load: Arc::new(move || config::load(None, &flags, &environment)),
        manager: systemd::Manager::default(),
        inherited: Vec::new(),
        handover: None,
        run_file: None,
    };
    run::serve(runtime, async {
        let relay = Relay::bind(config, surroundings)?;
        welcome(&relay, &storage);
        tokio::select! {
            ended = relay.run() => ended,
            () = backend.run() => Ok(Ended::Broken),
        }
    })
}

/// What the demo's certificate is for: this machine, and its address where others are let in by it.
fn names(host: IpAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    if !host.is_loopback() && !host.is_unspecified() {
        names.push(host.to_string());
    }
    names
}

/// Tells on standard output where to go, and what to expect there.
fn welcome(relay: &Relay, storage: &Path) {
    let Some(address) = relay.main_address() else {
        return;
    };
    let url = format!("https://localhost:{}", address.port());
    let root = storage.join(local_ca::ROOT);
    let fingerprint = relay.fingerprint().unwrap_or_default();
    println!(
        "The demo is at  {url}/

  A page with a live stream, an upload and a download, over HTTP/2 and TLS 1.3, through the real edge.
  Its certificate comes from a local CA, so your browser asks once whether you trust it. Its fingerprint:
    SHA-256 {fingerprint}

  With curl, trusting that CA:
    curl --cacert {root} -N {url}/api/v1/stream

Ctrl-C ends it.",
        root = root.display(),
    );
}
