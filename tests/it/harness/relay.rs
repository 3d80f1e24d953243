//! The relay: the real binary in a process of its own, on ports that the system chooses.

use std::{
    ffi::{OsStr, OsString},
    fs,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    sync::Arc,
    time::Duration,
};

use rustix::process::Signal;
use rustls::ClientConfig;
use tempfile::TempDir;

use super::{client::CANARY, pki, process::Process};

/// A running relay. Dropping it kills it.
pub(crate) struct Relay {
    process: Process,
    dir: Arc<TempDir>,
    https: Option<SocketAddr>,
    http: Option<SocketAddr>,
    redirect: Option<SocketAddr>,
}

/// What the relay is started with.
pub(crate) struct RelayBuilder {
    config: toml::Table,
    /// Whether there is a config file at all.
    file: bool,
    dir: Arc<TempDir>,
    binary: PathBuf,
    /// What runs it, with its own arguments; empty: nothing.
    wrapper: Vec<&'static str>,
    args: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
}

impl Relay {
    /// A relay that is configured by a file; see [`RelayBuilder::toml`] for what the file holds.
    pub(crate) fn builder() -> RelayBuilder {
        RelayBuilder {
            config: toml::Table::new(),
            file: true,
            dir: Arc::new(TempDir::new().unwrap()),
            binary: env!("CARGO_BIN_EXE_parley-relay").into(),
            wrapper: Vec::new(),
            args: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// A relay with `toml` as its config; ports and the version are filled in where it has none.
    pub(crate) async fn start(toml: &str) -> Self {
        Self::builder().toml(toml).start().await
    }

    /// A relay that is run by flags alone.
    pub(crate) fn with_args<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> RelayBuilder {
        let mut builder = Self::builder();
        builder.file = false;
        builder.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        builder
    }

    /// The HTTPS listener's address.
    pub(crate) fn https(&self) -> SocketAddr {
        self.https.expect("this relay has an HTTPS listener")
    }

    /// The plain-HTTP listener's address.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http.expect("this relay has a plain-HTTP listener")
    }

    /// The redirect listener's address.
    pub(crate) fn redirect(&self) -> SocketAddr {
        self.redirect.expect("this relay has a redirect listener")
    }

    /// Whether there is a redirect listener.
    pub(crate) fn has_redirect(&self) -> bool {
        self.redirect.is_some()
    }

    /// What clients write in the address bar, after the scheme.
    pub(crate) fn authority(&self) -> String {
        let port = self.https.or(self.http).unwrap().port();
        format!("localhost:{port}")
    }

    /// The root certificate of its local CA, in PEM.
    pub(crate) fn root(&self) -> Vec<u8> {
        fs::read(self.path("storage/local-ca/root.pem")).expect("the local CA has a root")
    }

    /// A client's TLS config that trusts the local CA and offers `alpn`.
    pub(crate) fn tls_client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        pki::client_config(&self.root(), alpn)
    }

    /// A file in its temporary directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// All log lines so far.
    pub(crate) fn logs(&self) -> Vec<String> {
        self.process.lines()
    }

    /// The first log line that holds all of `parts`, now or later.
    pub(crate) async fn log_with(&self, parts: &[&str]) -> String {
        self.process
            .line(&format!("log line with {parts:?}"), |line| parts.iter().all(|part| line.contains(part)))
            .await
    }

    /// What `found` makes of the log, now or later.
    pub(crate) async fn lines_until<T>(&self, what: &str, found: impl Fn(&[String]) -> Option<T>) -> T {
        self.process.lines_until(what, found).await
    }

    /// The access log's first line, now or later, of a request whose shown path begins with `path`.
    pub(crate) async fn access(&self, path: &str) -> String {
        let wanted = |line: &str| {
            has_word(line, "access") && field(line, "path").is_some_and(|shown| shown.starts_with(path))
        };
        self.process.line(&format!("access line of {path}"), wanted).await
    }

    /// Resident memory in bytes.
    pub(crate) fn rss(&self) -> u64 {
        self.process.rss()
    }

    /// What `parley-relay status` prints with `args` about it.
    pub(crate) async fn status(&self, args: &[&str]) -> Output {
        self.command("status", args).await
    }

    /// Runs a command of the program that finds this relay.
    pub(crate) async fn command(&self, name: &str, args: &[&str]) -> Output {
        let mut builder = Self::with_args([name]);
        builder.dir = Arc::clone(&self.dir);
        builder.args.extend(args.iter().map(Into::into));
        builder.run().await
    }

