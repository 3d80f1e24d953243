//! Showing a CA control over the names of an order (RFC 8555, section 7.5), by one kind of challenge.

use std::{sync::Arc, time::Duration};

use instant_acme::{AuthorizationStatus, ChallengeHandle, ChallengeType, Order};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    dns::DnsSolver,
    order_error::{OrderError, Refusal},
    patience::{FIRST_POLL, LONGEST_POLL, patiently},
    persist::{self, Party, StandingRecord},
};
use crate::{
    config::{ServerName, Subject, acme::ChallengeKind},
    tls::challenges::{Challenges, Shown},
};

/// How long everything may take until a CA has looked at the challenges: hooks and the DNS are slow, and who adds
/// records by hand is slower.
const AUTHORIZATION_LIMIT: Duration = Duration::from_secs(3600);
/// How long a CA may look at one challenge.
const VALIDATION_LIMIT: Duration = Duration::from_secs(120);
/// How control over names can be shown.
#[derive(Clone, Debug)]
pub(super) struct Solvers {
    pub(super) listeners: Arc<Challenges>,
    pub(super) dns: Option<Arc<DnsSolver>>,
    /// One record at a time: a wildcard's stands at the same name as its base's, and many hooks replace what
    /// is there.
    pub(super) records: Arc<Mutex<()>>,
}

/// Whether this challenge can show control over this kind of name.
pub(super) fn fits(subject: &Subject, kind: ChallengeKind) -> bool {
    match (subject, kind) {
        // RFC 8738, section 7: no address is shown by the DNS; and nothing else shows a wildcard.
        (Subject::Name(ServerName::Ip(_)), ChallengeKind::Dns01 | ChallengeKind::DnsPersist01) => false,
        (Subject::Wildcard(_), ChallengeKind::Http01 | ChallengeKind::TlsAlpn01) => false,
        (Subject::Name(_), _)
        | (Subject::Wildcard(_), ChallengeKind::Dns01 | ChallengeKind::DnsPersist01) => true,
    }
}

/// What shows control over a name, while the CA looks.
enum Proof {
    Listener {
        _shown: Shown,
    },
    Record {
        fqdn: String,
        value: String,
    },
    /// A record that was there before and stays.
    Standing(StandingRecord),
}

/// Shows control over every name of the order by `kind`; `None`: the CA still knew.
pub(super) async fn authorize(
    order: &mut Order,
    party: &Party<'_>,
    subject: &Subject,
    kind: ChallengeKind,
    solvers: &Solvers,
) -> Result<Option<ChallengeKind>, OrderError> {
    let _record = match kind {
        ChallengeKind::Dns01 => Some(solvers.records.lock().await),
        ChallengeKind::TlsAlpn01 | ChallengeKind::Http01 | ChallengeKind::DnsPersist01 => None,
    };
    let mut proofs = Vec::new();
    let shown = timeout(AUTHORIZATION_LIMIT, async {
        show(order, party, subject, kind, solvers, &mut proofs).await?;
        validated(order, kind).await
    })
    .await
    .unwrap_or(Err(OrderError::Refused(Refusal::TooSlow(AUTHORIZATION_LIMIT))));
    let any = !proofs.is_empty();
    let mut standing = None;
    for proof in proofs {
        match (proof, &solvers.dns) {
            (Proof::Record { fqdn, value }, Some(dns)) => {
                if let Err(error) = dns.cleanup(&fqdn, &value).await {
                    warn!(name = %subject, record = fqdn, "the TXT record stays behind: {error}");
                }
            }
            (Proof::Standing(record), _) => standing = Some(record),
            (Proof::Listener { .. }, _) | (Proof::Record { .. }, None) => {}
        }
    }
    match (shown, standing) {
        (Ok(()), _) => Ok(any.then_some(kind)),
        (Err(OrderError::Refused(Refusal::Problem(problem))), Some(record)) => {
            Err(OrderError::Refused(Refusal::Standing { problem, record: Box::new(record) }))
        }
        (Err(error), _) => Err(error),
    }
}

