//! A little machine to install things on: a minimal Debian in namespaces of its own, with a stand-in for systemd.
//!
//! Its root is an overlay in memory over a tree that tests/run makes by debootstrap; its network is a loopback of
//! its own, so that ports 80 and 443 are free. Dropping it ends everything that runs on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::DEADLINE;

/// How long a command may take, by timeout(1): long, because two cores are shared by many tests.
const COMMAND_SECONDS: &str = "120";

/// Who starts services on a machine.
#[derive(Clone, Debug)]
enum Manager {
    /// tests/installer/systemctl.
    StandIn,
    /// systemd itself, in this cgroup.
    Systemd(PathBuf),
}

/// A running machine.
pub(crate) struct Machine {
    manager: Manager,
    /// `unshare`, which takes the first process, and with it all others, along.
    holder: Child,
    /// The first process of the machine.
    first: String,
    merged: PathBuf,
    directory: TempDir,
    servers: Vec<Child>,
}

/// What a command on the machine said, and how it ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    /// Both outputs.
    pub(crate) text: String,
}

impl Machine {
    /// A machine with a root of `size` bytes, where a stand-in for systemd starts services; `None`: there cannot be
    /// one here, which has been said.
    pub(crate) fn start(size: &str) -> Option<Self> {
        let machine = Self::with(Manager::StandIn, size)?;
        machine.copy(&source("tests/installer/systemctl"), "/usr/bin/systemctl");
        Some(machine)
    }

    /// A machine that systemd runs.
    pub(crate) fn boot(size: &str) -> Option<Self> {
        tree()?;
        let cgroup = match own_cgroup() {
            Ok(cgroup) => cgroup,
            Err(reason) => {
                println!("skipped: no machine that systemd runs: {reason}");
                return None;
            }
        };
        let machine = Self::with(Manager::Systemd(cgroup), size)?;
        // It answers a moment after it was started. Degraded is what it calls a machine without a console.
        let up = "until systemctl is-system-running 2>/dev/null | grep -q 'running\\|degraded'; do sleep 0.1; done";
        machine.must(up);
        Some(machine)
    }

    fn with(manager: Manager, size: &str) -> Option<Self> {
        let tree = tree()?;
        let directory = TempDir::new().unwrap();
        let merged = directory.path().join("machine");
        fs::create_dir(&merged).unwrap();
        let mut command = Command::new("setpriv");
        // With the end of this thread, the machine ends.
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--ipc", "--uts"]);
        command.args(["--fork", "--kill-child"]).arg(source("tests/installer/machine"));
        command.arg(tree).arg(size).arg(&merged);
        if let Manager::Systemd(cgroup) = &manager {
            command.arg(cgroup);
        }
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the machine does not start");
        let id = holder.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let first = children.trim().to_owned();
        Some(Self { manager, holder, first, merged, directory, servers: Vec::new() })
    }

