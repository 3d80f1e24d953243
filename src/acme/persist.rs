//! dns-persist-01 (draft-ietf-acme-dns-persist): control over a name is shown by a TXT record that stands for
//! good, is set by a person once, and says which CA may issue for which account.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use time::OffsetDateTime;
use tracing::{debug, info, warn};

use super::dns::{DnsError, Resolvers, look_once};
use crate::config::{ServerName, Subject};

/// What authorisations and `challenges` of the config call it.
pub(super) const NAME: &str = "dns-persist-01";
/// How many names a CA may give itself; more make the challenge malformed.
const ISSUER_NAMES: usize = 10;
/// How long the record is looked for. Whatever is seen, the CA is asked.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// What CAs call themselves in their challenges, by the challenge's URL. The ACME library drops it, as it does
/// with every field of a challenge that it does not know.
#[derive(Clone, Default)]
pub(super) struct IssuerNames(Arc<Mutex<HashMap<String, Vec<Box<str>>>>>);

/// An authorisation (RFC 8555, section 7.1.4), as far as it matters here.
#[derive(Deserialize)]
struct Authorization {
    challenges: Vec<Offer>,
}

#[derive(Deserialize)]
struct Offer {
    r#type: String,
    url: String,
    #[serde(rename = "issuer-domain-names", default)]
    issuer_names: Vec<String>,
}

/// Who is to be authorised, and by whom.
pub(super) struct Party<'a> {
    pub(super) account_uri: &'a str,
    pub(super) issuer_names: &'a IssuerNames,
}

/// A record that has to stand in the DNS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct StandingRecord {
    fqdn: String,
    /// Each of them would do; the first is the one that is advised.
    issuer_names: Vec<Box<str>>,
    /// The account's own URL, which every CA has to take, whatever other URI its challenge may name.
    account_uri: String,
    scope: Scope,
}

/// What the record is to vouch for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scope {
    Name,
    /// Everything below the name as well.
    Wildcard,
}

impl IssuerNames {
    /// Keeps what stands in the answer of a CA, if it is an authorisation that offers the challenge.
    pub(super) fn learn(&self, answer: &[u8]) {
        // Most answers are something else.
        if !answer.windows(NAME.len()).any(|part| part == NAME.as_bytes()) {
            return;
        }
        let Ok(authorization) = serde_json::from_slice::<Authorization>(answer) else {
            return;
        };
        for offer in authorization.challenges.into_iter().filter(|offer| offer.r#type == NAME) {
            // G1: they go into our log, and into a person's zone.
            let names = offer.issuer_names.iter().map(|name| match name.parse() {
                Ok(ServerName::Dns(name)) => Some(name),
                Ok(ServerName::Ip(_)) | Err(_) => None,
            });
            let names: Option<Vec<_>> = names.collect();
            if let Some(names) = names.filter(|names| (1..=ISSUER_NAMES).contains(&names.len())) {
                self.lock().insert(offer.url, names);
            }
        }
    }

    fn of(&self, challenge_url: &str) -> Option<Vec<Box<str>>> {
        self.lock().get(challenge_url).cloned()
    }

    /// The map is whole after each call, also where a thread panicked with the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Box<str>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StandingRecord {
    /// The record that `party` needs for the challenge at this URL; `None`: it is malformed, for it names no
    /// issuer.
    pub(super) fn new(party: &Party<'_>, challenge_url: &str, subject: &Subject, name: &str) -> Option<Self> {
        Some(Self {
            fqdn: format!("_validation-persist.{name}"),
            issuer_names: party.issuer_names.of(challenge_url)?,
            account_uri: party.account_uri.to_owned(),
            scope: match subject {
                Subject::Name(_) => Scope::Name,
                Subject::Wildcard(_) => Scope::Wildcard,
            },
        })
    }

    /// What has to stand there, as a person would write it.
    fn value(&self) -> String {
        // Never none: see `IssuerNames::learn`.
        let issuer = self.issuer_names.first().map(|name| &**name).unwrap_or_default();
        let policy = match self.scope {
            Scope::Name => "",
            Scope::Wildcard => "; policy=wildcard",
        };
        format!("{issuer}; accounturi={}{policy}", self.account_uri)
    }

    /// Looks whether it stands, for the log alone: the CA may see more than we do. What to set is told when it
    /// sees nothing either.
    pub(super) async fn look(&self, subject: &Subject) {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let wanted = |text: &[u8]| str::from_utf8(text).is_ok_and(|text| self.is_met_by(text, now));
        match look_once(&self.fqdn, &wanted, LOOK_LIMIT, &Resolvers::of_machine()).await {
            Ok(()) => info!(name = %subject, record = self.fqdn, "the standing TXT record is there"),
            Err(DnsError::NotVisible { .. }) => {
                warn!(name = %subject, record = self.fqdn, "the standing TXT record is not there");
            }
            Err(error) => {
                debug!(name = %subject, record = self.fqdn, "the record is not looked for: {error}")
            }
        }
    }

