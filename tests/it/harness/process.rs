//! A child process whose output is read line by line, and which dies with its owner.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use super::within;

/// A running program. Dropping it kills it and waits for its end.
pub(crate) struct Process {
    child: Child,
    /// Processes that took over from it, the last one being the one that serves.
    heirs: Vec<Pid>,
    lines: watch::Receiver<Vec<String>>,
}

impl Process {
    /// Starts `command`; what it writes to either output is collected line by line.
    pub(crate) fn spawn(command: Command) -> Self {
        Self::spawn_with(command, Stdio::null(), Stdio::piped())
    }

    /// The same with other ends of standard input and output, which may be sockets for it to have.
    pub(crate) fn spawn_with(mut command: Command, stdin: Stdio, stdout: Stdio) -> Self {
        let mut child = command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let (sender, lines) = watch::channel(Vec::new());
        if let Some(stdout) = child.stdout.take() {
            collect(stdout, sender.clone());
        }
        collect(child.stderr.take().unwrap(), sender);
        Self { child, heirs: Vec::new(), lines }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// All lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.borrow().clone()
    }

    /// The first line that `wanted` accepts, now or later; fails when the process ends without it.
    pub(crate) async fn line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.lines_until(what, |lines| lines.iter().find(|line| wanted(line)).cloned()).await
    }

    /// Waits until `found` finds what it wants in the lines; fails when the process ends without it.
    pub(crate) async fn lines_until<T>(&self, what: &str, found: impl Fn(&[String]) -> Option<T>) -> T {
        let mut lines = self.lines.clone();
        let search = async {
            loop {
                if let Some(value) = found(&lines.borrow_and_update()) {
                    return value;
                }
                // An error: both outputs are closed, so nothing more will come.
                if lines.changed().await.is_err() {
                    if let Some(value) = found(&lines.borrow()) {
                        return value;
                    }
                    panic!("the process ended without {what}:\n{}", lines.borrow().join("\n"));
                }
            }
        };
        match tokio::time::timeout(super::DEADLINE, search).await {
            Ok(value) => value,
            Err(_) => panic!("no {what} in time:\n{}", self.lines().join("\n")),
        }
    }

    /// Signals the process that serves.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.heirs.last().copied().unwrap_or_else(|| self.pid());
        kill_process(pid, signal).expect("the process is ours and not waited for yet");
    }

    /// Notes a process that took over: it is killed with this one.
    pub(crate) fn heir(&mut self, pid: i32) {
        self.heirs.push(Pid::from_raw(pid).expect("a process has an id"));
    }

    /// Waits for the end of the process that was started, while others may have its output.
    pub(crate) async fn first_end(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(3 * super::DEADLINE, ended).await {
            Ok(status) => status,
            Err(_) => panic!("the first process does not end"),
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.id().try_into().unwrap()).unwrap()
    }

    /// Waits for the end of the process and of its output.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        let mut lines = self.lines.clone();
        within("the process to end", async {
            while lines.changed().await.is_ok() {}
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// Processor time that it has used, to a hundredth of a second.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        // What follows the name, which is in parentheses and may hold anything: `utime` and `stime` are the fields
        // 14 and 15 of proc(5), in ticks of which each Linux has a hundred a second.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Resident memory in bytes.
    pub(crate) fn rss(&self) -> u64 {
        let pid =
            self.heirs.last().map_or_else(|| self.id().to_string(), |heir| heir.as_raw_nonzero().to_string());
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap().count()
    }
}

impl Process {
    pub(crate) fn kill(&mut self) {
        // Both fail only where the process has ended and been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// All that an ended process wrote. A child of its own that lives on keeps its output open: it is not waited for
    /// longer than it takes to read what is there.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let give_up = Instant::now() + Duration::from_secs(1);
        while self.lines.has_changed().is_ok() && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(1));
        }
        self.lines()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for heir in &self.heirs {
            // An error: it has ended.
            kill_process(*heir, Signal::KILL).ok();
        }
        self.kill();
    }
}

/// A thread, because a pipe's end must be read even while a test blocks its runtime. It ends with the pipe.
fn collect(output: impl Read + Send + 'static, sender: watch::Sender<Vec<String>>) {
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            sender.send_modify(|lines| lines.push(text));
            line.clear();
        }
    });
}

/// Lets this process, and the relay that inherits it, open as many descriptors as the system allows.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let enough = limit.maximum.is_none_or(|maximum| maximum >= 4096);
    assert!(enough, "thousands of streams need 4096 descriptors, and only {:?} are allowed", limit.maximum);
}
