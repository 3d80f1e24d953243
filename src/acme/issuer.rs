//! Getting a certificate from one of several CAs: in order, and with a rehearsal once it has failed twice.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use instant_acme::CertificateIdentifier;
use time::OffsetDateTime;
use tokio::sync::{Mutex, Semaphore};
use tracing::{info, warn};

use super::{
    account,
    authorization::{Solvers, fits},
    client::Client,
    dns::DnsSolver,
    issuer_error::{Failure, TryError, WindowError},
    ledger::{self, Entry},
    order::{self, Issued, Wanted},
    order_error::OrderError,
    patience::patiently,
    pending::Pending,
    persist::Party,
    schedule::{self, Window},
};
use crate::{
    config::{
        AcmeConfig, Subject,
        acme::{Authority, ChallengeKind, Directory, KeyType},
    },
    storage::Storage,
    tls::{certificate::Certificate, challenges::Challenges},
};

/// After so many failures in a row an order is rehearsed with the CA's staging directory: the CA's limits on
/// failures are for those who do not.
const FAILURES_BEFORE_REHEARSAL: u32 = 2;

/// How many orders are under way at once.
const ORDERS: usize = 4;

/// Everything that orders need, whatever they are for.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(super) storage: Storage,
    authority: Authority,
    directories: Vec<Directory>,
    challenges: Vec<ChallengeKind>,
    profile: Option<String>,
    key_type: KeyType,
    solvers: Solvers,
    /// One account a CA, also where two names are ordered for the first time at once.
    registering: Mutex<()>,
    orders: Semaphore,
}

/// A certificate, and who issued it.
pub(super) struct Success {
    pub(super) issued: Issued,
    pub(super) ca: Directory,
}

impl Issuer {
    pub(crate) fn new(
        storage: Storage,
        config: &AcmeConfig,
        listeners: Arc<Challenges>,
        dns: Option<Arc<DnsSolver>>,
    ) -> Self {
        Self {
            storage,
            authority: config.authority.clone(),
            directories: config.directories.clone(),
            challenges: config.challenges.clone(),
            profile: config.profile.clone(),
            key_type: config.key_type,
            solvers: Solvers { listeners, dns, records: Arc::default() },
            registering: Mutex::new(()),
            orders: Semaphore::new(ORDERS),
        }
    }