    /// Whether a TXT record with this text does. Parameters are those of CAA (RFC 8659, section 4.2).
    fn is_met_by(&self, text: &str, now: i64) -> bool {
        let mut parts = text.split(';').map(str::trim);
        let issuer = parts.next().unwrap_or_default().trim_end_matches('.');
        if !self.issuer_names.iter().any(|name| name.eq_ignore_ascii_case(issuer)) {
            return false;
        }
        let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
        let parameter = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim())
        };
        let covers = match self.scope {
            Scope::Name => true,
            Scope::Wildcard => parameter("policy").is_some_and(|it| it.eq_ignore_ascii_case("wildcard")),
        };
        let lasts =
            parameter("persistUntil").is_none_or(|until| until.parse().is_ok_and(|it: i64| now <= it));
        covers && lasts && parameter("accounturi") == Some(&self.account_uri)
    }
}

/// What a person has to do.
impl fmt::Display for StandingRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set this TXT record, once and for good: {}. TXT \"{}\"", self.fqdn, self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "https://ca.example/acct/123";
    const URL: &str = "https://ca.example/chall/7";

    /// An authorisation of the draft's form.
    fn authorization(issuer_names: &str) -> String {
        format!(
            r#"{{
                "status": "pending",
                "identifier": {{ "type": "dns", "value": "example.org" }},
                "challenges": [
                    {{ "type": "http-01", "url": "https://ca.example/chall/6", "token": "t", "status": "pending" }},
                    {{
                        "type": "dns-persist-01",
                        "url": "{URL}",
                        "status": "pending",
                        "issuer-domain-names": {issuer_names}
                    }}
                ]
            }}"#
        )
    }

    fn record(issuer_names: &str, subject: &str) -> Option<StandingRecord> {
        let known = IssuerNames::default();
        known.learn(authorization(issuer_names).as_bytes());
        let party = Party { account_uri: ACCOUNT, issuer_names: &known };
        StandingRecord::new(&party, URL, &subject.parse().unwrap(), "example.org")
    }

    #[test]
    fn a_person_is_told_name_and_value_of_the_record() {
        let names = r#"["ca.example", "other.example"]"#;
        assert_eq!(
            record(names, "example.org").unwrap().to_string(),
            "set this TXT record, once and for good: _validation-persist.example.org. TXT \
             \"ca.example; accounturi=https://ca.example/acct/123\""
        );
        let wildcard = record(names, "*.example.org").unwrap();
        assert_eq!(wildcard.value(), format!("ca.example; accounturi={ACCOUNT}; policy=wildcard"));
        assert_eq!(wildcard.fqdn, "_validation-persist.example.org");
    }

    #[test]
    fn g1_a_challenge_without_issuers_or_with_names_that_are_none_is_malformed() {
        let many = serde_json::to_string(&vec!["ca.example"; 11]).unwrap();
        for names in ["[]", r#"["ca.example\n\u001b[31m"]"#, r#"["a; b"]"#, r#"["192.0.2.1"]"#, "{}", &many] {
            assert_eq!(record(names, "example.org"), None, "{names}");
        }
    }

    #[test]
    fn a_record_does_for_its_issuer_its_account_its_scope_and_its_time() {
        let names = r#"["ca.example", "other.example"]"#;
        let name = record(names, "example.org").unwrap();
        let wildcard = record(names, "*.example.org").unwrap();
        for (text, for_name, for_wildcard) in [
            ("ca.example; accounturi=A", true, false),
            ("OTHER.example.;accounturi = A ; policy=Wildcard", true, true),
            ("ca.example; policy=wildcard; accounturi=A; persistUntil=2000", true, true),
            ("ca.example; policy=wildcard; accounturi=A; persistUntil=999", false, false),
            ("ca.example; policy=wildcard; accounturi=A; persistUntil=soon", false, false),
            ("ca.example; policy=wildcard", false, false),
            ("ca.example; policy=wildcard; accounturi=A0", false, false),
            ("third.example; policy=wildcard; accounturi=A", false, false),
            ("", false, false),
        ] {
            let text = text.replace("=A", &format!("={ACCOUNT}")).replace("= A", &format!("= {ACCOUNT}"));
            assert_eq!(name.is_met_by(&text, 1000), for_name, "{text}");
            assert_eq!(wildcard.is_met_by(&text, 1000), for_wildcard, "{text}");
        }
    }
}
