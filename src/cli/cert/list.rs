//! `cert list`: every certificate, as a table or as JSON.

use std::process::ExitCode;

use serde::Serialize;
use time::{OffsetDateTime, macros::format_description};

use super::StorageArgs;
use crate::{
    acme::{self, Stored},
    cli::{EXIT_INTERNAL, answer},
    config::Environment,
    moment::moment,
    storage::{Storage, StorageError},
    tls::local_ca,
};

/// How `cert list` shows what.
#[derive(clap::Args)]
pub(super) struct ListArgs {
    /// As JSON, one object a certificate
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: StorageArgs,
}

/// Shows what is stored. Asks nobody, and writes nothing.
pub(super) fn run(arguments: &ListArgs) -> ExitCode {
    let directory = match arguments.storage.directory(&Environment::of_process()) {
        Ok(directory) => directory,
        Err(code) => return code,
    };
    let rows = match rows(&Storage::at(&directory)) {
        Ok(rows) => rows,
        Err(error) => return super::refuse(error),
    };
    if arguments.json {
        return match json(&rows) {
            Ok(text) => answer(&text),
            Err(error) => {
                eprintln!("error: {error}");
                EXIT_INTERNAL.into()
            }
        };
    }
    if rows.is_empty() {
        return answer(&format!("no certificates in {}\n", directory.display()));
    }
    answer(&table(&rows, OffsetDateTime::now_utc()))
}

/// What is known of one name's certificate, in the words of the JSON. Instants are RFC 3339 there.
#[derive(Serialize)]
struct Row {
    name: String,
    issuer: Option<String>,
    fingerprint: Option<String>,
    #[serde(serialize_with = "rfc_3339")]
    expires: Option<OffsetDateTime>,
    #[serde(serialize_with = "rfc_3339")]
    next_renewal: Option<OffsetDateTime>,
    last_error: Option<String>,
    #[serde(serialize_with = "rfc_3339")]
    next_try: Option<OffsetDateTime>,
}

fn rfc_3339<S: serde::Serializer>(time: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(moment).serialize(serializer)
}

impl From<Stored> for Row {
    fn from(Stored { subject, entry, certificate, .. }: Stored) -> Self {
        let certificate = certificate.as_ref();
        Self {
            name: subject.to_string(),
            issuer: certificate.map(|certificate| certificate.issuer.clone()),
            fingerprint: certificate.map(|certificate| certificate.fingerprint.clone()),
            expires: certificate.map(|certificate| certificate.not_after),
            next_renewal: entry.renew_at,
            last_error: entry.last_error,
            next_try: entry.next_try,
        }
    }
}

/// What CAs issued, then what the relay's own did.
fn rows(storage: &Storage) -> Result<Vec<Row>, StorageError> {
    let mut rows: Vec<_> = acme::stored(storage)?.into_iter().map(Row::from).collect();
    if let Some(leaf) = local_ca::stored(storage)? {
        rows.extend(leaf.names.iter().map(|name| Row {
            name: name.to_string(),
            issuer: Some("local CA".to_owned()),
            fingerprint: Some(leaf.fingerprint.clone()),
            expires: Some(leaf.not_after),
            next_renewal: Some(local_ca::renewal(&leaf)),
            last_error: None,
            next_try: None,
        }));
    }
    Ok(rows)
}

fn json(rows: &[Row]) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(rows)? + "\n")
}

/// The columns; the error is last because it may be long.
const HEAD: [&str; 6] = ["NAME", "ISSUER", "EXPIRES", "NEXT RENEWAL", "NEXT TRY", "LAST ERROR"];

fn table(rows: &[Row], now: OffsetDateTime) -> String {
    let mut cells = vec![HEAD.map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let expires = instant(row.expires);
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        [
            row.name.clone(),
            or_none(&row.issuer),
            if row.expires.is_some_and(|expires| expires <= now) {
                format!("{expires} (over)")
            } else {
                expires
            },
            instant(row.next_renewal),
            instant(row.next_try),
            or_none(&row.last_error),
        ]
        // What a CA or a hook said is shown, and not obeyed.
        .map(|cell| cell.replace(char::is_control, " "))
    }));
    aligned(&cells)
}

/// To the minute, in UTC.
pub(crate) fn instant(time: Option<OffsetDateTime>) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]Z");
    // The parts are those that every instant has: it does not fail.
    time.and_then(|time| time.to_utc().format(format).ok()).unwrap_or_else(|| "-".to_owned())
}

