//! A mirror with one release, and a program that it replaces.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
};

use aws_lc_rs::digest;
use minisign::KeyPair;
use tempfile::TempDir;
use tokio::process::Command;

use super::{Backend, Reply, backend::Recorded, within};

/// What releases call the program for this kind of machine.
pub(crate) const BINARY: &str =
    if cfg!(target_arch = "aarch64") { "relay-linux-arm64" } else { "relay-linux-x64" };

/// The files of a release.
pub(crate) struct Release {
    pub(crate) version: String,
    pub(crate) binary: Vec<u8>,
    pub(crate) sums: String,
    pub(crate) signature: Option<String>,
}

/// A directory with a program in it that calls itself 0.0.1.
pub(crate) struct Installed(TempDir);

/// A program: a script in front of the real one, which calls itself `version` and runs `serve` instead of serving.
pub(crate) fn program(version: &str, serve: &str) -> Vec<u8> {
    let real = env!("CARGO_BIN_EXE_parley-relay");
    format!(
        "#!/bin/sh\ncase \"$1\" in\n--version) echo parley-relay {version} ;;\n\
         check) exec {real} \"$@\" ;;\n*) {serve} ;;\nesac\n"
    )
    .into_bytes()
}

/// What [`program`] serves with when it works.
pub(crate) fn works() -> String {
    format!("exec {} \"$@\"", env!("CARGO_BIN_EXE_parley-relay"))
}

impl Release {
    pub(crate) fn new(version: &str, binary: Vec<u8>) -> Self {
        let version_file = format!("{version}\n");
        let mut sums = String::new();
        for (name, bytes) in [(BINARY, binary.as_slice()), ("version.txt", version_file.as_bytes())] {
            let digest = digest::digest(&digest::SHA256, bytes);
            let hex: String = digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            });
            writeln!(sums, "{hex}  {name}").unwrap();
        }
        Self { version: version_file, binary, sums, signature: None }
    }

    /// Signs the checksums as they are now.
    pub(crate) fn signed(mut self, pair: &KeyPair) -> Self {
        let signed =
            minisign::sign(None, &pair.sk, self.sums.as_bytes(), Some("parley-relay"), None).unwrap();
        self.signature = Some(signed.to_string());
        self
    }

    /// Serves it.
    pub(crate) async fn serve(self) -> Backend {
        let binary = self.binary.clone();
        self.serve_binary(move |_| Reply::ok(binary.clone())).await
    }

    /// Serves it, with another way to answer for the program.
    pub(crate) async fn serve_binary(
        self,
        binary: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
    ) -> Backend {
        let Self { version, sums, signature, .. } = self;
        Backend::builder()
            .on("/dl/version.txt", move |_| Reply::ok(version.clone()))
            .on("/dl/SHA256SUMS", move |_| Reply::ok(sums.clone()))
            .on("/dl/SHA256SUMS.minisig", move |_| match &signature {
                Some(signature) => Reply::ok(signature.clone()),
                None => Reply::status("404 Not Found"),
            })
            .on(&format!("/dl/{BINARY}"), binary)
            .start()
            .await
    }

    /// Writes it into a directory.
    pub(crate) fn write(self, directory: &Path) {
        fs::write(directory.join("version.txt"), self.version).unwrap();
        fs::write(directory.join("SHA256SUMS"), self.sums).unwrap();
        fs::write(directory.join(BINARY), self.binary).unwrap();
    }
}

/// Where a mirror is.
pub(crate) fn url(mirror: &Backend) -> String {
    format!("http://{}/dl/", mirror.address())
}

impl Installed {
    pub(crate) fn new() -> Self {
        let installed = Self(TempDir::new().unwrap());
        installed.write("parley-relay", program("0.0.1", &works()));
        installed
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a program.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The program that is there now.
    pub(crate) fn program(&self) -> Vec<u8> {
        fs::read(self.path("parley-relay")).unwrap()
    }

    /// All that is there, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Fails unless the program is the one that it was, and alone.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(self.names(), ["parley-relay"]);
        assert_eq!(self.program(), program("0.0.1", &works()));
    }

    /// Runs `update` on it where `path` comes first among the places of programs.
    pub(crate) async fn update_with_path(&self, path: &Path, arguments: &[&str]) -> Output {
        let mut command = self.update_command(path, arguments);
        within("the update to end", command.output()).await.unwrap()
    }

    /// What [`Self::update_with_path`] runs.
    pub(crate) fn update_command(&self, path: &Path, arguments: &[&str]) -> Command {
        let found = std::env::var("PATH").unwrap();
        let mut command = command(&self.path("parley-relay"), arguments);
        command.env("PATH", format!("{}:{found}", path.display()));
        command
    }

    /// Runs `update` on it.
    pub(crate) async fn update(&self, arguments: &[&str]) -> Output {
        update(&self.path("parley-relay"), arguments).await
    }
}

/// Runs `update` on a program.
pub(crate) async fn update(program: &Path, arguments: &[&str]) -> Output {
    within("the update to end", command(program, arguments).output()).await.unwrap()
}

fn command(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parley-relay"));
    command.arg("update").arg("--binary").arg(program).args(arguments).kill_on_drop(true);
    for variable in ["MIRROR_BASE_URL", "http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    command
}
