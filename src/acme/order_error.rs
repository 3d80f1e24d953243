//! Why an order came to nothing, in words that say what to do.

use std::{error::Error, fmt, time::Duration};

use super::{dns::DnsError, patience::is, persist::StandingRecord};
use crate::{
    config::acme::ChallengeKind,
    storage::StorageError,
    tls::{certificate::CertificateError, challenges::ChallengeError},
};

/// Why an order came to nothing.
#[derive(Debug)]
pub(crate) enum OrderError {
    /// The CA refused, could not be reached, or answered what makes no sense.
    Acme(instant_acme::Error),
    /// One challenge failed. Another one is tried.
    Refused(Refusal),
    /// Every challenge that could be tried failed; none could be tried.
    NotAuthorized(Vec<(ChallengeKind, Refusal)>),
    /// The CA has no such profile.
    Profile {
        wanted: String,
        offered: Vec<String>,
    },
    /// The CA made the order invalid and does not say why.
    Invalid,
    /// The CA has looked at everything and says nothing more.
    NotReady,
    Key(rcgen::Error),
    /// The CA's chain is none, or not for our key.
    Chain(CertificateError),
    /// It is for another name.
    WrongName,
    /// It ends before it begins.
    WrongValidity,
    Storage(StorageError),
}

/// Why a challenge failed.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// What the CA found.
    Problem(instant_acme::Problem),
    /// The CA does not have this challenge for this name.
    NotOffered,
    /// The CA had given up before, or does not say why.
    NotPending,
    /// What the CA found where a record of a person's should stand.
    Standing {
        problem: instant_acme::Problem,
        record: Box<StandingRecord>,
    },
    /// The challenge does not say which name the CA goes by.
    NoIssuer,
    /// Nothing puts records into the DNS.
    NoSolver,
    TooSlow(Duration),
    Challenge(ChallengeError),
    Dns(DnsError),
}

impl From<StorageError> for OrderError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

/// What a CA or the way to it says is wrong, with advice where there is some.
pub(crate) fn describe(error: &instant_acme::Error) -> String {
    let instant_acme::Error::Api(problem) = error else {
        return crate::error::Chain(error).to_string();
    };
    let detail = problem_text(problem);
    let advice = [
        ("rateLimited", "the CA's limit is reached; it is asked again when it says"),
        ("externalAccountRequired", "this CA needs `eab_kid` and `eab_hmac_file` in [tls.acme]"),
        ("invalidContact", "put an address that receives mail into `email` of [tls.acme]"),
        ("unsupportedContact", "put an address that receives mail into `email` of [tls.acme]"),
        ("rejectedIdentifier", "this CA does not issue for this name"),
        ("caa", "the DNS has a CAA record that lets another CA issue: change it"),
        ("userActionRequired", "the CA wants its new terms to be accepted"),
    ];
    match advice.iter().find(|(kind, _)| is(problem, kind)) {
        Some((_, advice)) => format!("{detail}; {advice}"),
        None => detail,
    }
}

/// The CA's own words on one line, and its name for the problem.
fn problem_text(problem: &instant_acme::Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or("unknown");
    let kind = kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind);
    let mut text = problem.detail.clone().unwrap_or_default();
    for part in &problem.subproblems {
        text.extend(part.detail.iter().flat_map(|detail| ["; ", detail]));
    }
    // A CA quotes what it found at the other end: it may be long, and has no business with our log's lines.
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    if line.is_empty() {
        line.push_str("no reason given");
    }
    format!("{line} ({kind})")
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acme(error) => f.write_str(&describe(error)),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::NotAuthorized(refusals) if refusals.is_empty() => f.write_str(
                "no challenge can be tried: a wildcard needs `hook` or `listen` in [tls.acme.dns], \
                 or dns-persist-01 in `challenges`; other names tls-alpn-01 or http-01",
            ),
            Self::NotAuthorized(refusals) => {
                for (nth, (kind, refusal)) in refusals.iter().enumerate() {
                    let separator = if nth == 0 { "" } else { "; " };
                    write!(f, "{separator}{kind}: {refusal}")?;
                    if let (Refusal::Problem(_), Some(advice)) = (refusal, advice(*kind)) {
                        write!(f, " - {advice}")?;
                    }
                }
                Ok(())
            }
            Self::Profile { wanted, offered } => write!(
                f,
                "the CA has no profile {wanted:?}; set `profile` in [tls.acme] to one of: {}",
                offered.join(", ")
            ),
            Self::Invalid => f.write_str("the CA made the order invalid and gives no reason"),
            Self::NotReady => f.write_str("the CA did not get the order ready in time"),
            Self::Key(error) => write!(f, "no key or request can be made: {error}"),
            Self::Chain(error) => write!(f, "the CA's certificate cannot be used: {error}"),
            Self::WrongName => f.write_str("the CA's certificate is for another name"),
            Self::WrongValidity => f.write_str("the CA's certificate ends before it begins"),
            Self::Storage(error) => error.fmt(f),
        }
    }
}

