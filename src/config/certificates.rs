//! `[tls]`: where certificates come from, and for ACME how they are got.

mod acme;
mod files;

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

use rustix::fs::Access;

use super::{
    CertificateSource, Environment, Tls, UnknownNames, Warning,
    acme::Directory,
    error::{Faults, Reason},
    raw::{Hsts, RawTls, TlsMode},
    setting::Setting,
    source::Place,
    types::{ServerName, Subject},
    url::ProxyUrl,
};

/// What of the rest of the configuration matters here.
pub(super) struct Surroundings<'a> {
    pub(super) environment: &'a Environment,
    pub(super) http_port: Option<u16>,
    pub(super) upstream_proxy: Option<&'a ProxyUrl>,
}

/// `[tls]`, which is there.
pub(super) fn tls(
    mut raw: RawTls,
    surroundings: Surroundings<'_>,
    faults: &mut Faults,
    warnings: &mut Vec<Warning>,
) -> Tls {
    let domains_place = raw.domains.place();
    let no_names = match &raw.domains {
        Setting::Absent => true,
        Setting::Given(names, _) => names.is_empty(),
        Setting::Faulty => false,
    };
    let by_files = !raw.cert.is_absent() || !raw.key.is_absent();
    let mode = match raw.mode.as_given() {
        Some(TlsMode::Auto | TlsMode::Off) | None if by_files => TlsMode::Files,
        Some(TlsMode::Auto | TlsMode::Off) | None => TlsMode::Auto,
        Some(mode) => *mode,
    };
    let files = files::certificate_files(&raw, mode, faults);
    if no_names && mode != TlsMode::Files && !raw.mode.is_faulty() {
        let reason = Reason::Rule("give the names and addresses that the certificate is for");
        let place = domains_place.clone().or(raw.mode.place()).or(raw.place);
        faults.add("tls.domains", reason, place);
    }
    let mut subjects: Vec<Subject> = Vec::new();
    for subject in std::mem::take(&mut raw.domains).or_default() {
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    let names: Vec<_> = subjects.iter().filter_map(Subject::as_name).cloned().collect();
    // A CA of one's own issues for what it likes.
    let directories = raw.acme.directory.as_given();
    let public_cas = directories.is_none_or(|directories| directories.iter().all(Directory::is_public));
    if mode == TlsMode::Acme && public_cas {
        warn_of_names_that_no_ca_issues_for(&subjects, domains_place.clone(), warnings);
    }
    let (public, local): (Vec<_>, Vec<_>) = match mode {
        TlsMode::Auto => subjects
            .into_iter()
            .partition(|subject| !(subject.is_local() || public_cas && subject.is_reserved())),
        TlsMode::Acme => (subjects, Vec::new()),
        TlsMode::SelfSigned | TlsMode::Files | TlsMode::Off => (Vec::new(), subjects),
    };
    if mode != TlsMode::Files && local.iter().any(|subject| subject.as_name().is_none()) {
        let reason = Reason::Rule("the local CA makes no wildcards: give each name");
        faults.add("tls.domains", reason, domains_place.clone());
    }
    let storage = raw.storage.as_given().cloned();
    let storage = storage.unwrap_or_else(|| surroundings.environment.storage());
    if mode != TlsMode::Files {
        writable(&storage, raw.storage.place(), faults, warnings);
    }
    let certificates = match (mode, files) {
        (TlsMode::Files, Some(files)) => {
            if let Some(text) = files.misfit(&local) {
                warnings.push(Warning::new(text, domains_place));
            }
            files.into_source()
        }
        (TlsMode::Files, None) => {
            if !by_files {
                let reason = Reason::Rule("mode `files` needs `cert` and `key`");
                faults.add("tls.mode", reason, raw.mode.place());
            }
            CertificateSource::LocalCa
        }
        (TlsMode::Auto | TlsMode::Acme, _) if !public.is_empty() => {
            let local = local.iter().filter_map(Subject::as_name).cloned().collect();
            let names = Names { public, local, place: domains_place };
            CertificateSource::Acme(Box::new(acme::acme(raw.acme, names, surroundings, faults, warnings)))
        }
        (TlsMode::Auto | TlsMode::Acme | TlsMode::SelfSigned | TlsMode::Off, _) => CertificateSource::LocalCa,
    };
    Tls {
        names,
        certificates,
        storage,
        unknown_names: raw.unknown_names.or(UnknownNames::Reject),
        hsts: raw.hsts.or(Hsts(None)).0,
    }
}

/// A CA that is asked for such a name refuses, again and again, and uses up its rate limits.
fn warn_of_names_that_no_ca_issues_for(
    subjects: &[Subject],
    place: Option<Place>,
    warnings: &mut Vec<Warning>,
) {
    let refused = subjects.iter().filter(|subject| subject.is_refused_by_public_cas());
    let refused: Vec<_> = refused.map(Subject::to_string).collect();
    if refused.is_empty() {
        return;
    }
    let rest = if refused.len() < subjects.len() {
        "take `mode = \"auto\"`: the relay's own CA makes their certificates, a public CA the others'"
    } else {
        "take `mode = \"self-signed\"`: the relay's own CA makes their certificates; or give the `directory` of a private CA"
    };
    let text = format!("no public CA issues for {}: {rest}", refused.join(", "));
    warnings.push(Warning::new(text, place));
}

/// Notes when nothing can be stored in `storage`: a fault where somebody asked for that directory, and for
/// the default one a warning, because who runs `check` may not be who runs the relay.
fn writable(storage: &Path, place: Option<Place>, faults: &mut Faults, warnings: &mut Vec<Warning>) {
    // What is not there yet is made in the first directory above it that is.
    let Some(found) = storage.ancestors().find(|path| path.exists()) else {
        return;
    };
    let source = if found.is_dir() {
        match rustix::fs::access(found, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => return,
            Err(error) => error.into(),
        }
    } else {
        io::Error::from(io::ErrorKind::NotADirectory)
    };
    let error = UnwritableStorage { directory: found.to_owned(), source };
    match place {
        Some(place) => faults.add("tls.storage", Reason::Value(Box::new(error)), Some(place)),
        None => warnings.push(Warning::new(error.to_string(), None)),
    }
}

/// The names of the configuration, parted, and where they were given.
struct Names {
    public: Vec<Subject>,
    local: Vec<ServerName>,
    place: Option<Place>,
}

/// Why nothing can be stored.
#[derive(Debug)]
struct UnwritableStorage {
    directory: PathBuf,
    source: io::Error,
}

impl fmt::Display for UnwritableStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "certificates cannot be stored in {}: {}; make it writable for the relay's user, or choose \
             another directory: --storage, or `storage` in [tls]",
            self.directory.display(),
            self.source
        )
    }
}