/// Cells as wide as the widest of their column, two blanks apart.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  "));
        text += cells.collect::<String>().trim_end();
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Pair;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use time::macros::datetime;

    /// A chain of one and its key, signed by a CA of this organization.
    fn pair(name: &str, not_after: OffsetDateTime) -> Pair {
        let mut root = CertificateParams::default();
        root.distinguished_name.push(DnType::OrganizationName, "Some CA");
        root.distinguished_name.push(DnType::CommonName, "R1");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
        let mut leaf = CertificateParams::new([name.to_owned()]).unwrap();
        (leaf.not_before, leaf.not_after) = (not_after - time::Duration::days(90), not_after);
        let key = KeyPair::generate().unwrap();
        Pair {
            chain: leaf.signed_by(&key, &root).unwrap().pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        }
    }

    /// A good certificate, one that is over and fails, one that never came, and what is none.
    fn stored() -> Vec<Row> {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let write = |place: &str, page: &str| {
            let file = format!("certificates/{place}/meta.json");
            storage.write(&file, page.as_bytes()).unwrap();
        };
        let good = pair("chat.example.org", datetime!(2027-02-01 12:30 UTC));
        storage.write_pair("certificates/chat.example.org", &good).unwrap();
        write("chat.example.org", r#"{"renew_at": "2027-01-01T10:00:00Z"}"#);
        let over = pair("*.example.org", datetime!(2026-01-01 0:00 UTC));
        storage.write_pair("certificates/_.example.org", &over).unwrap();
        let failed = r#"{"last_error": "the DNS hook failed:\n\u001b[31mno",
                         "next_try": "2026-11-01T10:00:59+02:00"}"#;
        write("_.example.org", failed);
        write("192.0.2.7", "{}");
        storage.write("certificates/.lock", b"").unwrap();
        rows(&storage).unwrap()
    }

    #[test]
    fn the_table_is_aligned_and_its_errors_are_one_line_each() {
        let text = table(&stored(), datetime!(2026-11-01 0:00 UTC));
        let expected = "\
NAME              ISSUER      EXPIRES                   NEXT RENEWAL       NEXT TRY           LAST ERROR
192.0.2.7         -           -                         -                  -                  -
*.example.org     Some CA R1  2026-01-01 00:00Z (over)  2025-12-02 00:00Z  2026-11-01 08:00Z  the DNS hook failed:  [31mno
chat.example.org  Some CA R1  2027-02-01 12:30Z         2027-01-01 10:00Z  -                  -
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_json_has_every_field_and_rfc_3339_instants() {
        let rows: serde_json::Value = serde_json::from_str(&json(&stored()).unwrap()).unwrap();
        assert_eq!(rows.as_array().unwrap().len(), 3);
        assert_eq!(rows[2]["name"], "chat.example.org");
        assert_eq!(rows[2]["expires"], "2027-02-01T12:30:00Z");
        assert_eq!(rows[2]["next_renewal"], "2027-01-01T10:00:00Z");
        assert_eq!(rows[2]["last_error"], serde_json::Value::Null);
        assert_eq!(rows[2]["fingerprint"].as_str().unwrap().len(), 95);
        assert_eq!(rows[1]["last_error"], "the DNS hook failed:\n\u{1b}[31mno");
        assert_eq!(rows[0]["issuer"], serde_json::Value::Null);
    }

    #[test]
    fn the_local_cas_certificate_is_listed_by_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let names = vec!["chat.lan".parse().unwrap(), "192.168.7.7".parse().unwrap()];
        let now = datetime!(2026-11-01 1:00 UTC);
        let machine = local_ca::Machine::current();
        local_ca::LocalCa::open(storage.clone(), names, &machine, now).unwrap();
        let text = table(&rows(&storage).unwrap(), now);
        for name in ["chat.lan", "192.168.7.7"] {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.contains("  local CA  2027-01-30 00:00Z  2026-12-31 00:00Z"), "{text}");
        }
        storage.write("local-ca/leaf-key.pem", b"damaged").unwrap();
        assert!(rows(&storage).unwrap().is_empty());
    }

    #[test]
    fn a_storage_directory_that_is_not_there_has_no_certificates() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::at(&directory.path().join("none"));
        assert!(acme::stored(&storage).unwrap().is_empty());
        std::fs::write(directory.path().join("certificates"), "").unwrap();
        assert!(acme::stored(&Storage::at(directory.path())).is_err());
    }
}