/// What to look at when a CA could not see a challenge.
fn advice(kind: ChallengeKind) -> Option<&'static str> {
    match kind {
        ChallengeKind::TlsAlpn01 => {
            Some("does the name point here, and is port 443 open and not behind a proxy?")
        }
        ChallengeKind::Http01 => Some("does the name point here, and is port 80 open?"),
        // What went wrong there stands in the CA's words, came from the hook, or is told with the record.
        ChallengeKind::Dns01 | ChallengeKind::DnsPersist01 => None,
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problem(problem) => f.write_str(&problem_text(problem)),
            Self::Standing { problem, record } => write!(f, "{} - {record}", problem_text(problem)),
            Self::NoIssuer => f.write_str("the CA does not say what it wants to be called in the record"),
            Self::NotOffered => f.write_str("the CA does not offer it for this name"),
            Self::NotPending => f.write_str("the CA gave up and gives no reason"),
            Self::NoSolver => f.write_str("nothing puts TXT records into the DNS: see [tls.acme.dns]"),
            Self::TooSlow(limit) => write!(f, "the CA did not come to an end in {} s", limit.as_secs()),
            Self::Challenge(error) => error.fmt(f),
            Self::Dns(error) => error.fmt(f),
        }
    }
}

impl Error for OrderError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Acme(error) => Some(error),
            Self::Refused(refusal) => Some(refusal),
            Self::Key(error) => Some(error),
            Self::Chain(error) => Some(error),
            Self::Storage(error) => Some(error),
            Self::NotAuthorized(_)
            | Self::Profile { .. }
            | Self::Invalid
            | Self::NotReady
            | Self::WrongName
            | Self::WrongValidity => None,
        }
    }
}

impl Error for Refusal {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Problem(problem) | Self::Standing { problem, .. } => Some(problem),
            Self::Challenge(error) => Some(error),
            Self::Dns(error) => Some(error),
            Self::NotOffered | Self::NotPending | Self::NoIssuer | Self::NoSolver | Self::TooSlow(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> instant_acme::Problem {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn g1_a_cas_words_stay_on_one_line_of_bounded_length() {
        let mut found = problem(r#"{"type":"urn:ietf:params:acme:error:unauthorized"}"#);
        found.detail = Some(format!("got\r\n\u{1b}[31m{}", "x".repeat(10_000)));
        let text = Refusal::Problem(found).to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(text.len() < 600 && text.ends_with("(unauthorized)"), "{text}");
    }

    #[test]
    fn each_challenge_that_failed_is_told_with_what_to_look_at() {
        let found = problem(r#"{"type":"urn:ietf:params:acme:error:connection","detail":"Timeout"}"#);
        let error = OrderError::NotAuthorized(vec![
            (ChallengeKind::TlsAlpn01, Refusal::Problem(found)),
            (ChallengeKind::Http01, Refusal::NotOffered),
        ]);
        let text = error.to_string();
        assert!(text.starts_with("tls-alpn-01: Timeout (connection) - "), "{text}");
        assert!(text.contains("port 443") && text.contains("; http-01: the CA does not offer"), "{text}");
        assert!(OrderError::NotAuthorized(Vec::new()).to_string().contains("hook"));
    }

    #[test]
    fn a_refusal_that_the_operator_can_mend_says_how() {
        let text = r#"{"type":"urn:ietf:params:acme:error:externalAccountRequired","detail":"no"}"#;
        assert!(describe(&problem(text).into()).contains("eab_kid"));
    }
}
