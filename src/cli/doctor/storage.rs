//! The storage directory: whether the relay can keep something there, and how what it keeps is.

use std::path::Path;

use time::OffsetDateTime;

use super::{Finding, Grade};
use crate::{
    acme::{self, Stored},
    cli::cert::{become_owner, list::instant},
    config::{CertificateSource, Subject, Tls},
    storage::{Storage, StorageError},
    tls::{certificate::Certificate, local_ca},
};

/// Below it the next certificate may not fit, nor what else the machine writes.
const ROOM: u64 = 32 << 20;

/// As its owner, which is whom the relay runs as.
pub(super) fn look(tls: &Tls, now: OffsetDateTime) -> Vec<Finding> {
    let (directory, source) = (&*tls.storage, &tls.certificates);
    let is_kept = !matches!(source, CertificateSource::Files { .. });
    if !directory.exists() && !is_kept {
        return Vec::new();
    }
    if !directory.exists() {
        let text = format!("{} is not there yet: the relay makes it when it starts", directory.display());
        return vec![Finding::well("storage", text)];
    }
    if let Err(error) = become_owner(directory) {
        let text = format!("cannot act as the owner of {}: {error}", directory.display());
        return vec![Finding::doubt("storage", text, "run this as root, or as the relay's user")];
    }
    if !is_kept {
        return Vec::new();
    }
    let mut findings = vec![can_be_written(directory)];
    match kept(tls, now) {
        Ok(more) => findings.extend(more),
        Err(error) => findings.push(Finding::fault("storage", error, "")),
    }
    findings
}

fn can_be_written(directory: &Path) -> Finding {
    if let Err(error) = Storage::open(directory) {
        let owner =
            "it has to belong to the relay's user: parley-relay, where install.sh or the package made it";
        return Finding::fault("storage", error, owner);
    }
    let shown = directory.display();
    match rustix::fs::statvfs(directory) {
        Ok(found) if found.f_bavail.saturating_mul(found.f_frsize) < ROOM => {
            let text = format!("{shown} is on a disk that is nearly full");
            Finding::doubt("storage", text, format!("less than {} MiB are left: df -h {shown}", ROOM >> 20))
        }
        Ok(_) | Err(_) => Finding::well("storage", format_args!("{shown} can be written")),
    }
}

fn kept(tls: &Tls, now: OffsetDateTime) -> Result<Vec<Finding>, StorageError> {
    let storage = Storage::at(&tls.storage);
    let mut findings = Vec::new();
    if let CertificateSource::Acme(acme) = &tls.certificates {
        let stored = acme::stored(&storage)?;
        for subject in &acme.subjects {
            let stored = stored.iter().find(|stored| stored.subject == *subject);
            findings.push(issued(subject, stored, now));
        }
    }
    if let Some(names) = tls.local_names() {
        if let Some(replaced) = local_ca::replaced(&storage, &names, now) {
            findings.push(Finding::doubt("storage", replaced, local_ca::TRUST_ANEW));
        }
        if let Some(leaf) = local_ca::stored(&storage)? {
            findings.push(valid("the local CA's certificate", &leaf, now));
        }
    }
    Ok(findings)
}

fn issued(subject: &Subject, stored: Option<&Stored>, now: OffsetDateTime) -> Finding {
    let entry = stored.map(|stored| &stored.entry);
    let failed = entry.and_then(|entry| {
        let error = entry.last_error.as_ref()?;
        Some(format!("the last try failed, the next is at {}: {error}", instant(entry.next_try)))
    });
    let certificate = stored.and_then(|stored| stored.certificate.as_deref());
    let found =
        certificate.map(|certificate| valid(&format!("the certificate for {subject}"), certificate, now));
    match (found, failed) {
        (None, failed) => {
            let advice = failed.unwrap_or_else(|| "the relay orders it when it runs".to_owned());
            Finding::doubt("storage", format_args!("there is no certificate for {subject} yet"), advice)
        }
        (Some(Finding { grade: Grade::Well, text, .. }), Some(failed)) => {
            Finding::doubt("storage", text, failed)
        }
        (Some(found), _) => found,
    }
}

fn valid(what: &str, certificate: &Certificate, now: OffsetDateTime) -> Finding {
    if now < certificate.not_before {
        return Finding::fault(
            "storage",
            format_args!(
                "{what} begins on {}, and here it is {}",
                instant(Some(certificate.not_before)),
                instant(Some(now))
            ),
            "the clock of this machine is wrong: timedatectl set-ntp true",
        );
    }
    if certificate.not_after <= now {
        let text = format!("{what} is over since {}", instant(Some(certificate.not_after)));
        return Finding::fault("storage", text, "the relay renews it when it runs: parley-relay status");
    }
    Finding::well("storage", format_args!("{what} is good until {}", instant(Some(certificate.not_after))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UnknownNames;
    use time::Duration;

    fn self_signed(storage: &Path, names: &[&str]) -> Tls {
        Tls {
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            certificates: CertificateSource::LocalCa,
            storage: storage.to_owned(),
            unknown_names: UnknownNames::Reject,
            hsts: None,
        }
    }

    #[test]
    fn a_root_that_cannot_vouch_for_a_name_will_be_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let (machine, now) = (local_ca::Machine::default(), OffsetDateTime::now_utc());
        local_ca::LocalCa::open(storage, vec!["chat.lan".parse().unwrap()], &machine, now).unwrap();
        let told = |names: &[&str]| {
            let findings = kept(&self_signed(directory.path(), names), now).unwrap();
            let found = findings.into_iter().find(|finding| finding.grade == Grade::Doubt);
            found.map(|finding| finding.text)
        };
        assert_eq!(told(&["chat.lan", "other.lan"]), None);
        let text = "a NEW local CA will be made: the present one cannot vouch for example.org";
        assert_eq!(told(&["chat.lan", "example.org"]).as_deref(), Some(text));
    }

    #[test]
    fn a_certificate_is_good_or_over_or_not_begun_where_the_clock_went_back() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let (machine, now) = (local_ca::Machine::default(), OffsetDateTime::now_utc());
        local_ca::LocalCa::open(storage, vec!["chat.lan".parse().unwrap()], &machine, now).unwrap();
        let tls = self_signed(directory.path(), &["chat.lan"]);
        let at = |now| {
            let findings = kept(&tls, now).unwrap();
            let [finding] = &findings[..] else { panic!("{findings:?}") };
            (finding.grade, finding.text.clone())
        };
        assert_eq!(at(now).0, Grade::Well);
        let (grade, text) = at(now + Duration::days(100));
        assert!(
            grade == Grade::Fault && text.starts_with("the local CA's certificate is over since "),
            "{text}"
        );
        let (grade, text) = at(now - Duration::days(9000));
        assert!(grade == Grade::Fault && text.contains(" begins on "), "{text}");
    }

    #[test]
    fn a_failed_try_is_told_and_is_no_fault_while_the_certificate_is_good() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let subject: Subject = "chat.example.org".parse().unwrap();
        assert_eq!(issued(&subject, None, OffsetDateTime::now_utc()).grade, Grade::Doubt);
        let meta = br#"{"last_error": "rate limited", "failures": 3}"#;
        storage.write("certificates/chat.example.org/meta.json", meta).unwrap();
        let stored = acme::stored(&storage).unwrap();
        let finding = issued(&subject, stored.first(), OffsetDateTime::now_utc());
        assert_eq!(finding.grade, Grade::Doubt);
        assert!(finding.advice.unwrap().ends_with(": rate limited"));
    }
}
