use std::os::unix::fs::PermissionsExt;

use clap::Parser;

use super::*;
use crate::config::{CertificateSource, Config, Frontend, User};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    init: InitArgs,
}

/// A directory in which files lie, and where the environment looks for Sova's.
struct Case(tempfile::TempDir);

/// As the original's installer writes it.
const ORIGINAL: &str = r#"version=1

uri_prefix="abcdefghij0123456789"

[server]
    host="127.0.0.1"
    port=7861
    threads=16
    max_content_length=67108864

[backend]
    url="http://127.0.0.1:42836" # Sova

[upstream_proxy]
    enabled=false
    url=""

[frontend]
    mode="serve"
    directory="./mura"
    url=""

# Nobody calls here.
[[paths]]
    prefix="/api/v1/channel/*/call"
    action="block"

[[paths]]
    prefix="/api/v1"
    action="proxy"
"#;

impl Case {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn environment(&self) -> Environment {
        Environment {
            state_directory: Some(self.0.path().into()),
            runtime_directory: None,
            user: User::Root,
            data_home: None,
            home: None,
            sova: self.path("sova.toml"),
            installed: "/nonexistent/config.toml".into(),
        }
    }

    /// `{dir}` stands for the directory.
    fn arguments(&self, line: &str) -> InitArgs {
        let line = line.replace("{dir}", self.0.path().to_str().unwrap());
        Line::try_parse_from(["init"].into_iter().chain(line.split(' '))).unwrap().init
    }

    fn made(&self, line: &str) -> String {
        make(&self.arguments(line), &self.environment()).unwrap().text
    }

    fn refused(&self, line: &str) -> String {
        match make(&self.arguments(line), &self.environment()) {
            Ok(made) => panic!("{line} makes\n{}", made.text),
            Err(error) => error.to_string(),
        }
    }

    /// The configuration that a file with this text is.
    fn load(&self, text: &str) -> Config {
        let file = self.path("made.toml");
        fs::write(&file, text).unwrap();
        let loaded = config::load(Some(&file), &Flags::default(), &self.environment());
        loaded.unwrap_or_else(|error| panic!("{text}\n{}", error.render(config::Style::Plain))).config
    }

    fn config(&self, line: &str) -> Config {
        self.load(&self.made(line))
    }
}

#[test]
fn a_new_file_says_what_the_flags_say_and_no_table_is_empty() {
    let case = Case::new();
    let text =
        case.made("--domain chat.example.org --domain chat.lan --uri-prefix /s3cret/ --email a@example.org");
    for (line, there) in [
        ("Empty for none.\nuri_prefix = \"s3cret\"", true),
        ("domains = [\"chat.example.org\", \"chat.lan\"]", true),
        ("email = \"a@example.org\"", true),
        ("[tls.acme.dns]", false),
        ("[upstream_proxy]", false),
        ("[server]", false),
        ("[log]", false),
    ] {
        assert_eq!(text.contains(line), there, "{line}\n{text}");
    }
    let config = case.load(&text);
    assert_eq!(config.uri_prefix.as_path(), "/s3cret");
    let CertificateSource::Acme(acme) = config.tls.unwrap().certificates else { panic!("no ACME:\n{text}") };
    assert_eq!(acme.subjects[0].to_string(), "chat.example.org");
    assert!(matches!(config.frontend, Frontend::Forward(_)));
}

#[test]
fn every_flag_reaches_the_file() {
    let case = Case::new();
    let config = case.config(
        "--domain 192.168.1.20 --backend http://127.0.0.2:99 --frontend {dir}/./mura --host 127.0.0.3 --port 8443 \
         --http-port auto --upstream-proxy socks5h://u:p@127.0.0.4 --storage {dir}/kept --log json,debug",
    );
    let tls = config.tls.unwrap();
    assert_eq!((tls.certificates, tls.storage), (CertificateSource::LocalCa, case.path("kept")));
    assert_eq!(config.backend.url.to_string(), "http://127.0.0.2:99");
    let Frontend::Serve { directory, .. } = config.frontend else { panic!("it is not served") };
    assert_eq!(directory, case.path("mura"));
    let server = config.server;
    assert_eq!((server.host.to_string().as_str(), server.port), ("127.0.0.3", 8443));
    assert_eq!(server.http_port, Some(0));
    assert_eq!(config.upstream_proxy.unwrap().authority, "127.0.0.4:1080");
    assert_eq!((config.log.format, config.log.level), (config::LogFormat::Json, tracing::Level::DEBUG));
}

