//! A program of the operator's that puts TXT records into the DNS and takes them away again.
//!
//! It is run as `hook present FQDN VALUE` and `hook cleanup FQDN VALUE`. The same is in the environment as
//! certbot's manual hooks have it: `CERTBOT_DOMAIN`, `CERTBOT_VALIDATION` and, for cleanup, what `present`
//! wrote to standard output as `CERTBOT_AUTH_OUTPUT`.

use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    pin::pin,
    process::{ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    fs::Access,
    process::{Pid, Signal},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};
use tracing::{debug, warn};

use super::{DnsError, Resolvers, wait_until_visible};

/// How long one run may take: providers' interfaces are slow, none is that slow.
const DEADLINE: Duration = Duration::from_secs(300);
/// How long output is waited for when the hook has ended: something it left behind may hold the pipes.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What is kept of each output, from its end.
const OUTPUT: usize = 16 * 1024;
/// What is kept of the line that goes into an error.
const LINE: usize = 300;

/// The program, and how its records are waited for.
#[derive(Debug)]
pub(crate) struct Hook {
    program: PathBuf,
    propagation: Duration,
    resolvers: Resolvers,
    deadline: Duration,
    /// What `present` wrote to standard output, by name and value: for many hooks the id of the record.
    outputs: Mutex<HashMap<(String, String), String>>,
}

/// Why a file is no hook.
#[derive(Debug)]
pub(crate) enum HookFault {
    /// It is not there, or may not be looked at.
    Missing(io::Error),
    NotAFile,
    NotExecutable,
}

/// Whether the file at `program` can be run by us; for the configuration, when it is read.
pub(crate) fn check(program: &Path) -> Result<(), HookFault> {
    let found = fs::metadata(program).map_err(HookFault::Missing)?;
    if !found.is_file() {
        return Err(HookFault::NotAFile);
    }
    rustix::fs::access(program, Access::EXEC_OK).map_err(|_| HookFault::NotExecutable)
}

/// What the program is asked to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Action {
    Present,
    Cleanup,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Cleanup => "cleanup",
        }
    }
}

impl Hook {
    /// Of a `program` that passed [`check`]. Its records are looked for with `resolvers`, for `propagation`.
    pub(crate) fn new(program: PathBuf, propagation: Duration, resolvers: Resolvers) -> Self {
        Self { program, propagation, resolvers, deadline: DEADLINE, outputs: Mutex::default() }
    }

    /// Has the record made.
    pub(super) async fn present(&self, fqdn: &str, value: &str) -> Result<(), DnsError> {
        let said = self.run(Action::Present, fqdn, value, "").await?;
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        outputs.insert((fqdn.to_owned(), value.to_owned()), said);
        Ok(())
    }

    /// Has the record taken away.
    pub(super) async fn cleanup(&self, fqdn: &str, value: &str) -> Result<(), DnsError> {
        let said = {
            let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
            outputs.remove(&(fqdn.to_owned(), value.to_owned()))
        };
        self.run(Action::Cleanup, fqdn, value, &said.unwrap_or_default()).await?;
        Ok(())
    }

    /// Waits for the record. Where nobody answers, as behind a filter, time alone has to do; a `propagation` of
    /// zero is for hooks that wait themselves, and for names that look different from here than from the CA.
    pub(super) async fn wait(&self, fqdn: &str, value: &str) -> Result<(), DnsError> {
        if self.propagation.is_zero() {
            return Ok(());
        }
        match wait_until_visible(fqdn, value, self.propagation, &self.resolvers).await {
            Err(error @ (DnsError::NoAnswer { .. } | DnsError::Resolvers { .. })) => {
                warn!("{error}; the CA is asked all the same");
                Ok(())
            }
            seen => seen,
        }
    }

