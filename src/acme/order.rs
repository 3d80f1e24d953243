//! One order with one CA: authorised, finalised with a key of ours, downloaded, checked.

use std::time::Duration;

use instant_acme::{Account, CertificateIdentifier, Identifier, NewOrder, Order, OrderStatus, RetryPolicy};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::{
    authorization::{Solvers, authorize},
    order_error::{OrderError, describe},
    patience::{FIRST_POLL, LONGEST_POLL, is, patiently},
    pending::{Pending, Started},
    persist::Party,
};
use crate::{
    config::{
        ServerName, Subject,
        acme::{ChallengeKind, KeyType},
    },
    storage::Pair,
    tls::certificate::Certificate,
};

/// From the last valid authorisation until the order is ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// From the CSR to the certificate.
const ISSUE_LIMIT: Duration = Duration::from_secs(180);

/// What a certificate is wanted for, and how.
pub(super) struct Wanted<'a> {
    pub(super) subject: &'a Subject,
    pub(super) profile: Option<&'a str>,
    /// The certificate that this one is to replace (RFC 9773, section 5).
    pub(super) replaces: Option<CertificateIdentifier<'static>>,
    pub(super) key_type: KeyType,
    /// Those that fit, in the order in which they are tried.
    pub(super) challenges: &'a [ChallengeKind],
}

/// A certificate that a CA issued.
pub(super) struct Issued {
    pub(super) pair: Pair,
    pub(super) certificate: Certificate,
    /// How control over the name was shown; `None`: the CA still knew.
    pub(super) challenge: Option<ChallengeKind>,
}

/// Orders with `account`. An order that was finalised before, and whose certificate was not fetched, is gone on
/// with.
pub(super) async fn place(
    account: &Account,
    party: &Party<'_>,
    wanted: &Wanted<'_>,
    solvers: &Solvers,
    pending: &Pending<'_>,
) -> Result<Issued, OrderError> {
    if let Some(issued) = resume(account, wanted, pending).await? {
        return Ok(issued);
    }
    let mut refusals = Vec::new();
    for kind in wanted.challenges.iter().copied() {
        // A failed challenge makes its order invalid: each kind has one of its own.
        let mut order = new_order(account, wanted).await?;
        match authorize(&mut order, party, wanted.subject, kind, solvers).await {
            Ok(shown) => {
                ready(&mut order).await?;
                let mut issued = finish(order, wanted, pending).await?;
                issued.challenge = shown;
                return Ok(issued);
            }
            Err(OrderError::Refused(refusal)) => {
                warn!(name = %wanted.subject, challenge = %kind, "challenge failed: {refusal}");
                refusals.push((kind, refusal));
            }
            Err(error) => return Err(error),
        }
    }
    Err(OrderError::NotAuthorized(refusals))
}

async fn new_order(account: &Account, wanted: &Wanted<'_>) -> Result<Order, OrderError> {
    let identifiers = [match wanted.subject {
        Subject::Name(ServerName::Dns(name)) => Identifier::Dns(name.to_string()),
        Subject::Name(ServerName::Ip(address)) => Identifier::Ip(*address),
        Subject::Wildcard(_) => Identifier::Dns(wanted.subject.to_string()),
    }];
    let profile = profile(account, wanted)?;
    let plain = || match profile {
        Some(profile) => NewOrder::new(&identifiers).profile(profile),
        None => NewOrder::new(&identifiers),
    };
    if let Some(replaced) = &wanted.replaces {
        let order = plain().replaces(replaced.clone());
        match patiently!(account.new_order(&order)) {
            // Saying what is replaced is a courtesy, for which no certificate is given up: the CA may know no
            // ARI, or the certificate not, or another order may have replaced it.
            Err(instant_acme::Error::Unsupported(_)) => {}
            Err(instant_acme::Error::Api(problem))
                if ["alreadyReplaced", "malformed", "unauthorized"].iter().any(|kind| is(&problem, kind)) =>
            {
                debug!(name = %wanted.subject, "ordered without `replaces`: {}", describe(&problem.into()));
            }
            order => return order.map_err(OrderError::Acme),
        }
    }
    let order = plain();
    patiently!(account.new_order(&order)).map_err(OrderError::Acme)
}

/// The profile to ask for: the configured one, `shortlived` for an address, none where the CA has none.
fn profile<'a>(account: &Account, wanted: &Wanted<'a>) -> Result<Option<&'a str>, OrderError> {
    const SHORT_LIVED: &str = "shortlived";
    let offered: Vec<_> = account.profiles().map(|profile| profile.name).collect();
    let is_address = matches!(wanted.subject, Subject::Name(ServerName::Ip(_)));
    match wanted.profile {
        _ if offered.is_empty() => Ok(None),
        Some(profile) if offered.contains(&profile) => Ok(Some(profile)),
        Some(profile) => Err(OrderError::Profile {
            wanted: profile.to_owned(),
            offered: offered.into_iter().map(str::to_owned).collect(),
        }),
        None => Ok(offered.contains(&SHORT_LIVED).then_some(SHORT_LIVED).filter(|_| is_address)),
    }
}