#[test]
fn certificates_come_from_where_they_are_wanted() {
    let case = Case::new();
    let made = rcgen::generate_simple_self_signed(["chat.example.org".to_owned()]).unwrap();
    fs::write(case.path("cert.pem"), made.cert.pem()).unwrap();
    fs::write(case.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let source = |line: &str| {
        case.config(&format!("--domain chat.example.org {line}")).tls.map(|tls| tls.certificates)
    };
    assert_eq!(source("--certificate self-signed"), Some(CertificateSource::LocalCa));
    assert_eq!(source("--self-signed"), Some(CertificateSource::LocalCa));
    let (cert, key) = (case.path("cert.pem"), case.path("key.pem"));
    let files = Some(CertificateSource::Files { cert, key });
    assert_eq!(source("--cert {dir}/cert.pem --key {dir}/key.pem"), files);
    assert_eq!(source("--certificate files --cert {dir}/cert.pem --key {dir}/key.pem"), files);
    assert!(matches!(source("--certificate auto"), Some(CertificateSource::Acme(_))));
    let plain = case.config("--certificate off --storage {dir}/kept --email a@example.org");
    assert!(plain.tls.is_none() && plain.server.port == 7861);
    let acme =
        case.made("--domain chat.example.org --acme-directory zerossl --acme-proxy socks5://127.0.0.1:1");
    assert!(acme.contains("directory = \"zerossl\"") && acme.contains("proxy = \"socks5://127.0.0.1:1\""));
}

#[test]
fn what_sova_says_goes_into_the_file() {
    let case = Case::new();
    let sova = "uri_prefix=\"fromsova\"\n[server]\nhost=\"0.0.0.0\"\nport=4000\nthreads=32\n\
        max_content_length=1000\n[frontend]\nhosted=true\n";
    fs::write(case.path("sova.toml"), sova).unwrap();
    let text = case.made("--domain chat.lan");
    fs::remove_file(case.path("sova.toml")).unwrap();
    let config = case.load(&text);
    assert_eq!(config.uri_prefix.as_path(), "/fromsova");
    assert_eq!(config.backend.url.to_string(), "http://127.0.0.1:4000");
    assert_eq!(config.backend.max_streams, Some(24));
    assert_eq!(config.server.max_content_length.0, 1000);
    let Frontend::Forward(url) = config.frontend else { panic!("it is not forwarded:\n{text}") };
    assert_eq!(url.to_string(), "http://127.0.0.1:4000");
}

#[test]
fn a_file_of_the_original_keeps_its_rules_and_comments_and_gets_https() {
    let case = Case::new();
    fs::write(case.path("old.toml"), ORIGINAL).unwrap();
    let text = case.made("--from {dir}/old.toml --domain chat.lan --port 10443");
    for line in ["# Nobody calls here.", "url=\"http://127.0.0.1:42836\" # Sova", "threads=16"] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let config = case.load(&text);
    assert!(config.server.host.is_unspecified());
    assert_eq!((config.server.port, config.server.http_port), (10443, Some(80)));
    assert_eq!(config.tls.unwrap().names[0].to_string(), "chat.lan");
    let Frontend::Serve { directory, .. } = config.frontend else { panic!("it is not served:\n{text}") };
    assert_eq!(directory, case.path("mura"));
    // Behind another proxy it stays what it was.
    let plain = case.config("--from {dir}/old.toml --certificate off");
    assert!(plain.tls.is_none() && plain.server.host.is_loopback() && plain.server.port == 7861);
}

#[test]
fn a_file_without_a_front_end_gets_what_the_sova_says_that_is_named() {
    let case = Case::new();
    let old = ORIGINAL.replace("uri_prefix=\"abcdefghij0123456789\"\n", "");
    let (before, after) = (old.find("[frontend]").unwrap(), old.find("# Nobody calls").unwrap());
    fs::write(case.path("old.toml"), [&old[..before], &old[after..]].concat()).unwrap();
    let sova = |hosted: bool| {
        let text = format!("uri_prefix='fromsova'\n[server]\nport=4000\n[frontend]\nhosted={hosted}\n");
        fs::write(case.path("its.toml"), text).unwrap();
    };
    sova(true);
    let text = case.made("--from {dir}/old.toml --sova {dir}/its.toml --domain chat.lan");
    let config = case.load(&text);
    let Frontend::Forward(url) = config.frontend else { panic!("it is not forwarded:\n{text}") };
    // What stands in the file wins.
    assert_eq!(url.to_string(), "http://127.0.0.1:42836");
    assert_eq!(config.backend.url.to_string(), "http://127.0.0.1:42836");
    assert_eq!(config.uri_prefix.as_path(), "/fromsova");
    assert!(text.contains("# Nobody calls here.") && text.contains("# Sova"), "{text}");
    sova(false);
    let text = case.made("--from {dir}/old.toml --sova {dir}/its.toml --domain chat.lan");
    assert!(text.contains("mode = \"disabled\""), "{text}");
    let directory = ORIGINAL.replace("    mode=\"serve\"\n", "");
    fs::write(case.path("directory.toml"), directory).unwrap();
    let text = case.made("--from {dir}/directory.toml --sova {dir}/its.toml --domain chat.lan");
    assert!(matches!(case.load(&text).frontend, Frontend::Serve { .. }), "{text}");
    // A file that nobody adds to is taken at its word.
    let text = case.made("--from {dir}/old.toml --domain chat.lan");
    assert!(!text.contains("[frontend]") && !text.contains("uri_prefix"), "{text}");
}

#[test]
fn a_change_changes_nothing_else() {
    let case = Case::new();
    let before =
        case.made("--domain chat.lan --uri-prefix a --port 9443 --upstream-proxy http://127.0.0.1:3128");
    let before = before.replace("port = 9443", "port = 9443 # the router's");
    fs::write(case.path("c.toml"), &before).unwrap();
    let change = |line: &str| case.made(&format!("--from {{dir}}/c.toml {line}"));
    assert_eq!(change("--domain chat.lan"), before);
    assert_eq!(change("--port 9444"), before.replace("9443", "9444"));
    assert_eq!(change("--uri-prefix b"), before.replace("uri_prefix = \"a\"", "uri_prefix = \"b\""));
    let limited = change("--log debug");
    assert!(limited.find("[log]").unwrap() < limited.find("# The rules").unwrap(), "{limited}");
    assert_eq!(change("--upstream-proxy off"), before.replace("enabled = true", "enabled = false"));
    let files = change("--certificate off");
    assert_eq!(files, before.replace("mode = \"auto\"", "mode = \"off\""));
    fs::write(case.path("c.toml"), files).unwrap();
    let again = change("--domain chat.lan");
    assert!(again.contains("mode = \"auto\"") && !again.contains("9443"), "{again}");
}

#[test]
fn another_choice_takes_the_certificate_files_out() {
    let case = Case::new();
    let made = rcgen::generate_simple_self_signed(["chat.lan".to_owned()]).unwrap();
    fs::write(case.path("cert.pem"), made.cert.pem()).unwrap();
    fs::write(case.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let files = case.made("--domain chat.lan --cert {dir}/cert.pem --key {dir}/key.pem");
    fs::write(case.path("c.toml"), files).unwrap();
    let config = case.config("--from {dir}/c.toml --certificate self-signed");
    assert_eq!(config.tls.unwrap().certificates, CertificateSource::LocalCa);
}

#[test]
fn a_sova_config_that_cannot_be_read_is_an_error_unless_the_prefix_is_given() {
    let case = Case::new();
    let wants = |line: &str| make(&case.arguments(line), &case.environment()).map(|made| made.without_prefix);
    assert!(wants("--domain chat.lan").unwrap());
    // A name that leads to itself cannot be read, not by root either.
    std::os::unix::fs::symlink(case.path("sova.toml"), case.path("sova.toml")).unwrap();
    let told = case.refused("--domain chat.lan");
    assert!(told.contains("sova.toml cannot be read: run with sudo, or give --uri-prefix"), "{told}");
    assert!(!wants("--domain chat.lan --uri-prefix a").unwrap());
    assert!(wants("--domain chat.lan --backend http://127.0.0.1:1").unwrap());
    fs::remove_file(case.path("sova.toml")).unwrap();
    fs::write(case.path("sova.toml"), "uri_prefix = 'a'\n").unwrap();
    assert!(!wants("--domain chat.lan").unwrap());
}

#[test]
fn faults_are_told_by_the_name_of_the_flag() {
    let case = Case::new();
    fs::write(case.path("old.toml"), ORIGINAL.replace("threads", "thread")).unwrap();
    for (line, text) in [
        ("--domain a..b", "--domain"),
        ("--domain a.lan --port 99999", "--port"),
        ("--domain a.lan --uri-prefix a/b", "--uri-prefix"),
        ("--domain a.lan --upstream-proxy ftp://h", "--upstream-proxy"),
        ("--domain a.example --email nobody", "tls.acme.email"),
        ("--domain a.lan --certificate files", "--cert FILE"),
        ("--backend http://h", "--domain NAME"),
        ("--from {dir}/old.toml --domain a.lan", "unknown key"),
        ("--from {dir}/none.toml --domain a.lan", "none.toml"),
    ] {
        let told = case.refused(line);
        assert!(told.contains(text), "{line}: {told}");
    }
}

#[test]
fn a_file_that_is_there_is_written_over_only_when_asked_and_kept() {
    let case = Case::new();
    let file = case.path("config.toml");
    assert_eq!(write(&file, "a", false).unwrap(), Written::New);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(write(&file, "a", false).unwrap(), Written::Same);
    assert!(matches!(write(&file, "b", false), Err(InitError::Exists(_))));
    assert_eq!(fs::read(&file).unwrap(), b"a");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let backup = case.path("config.toml.bak");
    assert_eq!(write(&file, "b", true).unwrap(), Written::Replaced { backup: backup.clone() });
    assert_eq!((fs::read(&file).unwrap(), fs::read(&backup).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(matches!(write(&case.path("none/config.toml"), "a", false), Err(InitError::Write(..))));
}