impl Error for UnwritableStorage {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::config::{AcmeConfig, Flags, Loaded, User, load};

    /// A file with this in its `[tls]` table, in a directory of its own that the text calls `{dir}`.
    fn load_tls(keys: &str) -> Result<Loaded, Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("key"), "c2VjcmV0\n").unwrap();
        fs::write(at("padded"), "c2VjcmU=").unwrap();
        fs::write(at("junk"), "c2VjcmV0!").unwrap();
        fs::write(at("hook"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(at("hook"), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = directory.path().display().to_string();
        let file = at("config.toml");
        let storage = if keys.contains("storage") { "" } else { "storage = '{dir}'\n" };
        let text = format!("version = 1\n[tls]\n{storage}{keys}").replace("{dir}", &dir);
        fs::write(&file, text).unwrap();
        let environment = Environment {
            state_directory: None,
            runtime_directory: None,
            user: User::Root,
            data_home: None,
            home: None,
            sova: at("sova.toml"),
            installed: "/nonexistent/config.toml".into(),
        };
        load(Some(&file), &Flags::default(), &environment)
            .map_err(|error| error.faults().iter().map(ToString::to_string).collect())
    }

    /// Those of the warnings: their lines and texts.
    fn warnings(keys: &str, of: impl Fn(&Warning) -> bool) -> Vec<(Option<usize>, String)> {
        let warnings = load_tls(keys).unwrap().warnings.into_iter().filter(of);
        warnings.map(|warning| (warning.line(), warning.text().to_owned())).collect()
    }

    fn acme(keys: &str) -> AcmeConfig {
        match load_tls(keys).unwrap().config.tls.unwrap().certificates {
            CertificateSource::Acme(config) => *config,
            other @ (CertificateSource::Files { .. } | CertificateSource::LocalCa) => panic!("{other:?}"),
        }
    }

    fn texts<T: ToString>(list: &[T]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn public_names_come_by_acme_and_local_ones_from_the_local_ca_unless_told_otherwise() {
        let domains = "domains = ['chat.lan', 'chat.example.org', '192.0.2.7', '*.example.org']";
        let auto = acme(&format!("{domains}\n[tls.acme.dns]\nlisten = ':53'"));
        assert_eq!(texts(&auto.subjects), ["chat.example.org", "*.example.org"]);
        assert_eq!(texts(&auto.local), ["chat.lan", "192.0.2.7"]);
        let all = acme(&format!("mode = 'acme'\n{domains}"));
        assert_eq!((all.subjects.len(), all.local.len()), (4, 0));
        let tls = |keys: &str| load_tls(keys).unwrap().config.tls.unwrap().certificates;
        assert_eq!(tls("domains = ['chat.lan', '192.0.2.7']"), CertificateSource::LocalCa);
        assert_eq!(tls("mode = 'self-signed'\ndomains = ['chat.example.org']"), CertificateSource::LocalCa);
    }

    #[test]
    fn names_kept_for_tests_come_from_the_local_ca_or_a_private_one() {
        for name in ["a.test", "a.example", "a.invalid", "a.onion"] {
            let tls = |keys: &str| {
                load_tls(&format!("domains = ['{name}']\n{keys}")).unwrap().config.tls.unwrap().certificates
            };
            assert_eq!(tls(""), CertificateSource::LocalCa, "{name}");
            assert_eq!(
                tls("[tls.acme]\ndirectory = ['zerossl', 'google']"),
                CertificateSource::LocalCa,
                "{name}"
            );
            let private = tls("[tls.acme]\ndirectory = 'https://ca.lan/directory'");
            assert!(matches!(private, CertificateSource::Acme(_)), "{name}");
        }
    }

    #[test]
    fn names_that_no_public_ca_issues_for_are_warned_about_where_one_is_asked() {
        let told = |keys: &str| warnings(keys, |warning| warning.text().contains("no public CA"));
        for name in [
            "localhost",
            "chat",
            "chat.local",
            "chat.lan",
            "chat.internal",
            "chat.home.arpa",
            "chat.test",
            "chat.example",
            "chat.invalid",
            "chat.onion",
            "*.chat.lan",
            "10.0.0.1",
            "127.0.0.1",
            "100.64.0.1",
            "::ffff:192.168.1.20",
            "::1",
            "fd00::1",
            "fe80::1",
            "192.0.2.1",
            "2001:db8::1",
        ] {
            let told = told(&format!("mode = 'acme'\ndomains = ['{name}']"));
            let [(Some(5), text)] = &told[..] else {
                panic!("{name}: {told:?}");
            };
            assert!(text.contains(name) && text.contains("self-signed"), "{text}");
        }
        let some = told("mode = 'acme'\ndomains = ['chat.example.org', 'chat.lan']");
        assert!(
            some[0].1.starts_with("no public CA issues for chat.lan: take `mode = \"auto\"`"),
            "{some:?}"
        );
        for fine in [
            "mode = 'acme'\ndomains = ['chat.example.org', '8.8.8.8', '2001:4860::1', 'test.org', '100.128.0.1']",
            "mode = 'acme'\ndomains = ['chat.lan']\n[tls.acme]\ndirectory = 'https://ca.lan/directory'",
            "domains = ['chat.example.org', 'chat.lan', 'chat.test', '10.0.0.1']",
            "mode = 'self-signed'\ndomains = ['chat.lan']",
        ] {
            assert_eq!(told(fine), [], "{fine}");
        }
    }

    #[test]
    fn a_public_address_is_warned_about_only_where_its_certificate_cannot_come() {
        let told = |keys: &str| {
            let keys = format!("mode = 'acme'\ndomains = ['8.8.8.8']\n[tls.acme]\n{keys}");
            // Those of the whole file speak of other tables.
            warnings(&keys, |warning| warning.line().is_some())
        };
        let profile = told("profile = 'classic'");
        assert!(matches!(&profile[..], [(Some(7), text)] if text.contains("shortlived")), "{profile:?}");
        let dns = told("challenges = ['dns-01']\n[tls.acme.dns]\nhook = '{dir}/hook'");
        assert!(matches!(&dns[..], [(Some(5), text)] if text.contains("tls-alpn-01")), "{dns:?}");
        for fine in [
            "",
            "profile = 'shortlived'",
            "challenges = ['http-01']",
            "directory = 'https://ca.lan/directory'\nprofile = 'classic'",
        ] {
            assert_eq!(told(fine), [], "{fine}");
        }
    }

    #[test]
    fn a_ca_a_list_of_them_or_a_url_is_the_directory() {
        let of = |value: &str| acme(&format!("domains = ['a.example.org']\n[tls.acme]\ndirectory = {value}"));
        assert_eq!(of("'zerossl'").directories.len(), 1);
        let list = of("['letsencrypt', 'https://ca.lan:9000/acme/directory']");
        assert_eq!(list.directories[1].to_string(), "https://ca.lan:9000/acme/directory");
        let default = acme("domains = ['a.example.org']");
        assert_eq!(default.directories, [Directory::default()]);
    }

    #[test]
    fn challenges_that_cannot_work_are_left_out() {
        let of = |keys: &str| texts(&acme(&format!("domains = ['a.example.org']\n{keys}")).challenges);
        assert_eq!(of(""), ["tls-alpn-01", "http-01"]);
        assert_eq!(of("[server]\nhttp_port = 0"), ["tls-alpn-01"]);
        assert_eq!(
            of("[tls.acme]\nchallenges = ['dns-01', 'http-01']\n[tls.acme.dns]\nhook = '{dir}/hook'"),
            ["dns-01", "http-01"]
        );
        let loaded = load_tls("domains = ['a.example.org']\n[tls.acme]\nchallenges = ['http-01', 'dns-01']");
        let warnings = loaded.unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.text().contains("dns-01 needs")));
    }

    #[test]
    fn a_wildcard_without_dns_is_warned_about() {
        let warnings = load_tls("domains = ['*.example.org']").unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.text().contains("--dns-manual")));
    }

    #[test]
    fn the_way_to_the_ca_is_direct_or_one_of_two_proxies() {
        let of = |keys: &str| acme(&format!("domains = ['a.example.org']\n{keys}")).authority.proxy;
        let upstream = "[upstream_proxy]\nenabled = true\nurl = 'socks5://127.0.0.1:1080'\n[tls.acme]\n";
        assert_eq!(of(upstream), None);
        assert_eq!(of(&format!("{upstream}proxy = 'upstream'")).unwrap().authority, "127.0.0.1:1080");
        assert_eq!(of("[tls.acme]\nproxy = 'http://127.0.0.1:3128'").unwrap().authority, "127.0.0.1:3128");
    }

    #[test]
    fn the_key_of_an_external_account_is_read_with_or_without_padding() {
        let of = |file: &str| {
            let keys = format!("[tls.acme]\neab_kid = 'k'\neab_hmac_file = '{{dir}}/{file}'");
            acme(&format!("domains = ['a.example.org']\n{keys}")).authority.external_account.unwrap()
        };
        assert_eq!(of("key").key, b"secret");
        assert_eq!(of("padded").key, b"secre");
    }

    #[test]
    fn what_makes_no_sense_is_told_with_what_to_do() {
        for (keys, key, text) in [
            ("email = 'me'", "tls.acme.email", "no e-mail address"),
            ("accept_terms = false", "tls.acme.accept_terms", "accept its terms"),
            ("directory = 'http://127.0.0.1:1/dir'", "tls.acme.directory", "https://"),
            (
                "allow_insecure_directory = true\ndirectory = 'http://ca.example/dir'",
                "tls.acme.directory",
                "https://",
            ),
            ("directory = 'lets-encrypt'", "tls.acme.directory", "letsencrypt"),
            ("directory = []", "tls.acme.directory", "at least one"),
            ("ca_root = '{dir}/none'", "tls.acme.ca_root", "cannot be read"),
            ("challenges = ['dns']", "tls.acme.challenges", "tls-alpn-01"),
            ("challenges = ['dns-01']", "tls.acme.challenges", "none of the challenges"),
            ("key_type = 'rsa'", "tls.acme.key_type", "p384"),
            ("eab_kid = 'k'", "tls.acme.eab_kid", "needs `eab_hmac_file`"),
            ("eab_hmac_file = '{dir}/key'", "tls.acme.eab_hmac_file", "needs its `eab_kid`"),
            ("eab_kid = 'k'\neab_hmac_file = '{dir}/junk'", "tls.acme.eab_hmac_file", "base64url"),
            ("proxy = 'upstream'", "tls.acme.proxy", "not enabled"),
            ("proxy = 'https://h'", "tls.acme.proxy", ""),
            ("fallback = 'local'", "tls.acme.fallback", "self-signed"),
            ("on_failure = '{dir}/none'", "tls.acme.on_failure", "cannot be found"),
            ("[tls.acme.dns]\nhook = '{dir}/key'", "tls.acme.dns.hook", "chmod +x"),
            ("[tls.acme.dns]\nlisten = '53'", "tls.acme.dns.listen", "port"),
            ("[tls.acme.dns]\npropagation = 5", "tls.acme.dns.propagation", "add a unit"),
            ("mail = 'a@example.org'", "tls.acme.mail", "unknown key"),
        ] {
            let faults = load_tls(&format!("domains = ['a.example.org']\n[tls.acme]\n{keys}")).unwrap_err();
            let [fault] = faults.as_slice() else {
                panic!("{keys}: {faults:?}");
            };
            assert!(fault.contains(&format!("`{key}`")) && fault.contains(text), "{keys}: {fault}");
        }
    }

    #[test]
    fn names_and_storage_that_cannot_be_are_told() {
        for (keys, text) in [
            ("domains = ['*']", "whole first label"),
            ("domains = ['a.*.example']", "whole first label"),
            ("domains = ['*.192.0.2.7']", "whole first label"),
            ("domains = ['a..example']", "neither a domain name"),
            ("domains = ['*.lan']", "no wildcards"),
            ("domains = ['my_chat.example.org']", "underscore"),
            ("domains = ['a.example.org']\nstorage = '{dir}/key/below'", "cannot be stored"),
        ] {
            let faults = load_tls(keys).unwrap_err();
            assert!(faults.len() == 1 && faults[0].contains(text), "{keys}: {faults:?}");
        }
    }
}