/// Waits until the CA has seen that everything is authorised.
async fn ready(order: &mut Order) -> Result<(), OrderError> {
    let deadline = Instant::now() + READY_LIMIT;
    let mut wait = FIRST_POLL;
    loop {
        patiently!(order.refresh()).map_err(OrderError::Acme)?;
        let state = order.state();
        match (state.status, &state.error) {
            (_, Some(problem)) => return Err(OrderError::Acme(problem.clone().into())),
            (OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid, None) => return Ok(()),
            (OrderStatus::Invalid, None) => return Err(OrderError::Invalid),
            (OrderStatus::Pending, None) if Instant::now() > deadline => return Err(OrderError::NotReady),
            (OrderStatus::Pending, None) => sleep(wait).await,
        }
        wait = (wait * 2).min(LONGEST_POLL);
    }
}

/// Finalises an order that is ready, and fetches the certificate.
async fn finish(mut order: Order, wanted: &Wanted<'_>, pending: &Pending<'_>) -> Result<Issued, OrderError> {
    let algorithm = match wanted.key_type {
        KeyType::P256 => &PKCS_ECDSA_P256_SHA256,
        KeyType::P384 => &PKCS_ECDSA_P384_SHA384,
    };
    let key = KeyPair::generate_for(algorithm).map_err(OrderError::Key)?;
    let started =
        Started { url: order.url().to_owned(), key: key.serialize_pem(), begun: OffsetDateTime::now_utc() };
    // Before the CA has the CSR: from then on it may issue, whatever becomes of us.
    pending.store(&started)?;
    finalize(&mut order, wanted, &key).await?;
    fetch(order, wanted, started, pending).await
}

async fn finalize(order: &mut Order, wanted: &Wanted<'_>, key: &KeyPair) -> Result<(), OrderError> {
    let mut params = CertificateParams::new([wanted.subject.to_string()]).map_err(OrderError::Key)?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key).map_err(OrderError::Key)?;
    patiently!(order.finalize_csr(request.der())).map_err(OrderError::Acme)
}

/// Waits for the certificate and checks it.
async fn fetch(
    mut order: Order,
    wanted: &Wanted<'_>,
    started: Started,
    pending: &Pending<'_>,
) -> Result<Issued, OrderError> {
    let policy = RetryPolicy::new().initial_delay(FIRST_POLL).backoff(1.5).timeout(ISSUE_LIMIT);
    let fetched = patiently!(order.poll_certificate(&policy));
    let chain = match fetched {
        Ok(chain) => chain,
        Err(error) => {
            if matches!(error, instant_acme::Error::Api(_) | instant_acme::Error::Str(_)) {
                // The CA says that nothing comes of this order.
                pending.clear()?;
            }
            return Err(OrderError::Acme(error));
        }
    };
    let pair = Pair { chain: chain.into_bytes(), key: started.key.into_bytes() };
    let checked = check(&pair, wanted.subject);
    if checked.is_err() {
        pending.clear()?;
    }
    Ok(Issued { certificate: checked?, pair, challenge: None })
}

/// Whether the chain is for our key and for what was ordered, and makes sense.
fn check(pair: &Pair, subject: &Subject) -> Result<Certificate, OrderError> {
    let certificate = Certificate::from_pem(&pair.chain, &pair.key).map_err(OrderError::Chain)?;
    if !certificate.is_for(subject) {
        return Err(OrderError::WrongName);
    }
    if certificate.not_after <= certificate.not_before {
        return Err(OrderError::WrongValidity);
    }
    Ok(certificate)
}

/// The certificate of an order that was begun before; `None`: there is none to be had that way.
async fn resume(
    account: &Account,
    wanted: &Wanted<'_>,
    pending: &Pending<'_>,
) -> Result<Option<Issued>, OrderError> {
    let Some(started) = pending.load()? else {
        return Ok(None);
    };
    let found = patiently!(account.order(started.url.clone()));
    let mut order = match found {
        Ok(order) => order,
        Err(instant_acme::Error::Api(_)) => {
            pending.clear()?;
            return Ok(None);
        }
        Err(error) => return Err(OrderError::Acme(error)),
    };
    match order.state().status {
        OrderStatus::Ready => {
            let key = KeyPair::from_pem(&started.key).map_err(OrderError::Key)?;
            finalize(&mut order, wanted, &key).await?;
        }
        OrderStatus::Processing | OrderStatus::Valid => {}
        OrderStatus::Pending | OrderStatus::Invalid => {
            pending.clear()?;
            return Ok(None);
        }
    }
    info!(name = %wanted.subject, "an order from before goes on");
    fetch(order, wanted, started, pending).await.map(Some)
}
