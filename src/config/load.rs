//! From flags, file and backend's file to a [`super::Config`], or to every fault at once.

use std::{fs, path::Path, sync::Arc};

use toml::de::DeTable;

use super::{
    ConfigError, Environment, Flags, Loaded, Warning,
    error::{Faults, Reason},
    raw::Raw,
    reader::{Reader, Table, UnknownKeys},
    resolve::resolve,
    source::{Place, Source},
    sova::Sova,
};

/// Loads the configuration. What a flag says wins over the file, and the file over the backend's own.
///
/// Errors: a file that cannot be read or parsed, or else every fault in the flags and the files.
pub(crate) fn load(
    file: Option<&Path>,
    flags: &Flags,
    environment: &Environment,
) -> Result<Loaded, ConfigError> {
    let source = file.map(read).transpose()?;
    load_source(source, flags, environment)
}

/// Loads what is to be written into a file, which is called `name` until then.
pub(crate) fn load_text(name: &str, text: &str, environment: &Environment) -> Result<Loaded, ConfigError> {
    load_source(Some(Arc::new(Source::new(name, text))), &Flags::default(), environment)
}

fn load_source(
    source: Option<Arc<Source>>,
    flags: &Flags,
    environment: &Environment,
) -> Result<Loaded, ConfigError> {
    let mut faults = Faults::default();
    let mut warnings = Vec::new();
    let mut raw = match &source {
        Some(source) => parse(source, UnknownKeys::Refuse, &mut faults, Raw::read)?,
        None => Raw::default(),
    };
    flags.apply(&mut raw, &mut faults);
    let sova = ask_sova(&mut raw, source.as_ref(), flags, environment, &mut faults, &mut warnings)?;
    if let Some(source) = &source {
        if raw.version.is_absent() {
            let reason = Reason::Rule("the file has to begin with `version = 1`");
            faults.add("version", reason, Some(Place::File(Arc::clone(source))));
        }
    } else if raw.frontend.mode.is_absent() {
        raw.forward_frontend_to_backend(Place::Flag("--backend"));
    }
    let files = source.iter().chain(&sova).map(|source| source.file_read()).collect();
    let config = resolve(raw, source, environment, &mut faults, &mut warnings, files);
    faults.into_result()?;
    Ok(Loaded { config, warnings, sova: sova.map(|source| source.path().to_owned()) })
}

fn read(path: &Path) -> Result<Arc<Source>, ConfigError> {
    let bytes = fs::read(path).map_err(|error| Reason::Unreadable(path.to_owned(), error))?;
    let text =
        String::from_utf8(bytes).map_err(|error| Reason::NotUtf8(path.to_owned(), error.utf8_error()))?;
    Ok(Arc::new(Source::new(path, text)))
}

/// Takes what `read_keys` wants out of one file.
fn parse<T>(
    source: &Arc<Source>,
    unknown_keys: UnknownKeys,
    faults: &mut Faults,
    read_keys: impl FnOnce(&mut Table<'_, '_>) -> T,
) -> Result<T, ConfigError> {
    let table = DeTable::parse(source.text()).map_err(|mut error| {
        let place = Place::Text(Arc::clone(source), error.span().unwrap_or_default());
        // The error keeps a copy of the file, secrets and all.
        error.set_input(None);
        ConfigError::one(Reason::Syntax(error), place)
    })?;
    let mut reader = Reader { source, faults, unknown_keys, known: Default::default() };
    Ok(reader.document(table.get_ref(), read_keys))
}

