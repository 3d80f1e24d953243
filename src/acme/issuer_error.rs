//! Why there is no certificate from any of the CAs, or no word about its renewal.

use std::{collections::BTreeMap, fmt};

use time::OffsetDateTime;

use super::{
    account::AccountError,
    client::ClientError,
    order_error::{OrderError, describe},
    patience::is,
};
use crate::{config::acme::Directory, moment::moment};

/// No CA issued.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What went wrong with each of them.
    pub(super) errors: Vec<(Directory, TryError)>,
    /// Those that asked to be left alone, and until when.
    pub(super) held: BTreeMap<String, OffsetDateTime>,
}

/// Why one CA did not issue.
#[derive(Debug)]
pub(crate) enum TryError {
    Client(ClientError),
    Account(AccountError),
    Order(OrderError),
    /// It asked to be left alone until then.
    Held(OffsetDateTime),
}

/// Why the CA's renewal window is not known.
#[derive(Debug)]
pub(super) enum WindowError {
    /// The CA names none, or does not for this certificate, or is none of ours any longer.
    Unknown,
    /// It could not be asked.
    Try(TryError),
}

impl TryError {
    /// Whether the CA says that our account is none.
    pub(super) fn is_about_the_account(&self) -> bool {
        matches!(
            self,
            Self::Account(AccountError::Acme(instant_acme::Error::Api(problem)))
            | Self::Order(OrderError::Acme(instant_acme::Error::Api(problem)))
                if is(problem, "accountDoesNotExist")
        )
    }
}

impl fmt::Display for TryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::Account(error) => error.fmt(f),
            Self::Order(error) => error.fmt(f),
            Self::Held(until) => write!(f, "it asked to be left alone until {}", moment(*until)),
        }
    }
}

impl std::error::Error for TryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Client(error) => Some(error),
            Self::Account(error) => Some(error),
            Self::Order(error) => Some(error),
            Self::Held(_) => None,
        }
    }
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the CA names no renewal window"),
            Self::Try(TryError::Order(OrderError::Acme(error))) => f.write_str(&describe(error)),
            Self::Try(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (ca, error)) in self.errors.iter().enumerate() {
            let separator = if nth == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {error}", ca.url.host().unwrap_or_default())?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