    /// Its status, as JSON.
    pub(crate) async fn status_json(&self) -> serde_json::Value {
        let output = self.status(&["--json"]).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits until its status is as `wanted`.
    pub(crate) async fn until_status(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) {
        super::within(what, async { while !wanted(&self.status_json().await) {} }).await;
    }

    /// Processor time that it has used.
    pub(crate) fn cpu(&self) -> Duration {
        self.process.cpu()
    }

    /// What its config file says.
    pub(crate) fn config(&self) -> String {
        fs::read_to_string(self.path("config.toml")).unwrap()
    }

    /// Puts another config file in place of the one that it was started with.
    pub(crate) fn set_config(&self, text: &str) {
        // As an editor does: never half of it.
        fs::write(self.path("config.new"), text).unwrap();
        fs::rename(self.path("config.new"), self.path("config.toml")).unwrap();
    }

    /// Adds to the config file, as [`RelayBuilder::toml`] does.
    pub(crate) fn change_config(&self, text: &str) {
        let mut config = self.config().parse().unwrap();
        merge(&mut config, text.parse().expect("a test's config is TOML"));
        self.set_config(&config.to_string());
    }

    /// Sends SIGHUP and waits for what comes of it: a log line with `outcome`.
    pub(crate) async fn reload(&self, outcome: &str) -> String {
        let before = self.logs().len();
        self.signal(Signal::HUP);
        self.process
            .lines_until(&format!("{outcome:?} after a reload"), |lines| {
                let line = lines[before..].iter().find(|line| line.contains(outcome))?;
                Some(line.clone())
            })
            .await
    }

    /// Sends SIGUSR2 and waits until another process has taken over, which is the one that is meant from now on.
    pub(crate) async fn upgrade(&mut self) -> i32 {
        let before = self.logs().len();
        self.signal(Signal::USR2);
        let pid = self
            .process
            .lines_until("an upgrade", |lines| {
                let line =
                    lines[before..].iter().find(|line| line.contains("another process has taken over"))?;
                field(line, "pid")
            })
            .await;
        let pid = pid.parse().unwrap();
        self.process.heir(pid);
        pid
    }

    /// The id of the process that was started.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        self.process.descriptors()
    }

    /// Waits for the end of the process that was started.
    pub(crate) async fn first_end(&mut self) -> ExitStatus {
        self.process.first_end().await
    }

    /// Notes a process that took over without [`Self::upgrade`].
    pub(crate) fn heir(&mut self, pid: i32) {
        self.process.heir(pid);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        self.process.end().await
    }
}

impl Drop for Relay {
    /// Whatever the test was about: nothing that its clients must keep to themselves was logged, at any level, and
    /// nothing panicked.
    fn drop(&mut self) {
        self.process.kill();
        let lines = self.process.last_lines();
        if std::thread::panicking() {
            eprintln!("the relay's last words:");
            lines.iter().rev().take(40).rev().for_each(|line| eprintln!("  {line}"));
            return;
        }
        for line in lines {
            for secret in [CANARY, "PRIVATE KEY"] {
                assert!(!line.contains(secret), "a secret is in the log: {line}");
            }
            assert!(!line.contains("panicked at"), "{line}");
            assert!(!line.contains('\u{1b}'), "something wrote to the terminal: {line:?}");
        }
    }
}

impl RelayBuilder {
    /// Adds to the config. `{dir}` stands for the temporary directory. Later tables are merged into earlier ones.
    pub(crate) fn toml(mut self, text: &str) -> Self {
        let text = text.replace("{dir}", self.dir.path().to_str().unwrap());
        merge(&mut self.config, text.parse().expect("a test's config is TOML"));
        self
    }

    /// The backend's address, and a rule that proxies everything to it unless there are rules already.
    pub(crate) fn backend(self, address: SocketAddr) -> Self {
        let mut builder = self.toml(&format!("[backend]\nurl = \"http://{address}\""));
        if !builder.config.contains_key("paths") {
            builder = builder.toml("[[paths]]\nprefix = \"/*\"\naction = \"proxy\"");
        }
        builder
    }

    /// HTTPS with a certificate of the local CA for `localhost`.
    pub(crate) fn self_signed(self) -> Self {
        self.toml("[tls]\nmode = \"self-signed\"\ndomains = [\"localhost\"]\nstorage = \"{dir}/storage\"")
    }

