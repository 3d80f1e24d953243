//! `doctor`: whether all is well around the relay: the CAs and the clock, names, ports, the config that is in force, the
//! backend, storage.
//!
//! `check` reads the configuration; this looks at the machine and asks others, as the relay would. Nothing is changed.

mod authority;
mod backend;
mod config;
mod files;
mod name_servers;
mod names;
mod ports;
mod storage;
mod updates;

use std::{fmt, path::Path, process::ExitCode};

use time::OffsetDateTime;
use tokio::runtime;

use self::name_servers::NameServers;
use super::{ConfigArgs, EXIT_INTERNAL, answer, health::Target, status::Meant};
use crate::{
    config::{CertificateSource, Config, Environment, Tls},
    tls::local_ca::Machine,
};

/// Something is wrong.
const EXIT_FAULT: u8 = 1;

/// Whose surroundings are looked at.
#[derive(clap::Args, Clone)]
#[command(mut_arg("config", |config| config.help(super::CONFIG_HELP)))]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// What was seen of one thing.
#[derive(Debug)]
struct Finding {
    grade: Grade,
    about: &'static str,
    text: String,
    advice: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Grade {
    Well,
    /// It may be meant.
    Doubt,
    Fault,
}

/// Looks at one thing after the other, and tells each as soon as it is known.
pub(crate) fn run(arguments: DoctorArgs) -> ExitCode {
    let environment = Environment::of_process();
    let Some(config) = arguments.config.if_any(&environment) else {
        eprintln!(
            "error: there is no relay to look after: there is no {}; give --config FILE, or flags",
            environment.installed.display()
        );
        return ExitCode::from(super::EXIT_USAGE);
    };
    let loaded = match config.load() {
        Ok(loaded) => loaded,
        Err(error) => return super::refuse(&error),
    };
    if super::warn(&loaded.warnings).is_err() {
        return ExitCode::from(EXIT_INTERNAL);
    }
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else {
        eprintln!("error: the system lets no runtime be started");
        return ExitCode::from(EXIT_INTERNAL);
    };
    let (file, storage) = (config.config.as_deref(), config.flags.storage.as_deref());
    // Where a relay that runs says so: beside its control socket. A flag goes before the file, as for the relay.
    let meant = match Meant::new(file.filter(|_| storage.is_none()), storage, &environment) {
        Ok(meant) => meant,
        Err(code) => return code,
    };
    let is_installed = file == environment.installed_config().as_deref();
    let relay = ports::Relay { meant: &meant, is_installed };
    runtime.block_on(examine(&loaded.config, file, relay))
}

async fn examine(config: &Config, file: Option<&Path>, relay: ports::Relay<'_>) -> ExitCode {
    let mut report = Report { is_well: true };
    let mut identities = Vec::new();
    let Config { uri_prefix, server, tls, backend, upstream_proxy, .. } = config;
    let (servers, finding) = NameServers::look(config).await;
    report.tell(finding);
    if let Some(Tls { certificates: CertificateSource::Acme(acme), .. }) = tls {
        let (findings, those) = authority::look(acme, servers, OffsetDateTime::now_utc()).await;
        identities = those;
        report.tell(findings);
    }
    if let Some(tls) = tls {
        report.tell(names::look(&tls.names, servers, &Machine::current()).await);
    }
    if let Some(Tls { certificates: CertificateSource::Acme(acme), .. }) = tls
        && let NameServers::Answer = servers
    {
        report.tell(names::may_be_issued(&acme.subjects, &identities).await);
    }
    match Target::of_config(config, false) {
        Ok(target) => {
            let redirect = server.http_port.filter(|_| tls.is_some());
            report.tell(ports::look(relay, target, (server.host, redirect)).await);
        }
        Err(error) => report.tell([Finding::doubt("ports", error, "")]),
    }
    report.tell(file.map(|file| config::look(file, relay.meant)).unwrap_or_default());
    report.tell([backend::look(backend, upstream_proxy.as_ref(), servers, uri_prefix).await]);
    report.tell(updates::look().await);
    // Last: it may make this process another user's.
    if let Some(tls) = tls {
        report.tell(storage::look(tls, OffsetDateTime::now_utc()));
    }
    report.tell(files::look(config, file));
    report.end()
}

/// What is told to people.
struct Report {
    is_well: bool,
}

impl Report {
    fn tell(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            self.is_well &= finding.grade != Grade::Fault;
            // Nobody reads it: the exit code is left.
            let _printed = answer(&finding.to_string());
        }
    }

    fn end(self) -> ExitCode {
        if self.is_well {
            return ExitCode::SUCCESS;
        }
        ExitCode::from(EXIT_FAULT)
    }
}

impl Finding {
    fn well(about: &'static str, text: impl fmt::Display) -> Self {
        Self { grade: Grade::Well, about, text: text.to_string(), advice: None }
    }

    fn doubt(about: &'static str, text: impl fmt::Display, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into()).filter(|advice| !advice.is_empty());
        Self { grade: Grade::Doubt, about, text: text.to_string(), advice }
    }

    fn fault(about: &'static str, text: impl fmt::Display, advice: impl Into<String>) -> Self {
        Self { grade: Grade::Fault, ..Self::doubt(about, text, advice) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grade, about, text, advice } = self;
        let grade = match grade {
            Grade::Well => "ok",
            Grade::Doubt => "warning",
            Grade::Fault => "error",
        };
        // What a CA, a name server or a backend said is shown, and not obeyed.
        let shown = |text: &str| text.replace(char::is_control, " ");
        writeln!(f, "{grade:7}  {about:9}  {}", shown(text))?;
        for line in advice.iter().flat_map(|advice| advice.lines()) {
            writeln!(f, "{:7}  {:9}  {}", "", "", shown(line.trim_start()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_its_advice_is_below_it() {
        assert_eq!(Finding::well("clock", "in step").to_string(), "ok       clock      in step\n");
        assert_eq!(
            Finding::fault("backend", "is \x1b[2Jaway", "start it,\n  or not").to_string(),
            "error    backend    is  [2Jaway\n                    start it,\n                    or not\n"
        );
    }

    #[test]
    fn only_faults_are_told_by_the_exit_code() {
        let after = |findings: Vec<Finding>| {
            let mut report = Report { is_well: true };
            report.tell(findings);
            report.is_well
        };
        assert!(after(vec![Finding::well("a", "b"), Finding::doubt("a", "b", "c")]));
        assert!(!after(vec![Finding::fault("a", "b", "c"), Finding::well("a", "b")]));
    }
}
