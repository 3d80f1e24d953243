//! `update` of a relay that runs: restarted, watched, and taken back when it does not come back.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use tokio::io::AsyncBufReadExt;

use crate::harness::{
    Client,
    mirror::{Installed, Release, program, url, works},
    peers::free_address,
    relay::stderr,
    within,
};

/// A relay that a script starts and restarts, as a service manager would, from [`Installed`]'s program.
struct Running {
    installed: Installed,
    directory: tempfile::TempDir,
    address: SocketAddr,
    client: Client,
}

impl Running {
    async fn start() -> Self {
        let (installed, directory) = (Installed::new(), tempfile::tempdir().unwrap());
        let address = free_address();
        let running = Self { installed, directory, address, client: Client::http(address) };
        let config = format!(
            "version = 1\n[server]\nhost = \"127.0.0.1\"\nport = {}\n[frontend]\nmode = \"disabled\"\n",
            address.port()
        );
        fs::write(running.path("config.toml"), config).unwrap();
        // The old one is gone when its files are closed, waited for or not.
        let script = format!(
            "cd {}\nif [ -f pid ]; then\n  pid=$(cat pid)\n  kill $pid 2>/dev/null\n  \
             while ls /proc/$pid/fd/* >/dev/null 2>&1; do sleep 0.02; done\nfi\n\
             {} --config config.toml >>log 2>&1 </dev/null &\necho $! >pid\n",
            running.directory.path().display(),
            running.installed.path("parley-relay").display(),
        );
        fs::write(running.path("restart"), script).unwrap();
        assert!(Command::new("sh").arg(running.path("restart")).status().unwrap().success());
        within("the relay to answer", running.answers()).await;
        running
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn answers(&self) {
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert_eq!(self.client.get("/x").await.status, 404);
    }

    fn pid(&self) -> String {
        fs::read_to_string(self.path("pid")).unwrap().trim().to_owned()
    }

    async fn update(&self, mirror: &str) -> std::process::Output {
        self.update_after("true", mirror).await
    }

    /// With something that is done before the restart.
    async fn update_after(&self, first: &str, mirror: &str) -> std::process::Output {
        let restart = format!("{first}; sh {}", self.path("restart").display());
        let config = self.path("config.toml");
        let config = config.to_str().unwrap();
        let arguments =
            ["--mirror", mirror, "--config", config, "--restart-with", &restart, "--well-within", "1s"];
        self.installed.update(&arguments).await
    }

    /// Where systemd runs the relay, as a stub says it, and `upgrade` is what the two programs say. The one that is
    /// installed is `before`. What it does to the unit is left in `systemctl.log`.
    async fn update_unit(&self, before: &[u8], after: &str) -> std::process::Output {
        self.installed.write("parley-relay", before);
        let mirror = Release::new("9.9.9", upgrading("9.9.9", after)).serve().await;
        let mut command = self.update_unit_command(&url(&mirror));
        within("the update to end", command.output()).await.unwrap()
    }

    fn update_unit_command(&self, mirror: &str) -> tokio::process::Command {
        let systemctl = self.path("systemctl");
        let stub = format!(
            "#!/bin/sh\ncase $1 in is-active | show | is-system-running) exit 0 ;; esac\necho \"$@\" >>{0}/systemctl.log\nexec sh {0}/restart\n",
            self.directory.path().display()
        );
        fs::write(&systemctl, stub).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let config = self.path("config.toml");
        let arguments = ["--mirror", mirror, "--config", config.to_str().unwrap(), "--well-within", "1s"];
        self.installed.update_command(self.directory.path(), &arguments)
    }

    fn restarts(&self) -> String {
        fs::read_to_string(self.path("systemctl.log")).unwrap_or_default()
    }
}

/// A program that serves, and whose `upgrade` runs this.
fn upgrading(version: &str, upgrade: &str) -> Vec<u8> {
    program(version, &format!("[ \"$1\" = upgrade ] && {{ {upgrade}; }}\n{}", works()))
}

const RESTARTED: &str = "restart parley-relay\n";

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", &self.pid()]).status();
    }
}

#[tokio::test]
async fn the_relay_is_restarted_with_the_new_program_and_answers() {
    let running = Running::start().await;
    let before = running.pid();
    let mirror = Release::new("9.9.9", program("9.9.9", &works())).serve().await;
    let output = running.update(&url(&mirror)).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("the relay runs it and answers"), "{told}");
    assert_ne!(running.pid(), before);
    running.answers().await;
}

#[tokio::test]
async fn a_new_program_that_does_not_serve_is_rolled_back_and_the_old_one_answers_again() {
    let running = Running::start().await;
    let mirror = Release::new("9.9.9", program("9.9.9", "exit 1")).serve().await;
    let output = running.update(&url(&mirror)).await;
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(told.contains("9.9.9 does not work here: the relay is not well"), "{told}");
    assert!(told.contains("the previous program is back, and answers"), "{told}");
    running.installed.assert_untouched();
    running.answers().await;
}

#[tokio::test]
async fn a_new_program_that_answers_once_and_dies_is_rolled_back() {
    let running = Running::start().await;
    let dies = format!("{} \"$@\" & sleep 1.5; kill -9 $!", env!("CARGO_BIN_EXE_parley-relay"));
    let mirror = Release::new("9.9.9", program("9.9.9", &dies)).serve().await;
    let output = running.update(&url(&mirror)).await;
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    running.installed.assert_untouched();
    running.answers().await;
}