/// Fills in what the backend's own config says, and gives that. A file that was asked for must be there; the default
/// install's may be absent, and is only warned about when it cannot be read.
fn ask_sova(
    raw: &mut Raw,
    source: Option<&Arc<Source>>,
    flags: &Flags,
    environment: &Environment,
    faults: &mut Faults,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Arc<Source>>, ConfigError> {
    if let Some(path) = &flags.sova {
        let source = read(path)?;
        parse(&source, UnknownKeys::Ignore, faults, Sova::read)?.apply(raw);
        return Ok(Some(source));
    }
    let nothing_said = source.is_none() && flags.backend.is_none() && flags.uri_prefix.is_none();
    if matches!(environment.sova.try_exists(), Ok(false)) {
        return Ok(None);
    }
    let mut its_faults = Faults::default();
    let parsed = read(&environment.sova).and_then(|source| {
        let sova = parse(&source, UnknownKeys::Ignore, &mut its_faults, Sova::read)?;
        its_faults.into_result().map(|()| (sova, source))
    });
    match parsed {
        Ok((sova, its)) if nothing_said => {
            sova.apply(raw);
            Ok(Some(its))
        }
        Ok((sova, its)) => {
            if sova.has_another_prefix(raw) {
                let text = format!(
                    "`uri_prefix` is not the one in {}: below the backend's own no rule is asked, and what they block \
                     is not blocked",
                    environment.sova.display()
                );
                // Nobody may have given one.
                let nowhere =
                    || source.map_or(Place::Flag("--uri-prefix"), |file| Place::File(Arc::clone(file)));
                warnings.push(Warning::new(text, raw.uri_prefix.place().or_else(|| Some(nowhere()))));
            }
            sova.bound_streams(raw);
            Ok(Some(its))
        }
        Err(error) if nothing_said => {
            warnings.extend(error.into_warnings("nothing is taken over from the backend's own config"));
            Ok(None)
        }
        // Nobody needs it: what was said is enough to start with.
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::PathBuf};

    use super::*;
    use crate::config::{CertificateSource, Frontend, Style, User};

    const EXAMPLE: &str = include_str!("../../config.example.toml");

    /// A directory with a config file, and an environment that knows nothing outside of it.
    struct Case {
        directory: tempfile::TempDir,
        flags: Flags,
    }

    impl Case {
        fn new(config: impl AsRef<[u8]>) -> Self {
            let case = Self { directory: tempfile::tempdir().unwrap(), flags: Flags::default() };
            case.write("config.toml", config);
            case
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            fs::write(self.path(name), content).unwrap();
            self.path(name)
        }

        fn environment(&self) -> Environment {
            Environment {
                state_directory: None,
                runtime_directory: None,
                user: User::Root,
                data_home: None,
                home: None,
                sova: self.path("sova.toml"),
                installed: "/nonexistent/config.toml".into(),
            }
        }

        fn load(&self) -> Result<Loaded, ConfigError> {
            let file = Some(self.path("config.toml")).filter(|path| path.exists());
            load(file.as_deref(), &self.flags, &self.environment())
        }

        /// The line of each fault, and its text.
        fn faults(&self) -> Vec<(Option<usize>, String)> {
            let error = self.load().unwrap_err();
            let faults = error.faults().iter();
            faults.map(|fault| (fault.line(), fault.to_string())).collect()
        }
    }

    fn flags(set: impl FnOnce(&mut Flags)) -> Case {
        let mut case = Case::new("");
        fs::remove_file(case.path("config.toml")).unwrap();
        set(&mut case.flags);
        case
    }

    /// A certificate and its key, in PEM.
    fn pair() -> String {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        made.cert.pem() + &made.signing_key.serialize_pem()
    }

    /// Every key of `table`, and of the tables in it.
    fn write_keys(name: &str, table: &DeTable<'_>, keys: &mut BTreeSet<String>) {
        for (key, value) in table {
            let key = match name {
                "" => key.get_ref().to_string(),
                name => format!("{name}.{}", key.get_ref()),
            };
            let in_array = value.get_ref().as_array().into_iter().flatten();
            for inner in in_array.chain([value]).filter_map(|value| value.get_ref().as_table()) {
                write_keys(&key, inner, keys);
            }
            keys.insert(key);
        }
    }

    fn loaded(config: &str) -> Loaded {
        Case::new(config).load().unwrap()
    }

    /// Asserts that `config` has one fault, on `line`, whose text holds `text`.
    fn assert_fault(config: &str, line: usize, text: &str) {
        let faults = Case::new(config).faults();
        let [(at, fault)] = faults.as_slice() else {
            panic!("{config}: {faults:?}");
        };
        assert_eq!(*at, Some(line), "{config}");
        assert!(fault.contains(text), "{config}: {fault}");
    }

    fn warnings(config: &str) -> Vec<(Option<usize>, String)> {
        let warnings = loaded(config).warnings;
        let told = warnings.iter().map(|warning| (warning.line(), warning.text().to_owned()));
        told.collect()
    }

    /// The file of the original relay's documentation.
    const ORIGINAL: &str = r#"
version = 1

uri_prefix = "your20charprefix"

[server]
    host = "127.0.0.1"   # Bind address
    port = 7861           # Bind port
    threads = 16          # Waitress worker threads
    max_content_length = 67108864

[backend]
    url = "http://127.0.0.1:42836"

[upstream_proxy]
    enabled = false
    url = ""  # e.g. "socks5://user:pass@host:1080"

[frontend]
    mode = "serve"
    directory = "/opt/parley-relay/mura"
    url = ""

[[paths]]
    prefix = "/api/v1"
    action = "proxy"

[[paths]]
    prefix = "/attachment"
    action = "proxy"
    max_size = 10485760

[[paths]]
    prefix = "/beta"
    action = "redirect"
    target = "https://example.com/beta-new"
    code = 302
"#;

    #[test]
    fn a_file_of_the_original_means_what_it_meant() {
        let config = loaded(ORIGINAL).config;
        assert!(config.tls.is_none());
        assert_eq!(config.server.host.to_string(), "127.0.0.1");
        assert_eq!((config.server.port, config.server.http_port), (7861, None));
        assert_eq!(config.uri_prefix.as_path(), "/your20charprefix");
        assert_eq!(config.backend.url.to_string(), "http://127.0.0.1:42836");
        assert!(config.upstream_proxy.is_none());
        let trusted: Vec<_> = config.server.trusted_proxies.iter().map(ToString::to_string).collect();
        assert_eq!(trusted, ["127.0.0.0/8", "::1/128"]);
        let Frontend::Serve { directory, .. } = config.frontend else {
            panic!("another front end");
        };
        assert_eq!(directory, PathBuf::from("/opt/parley-relay/mura"));
        let path = crate::path::CanonicalPath::parse("/").unwrap();
        assert_eq!(config.rules.explain(&http::Method::GET, &path).len(), 3);
    }

    #[test]
    fn https_is_added_to_a_file_of_the_original_by_a_flag() {
        let mut case = Case::new(ORIGINAL);
        case.flags.domain = vec!["192.168.1.20".to_owned()];
        case.flags.port = Some("8443".to_owned());
        let config = case.load().unwrap().config;
        let tls = config.tls.unwrap();
        assert_eq!(tls.names.len(), 1);
        assert_eq!(tls.certificates, CertificateSource::LocalCa);
        assert_eq!(tls.storage, PathBuf::from("/var/lib/parley-relay"));
        assert_eq!((config.server.port, config.server.http_port), (8443, Some(80)));
        assert!(config.server.trusted_proxies.is_empty());
    }

    #[test]
    fn a_host_that_only_this_machine_reaches_is_warned_about_when_names_are_for_others() {
        let told = |server: &str, domains: &[&str]| {
            let mut case = Case::new(format!(
                "version = 1\n[server]\n{server}\n[frontend]\nmode = 'disabled'\n\
                 [[paths]]\nprefix = '/*'\naction = 'proxy'\n"
            ));
            case.flags.domain = domains.iter().map(|name| (*name).to_owned()).collect();
            let warnings = case.load().unwrap().warnings;
            let told = warnings.iter().map(|warning| (warning.line(), warning.text().to_owned()));
            told.filter(|(_, text)| text.contains("only this machine")).collect::<Vec<_>>()
        };
        let text =
            "only this machine can reach it: host is 127.0.0.1; leave host out to listen on all addresses";
        let warning = [(Some(3), text.to_owned())];
        for domains in [&["chat.lan"][..], &["localhost", "192.168.1.20"], &["*.example.org"]] {
            assert_eq!(told("host = '127.0.0.1'", domains), warning, "{domains:?}");
            assert_eq!(told("host = 'localhost'", domains), warning, "{domains:?}");
            assert_eq!(told("", domains), []);
            assert_eq!(told("host = '192.168.1.20'", domains), []);
        }
        assert_eq!(told("host = '127.0.0.1'", &["localhost", "a.localhost", "127.0.0.2", "::1"]), []);
        assert_eq!(told("host = '127.0.0.1'", &[]), [], "for use behind another proxy");
        assert_eq!(told("host = '::1'\ntrusted_proxies = ['::1']", &["chat.lan"]), [], "the same, by TLS");
    }

    #[test]
    fn the_example_loads_and_its_values_are_the_defaults() {
        let example = loaded(EXAMPLE);
        assert!(example.warnings.is_empty(), "{:?}", example.warnings);
        let defaults = loaded(
            "version = 1\n[tls]\ndomains = ['chat.example.org']\n\
             [frontend]\nmode = 'forward'\nurl = 'http://127.0.0.1:42836'",
        );
        let (example, defaults) = (example.config, defaults.config);
        assert_eq!(
            format!("{:?}", (&example.server, &example.tls, &example.backend, &example.limits)),
            format!("{:?}", (&defaults.server, &defaults.tls, &defaults.backend, &defaults.limits))
        );
        assert_eq!(format!("{:?}", example.log), format!("{:?}", defaults.log));
        assert_eq!(
            format!("{:?}", example.rules),
            format!("{:?}", crate::config::paths::default_rules(&example.uri_prefix))
        );
    }

    #[test]
    fn the_example_has_every_key_and_no_other() {
        // Keys that are shown but off begin with `#` and no blank.
        let text: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.starts_with(|c: char| !c.is_whitespace()) => format!("{key}\n"),
                Some(_) | None => format!("{line}\n"),
            })
            .collect();
        let source = Arc::new(Source::new("example", text));
        let mut faults = Faults::default();
        let mut reader = Reader {
            source: &source,
            faults: &mut faults,
            unknown_keys: UnknownKeys::Refuse,
            known: BTreeSet::new(),
        };
        let document = DeTable::parse(source.text()).unwrap();
        reader.document(document.get_ref(), Raw::read);
        let known = reader.known;
        faults.into_result().unwrap();

        let mut written = BTreeSet::new();
        write_keys("", document.get_ref(), &mut written);
        assert_eq!(written, known);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_one_fault() {
        let case = Case::new([b'a', 0xff]);
        assert!(case.load().unwrap_err().to_string().contains("is not UTF-8"));
        let of = |path: &Path| {
            let error = load(Some(path), &Flags::default(), &case.environment()).unwrap_err();
            error.to_string()
        };
        let missing = of(&case.path("missing.toml"));
        assert!(missing.contains("missing.toml cannot be read: No such file"), "{missing}");
        assert!(of(case.directory.path()).contains("cannot be read: Is a directory"));
    }

    #[test]
    fn a_syntax_error_is_one_fault_with_its_place() {
        assert_fault("version = 1\nport = 78 61\n", 2, "not TOML");
        assert_fault("version = 1\n[server\n", 2, "not TOML");
        assert_fault("version = 1\nversion = 1\n", 2, "duplicate key");
    }

    #[test]
    fn another_version_or_none_is_a_fault() {
        assert_fault("version = 7\n", 1, "`version = 1`");
        assert_fault("version = \"1\"\n", 1, "`version = 1`");
        let report = Case::new("uri_prefix = \"a\"").load().unwrap_err().to_string();
        assert!(report.contains("begin with `version = 1`"), "{report}");
        assert!(report.contains("--> ") && report.contains("config.toml"), "{report}");
    }

    #[test]
    fn single_faults_are_told_with_line_and_reason() {
        for (text, line, reason) in [
            ("uri_prefix = 'a/b'", 2, "one path segment"),
            ("uri_prefix = 3", 2, "a string is expected, not a number"),
            ("server = 3", 2, "a table is expected"),
            ("[server]\nhost = 'example.org'", 3, "an IP address"),
            ("[server]\nport = 70000", 3, "from 0 to 65535"),
            ("[server]\nmax_content_length = 0", 3, "zero makes no sense"),
            ("[server]\ntrusted_proxies = [\n'::1',\n'10/8',\n]", 5, "neither an IP address"),
            ("[server]\nclient_ip_header = 'a b'", 3, "header name"),
            ("[tls]\nmode = 'self-signed'", 3, "names and addresses"),
            ("[tls]", 2, "names and addresses"),
            ("[tls]\ndomains = []", 3, "names and addresses"),
            ("[tls]\ndomains = ['a_b..c']", 3, "neither a domain name"),
            ("[tls]\nmode = 'files'", 3, "needs `cert` and `key`"),
            (
                "[tls]\nmode = 'acmee'\ndomains = ['a.b']",
                3,
                "it can be `auto`, `acme`, `self-signed`, `files` or `off`",
            ),
            ("[tls]\ndomains = ['a.b']\nhsts = 5", 4, "add a unit"),
            ("[tls.acmee]\n[tls]\nmode='off'", 2, "`tls.acmee`: unknown key"),
            ("[backend]\nurl = 'http://h/api'", 3, "ends after host and port"),
            ("[backend]\nurl = 'http://u:p@h'", 3, "no user or password"),
            ("[backend]\nurl = 'unix:/x'", 3, "begins with `http://`"),
            ("[backend]\nurl = ''", 3, "begins with `http://`"),
            ("[backend]\nnowhere = 'auto'", 3, "unknown key"),
            ("[backend]\nmax_connections = 0", 3, "from 1 to"),
            ("[backend]\nconnect_timeout = '0s'", 3, "zero makes no sense"),
            ("[backend]\nidle_timeout = 60", 3, "add a unit"),
            ("[backend]\nca_file = '/nonexistent/ca.pem'", 3, "cannot be read"),
            ("[upstream_proxy]\nenabled = true\nurl = ''", 3, "has no `url`"),
            ("[upstream_proxy]\nurl = 'https://h:1'", 3, "not spoken to over TLS"),
            ("[frontend]\nmode = 'forward'", 3, "needs a `url`"),
            ("[frontend]\nmode = 'server'", 3, "`serve`, `forward` or `disabled`"),
            ("[limits]\nconnections = 0", 3, "from 1 to"),
            ("[limits]\nconnections_per_client = 0", 3, "from 1 to"),
            ("[limits]\nrequests_per_second = -1", 3, "from 1 to"),
            ("[limits]\nrequests_per_second = 0.5", 3, "a number is expected"),
            ("[limits]\nhead_size = '4KiB'", 3, "from 8KiB to 1MiB"),
            ("[limits]\ntarget_size = '100B'", 3, "from 256B to 32KiB"),
            ("[limits]\ntarget_size = '16KiB'\nhead_size = '8KiB'", 3, "not larger than head_size"),
            ("[limits]\nheaders = 5", 3, "from 16 to 1000"),
            ("[limits]\nleast_rate = '240'", 3, "a size is a number of bytes"),
            ("[limits]\nleast_rate = '1MiB'", 3, "at most 64KiB"),
            ("[log]\nlevel = 'loud'", 3, "it can be `error`"),
            ("[log]\naccess = 1", 3, "true or false is expected"),
            ("[paths]\nprefix = '/a'", 2, "array of tables"),
            ("[[paths]]\naction = 'block'", 2, "needs a prefix"),
            ("[[paths]]\nprefix = '/a'", 2, "needs an action"),
            ("[[paths]]\nprefix = 'a'\naction = 'block'", 3, "begins with `/`"),
            ("[[paths]]\nprefix = '/a//b'\naction = 'block'", 3, "empty segment"),
            ("[[paths]]\nprefix = '/a'\naction = 'drop'", 4, "`proxy`, `block` or `redirect`"),
            ("[[paths]]\nprefix = '/a'\naction = 'redirect'", 4, "needs a target"),
            ("[[paths]]\nprefix = '/a'\naction = 'redirect'\ntarget = ''", 5, "a target is"),
            ("[[paths]]\nprefix = '/a'\naction = 'redirect'\ntarget = \"/a\\r\\nb: c\"", 5, "a target is"),
            (
                "[[paths]]\nprefix = '/a'\naction = 'redirect'\ntarget = '/b'\ncode = 303",
                6,
                "301, 302, 307 or 308",
            ),
            ("[[paths]]\nprefix = '/a'\naction = 'proxy'\nmax_size = 0", 5, "zero makes no"),
            ("[[paths]]\nprefix = '/a'\naction = 'block'\nmax_size = 1", 5, "only with"),
            ("[[paths]]\nprefix = '/a'\naction = 'proxy'\ncode = 301", 5, "only with"),
            ("[[paths]]\nprefix = '/a'\naction = 'block'\nmethods = ['GET', 'TRACE']", 5, "a method is"),
        ] {
            assert_fault(&format!("version = 1\n{text}\n"), line, reason);
        }
    }

    #[test]
    fn all_faults_are_told_at_once_with_caret_and_nearest_key() {
        let case = Case::new(
            "version = 1\nuri_prefx = \"s3cret\"\n[server]\n    prot = 8443\n    port = \"80\"\n\n\
             [[paths]]\n    prefix = \"api\"\n    action = \"blok\"\n",
        );
        let report = case.load().unwrap_err().render(Style::Plain);
        let report = report.replace(&case.path("config.toml").display().to_string(), "FILE");
        assert_eq!(
            report,
            "\
error: `uri_prefx`: unknown key
 --> FILE:2:1
  |
2 | uri_prefx = …
  | ^^^^^^^^^ did you mean `uri_prefix`?

error: `server.prot`: unknown key
 --> FILE:4:5
  |
4 |     prot = …
  |     ^^^^ did you mean `port`?

error: `server.port`: a port number is expected, not a string
 --> FILE:5:12
  |
5 |     port = \"80\"
  |            ^^^^

error: `paths.prefix`: a prefix begins with `/`
 --> FILE:8:14
  |
8 |     prefix = \"api\"
  |              ^^^^^

error: `paths.action`: it can be `proxy`, `block` or `redirect`
 --> FILE:9:14
  |
9 |     action = \"blok\"
  |              ^^^^^^ did you mean `block`?
"
        );
    }

    #[test]
    fn no_report_holds_a_secret() {
        for text in [
            "version = 1\nuri_prefix = \"s3cret/x\"",
            "version = 1\nuri_prefix = s3cret",
            "version = 1\nuri_prefix = \"\"\"\ns3cret\\u00zz\"\"\"",
            "version = 1\nsecret_prefix = \"s3cret\"",
            "version = 1\n[upstream_proxy]\nenabled = true\nurl = \"https://u:s3cret@h:1\"",
            "version = 1\n[upstream_proxy]\nurl = \"u:s3cret@h:1\"",
            "version = 1\n[upstream_proxy]\nurl = socks5://u:s3cret@h:1",
            "version = 1\n[backend]\nurl = \"http://u:s3cret@h:1\"",
        ] {
            let error = Case::new(text).load().unwrap_err();
            assert!(!error.to_string().contains("s3cret"), "{error}");
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
        let mut case = Case::new("version = 1");
        case.flags.upstream_proxy = Some("https://u:s3cret@h".to_owned());
        case.flags.uri_prefix = Some("s3cret/s3cret".to_owned());
        let error = case.load().unwrap_err();
        assert_eq!(error.faults().len(), 2);
        assert!(!format!("{error}{error:?}").contains("s3cret"), "{error}");
    }

    #[test]
    fn certificate_files_have_to_be_there_in_pairs() {
        let case = Case::new("");
        let cert = case.write("cert.pem", pair());
        let config = |rest: &str| format!("version = 1\n[tls]\ncert = {cert:?}\n{rest}");
        assert_fault(&config(""), 3, "needs its `key`");
        assert_fault(&config("key = '/nonexistent'"), 4, "cannot be read: No such file");
        assert_fault(&config("key = '/'"), 4, "no regular file");
        let junk = case.write("junk.pem", "x");
        let told = Case::new(config(&format!("key = {junk:?}\n[server]\nport = 70000"))).faults();
        let lines: Vec<_> = told.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [Some(4), Some(6)], "with all other faults: {told:?}");
        let tls = loaded(&config(&format!("key = {cert:?}"))).config.tls.unwrap();
        assert!(tls.names.is_empty());
        assert_eq!(tls.certificates, CertificateSource::Files { cert: cert.clone(), key: cert });
    }

    #[test]
    fn no_fault_follows_from_another() {
        assert_fault(
            "version = 1\n[server]\nport = 80\nhttp_port = 'x'\n[tls]\ndomains = ['a']",
            4,
            "for none",
        );
        assert_fault("version = 1\n[tls]\nmode = 'x'", 3, "it can be");
        assert_fault("version = 1\n[upstream_proxy]\nenabled = true\nurl = 3", 4, "a string is expected");
        assert_fault("version = 1\n[frontend]\nmode = 'forward'\nurl = 'x'", 4, "begins with");
    }

    #[test]
    fn both_listeners_on_one_port_are_a_fault() {
        assert_fault("version = 1\n[server]\nport = 80\n[tls]\ndomains = ['a']", 3, "on one port");
        let config = "version = 1\n[server]\nport = 0\nhttp_port = 'auto'\n[tls]\ndomains = ['a']";
        let server = loaded(config).config.server;
        assert_eq!((server.port, server.http_port), (0, Some(0)));
    }

    #[test]
    fn what_is_hardly_meant_is_warned_about() {
        let with = |text: &str| warnings(&format!("version = 1\n[frontend]\nmode = 'disabled'\n{text}"));
        let rule = |rest: &str| format!("[[paths]]\nprefix = '/a'\n{rest}\n");
        let [(line, text)] = &with(&rule("methods = ['get']\naction = 'block'"))[..] else {
            panic!("no warning, or too many");
        };
        assert_eq!((*line, text.contains("leaves HEAD open")), (Some(6), true));
        let both =
            rule("methods = ['GET']\naction = 'block'") + &rule("methods = ['HEAD']\naction = 'block'");
        assert!(with(&both).is_empty());
        let unreached = rule("action = 'proxy'") + "[[paths]]\nprefix = '/a/b*'\naction = 'block'";
        assert_eq!(
            with(&unreached),
            [(Some(8), "this rule is never reached: number 1 matches all that it matches".to_owned())]
        );
        let reached = rule("methods = ['GET']\naction = 'proxy'")
            + "[[paths]]\nprefix = '/ab'\naction = 'block'\n[[paths]]\nprefix = '/a/b'\naction = 'block'";
        assert!(with(&reached).is_empty());

        let every = with(&rule("methods = []\naction = 'block'"));
        assert!(matches!(&every[..], [(Some(6), text)] if text.contains("every method")), "{every:?}");

        let text = |warnings: Vec<(Option<usize>, String)>| {
            let text: Vec<_> = warnings.into_iter().map(|(_, text)| text).collect();
            text.join("\n")
        };
        assert!(text(with("")).contains("no [[paths]]"));
        assert!(text(warnings("version = 1")).contains("has no `directory`"));
        let missing = "version = 1\n[frontend]\ndirectory = '/nonexistent'";
        assert!(text(warnings(missing)).contains("no such directory"));
        let plain = "version = 1\n[server]\nhttp_port = 80\nproxy_protocol = true\ntrusted_proxies = []";
        let plain = text(warnings(plain));
        assert!(plain.contains("redirects to HTTPS") && plain.contains("`proxy_protocol` has no effect"));
    }

    #[test]
    fn a_rule_that_is_undone_is_told_with_both_places() {
        let told = |frontend: &str, rules: &str| {
            warnings(&format!(
                "version = 1\n[backend]\nurl = 'http://10.0.0.1:9'\n[frontend]\n{frontend}\n{rules}"
            ))
        };
        let rule = "[[paths]]\nprefix = '/api/*'\nmethods = ['GET']\naction = 'proxy'\n";
        let forward = "mode = 'forward'\nurl = 'http://10.0.0.1:9/'";
        let [(Some(9), text)] = &told(forward, rule)[..] else {
            panic!("{:?}", told(forward, rule));
        };
        for part in ["to GET:", "POST, PUT, PATCH, DELETE", "[frontend] `url` (line 6)", "`block` rule"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let all = format!("{rule}[[paths]]\nprefix = '/api'\naction = 'proxy'\n");
        let [(Some(8), text)] = &told("mode = 'disabled'", &all)[..] else {
            panic!("{:?}", told("mode = 'disabled'", &all));
        };
        assert!(text.contains("rule number 2 (line 11)"), "{text}");
        let base = "mode = 'forward'\nurl = 'http://10.0.0.1:9/api'";
        let block = "[[paths]]\nprefix = '/api/v1/admin'\naction = 'block'\n";
        let [(Some(8), text)] = &told(base, block)[..] else {
            panic!("{:?}", told(base, block));
        };
        assert!(text.contains("gone round") && text.contains("(line 6)"), "{text}");

        for origin in ["https://10.0.0.1:9", "http://10.0.0.2:9", "http://10.0.0.1:10"] {
            assert_eq!(told(&format!("mode = 'forward'\nurl = '{origin}'"), rule), [], "{origin}");
        }
        let blocked = format!("{rule}[[paths]]\nprefix = '/api'\naction = 'block'\n");
        assert_eq!(told(forward, &blocked), []);
        assert_eq!(told("mode = 'disabled'\nurl = 'http://10.0.0.1:9'", rule), [], "nothing is forwarded");
    }

    #[test]
    fn flags_alone_proxy_the_backends_routes_and_forward_the_rest() {
        let case = flags(|flags| {
            flags.domain = vec!["chat.example.org".to_owned(), "Chat.Example.org".to_owned()];
            flags.backend = Some("http://10.0.0.1:9".to_owned());
            flags.uri_prefix = Some("p".to_owned());
        });
        let loaded = case.load().unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let config = loaded.config;
        let rules: Vec<_> = config.rules.as_slice().iter().map(|rule| rule.pattern.text()).collect();
        assert_eq!(rules, ["/p/api/v1", "/p/pfp", "/p/attachment", "/p/health"]);
        let Frontend::Forward(url) = config.frontend else {
            panic!("another front end");
        };
        assert_eq!(url.to_string(), "http://10.0.0.1:9");
        assert_eq!(config.tls.unwrap().names.len(), 1);
        assert_eq!(config.server.host.to_string(), "::");
    }

    #[test]
    fn flags_win_over_the_file() {
        let mut case = Case::new(
            "version = 1\nuri_prefix = 'a'\n[server]\nport = 1\nhost = 'localhost'\n[tls]\nmode = 'off'\n\
             [backend]\nurl = 'http://h'\n[frontend]\nmode = 'disabled'\n[log]\nlevel = 'warn'\n",
        );
        let certificate = case.write("pair.pem", pair());
        let front = case.directory.path().to_owned();
        case.flags = Flags {
            uri_prefix: Some("b".to_owned()),
            port: Some("2".to_owned()),
            http_port: Some("0".to_owned()),
            host: Some("::1".to_owned()),
            backend: Some("http://i".to_owned()),
            frontend: Some(front.display().to_string()),
            upstream_proxy: Some("socks5://h".to_owned()),
            cert: Some(certificate.clone()),
            key: Some(certificate),
            storage: Some("s".into()),
            log: Some("json,debug".to_owned()),
            ..Flags::default()
        };
        let config = case.load().unwrap().config;
        assert_eq!(config.uri_prefix.as_path(), "/b");
        assert_eq!((config.server.port, config.server.http_port), (2, None));
        assert_eq!(config.server.host.to_string(), "::1");
        assert_eq!(config.backend.url.to_string(), "http://i:80");
        assert!(matches!(config.frontend, Frontend::Serve { directory, .. } if directory == front));
        assert_eq!(config.upstream_proxy.unwrap().authority, "h:1080");
        let tls = config.tls.unwrap();
        assert!(matches!(tls.certificates, CertificateSource::Files { .. }));
        assert_eq!(tls.storage, PathBuf::from("s"));
        assert_eq!(config.log.level, tracing::Level::DEBUG);
        assert_eq!(config.log.format, crate::config::LogFormat::Json);
    }

    #[test]
    fn the_front_end_flag_is_a_directory_a_url_or_off() {
        let frontend = |word: &str| {
            let mut case = Case::new("version = 1\n[[paths]]\nprefix = '/a'\naction = 'block'");
            case.flags.frontend = Some(word.to_owned());
            case.load().map(|loaded| loaded.config.frontend)
        };
        assert!(matches!(frontend("off"), Ok(Frontend::Disabled)));
        assert!(matches!(frontend("./mura"), Ok(Frontend::Serve { .. })));
        assert!(matches!(frontend("https://h/x"), Ok(Frontend::Forward(_))));
        let error = frontend("ftp://h").unwrap_err().to_string();
        assert!(error.starts_with("error: --frontend: "), "{error}");
    }

    #[test]
    fn faults_of_flags_are_told_with_those_of_the_file() {
        let mut case = Case::new("version = 1\nx = 1\n[tls]\n");
        case.flags = Flags {
            domain: vec!["a..b".to_owned()],
            port: Some("x".to_owned()),
            http_port: Some("-1".to_owned()),
            host: Some("h".to_owned()),
            log: Some("json,loud".to_owned()),
            ..Flags::default()
        };
        let told: Vec<_> = case
            .faults()
            .into_iter()
            .map(|(line, text)| (line, text.split(':').next().unwrap_or_default().to_owned()))
            .collect();
        let flag = |name: &str| (None, name.to_owned());
        assert_eq!(
            told,
            [
                flag("--host"),
                flag("--http-port"),
                flag("--port"),
                flag("--domain"),
                flag("--log"),
                (Some(2), "`x`".to_owned()),
            ]
        );
    }

    const SOVA: &str = "version = 7\nuri_prefix = \"from_sova\"\n[server]\nhost = \"0.0.0.0\"\nport = 42835\n\
                        dev = false\nmax_content_length = 1000\n[frontend]\nhosted = true\n[calls]\nenabled = true\n";

    #[test]
    fn the_backends_own_config_is_read_where_nothing_else_is_said() {
        let case = flags(|flags| flags.domain = vec!["a".to_owned()]);
        assert_eq!(case.load().unwrap().config.backend.url.to_string(), "http://127.0.0.1:42836");
        case.write("sova.toml", SOVA);
        let config = case.load().unwrap().config;
        assert_eq!(config.backend.url.to_string(), "http://127.0.0.1:42835");
        assert_eq!(config.uri_prefix.as_path(), "/from_sova");
        assert_eq!(config.server.max_content_length.0, 1000);
        assert!(
            matches!(config.frontend, Frontend::Forward(url) if url.to_string() == "http://127.0.0.1:42835")
        );

        case.write("sova.toml", SOVA.replace("0.0.0.0", "::").replace("hosted = true", "hosted = false"));
        let config = case.load().unwrap().config;
        assert_eq!(config.backend.url.to_string(), "http://[::1]:42835");
        assert!(matches!(config.frontend, Frontend::Disabled));
    }

    #[test]
    fn the_default_installs_config_is_left_alone_when_something_is_said() {
        for case in [
            Case::new("version = 1"),
            flags(|flags| flags.backend = Some("http://127.0.0.1:42836".to_owned())),
            flags(|flags| flags.uri_prefix = Some(String::new())),
        ] {
            case.write("sova.toml", SOVA);
            let config = case.load().unwrap().config;
            assert_eq!(config.uri_prefix.as_path(), "");
            assert_eq!(config.backend.url.to_string(), "http://127.0.0.1:42836");
            assert_eq!(config.backend.max_streams, None, "it is another");
            case.write("sova.toml", "no TOML");
            assert!(
                case.load().unwrap().warnings.iter().all(|warning| !warning.text().contains("taken over"))
            );
        }
    }

    #[test]
    fn the_backends_own_port_is_none_for_the_relay() {
        let refused = |server: &str, url: &str| {
            let case = Case::new(format!("version = 1\n[server]\n{server}\n[backend]\nurl = '{url}'\n"));
            case.load()
                .err()
                .is_some_and(|error| error.to_string().contains("`server.port`: the backend's own port"))
        };
        assert!(refused("port = 42836", "http://127.0.0.1:42836"));
        assert!(refused("port = 42836\nhost = '::'", "http://localhost:42836"));
        assert!(!refused("port = 42836\nhost = '192.0.2.1'", "http://127.0.0.1:42836"));
        assert!(!refused("port = 42836", "http://192.0.2.1:42836"));
        assert!(!refused("port = 42837", "http://127.0.0.1:42836"));
    }

    #[test]
    fn another_prefix_than_the_backends_own_is_told_and_not_shown() {
        let told = |ours: &str, its: &str, url: &str| {
            let case = Case::new(format!("version = 1\n{ours}\n[backend]\nurl = '{url}'\n"));
            case.write("sova.toml", format!("{its}\n[server]\nport = 42836\n"));
            let loaded = case.load().unwrap();
            let all: String = loaded.warnings.iter().map(|warning| warning.render(Style::Plain)).collect();
            assert!(!all.contains("ours") && !all.contains("its_own"), "{all}");
            all.contains("`uri_prefix` is not the one in ")
        };
        let backend = "http://127.0.0.1:42836";
        assert!(told("uri_prefix = 'ours'", "uri_prefix = 'its_own'", backend));
        assert!(told("", "uri_prefix = 'its_own'", backend));
        assert!(told("uri_prefix = 'ours'", "", backend));
        assert!(!told("uri_prefix = 'same'", "uri_prefix = 'same'", backend));
        assert!(!told("", "", backend));
        assert!(!told("", "uri_prefix = 'its_own'", "http://127.0.0.1:42837"), "another backend");
    }

    #[test]
    fn streams_leave_a_quarter_of_the_backends_threads_whatever_names_the_backend() {
        for (backend, streams) in [
            ("", Some(24)),
            ("url = 'http://localhost:42836'", Some(24)),
            ("url = 'http://127.0.0.1:42837'", None),
            ("url = 'http://192.0.2.1:42836'", None),
            ("max_streams = 30", Some(30)),
            ("max_streams = 0", None),
        ] {
            let case = Case::new(format!("version = 1\n[backend]\n{backend}\n"));
            case.write("sova.toml", "[server]\nhost = '127.0.0.1'\nport = 42836\nthreads = 32\n");
            assert_eq!(case.load().unwrap().config.backend.max_streams, streams, "{backend}");
        }
        // With fewer connections than that, they are the bound: what nobody wrote is no fault.
        let case = Case::new("version = 1\n[backend]\nmax_connections = 10\n");
        case.write("sova.toml", "[server]\nport = 42836\nthreads = 32\n");
        assert_eq!(case.load().unwrap().config.backend.max_streams, Some(10));
    }

    #[test]
    fn a_bad_config_of_the_default_install_is_a_warning_and_one_that_was_asked_for_a_fault() {
        let mut case = flags(|_| {});
        for text in ["port = ", "[server]\nport = 'x'"] {
            let sova = case.write("sova.toml", text);
            case.flags.sova = None;
            let loaded = case.load().unwrap();
            let told = loaded.warnings[0].to_string();
            assert!(told.contains("sova.toml:") && told.contains("nothing is taken over"), "{told}");
            case.flags.sova = Some(sova);
            assert!(case.load().is_err());
        }
        case.flags.sova = Some(case.path("missing"));
        assert!(case.load().unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn the_file_wins_over_the_backends_own() {
        let mut case = Case::new(
            "version = 1\nuri_prefix = 'a'\n[frontend]\nmode = 'disabled'\n[[paths]]\nprefix = '/a'\naction = 'block'",
        );
        case.flags.sova = Some(case.write("elsewhere.toml", SOVA));
        case.flags.backend = Some("http://h".to_owned());
        let config = case.load().unwrap().config;
        assert_eq!(config.uri_prefix.as_path(), "/a");
        assert_eq!(config.backend.url.to_string(), "http://h:80");
        assert_eq!(config.server.max_content_length.0, 1000);
        assert!(matches!(config.frontend, Frontend::Disabled));
    }
}
