//! A config file while it is made: TOML whose comments stay where they are.

use std::path::{Component, Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, TomlError, Value};

use super::{CertificateChoice, InitError};
use crate::config::{ByteSize, Config, Flags, Frontend, Log, LogFormat};

/// The document. A table in it is named as in the file: `tls.acme`; the empty name is the top level.
pub(super) struct Draft {
    document: DocumentMut,
    origin: Origin,
}

/// What the document began as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Origin {
    Template,
    File,
}

/// What a new file begins with: the rules of the backend, and a place for everything else. Tables that stay
/// empty are taken out again.
const TEMPLATE: &str = r#"# The relay's configuration. config.example.toml holds every key, with its default.
# After a change: parley-relay check FILE, then systemctl reload parley-relay

version = 1

# The secret first path segment: the same as in the backend's config. Empty for none.
uri_prefix = ""

# The ports: 443 and 80 where nothing is said.
[server]

# HTTPS, for the names and addresses that people type. `mode` says where certificates come from: auto, acme,
# self-signed, files or off.
[tls]

# Certificates from a CA that speaks ACME.
[tls.acme]

# How the CA is shown that a name is ours, by way of the DNS.
[tls.acme.dns]

# Where the backend, Sova, listens.
[backend]

# A proxy on the way to the backend: http://, socks5:// or socks5h://
[upstream_proxy]

# What no rule matches: serve files of a directory, forward to a URL, or disabled.
[frontend]

[log]

# The rules: checked in order, the first whose prefix and method both match decides. A prefix matches itself and
# everything below it. action: proxy, block or redirect; `methods`, `block_files` and `max_size` are in the example.
[[paths]]
prefix = "/api/v1"
action = "proxy"

[[paths]]
prefix = "/pfp"
action = "proxy"

[[paths]]
prefix = "/attachment"
action = "proxy"

[[paths]]
prefix = "/health"
action = "proxy"
"#;

/// The template's tables without rules, inner ones first.
const TABLES: &[&str] =
    &["server", "tls.acme.dns", "tls.acme", "tls", "backend", "upstream_proxy", "frontend", "log"];

/// `max_content_length` where nobody says it.
const DEFAULT_BODY: ByteSize = ByteSize(64 << 20);

impl Draft {
    /// The text of a config file that is there.
    pub(super) fn of(text: &str) -> Result<Self, TomlError> {
        Ok(Self { document: text.parse()?, origin: Origin::File })
    }

    /// A new file.
    pub(super) fn fresh(config: &Config) -> Result<Self, InitError> {
        let mut draft = Self::of(TEMPLATE).map_err(InitError::Edit)?;
        draft.origin = Origin::Template;
        // It stands there empty, so that people see where it belongs.
        draft.set("", "uri_prefix", config.uri_prefix.as_path().trim_start_matches('/'));
        draft.fill(config);
        if let Frontend::Serve { directory, .. } = &config.frontend {
            draft.serve(directory)?;
        }
        Ok(draft)
    }

    /// Puts what `config` says of the backend where the file says nothing: it may come from the backend's own file,
    /// which the relay's user need not be able to read.
    pub(super) fn fill(&mut self, config: &Config) {
        let Config { uri_prefix, server, backend, frontend, .. } = config;
        self.set_absent("", "uri_prefix", uri_prefix.as_path().trim_start_matches('/'));
        if server.max_content_length != DEFAULT_BODY {
            self.set_absent("server", "max_content_length", integer(server.max_content_length.0));
        }
        self.set_absent("backend", "url", backend.url.to_string());
        if let Some(streams) = backend.max_streams {
            self.set_absent("backend", "max_streams", integer(streams as u64));
        }
        // A directory is a front end too: files are served where no mode stands.
        if self.text("frontend", "mode").or_else(|| self.text("frontend", "directory")).is_some() {
            return;
        }
        match frontend {
            Frontend::Serve { .. } => {}
            Frontend::Forward(url) => {
                self.set("frontend", "mode", "forward");
                self.set("frontend", "url", url.to_string());
            }
            Frontend::Disabled => self.set("frontend", "mode", "disabled"),
        }
    }

