//! Which CAs a name's owner lets issue for it (RFC 8659), as a CA finds it.

use hickory_proto::{
    op::Message,
    rr::{Name, RData, RecordType},
};

use super::{DnsError, lookup::Resolvers};
use crate::config::Subject;

/// The rule that holds for a name: the one that is found first on the way up from it.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Rule {
    /// Whose records they are.
    pub(crate) domain: String,
    /// Those that may; nobody where there is none.
    permitted: Vec<String>,
}

impl Rule {
    /// Whether a CA may issue that has one of these names.
    pub(crate) fn permits(&self, identities: &[String]) -> bool {
        self.permitted
            .iter()
            .any(|permitted| identities.iter().any(|own| own.eq_ignore_ascii_case(permitted)))
    }

    /// Who may, for people.
    pub(crate) fn names(&self) -> String {
        if self.permitted.is_empty() { "nobody".to_owned() } else { self.permitted.join(", ") }
    }
}

/// The rule for `subject`, by what the machine's resolvers say; `None`: every CA may issue.
pub(crate) async fn caa(subject: &Subject) -> Result<Option<Rule>, DnsError> {
    let text = subject.to_string();
    let (base, is_wildcard) = text.strip_prefix("*.").map_or((&*text, false), |base| (base, true));
    let mut name: Name = base.parse().map_err(|source| DnsError::Name { name: text.clone(), source })?;
    name.set_fqdn(true);
    let resolvers = Resolvers::of_machine();
    while !name.is_root() {
        if let Some(answer) = resolvers.ask(&name, RecordType::CAA).await?
            && let Some(permitted) = permitted(&answer, is_wildcard)
        {
            let domain = name.to_utf8().trim_end_matches('.').to_owned();
            return Ok(permitted.map(|permitted| Rule { domain, permitted }));
        }
        name = name.base_name();
    }
    Ok(None)
}

/// Whom an answer lets issue: `None`: it has no CAA records, and the domain above is asked; `Some(None)`: those that it
/// has restrict nobody.
fn permitted(answer: &Message, is_wildcard: bool) -> Option<Option<Vec<String>>> {
    let records: Vec<_> = answer
        .answers
        .iter()
        .filter_map(|record| if let RData::CAA(caa) = &record.data { Some(caa) } else { None })
        .collect();
    if records.is_empty() {
        return None;
    }
    let of = |tag: &str| -> Vec<_> {
        records.iter().filter(|caa| caa.tag.eq_ignore_ascii_case(tag)).copied().collect()
    };
    // Section 4.3: `issuewild` stands in for `issue` where a wildcard is asked for and it is there.
    let wild = if is_wildcard { of("issuewild") } else { Vec::new() };
    let rules = if wild.is_empty() { of("issue") } else { wild };
    if rules.is_empty() {
        return Some(None);
    }
    // A value without a name, or that cannot be read, permits nobody (section 4.2).
    let names = rules.iter().filter_map(|caa| caa.value_as_issue().ok()?.0);
    Some(Some(names.map(|name| name.to_utf8().trim_end_matches('.').to_owned()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::{Record, rdata::CAA};

    fn answer(records: &[(&str, &str)]) -> Message {
        let mut answer = Message::query();
        for (tag, value) in records {
            let mut caa = CAA::new_issue(false, None, Vec::new());
            (caa.tag, caa.value) = ((*tag).to_owned(), value.as_bytes().to_vec());
            answer.add_answer(Record::from_rdata("example.org.".parse().unwrap(), 60, RData::CAA(caa)));
        }
        answer
    }

    #[test]
    fn the_records_of_a_domain_say_who_may_issue() {
        let of = |records: &[(&str, &str)], is_wildcard| permitted(&answer(records), is_wildcard);
        let some = |names: &[&str]| Some(Some(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()));
        assert_eq!(of(&[], false), None);
        assert_eq!(of(&[("iodef", "mailto:a@example.org")], false), Some(None));
        assert_eq!(of(&[("issue", ";")], false), some(&[]));
        let two = [("issue", "letsencrypt.org"), ("ISSUE", "pki.goog; cansignhttpexchanges=yes")];
        assert_eq!(of(&two, false), some(&["letsencrypt.org", "pki.goog"]));
        assert_eq!(of(&two, true), some(&["letsencrypt.org", "pki.goog"]));
        let wild = [("issue", "letsencrypt.org"), ("issuewild", ";")];
        assert_eq!(of(&wild, false), some(&["letsencrypt.org"]));
        assert_eq!(of(&wild, true), some(&[]));
    }

    #[test]
    fn a_rule_permits_a_ca_by_any_of_its_names() {
        let rule = |names: &[&str]| Rule {
            domain: "example.org".to_owned(),
            permitted: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let own = ["letsencrypt.org".to_owned(), "isrg.example".to_owned()];
        assert!(rule(&["pki.goog", "LetsEncrypt.org"]).permits(&own));
        assert!(!rule(&["pki.goog"]).permits(&own) && !rule(&[]).permits(&own));
        assert_eq!((rule(&[]).names(), rule(&["a", "b"]).names()), ("nobody".to_owned(), "a, b".to_owned()));
    }
}