#[tokio::test]
async fn a_restart_that_fails_is_rolled_back_too() {
    let running = Running::start().await;
    let before = running.pid();
    let mirror = Release::new("9.9.9", program("9.9.9", &works())).serve().await;
    let config = running.path("config.toml");
    let arguments =
        ["--mirror", &url(&mirror), "--config", config.to_str().unwrap(), "--restart-with", "exit 4"];
    let output = running.installed.update(&arguments).await;
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    assert!(stderr(&output).contains("`exit 4` fails (exit status: 4)"), "{}", stderr(&output));
    running.installed.assert_untouched();
    assert_eq!(running.pid(), before);
    running.answers().await;
}

#[tokio::test]
async fn a_relay_that_did_not_answer_before_keeps_the_new_program() {
    let running = Running::start().await;
    let _ = Command::new("kill").args(["-9", &running.pid()]).status();
    let mirror = Release::new("9.9.9", program("9.9.9", "exit 1")).serve().await;
    let output = running.update(&url(&mirror)).await;
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    assert!(stderr(&output).contains("did not answer before and does not now"), "{}", stderr(&output));
    assert_eq!(running.installed.program(), program("9.9.9", "exit 1"));
}

#[tokio::test]
async fn a_signal_in_the_middle_of_the_restart_leaves_nothing_half_done() {
    let running = Running::start().await;
    let mirror = Release::new("9.9.9", program("9.9.9", "exit 1")).serve().await;
    let output =
        running.update_after("for signal in TERM INT HUP; do kill -$signal $PPID; done", &url(&mirror)).await;
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    running.installed.assert_untouched();
    running.answers().await;
}

#[tokio::test]
async fn an_update_whose_terminal_is_gone_ends_what_it_has_begun() {
    let running = Running::start().await;
    let old = upgrading("0.0.1", "exit 70");
    running.installed.write("parley-relay", &old);
    let mirror = Release::new("9.9.9", program("9.9.9", "exit 1")).serve().await;
    // Somebody's eyes are on it until the download is there; that the old one does not hand over is told to nobody.
    let mut update = running.update_unit_command(&url(&mirror));
    let mut update = update.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    tokio::io::BufReader::new(update.stderr.take().unwrap()).read_line(&mut line).await.unwrap();
    assert!(line.contains(" MB"), "{line}");
    let status = within("the update to end", update.wait()).await.unwrap();
    assert_eq!((status.code(), running.installed.program()), (Some(70), old));
    running.answers().await;
}

#[tokio::test]
async fn at_a_shutdown_an_update_ends_at_once_and_the_next_one_sees_to_the_rest() {
    let running = Running::start().await;
    let systemctl = running.path("systemctl");
    fs::write(&systemctl, "#!/bin/sh\n[ $1 = is-system-running ] && echo stopping\nexit 1\n").unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let broken = program("9.9.9", "exit 1");
    let release = Release::new("9.9.9", broken.clone()).serve().await;
    let (mirror, config) = (url(&release), running.path("config.toml"));
    // Nothing is started any more, and the relay is stopped: neither is a fault of the program.
    for restart in ["exit 1".into(), format!("kill -TERM $PPID; kill {}; exec sleep 1000", running.pid())] {
        let _ = fs::rename(
            running.installed.path("parley-relay.previous"),
            running.installed.path("parley-relay"),
        );
        let arguments =
            ["--mirror", &mirror, "--config", config.to_str().unwrap(), "--restart-with", &restart];
        let output = running.installed.update_with_path(running.directory.path(), &arguments).await;
        assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
        assert!(stderr(&output).contains("is left to the next update"), "{}", stderr(&output));
        assert_eq!(running.installed.program(), broken);
    }

    // The machine is up again, with a relay that does not answer.
    let output = running.update(&mirror).await;
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    assert!(stderr(&output).contains("the previous program is back, and answers"), "{}", stderr(&output));
    running.installed.assert_untouched();
    running.answers().await;
}

#[tokio::test]
async fn a_refused_upgrade_takes_the_new_program_back_and_restarts_nothing() {
    let running = Running::start().await;
    let (before, old) = (running.pid(), upgrading("0.0.1", "exit 75"));
    let output = running.update_unit(&old, "exit 75").await;
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    assert!(stderr(&output).contains("the process that runs goes on"), "{}", stderr(&output));
    assert_eq!((running.restarts(), running.pid()), (String::new(), before));
    assert_eq!(running.installed.program(), old);
    running.answers().await;
}

#[tokio::test]
async fn an_upgrade_whose_end_is_not_known_is_followed_by_a_restart_of_the_unit() {
    for upgrade in ["exit 69", "exit 70", "kill -9 $$"] {
        let running = Running::start().await;
        let before = running.pid();
        let output = running.update_unit(&upgrading("0.0.1", "exit 75"), upgrade).await;
        assert_eq!(output.status.code(), Some(0), "{upgrade}: {}", stderr(&output));
        assert_eq!(running.restarts(), RESTARTED, "{upgrade}");
        assert_ne!(running.pid(), before);
        assert_eq!(running.installed.program(), upgrading("9.9.9", upgrade));
        running.answers().await;
    }
}

#[tokio::test]
async fn a_rollback_restarts_the_unit_however_its_upgrade_fails() {
    for upgrade in ["exit 69", "exit 70", "exit 75"] {
        let running = Running::start().await;
        let old = upgrading("0.0.1", upgrade);
        // What took over serves nobody.
        let output = running.update_unit(&old, &format!("kill -9 {}; exit 0", running.pid())).await;
        assert_eq!(output.status.code(), Some(70), "{upgrade}: {}", stderr(&output));
        assert!(stderr(&output).contains("the previous program is back, and answers"), "{}", stderr(&output));
        assert_eq!(
            (running.restarts(), running.installed.program()),
            (RESTARTED.to_owned(), old),
            "{upgrade}"
        );
        running.answers().await;
    }
}