/// Puts up what the CA will look for, and tells it to.
async fn show(
    order: &mut Order,
    party: &Party<'_>,
    subject: &Subject,
    kind: ChallengeKind,
    solvers: &Solvers,
    proofs: &mut Vec<Proof>,
) -> Result<(), OrderError> {
    // Fetched before, because an iterator that was refused for its nonce has passed that authorisation over.
    patiently!(async {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            authorization?;
        }
        Ok(())
    })
    .map_err(OrderError::Acme)?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(OrderError::Acme)?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Invalid
            | AuthorizationStatus::Revoked
            | AuthorizationStatus::Expired
            | AuthorizationStatus::Deactivated => return Err(OrderError::Refused(Refusal::NotPending)),
        }
        let asked = match kind {
            ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
            ChallengeKind::Http01 => ChallengeType::Http01,
            ChallengeKind::Dns01 => ChallengeType::Dns01,
            ChallengeKind::DnsPersist01 => ChallengeType::Unknown(persist::NAME.to_owned()),
        };
        let Some(mut challenge) = authorization.challenge(asked) else {
            return Err(OrderError::Refused(Refusal::NotOffered));
        };
        put_up(&challenge, party, subject, kind, solvers, proofs).await?;
        info!(name = %subject, challenge = %kind, "challenge ready");
        match patiently!(challenge.set_ready()) {
            Err(instant_acme::Error::Api(problem)) => {
                return Err(OrderError::Refused(Refusal::Problem(problem)));
            }
            told => told.map_err(OrderError::Acme)?,
        }
    }
    Ok(())
}

async fn put_up(
    challenge: &ChallengeHandle<'_>,
    party: &Party<'_>,
    subject: &Subject,
    kind: ChallengeKind,
    solvers: &Solvers,
    proofs: &mut Vec<Proof>,
) -> Result<(), OrderError> {
    let proof = challenge.key_authorization();
    let refused = OrderError::Refused;
    match (kind, subject) {
        (ChallengeKind::Http01, _) => proofs
            .push(Proof::Listener { _shown: solvers.listeners.show_http(&challenge.token, proof.as_str()) }),
        (ChallengeKind::TlsAlpn01, Subject::Name(name)) => {
            let mut digest = [0; 32];
            digest.copy_from_slice(proof.digest().as_ref());
            let shown = solvers.listeners.show_tls(name, &digest);
            proofs
                .push(Proof::Listener { _shown: shown.map_err(|error| refused(Refusal::Challenge(error)))? });
        }
        (ChallengeKind::Dns01, Subject::Name(ServerName::Dns(name)) | Subject::Wildcard(name)) => {
            let dns = solvers.dns.as_ref().ok_or(refused(Refusal::NoSolver))?;
            let (fqdn, value) = (format!("_acme-challenge.{name}"), proof.dns_value());
            // Noted before it is there: a hook that failed half-way has something to clean up as well.
            proofs.push(Proof::Record { fqdn: fqdn.clone(), value: value.clone() });
            let failed = |error| refused(Refusal::Dns(error));
            dns.present(&fqdn, &value).await.map_err(failed)?;
            dns.wait(&fqdn, &value).await.map_err(failed)?;
        }
        (ChallengeKind::DnsPersist01, Subject::Name(ServerName::Dns(name)) | Subject::Wildcard(name)) => {
            let record = StandingRecord::new(party, &challenge.url, subject, name);
            let record = record.ok_or(refused(Refusal::NoIssuer))?;
            record.look(subject).await;
            proofs.push(Proof::Standing(record));
        }
        (ChallengeKind::TlsAlpn01, Subject::Wildcard(_))
        | (ChallengeKind::Dns01 | ChallengeKind::DnsPersist01, Subject::Name(ServerName::Ip(_))) => {
            return Err(refused(Refusal::NotOffered));
        }
    }
    Ok(())
}

/// Waits until the CA has looked at every challenge.
async fn validated(order: &mut Order, kind: ChallengeKind) -> Result<(), OrderError> {
    let deadline = Instant::now() + VALIDATION_LIMIT;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(OrderError::Acme)?;
        let mut wait = FIRST_POLL;
        while authorization.status == AuthorizationStatus::Pending {
            if Instant::now() > deadline {
                return Err(OrderError::Refused(Refusal::TooSlow(VALIDATION_LIMIT)));
            }
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_POLL);
            patiently!(authorization.refresh()).map_err(OrderError::Acme)?;
        }
        if authorization.status != AuthorizationStatus::Valid {
            debug!(challenge = %kind, status = ?authorization.status, "authorisation ended");
            let problem = authorization.challenges.iter().find_map(|challenge| challenge.error.clone());
            return Err(OrderError::Refused(problem.map_or(Refusal::NotPending, Refusal::Problem)));
        }
    }
    Ok(())
}