    fn set_absent(&mut self, table: &str, key: &str, value: impl Into<Value>) {
        if self.table(table).is_none_or(|table| !table.contains_key(key)) {
            self.set(table, key, value);
        }
    }

    /// The original relay ran in its own directory: a front end's directory in `file` that is relative is
    /// relative to where `file` lies.
    pub(super) fn anchor(&mut self, file: &Path) -> Result<(), InitError> {
        let Some(directory) = self.text("frontend", "directory").filter(|text| !text.is_empty()) else {
            return Ok(());
        };
        let directory = PathBuf::from(directory);
        if directory.is_absolute() {
            return Ok(());
        }
        let beside = file.parent().unwrap_or(Path::new("")).join(directory);
        self.set_path("frontend", "directory", &Some(beside))
    }

    /// Makes the choice of `--certificate`; without one only what has to follow from other flags.
    pub(super) fn apply_certificate(&mut self, wanted: Option<CertificateChoice>, flags: &Flags) {
        let https_before = self.origin == Origin::File && self.is_https();
        let https = match wanted {
            Some(choice) => choice != CertificateChoice::Off,
            None => https_before || flags.ask_for_tls(),
        };
        if https && !https_before {
            // They were a plain listener's, for a proxy in front that can go now.
            self.remove("server", "host");
            self.remove("server", "port");
        }
        let mode = match wanted {
            Some(CertificateChoice::Auto) => "auto",
            Some(CertificateChoice::Acme) => "acme",
            Some(CertificateChoice::SelfSigned) => "self-signed",
            Some(CertificateChoice::Files) => "files",
            // Without the table, or with this mode, it is plain HTTP.
            Some(CertificateChoice::Off) if !https_before => {
                self.remove("", "tls");
                return;
            }
            Some(CertificateChoice::Off) => "off",
            None if https && !https_before => "auto",
            None => return,
        };
        self.set("tls", "mode", mode);
        if wanted != Some(CertificateChoice::Files) && mode != "off" {
            self.remove("tls", "cert");
            self.remove("tls", "key");
        }
    }

    /// What the flags say, in the place of what the file says. Each has been parsed already.
    pub(super) fn apply_flags(&mut self, flags: &Flags) -> Result<(), InitError> {
        // The last ones are seen to elsewhere.
        let Flags {
            domain,
            backend,
            uri_prefix,
            frontend,
            host,
            port,
            http_port,
            upstream_proxy,
            cert,
            key,
            storage: _,
            self_signed: _,
            sova: _,
            log: _,
        } = flags;
        self.set_text("backend", "url", backend);
        let prefix = uri_prefix.as_deref().map(|prefix| prefix.trim_matches('/').to_owned());
        self.set_text("", "uri_prefix", &prefix);
        self.set_text("server", "host", host);
        for (key, port) in [("port", port), ("http_port", http_port)] {
            match port.as_deref().map(str::parse::<i64>) {
                Some(Ok(number)) => self.set("server", key, number),
                // `auto`.
                Some(Err(_)) => self.set_text("server", key, port),
                None => {}
            }
        }
        if !domain.is_empty() {
            self.set("tls", "domains", domain.iter().collect::<Array>());
        }
        self.set_path("tls", "cert", cert)?;
        self.set_path("tls", "key", key)?;
        if upstream_proxy.is_some() {
            self.set("upstream_proxy", "enabled", true);
            self.set_text("upstream_proxy", "url", upstream_proxy);
        }
        match frontend.as_deref() {
            None => {}
            Some("off") => self.set("frontend", "mode", "disabled"),
            Some(url) if url.contains("://") => {
                self.set("frontend", "mode", "forward");
                self.set("frontend", "url", url);
            }
            Some(directory) => self.serve(Path::new(directory))?,
        }
        Ok(())
    }

    /// The words of `--log`, as they were understood.
    pub(super) fn apply_log(&mut self, log: &Log) {
        let format = match log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        self.set("log", "format", format);
        self.set("log", "level", log.level.as_str().to_ascii_lowercase());
    }

    fn serve(&mut self, directory: &Path) -> Result<(), InitError> {
        self.set("frontend", "mode", "serve");
        self.set_path("frontend", "directory", &Some(directory.to_owned()))
    }

