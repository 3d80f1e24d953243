//! `update` of a relay that runs: restarted, watched, and taken back when it does not come back.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

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
}

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
    let output = running.update_after("kill -TERM $PPID; kill -INT $PPID", &url(&mirror)).await;
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    running.installed.assert_untouched();
    running.answers().await;
}