    /// A file of the machine, as this process reaches it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        let root = match &self.manager {
            Manager::StandIn => self.merged.join("root"),
            Manager::Systemd(_) => PathBuf::new(),
        };
        PathBuf::from(format!("/proc/{}/root{}{path}", self.first, root.display()))
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// Writes a file; one below a `bin` directory can be run.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.path(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, content).unwrap();
        let mode = if path.contains("bin/") { 0o755 } else { 0o644 };
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Copies a file of this machine.
    pub(crate) fn copy(&self, from: &Path, to: &str) {
        let file = self.path(to);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::copy(from, file).unwrap();
    }

    /// Runs a line of bash as root, with nothing to read and no terminal.
    pub(crate) fn run(&self, line: &str) -> Ran {
        let mut command = self.command(&format!("exec setsid --wait bash -c {}", quoted(line)));
        ran(command.stdin(Stdio::null()).output().unwrap())
    }

    /// Runs a line of bash that has to succeed.
    #[track_caller]
    pub(crate) fn must(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(0), "{line}\n{}", ran.text);
        ran.text
    }

    /// Runs a line of bash at a terminal at which somebody types `answers`, a line each.
    pub(crate) fn type_in(&self, line: &str, answers: &[&str]) -> Ran {
        let inside = self.command(line);
        let words = std::iter::once(inside.get_program()).chain(inside.get_args());
        let words: Vec<_> = words.map(|word| quoted(word.to_str().unwrap())).collect();
        let mut terminal = Command::new("script")
            .args(["--quiet", "--return", "--echo", "never", "--command", &words.join(" "), "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Kept open: its end would be the terminal's.
        let mut keyboard = terminal.stdin.take().unwrap();
        for answer in answers {
            writeln!(keyboard, "{answer}").unwrap();
        }
        let output = terminal.wait_with_output().unwrap();
        drop(keyboard);
        ran(output)
    }

    /// Every file but those of the kernel and of processes, with what it holds: to compare before and after.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        // useradd and userdel leave copies behind: accounts are looked at by themselves.
        let text = self.must(
            "find / \\( -path /proc -o -path /dev -o -path /run -o -path /tmp -o -path /var/log -o -path /srv \
             -o -path '/etc/*passwd*' -o -path '/etc/*shadow*' -o -path '/etc/group*' -o -path '/etc/sub*' \
             -o -path /etc/.pwd.lock \\) -prune -o -newer /usr/bin/systemctl -printf '%p %y%m %u:%g %l ' \
             \\( -type f -exec sha256sum {} \\; -o -printf '\\n' \\)",
        );
        let entry = |line: &str| {
            let (path, rest) = line.split_once(' ').unwrap();
            (path.to_owned(), rest.to_owned())
        };
        // A directory's time changes with what comes and goes in it; what it holds is listed by itself.
        text.lines().map(entry).filter(|(_, rest)| !rest.starts_with('d')).collect()
    }

    /// Asserts that every file is as it was, after `what`.
    #[track_caller]
    pub(crate) fn assert_files(&self, before: &BTreeMap<String, String>, what: &str) {
        let after = self.files();
        let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let changed: Vec<_> = names
            .into_iter()
            .filter(|name| before.get(*name) != after.get(*name))
            .map(|name| format!("{name}\n  before: {:?}\n  after:  {:?}", before.get(name), after.get(name)))
            .collect();
        assert!(changed.is_empty(), "{what}\n{}", changed.join("\n"));
    }

    /// Serves a directory of the machine over HTTP, on its own loopback; gives the URL.
    pub(crate) fn serve(&mut self, directory: &str) -> String {
        let script = "import functools, http.server, sys\n\
            handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])\n\
            server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)\n\
            print(server.server_port, flush=True)\n\
            server.serve_forever()";
        let directory = self.path(directory);
        self.python(script, directory.as_os_str())
    }

    /// Sends whoever asks on to the same file at `mirror`; the base URL.
    pub(crate) fn send_on(&mut self, mirror: &str) -> String {
        let script = "import http.server, sys\n\
            class Handler(http.server.BaseHTTPRequestHandler):\n\
            \x20   def do_GET(self):\n\
            \x20       self.send_response(302)\n\
            \x20       self.send_header('Location', sys.argv[1] + self.path)\n\
            \x20       self.send_header('Content-Length', '0')\n\
            \x20       self.end_headers()\n\
            server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)\n\
            print(server.server_port, flush=True)\n\
            server.serve_forever()";
        self.python(script, mirror.as_ref())
    }

    fn python(&mut self, script: &str, argument: &OsStr) -> String {
        let mut server = Command::new("nsenter")
            .args(["--target", &self.first, "--net", "python3", "-c", script])
            .arg(argument)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
        self.servers.push(server);
        format!("http://127.0.0.1:{}", port.trim())
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "--kill-after=5", COMMAND_SECONDS, "nsenter"]);
        command.args(["--target", &self.first, "--mount", "--net", "--pid", "--ipc", "--uts"]);
        match &self.manager {
            Manager::StandIn => command.arg("chroot").arg(self.merged.join("root")),
            Manager::Systemd(_) => command.args(["--cgroup", "--root", "--wdns=/"]),
        };
        command.args(["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["HOME=/root", "TERM=xterm", "LC_ALL=C.UTF-8", "bash", "-c", line]);
        command
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().chain([&mut self.holder]) {
            // Both fail only where the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Manager::Systemd(cgroup) = &self.manager {
            let begun = Instant::now();
            while begun.elapsed() < DEADLINE
                && fs::read(cgroup.join("cgroup.events"))
                    .is_ok_and(|events| String::from_utf8_lossy(&events).contains("populated 1"))
            {
                thread::sleep(Duration::from_millis(10));
            }
            // Its processes are gone; directories that are left are no harm.
            let _ = Command::new("find")
                .arg(cgroup)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
                .stderr(Stdio::null())
                .status();
        }
        // Its mounts were in a namespace of its own, and are gone with it.
        let _ = fs::remove_dir_all(self.directory.path());
    }
}

/// The tree that a machine's root is laid over.
fn tree() -> Option<&'static Path> {
    static TREE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let tree = TREE.get_or_init(|| {
        let tree = source("target/debian");
        if !rustix::process::geteuid().is_root() {
            return Err("only root makes machines of namespaces".to_owned());
        }
        if !tree.join("lib/systemd/systemd").exists() {
            return Err(format!("there is no {}, which tests/run makes by debootstrap", tree.display()));
        }
        let namespaces =
            Command::new("unshare").args(["--mount", "--net", "--pid", "--fork", "true"]).output();
        match namespaces {
            Ok(output) if output.status.success() => Ok(tree),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    });
    match tree {
        Ok(tree) => Some(tree),
        Err(reason) => {
            println!("skipped: no machine to install on: {reason}");
            None
        }
    }
}

/// A cgroup for a machine, in the one hierarchy that can be handed to it.
fn own_cgroup() -> Result<PathBuf, String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mounts = fs::read_to_string("/proc/mounts").map_err(|error| error.to_string())?;
    let hierarchy = mounts
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(_, rest)| rest.split_once(" cgroup2 ").map(|(directory, _)| directory))
        .ok_or("there is no cgroup2 hierarchy")?;
    let name = format!("parley-relay-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let cgroup = Path::new(hierarchy).join(name);
    fs::create_dir(&cgroup).map_err(|error| format!("{}: {error}", cgroup.display()))?;
    Ok(cgroup)
}

/// A file of the source tree.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn ran(output: Output) -> Ran {
    let text = [output.stdout, output.stderr].concat();
    Ran { code: output.status.code(), text: String::from_utf8_lossy(&text).replace('\r', "") }
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