    /// Whether the relay will speak HTTPS.
    pub(super) fn is_https(&self) -> bool {
        self.table("tls").is_some() && self.text("tls", "mode").as_deref() != Some("off")
    }

    /// The file. Of a new one, tables that say nothing are left out.
    pub(super) fn into_text(mut self) -> String {
        let tables: &[&str] = match self.origin {
            Origin::File => &[],
            Origin::Template => TABLES,
        };
        for name in tables {
            if self.table(name).is_some_and(|table| table.is_empty()) {
                let (parent, key) = name.rsplit_once('.').unwrap_or(("", name));
                self.remove(parent, key);
            }
        }
        self.document.to_string()
    }

    /// Sets a key; the comments around it stay.
    pub(super) fn set(&mut self, table: &str, key: &str, value: impl Into<Value>) {
        let mut value = value.into();
        let before_rules = self.before_rules();
        let mut inside: &mut dyn TableLike = self.document.as_table_mut();
        for name in table.split('.').filter(|name| !name.is_empty()) {
            let item = inside.entry(name).or_insert_with(|| {
                let mut table = Table::new();
                table.set_position(before_rules);
                Item::Table(table)
            });
            // The loader has read this file: what it takes for a table is one.
            match item.as_table_like_mut() {
                Some(next) => inside = next,
                None => return,
            }
        }
        // Not inserted anew: comments stand before the key and behind the value.
        match inside.get_mut(key) {
            Some(item) => {
                if let Some(old) = item.as_value() {
                    *value.decor_mut() = old.decor().clone();
                }
                *item = Item::Value(value);
            }
            None => {
                inside.insert(key, Item::Value(value));
            }
        }
    }

    /// Sets a key to a text, if there is one.
    pub(super) fn set_text(&mut self, table: &str, key: &str, text: &Option<String>) {
        if let Some(text) = text {
            self.set(table, key, text);
        }
    }

    /// Takes what a key says away, if it is there.
    pub(super) fn empty(&mut self, table: &str, key: &str) {
        if self.text(table, key).is_some_and(|text| !text.is_empty()) {
            self.set(table, key, "");
        }
    }

    /// Sets a key to a path, if there is one: an absolute one, for a service runs in no directory of its own.
    pub(super) fn set_path(
        &mut self,
        table: &str,
        key: &str,
        path: &Option<PathBuf>,
    ) -> Result<(), InitError> {
        let Some(path) = path else {
            return Ok(());
        };
        let absolute = std::path::absolute(path).map_err(|error| InitError::Read(path.clone(), error))?;
        // `./` says nothing; `..` stays, because a link before it may lead elsewhere.
        let plain: PathBuf = absolute.components().filter(|part| *part != Component::CurDir).collect();
        let text = plain.to_str().ok_or_else(|| InitError::NotUtf8(path.clone()))?;
        self.set(table, key, text);
        Ok(())
    }

    /// Where a new table goes: behind the last one before the rules, which are many and a person's own.
    fn before_rules(&self) -> Option<isize> {
        let rules = self.document.get("paths")?.as_array_of_tables()?;
        Some(rules.get(0)?.position()? - 1)
    }

    fn remove(&mut self, table: &str, key: &str) {
        let mut inside: &mut dyn TableLike = self.document.as_table_mut();
        for name in table.split('.').filter(|name| !name.is_empty()) {
            match inside.get_mut(name).and_then(Item::as_table_like_mut) {
                Some(next) => inside = next,
                None => return,
            }
        }
        inside.remove(key);
    }

    fn table(&self, table: &str) -> Option<&dyn TableLike> {
        let mut inside: &dyn TableLike = self.document.as_table();
        for name in table.split('.').filter(|name| !name.is_empty()) {
            inside = inside.get(name)?.as_table_like()?;
        }
        Some(inside)
    }

    pub(super) fn text(&self, table: &str, key: &str) -> Option<String> {
        Some(self.table(table)?.get(key)?.as_str()?.to_owned())
    }
}

/// TOML's integers end at 2⁶³ − 1, and so does what the loader takes.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
