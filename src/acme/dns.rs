//! DNS-01 (RFC 8555, section 8.4) without a provider's API: a hook program, our own responder, or a person.
//!
//! An order goes through the same steps with each: `present` every record, `wait` for every one of them to be
//! seen, tell the CA, `cleanup`, however it ended. Several values stand at one name at once: a wildcard and
//! its base name share theirs.

pub(crate) mod caa;
pub(crate) mod hook;
mod lookup;
pub(crate) mod manual;
mod propagation;
pub(crate) mod responder;
mod server;
mod zone;

use std::{fmt, io, path::PathBuf, process::ExitStatus, time::Duration};

use hickory_proto::ProtoError;

use crate::{
    config::{ServerName, Subject, acme::DnsConfig},
    tls::Predecessor,
};
pub(crate) use hook::Hook;
pub(crate) use lookup::Resolvers;
pub(crate) use manual::Manual;
pub(crate) use propagation::{look_once, wait_until_visible};
use responder::ResponderError;
pub(crate) use responder::{Responder, ResponderHandle};

/// Who puts the TXT record into the DNS.
#[derive(Debug)]
pub(crate) enum DnsSolver {
    /// A program of the operator's.
    Hook(Hook),
    /// The relay itself, which the name is delegated to.
    Responder(ResponderHandle),
    /// A person at a terminal.
    Manual(Manual),
}

/// Why a record is not there, or not seen.
#[derive(Debug)]
pub(crate) enum DnsError {
    /// What is to be validated cannot be a name in the DNS.
    Name { name: String, source: ProtoError },
    /// A value that no TXT record of ours takes: empty, or longer than 255 bytes.
    Value,
    /// More names or values at once than any order needs.
    Full,
    /// The hook cannot be started, or not be waited for.
    HookStart { hook: PathBuf, source: io::Error },
    /// The hook says that it failed; `said` is its last line on standard error.
    HookFailed { hook: PathBuf, status: ExitStatus, said: String },
    /// The hook took too long, and was killed.
    HookTimeout { hook: PathBuf, limit: Duration },
    /// The machine's resolvers are not known.
    Resolvers { file: PathBuf, source: io::Error },
    /// Servers answered, and not all of them with the record.
    NotVisible { name: String, limit: Duration },
    /// No server answered at all.
    NoAnswer { name: String, limit: Duration },
    /// The terminal is gone.
    Terminal(io::Error),
}

/// What `[tls.acme.dns]` asks for: who puts records into the DNS, and the server that has to run for it. The
/// hook wins. `None`: nobody does.
pub(crate) fn open(
    config: &DnsConfig,
    subjects: &[Subject],
    predecessor: Predecessor,
) -> Result<Option<(DnsSolver, Option<Responder>)>, ResponderError> {
    if let Some(program) = &config.hook {
        let hook = Hook::new(program.clone(), config.propagation, Resolvers::of_machine());
        return Ok(Some((DnsSolver::Hook(hook), None)));
    }
    let Some(listen) = config.listen else {
        return Ok(None);
    };
    let names: Vec<_> = subjects.iter().filter_map(challenge_name).collect();
    let names = names.iter().map(String::as_str);
    let (responder, handle) = match predecessor {
        Predecessor::None => Responder::bind(listen, names)?,
        Predecessor::Running => Responder::unbound(listen, names)?,
    };
    Ok(Some((DnsSolver::Responder(handle), Some(responder))))
}

/// Where the record for `subject` stands; a wildcard shares it with its base. `None`: an address has none.
fn challenge_name(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Name(ServerName::Dns(name)) | Subject::Wildcard(name) => {
            Some(format!("_acme-challenge.{name}"))
        }
        Subject::Name(ServerName::Ip(_)) => None,
    }
}

impl DnsSolver {
    /// Puts a TXT record with `value` at `fqdn` (`_acme-challenge.example.org`), next to what is there.
    pub(crate) async fn present(&self, fqdn: &str, value: &str) -> Result<(), DnsError> {
        match self {
            Self::Hook(hook) => hook.present(fqdn, value).await,
            Self::Responder(responder) => responder.present(fqdn, value),
            Self::Manual(manual) => manual.present(fqdn, value).await,
        }
    }

    /// Waits until the CA can be expected to see the record.
    pub(crate) async fn wait(&self, fqdn: &str, value: &str) -> Result<(), DnsError> {
        match self {
            Self::Hook(hook) => hook.wait(fqdn, value).await,
            // It answers from the moment of `present`.
            Self::Responder(_) => Ok(()),
            Self::Manual(manual) => manual.wait(fqdn, value).await,
        }
    }

    /// Takes the record away again. One that is not there is no error.
    pub(crate) async fn cleanup(&self, fqdn: &str, value: &str) -> Result<(), DnsError> {
        match self {
            Self::Hook(hook) => hook.cleanup(fqdn, value).await,
            Self::Responder(responder) => responder.cleanup(fqdn, value),
            Self::Manual(manual) => manual.cleanup(fqdn, value).await,
        }
    }
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { name, source } => write!(f, "{name} is no name in the DNS: {source}"),
            Self::Value => f.write_str("the challenge's value fits in no TXT record"),
            Self::Full => f.write_str("too many DNS challenges at once"),
            Self::HookStart { hook, source } => {
                write!(f, "the DNS hook {} cannot be run: {source}", hook.display())
            }
            Self::HookFailed { hook, status, said } if said.is_empty() => {
                write!(f, "the DNS hook {} failed: {status}", hook.display())
            }
            Self::HookFailed { hook, status, said } => {
                write!(f, "the DNS hook {} failed: {status}: {said}", hook.display())
            }
            Self::HookTimeout { hook, limit } => {
                let seconds = limit.as_secs();
                write!(f, "the DNS hook {} did not end in {seconds} s", hook.display())
            }
            Self::Resolvers { file, source } => {
                write!(f, "{} cannot be read: {source}", file.display())
            }
            Self::NotVisible { name, limit } => write!(
                f,
                "not all name servers of {name} have the TXT record after {} s; \
                 set a longer propagation in [tls.acme.dns], or \"0s\" to ask the CA without looking",
                limit.as_secs()
            ),
            Self::NoAnswer { name, limit } => {
                write!(f, "no name server answered for {name} in {} s", limit.as_secs())
            }
            Self::Terminal(error) => write!(f, "the terminal cannot be used: {error}"),
        }
    }
}

impl std::error::Error for DnsError {}