    /// Writes a file into the temporary directory.
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// A file in its temporary directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        let text = arg.as_ref().to_str().unwrap();
        self.args.push(text.replace("{dir}", self.dir.path().to_str().unwrap()).into());
        self
    }

    /// Sets a variable of its environment.
    pub(crate) fn env(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name, value.as_ref().to_owned()));
        self
    }

    /// Another binary than the one that cargo built.
    pub(crate) fn binary(mut self, path: impl AsRef<Path>) -> Self {
        self.binary = path.as_ref().to_owned();
        self
    }

    /// The static binary, where there is one: for figures. What is held is the same size in both.
    pub(crate) fn static_binary(self) -> Self {
        match std::env::var_os("PARLEY_RELAY_STATIC") {
            Some(path) => self.binary(PathBuf::from(path)),
            None => self,
        }
    }

    /// Runs it by another program, which becomes it: `prlimit`, `unshare`.
    pub(crate) fn under(mut self, wrapper: &[&'static str]) -> Self {
        self.wrapper = wrapper.to_vec();
        self
    }

    /// The temporary directory of another relay, with all that this one stored there.
    pub(crate) fn in_the_place_of(mut self, other: &Relay) -> Self {
        self.dir = Arc::clone(&other.dir);
        self
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(self) -> Relay {
        let (command, dir) = self.into_command();
        Self::started(Process::spawn(command), dir).await
    }

    /// Starts it as systemd does a service with sockets: descriptors 3 and 4 are these, and have names.
    pub(crate) async fn start_with_sockets(self, sockets: [(TcpListener, &str); 2]) -> Relay {
        let (command, dir) = self.into_command();
        let [(first, one), (second, two)] = sockets;
        let mut shell = Command::new("sh");
        // Its standard input and output are the sockets; what it runs has its own process id.
        shell.args(["-c", r#"export LISTEN_PID=$$; exec 3<&0 4<&1 0</dev/null 1>&2; exec "$0" "$@""#]);
        shell.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", format!("{one}:{two}"));
        let (stdin, stdout) = (OwnedFd::from(first).into(), OwnedFd::from(second).into());
        Self::started(Process::spawn_with(shell, stdin, stdout), dir).await
    }

    async fn started(process: Process, dir: Arc<TempDir>) -> Relay {
        process.line("ready line", |line| has_word(line, "ready")).await;
        let lines = process.lines();
        let address = |kind: &str| {
            lines
                .iter()
                .filter(|line| has_word(line, "listening"))
                .find(|line| field(line, "kind").as_deref() == Some(kind))
                .map(|line| field(line, "address").unwrap().parse().unwrap())
        };
        Relay { https: address("https"), http: address("http"), redirect: address("redirect"), process, dir }
    }

    /// Runs it to its end, for configs that it should refuse.
    pub(crate) async fn run(self) -> Output {
        let (mut command, dir) = self.into_command();
        let run = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = super::within("the relay to end by itself", run).await.unwrap();
        drop(dir);
        output
    }

    fn into_command(mut self) -> (Command, Arc<TempDir>) {
        let mut command = match self.wrapper.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        if self.file {
            // All of a test's clients come from one address.
            let defaults = "
                version = 1
                [server]
                host = \"127.0.0.1\"
                port = 0
                http_port = 0
                [limits]
                connections_per_client = 10000
                [frontend]
                mode = \"disabled\"
                [log]
                level = \"trace\"";
            let mut config = defaults.parse().unwrap();
            merge(&mut config, std::mem::take(&mut self.config));
            let path = self.dir.path().join("config.toml");
            fs::write(&path, config.to_string()).unwrap();
            command.arg("--config").arg(path);
        }
        command.args(&self.args);
        // The machine's own settings are no part of a test.
        for variable in
            ["RUST_LOG", "STATE_DIRECTORY", "NOTIFY_SOCKET", "http_proxy", "HTTP_PROXY", "ALL_PROXY"]
        {
            command.env_remove(variable);
        }
        // Else the control sockets of relays without TLS would be in one place.
        command.env("RUNTIME_DIRECTORY", self.dir.path());
        command.envs(self.environment);
        (command, self.dir)
    }
}

/// Runs the relay with `args` in an empty directory, to its end.
pub(crate) async fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    Relay::with_args(args).run().await
}

/// Runs `check` on a config file that is exactly `text`.
pub(crate) async fn run_check(text: &str) -> Output {
    Relay::with_args(["check"]).file("relay.toml", text).arg("{dir}/relay.toml").run().await
}

/// What a relay that has ended wrote to standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A log line's field, in text or JSON.
pub(crate) fn field(line: &str, name: &str) -> Option<String> {
    if line.starts_with('{') {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let value = &line["fields"][name];
        return (!value.is_null()).then(|| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    let start = format!("{name}=");
    let word = line.split(' ').find_map(|word| word.strip_prefix(&start))?;
    Some(word.trim_matches('"').to_owned())
}

/// Whether the line holds `word`, as a word of its own.
fn has_word(line: &str, word: &str) -> bool {
    line.split(|character: char| !character.is_ascii_alphanumeric()).any(|part| part == word)
}

/// Puts `new` over `base`: tables key by key, arrays of tables one after the other, anything else replaced.
fn merge(base: &mut toml::Table, new: toml::Table) {
    for (key, value) in new {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(new)) => merge(base, new),
            (Some(toml::Value::Array(base)), toml::Value::Array(new))
                if new.iter().all(|item| item.is_table()) =>
            {
                base.extend(new);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