    /// The first moment at which some CA may be asked, where all of them are `held`.
    pub(super) fn open_at(&self, held: &BTreeMap<String, OffsetDateTime>) -> Option<OffsetDateTime> {
        let until = self.directories.iter().map(|ca| held.get(&ca.to_string()).copied());
        until.collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    /// Orders a certificate for `subject` from one CA after the other.
    pub(super) async fn issue(
        &self,
        subject: &Subject,
        entry: &Entry,
        current: Option<&Certificate>,
        now: OffsetDateTime,
    ) -> Result<Success, Failure> {
        // Never closed, so that there is always a permit in the end.
        let _permit = self.orders.acquire().await.ok();
        let challenges = self.challenges_for(subject, entry);
        let mut failure = Failure { errors: Vec::new(), held: BTreeMap::new() };
        for ca in &self.directories {
            let url = ca.to_string();
            let held = entry.held.get(&url).filter(|until| now < **until);
            let result = match (held, challenges.is_empty()) {
                (_, true) => Err(TryError::Order(OrderError::NotAuthorized(Vec::new()))),
                (Some(until), false) => Err(TryError::Held(*until)),
                (None, false) => {
                    // Only the CA that issued a certificate knows it.
                    let replaces = current.filter(|_| entry.ca.as_ref() == Some(&url));
                    let replaces = replaces.filter(|current| now < current.not_after);
                    let wanted = Wanted {
                        subject,
                        profile: self.profile.as_deref(),
                        replaces: replaces.and_then(identifier),
                        key_type: self.key_type,
                        challenges: &challenges,
                    };
                    self.rehearse_and_order(ca, wanted, entry.failures, &mut failure.held).await
                }
            };
            match result {
                Ok(issued) => {
                    return Ok(Success { issued, ca: ca.clone() });
                }
                Err(error) => {
                    // With one CA that is what the caller says.
                    if self.directories.len() > 1 {
                        warn!(name = %subject, ca = %ca, "no certificate from this CA: {error}");
                    }
                    failure.errors.push((ca.clone(), error));
                }
            }
        }
        Err(failure)
    }

    /// The configured challenges, what worked the last time first.
    fn challenges_for(&self, subject: &Subject, entry: &Entry) -> Vec<ChallengeKind> {
        let mut kinds: Vec<_> = self.challenges.clone();
        kinds.retain(|kind| fits(subject, *kind));
        // Stable: the others stay in their order.
        kinds.sort_by_key(|kind| Some(*kind) != entry.challenge);
        kinds
    }

    async fn rehearse_and_order(
        &self,
        ca: &Directory,
        mut wanted: Wanted<'_>,
        failures: u32,
        held: &mut BTreeMap<String, OffsetDateTime>,
    ) -> Result<Issued, TryError> {
        if failures >= FAILURES_BEFORE_REHEARSAL
            && let Some(staging) = ca.to_staging()
        {
            let replaces = wanted.replaces.take();
            info!(name = %wanted.subject, ca = %staging, "rehearsing, because it failed before");
            self.order(&staging, &wanted, None, held).await?;
            wanted.replaces = replaces;
        }
        info!(name = %wanted.subject, ca = %ca, "ordering");
        self.order(ca, &wanted, Some(&self.storage), held).await
    }

    /// `storage` is for an order that can be gone on with; `None` for a rehearsal.
    async fn order(
        &self,
        ca: &Directory,
        wanted: &Wanted<'_>,
        storage: Option<&Storage>,
        held: &mut BTreeMap<String, OffsetDateTime>,
    ) -> Result<Issued, TryError> {
        let client = Client::new(&self.authority).map_err(TryError::Client)?;
        let pending = Pending {
            storage,
            file: format!("{}/order.json", ledger::directory(wanted.subject)),
            ca: ca.to_string(),
        };
        let mut result = self.order_with(ca, wanted, &client, &pending).await;
        if matches!(&result, Err(error) if error.is_about_the_account())
            && account::forget(&self.storage, ca).is_ok()
        {
            warn!(ca = %ca, "the CA does not know our account any longer");
            result = self.order_with(ca, wanted, &client, &pending).await;
        }
        if let (Err(_), Some(retry_after)) = (&result, client.retry_after()) {
            let until = schedule::hold(OffsetDateTime::now_utc(), retry_after);
            held.insert(ca.to_string(), until);
        }
        result
    }

    async fn order_with(
        &self,
        ca: &Directory,
        wanted: &Wanted<'_>,
        client: &Client,
        pending: &Pending<'_>,
    ) -> Result<Issued, TryError> {
        let account = {
            let _one_at_a_time = self.registering.lock().await;
            let opened = account::open(&self.storage, ca, &self.authority, client).await;
            opened.map_err(TryError::Account)?
        };
        let party = Party { account_uri: account.id(), issuer_names: client.issuer_names() };
        let placed = order::place(&account, &party, wanted, &self.solvers, pending).await;
        placed.map_err(TryError::Order)
    }

    /// When the CA that issued `certificate` wants it to be renewed, and when it wants to be asked again.
    pub(super) async fn window(
        &self,
        ca: Option<&str>,
        certificate: &Certificate,
    ) -> Result<(Window, Duration), WindowError> {
        let ca = self.directories.iter().find(|known| Some(&*known.to_string()) == ca);
        let (Some(ca), Some(identifier)) = (ca, identifier(certificate)) else {
            return Err(WindowError::Unknown);
        };
        let client =
            Client::new(&self.authority).map_err(|error| WindowError::Try(TryError::Client(error)))?;
        let account = account::open(&self.storage, ca, &self.authority, &client)
            .await
            .map_err(|error| WindowError::Try(TryError::Account(error)))?;
        match patiently!(account.renewal_info(&identifier)) {
            Ok((info, ask_again)) => {
                let window = Window { start: info.suggested_window.start, end: info.suggested_window.end };
                Ok((window, ask_again))
            }
            Err(instant_acme::Error::Unsupported(_)) => Err(WindowError::Unknown),
            Err(error) => Err(WindowError::Try(TryError::Order(OrderError::Acme(error)))),
        }
    }
}

/// How the CA calls a certificate (RFC 9773, section 4.1).
fn identifier(certificate: &Certificate) -> Option<CertificateIdentifier<'static>> {
    let identifier = CertificateIdentifier::try_from(certificate.der()).ok()?;
    Some(identifier.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::acme::{DnsConfig, Transport};
    use time::macros::datetime;

    fn issuer(storage: &Storage, directories: &[&str]) -> Issuer {
        let config = AcmeConfig {
            subjects: Vec::new(),
            local: Vec::new(),
            authority: Authority {
                email: None,
                external_account: None,
                ca_root: None,
                proxy: None,
                transport: Transport::HttpsOnly,
            },
            directories: directories.iter().map(|text| text.parse().unwrap()).collect(),
            challenges: ChallengeKind::DEFAULT.to_vec(),
            profile: None,
            key_type: KeyType::P256,
            fallback: None,
            on_failure: None,
            dns: DnsConfig { hook: None, listen: None, propagation: Duration::ZERO },
        };
        Issuer::new(storage.clone(), &config, Arc::default(), None)
    }

    #[test]
    fn what_worked_is_tried_first_and_what_cannot_work_for_a_name_not_at_all() {
        use ChallengeKind::{Dns01, DnsPersist01, Http01, TlsAlpn01};
        let directory = tempfile::tempdir().unwrap();
        let issuer = issuer(&Storage::at(directory.path()), &["letsencrypt"]);
        let kinds = |name: &str, worked| {
            let entry = Entry { challenge: worked, ..Entry::default() };
            issuer.challenges_for(&name.parse().unwrap(), &entry)
        };
        assert_eq!(kinds("a.example", None), [TlsAlpn01, Http01, Dns01]);
        assert_eq!(kinds("a.example", Some(Dns01)), [Dns01, TlsAlpn01, Http01]);
        assert_eq!(kinds("*.a.example", Some(Http01)), [Dns01]);
        assert_eq!(kinds("192.0.2.7", None), [TlsAlpn01, Http01]);
        let issuer = Issuer { challenges: vec![DnsPersist01, Http01], ..issuer };
        let kinds = |name: &str| issuer.challenges_for(&name.parse().unwrap(), &Entry::default());
        assert_eq!(kinds("*.a.example"), [DnsPersist01]);
        assert_eq!(kinds("192.0.2.7"), [Http01]);
    }

    #[test]
    fn k11_it_waits_for_the_first_ca_that_may_be_asked_again() {
        let directory = tempfile::tempdir().unwrap();
        let issuer = issuer(&Storage::at(directory.path()), &["letsencrypt", "zerossl"]);
        let (sooner, later) = (datetime!(2026-07-01 00:00 UTC), datetime!(2026-07-02 00:00 UTC));
        let mut held = BTreeMap::from([(issuer.directories[0].to_string(), later)]);
        assert_eq!(issuer.open_at(&held), None);
        held.insert(issuer.directories[1].to_string(), sooner);
        assert_eq!(issuer.open_at(&held), Some(sooner));
    }

    #[tokio::test]
    async fn k11_a_ca_that_asked_to_be_left_alone_is_not_asked() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        // Nobody listens there: asking would be another error.
        let issuer = issuer(&storage, &["https://127.0.0.1:1/dir"]);
        let now = OffsetDateTime::now_utc();
        let mut entry = Entry::default();
        entry.held.insert(issuer.directories[0].to_string(), now + time::Duration::HOUR);
        let subject = "a.example".parse().unwrap();
        let Err(failure) = issuer.issue(&subject, &entry, None, now).await else {
            panic!("a certificate from nobody");
        };
        assert!(matches!(failure.errors[..], [(_, TryError::Held(_))]));
    }