    /// Runs the program to its end, and gives what it wrote to standard output.
    async fn run(&self, action: Action, fqdn: &str, value: &str, said: &str) -> Result<String, DnsError> {
        let failed = |source| DnsError::HookStart { hook: self.program.clone(), source };
        // SECURITY: no shell. Name and value are arguments, whatever is in them.
        let mut command = Command::new(&self.program);
        command
            .args([action.as_str(), fqdn, value])
            .env("CERTBOT_DOMAIN", fqdn.strip_prefix("_acme-challenge.").unwrap_or(fqdn))
            .env("CERTBOT_VALIDATION", value)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // A group of its own: what the hook starts is killed with it.
            .process_group(0);
        // The service manager's lines to us are not the hook's.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS"] {
            command.env_remove(name);
        }
        match action {
            Action::Present => command.env_remove("CERTBOT_AUTH_OUTPUT"),
            Action::Cleanup => command.env("CERTBOT_AUTH_OUTPUT", said),
        };
        let mut running = Running(command.spawn().map_err(failed)?);
        let ended = timeout(self.deadline, running.end()).await;
        let (status, stdout, stderr) = ended
            .map_err(|_| DnsError::HookTimeout { hook: self.program.clone(), limit: self.deadline })?
            .map_err(failed)?;
        for (stream, text) in [("stdout", &stdout), ("stderr", &stderr)] {
            for line in text.lines() {
                debug!(action = action.as_str(), fqdn, stream, "hook: {}", plain(line));
            }
        }
        if status.success() {
            return Ok(stdout.trim().to_owned());
        }
        let last = stderr.lines().rfind(|line| !line.trim().is_empty());
        Err(DnsError::HookFailed {
            hook: self.program.clone(),
            status,
            said: last.map(plain).unwrap_or_default(),
        })
    }
}

/// The hook's process; it does not outlive this.
struct Running(Child);

impl Running {
    /// Its status and the ends of its outputs.
    async fn end(&mut self) -> io::Result<(ExitStatus, String, String)> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (out, err) = (self.0.stdout.take(), self.0.stderr.take());
        let status = {
            let mut outputs = pin!(async { tokio::join!(tail(out, &mut stdout), tail(err, &mut stderr)) });
            tokio::select! {
                status = self.0.wait() => {
                    // What has not been said by now is not waited for: the status is what counts.
                    let _ = timeout(LAST_WORDS, outputs).await;
                    status?
                }
                _ = &mut outputs => self.0.wait().await?,
            }
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((status, text(stdout), text(stderr)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `id` is `None` once the process has been waited for: the group may then be somebody else's.
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // The only error is that it has just ended.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Reads `output` to its end and keeps the last [`OUTPUT`] bytes: a hook that talks is not held up by that.
async fn tail(output: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut output) = output else { return };
    let mut buffer = [0; 4096];
    // An output that cannot be read has ended.
    while let Ok(read @ 1..) = output.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        kept.drain(..kept.len().saturating_sub(OUTPUT));
    }
}

/// A line for logs and errors: short, and with nothing that a terminal obeys.
fn plain(line: &str) -> String {
    let printable = line.trim().chars().filter(|char| !char.is_control());
    printable.take(LINE).collect()
}

impl fmt::Display for HookFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(error) => write!(f, "the hook cannot be found: {error}"),
            Self::NotAFile => f.write_str("the hook is no file"),
            Self::NotExecutable => {
                f.write_str("the hook may not be executed by the relay's user (chmod +x makes it executable)")
            }
        }
    }
}

impl std::error::Error for HookFault {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tempfile::TempDir;

    const NAME: &str = "_acme-challenge.example.org";

    /// A hook that is a shell script of `body`, with `$DIR` for its directory.
    fn hook(directory: &TempDir, body: &str) -> Hook {
        let (program, home) = (directory.path().join("hook"), directory.path().display());
        let script = format!("#!/bin/sh\nDIR='{home}'\n{body}\n");
        // Written by another process: with a descriptor of ours in another test's child, for the moment
        // between fork and exec, the file would be busy.
        let written = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", &script])
            .arg(&program)
            .status();
        assert!(written.unwrap().success());
        check(&program).unwrap();
        let resolvers = Resolvers::on_this_machine(1);
        Hook::new(program, Duration::from_millis(10), resolvers)
    }

    fn written(directory: &TempDir, name: &str) -> String {
        fs::read_to_string(directory.path().join(name)).unwrap()
    }

    /// Whether the process is there, and no mere zombie that nobody waits for.
    fn is_alive(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
    }