    #[tokio::test]
    async fn a_wildcard_that_nothing_can_show_costs_no_order() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let mut issuer = issuer(&storage, &["https://127.0.0.1:1/dir"]);
        issuer.challenges = vec![ChallengeKind::Http01];
        let subject = "*.a.example".parse().unwrap();
        let Err(failure) = issuer.issue(&subject, &Entry::default(), None, OffsetDateTime::now_utc()).await
        else {
            panic!("a certificate from nobody");
        };
        assert!(failure.to_string().contains("no challenge can be tried"), "{failure}");
    }

    #[tokio::test]
    async fn after_two_failures_the_staging_directory_is_asked_first() {
        crate::tls::install_provider();
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let mut issuer = issuer(&storage, &["https://127.0.0.1:1/dir"]);
        issuer.directories[0].staging = Some("https://localhost:1/dir");
        let subject = "a.example".parse().unwrap();
        for (failures, asked) in [(0, "127.0.0.1"), (1, "127.0.0.1"), (2, "localhost"), (9, "localhost")] {
            let entry = Entry { failures, ..Entry::default() };
            let now = OffsetDateTime::now_utc();
            let Err(failure) = issuer.issue(&subject, &entry, None, now).await else {
                panic!("nobody listens there");
            };
            let expected = format!("{asked} cannot be reached");
            assert!(failure.to_string().contains(&expected), "{failures}: {failure}");
        }
    }
}