    async fn dies(pid: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        while is_alive(pid) {
            assert!(Instant::now() < end, "{pid} lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn it_gets_arguments_and_the_environment_of_certbot() {
        let directory = tempfile::tempdir().unwrap();
        let body = "printf '%s|' \"$@\" \"$CERTBOT_DOMAIN\" \"$CERTBOT_VALIDATION\" \
                    \"${CERTBOT_AUTH_OUTPUT-unset}\" >> $DIR/log\necho record 42";
        let hook = hook(&directory, body);
        hook.present(NAME, "one").await.unwrap();
        hook.present(NAME, "two").await.unwrap();
        hook.cleanup(NAME, "one").await.unwrap();
        assert_eq!(
            written(&directory, "log"),
            format!(
                "present|{NAME}|one|example.org|one|unset|present|{NAME}|two|example.org|two|unset|\
                 cleanup|{NAME}|one|example.org|one|record 42|"
            )
        );
        assert_eq!(hook.outputs.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_value_is_never_a_command() {
        let directory = tempfile::tempdir().unwrap();
        let hook = hook(&directory, "printf %s \"$3\" > $DIR/value");
        let value = format!("$(touch {0}/x) `touch {0}/x`; touch {0}/x", directory.path().display());
        hook.present(NAME, &value).await.unwrap();
        assert_eq!(written(&directory, "value"), value);
        assert!(!directory.path().join("x").exists());
    }

    #[tokio::test]
    async fn a_failure_tells_the_status_and_the_last_line_without_control_characters() {
        let directory = tempfile::tempdir().unwrap();
        let body = "echo out; echo first >&2; printf '\\033[31mquota exceeded\\n\\n' >&2; exit 3";
        let error = hook(&directory, body).present(NAME, "one").await.unwrap_err();
        assert!(matches!(&error, DnsError::HookFailed { status, .. } if status.code() == Some(3)));
        let text = error.to_string();
        assert!(text.ends_with("exit status: 3: [31mquota exceeded"), "{text}");
        let quiet = hook(&directory, "exit 1").cleanup(NAME, "one").await.unwrap_err();
        assert!(quiet.to_string().ends_with("failed: exit status: 1"), "{quiet}");
        let killed = hook(&directory, "kill -9 $$").present(NAME, "one").await.unwrap_err();
        assert!(killed.to_string().contains("signal: 9"), "{killed}");
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_what_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let mut hook = hook(&directory, "sleep 600 &\necho $$ $! > $DIR/pids\nwait");
        hook.deadline = Duration::from_secs(1);
        let error = hook.present(NAME, "one").await.unwrap_err();
        assert!(matches!(error, DnsError::HookTimeout { .. }), "{error}");
        for pid in written(&directory, "pids").split_whitespace() {
            dies(pid).await;
        }
    }

    #[tokio::test]
    async fn it_is_killed_when_nobody_waits_for_it_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let hook = hook(&directory, "echo $$ > $DIR/pids\nexec sleep 600");
        let given_up = timeout(Duration::from_secs(1), hook.present(NAME, "one")).await;
        assert!(given_up.is_err());
        dies(&written(&directory, "pids")).await;
    }

    #[tokio::test]
    async fn it_may_say_much_read_nothing_and_leave_something_running() {
        let directory = tempfile::tempdir().unwrap();
        let body = "cat\nhead -c 1000000 /dev/zero | tr '\\0' a\nhead -c 1000000 /dev/zero >&2\n\
                    echo\necho the end\nsleep 20 &";
        let hook = hook(&directory, body);
        let begun = Instant::now();
        hook.present(NAME, "one").await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(15));
        let outputs = hook.outputs.lock().unwrap();
        let said = outputs.values().next().unwrap();
        assert!(said.ends_with("the end") && said.len() <= OUTPUT);
    }

    #[tokio::test]
    async fn a_file_that_is_missing_or_not_executable_is_no_hook() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        assert!(matches!(check(&missing), Err(HookFault::Missing(_))));
        assert!(matches!(check(directory.path()), Err(HookFault::NotAFile)));
        let plain = directory.path().join("plain");
        fs::write(&plain, "#!/bin/sh\n").unwrap();
        let fault = check(&plain).unwrap_err();
        assert!(matches!(fault, HookFault::NotExecutable) && fault.to_string().contains("chmod +x"));
        let hook = Hook::new(missing, Duration::ZERO, Resolvers::on_this_machine(1));
        let error = hook.present(NAME, "one").await.unwrap_err();
        assert!(matches!(error, DnsError::HookStart { .. }), "{error}");
    }

    #[tokio::test]
    async fn where_no_name_server_answers_the_ca_is_asked_after_the_wait() {
        let directory = tempfile::tempdir().unwrap();
        let mut hook = hook(&directory, "");
        hook.wait(NAME, "one").await.unwrap();
        hook.propagation = Duration::ZERO;
        hook.wait("not..a..name", "one").await.unwrap();
    }
}
