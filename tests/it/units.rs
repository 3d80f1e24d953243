//! The systemd units: valid, hardened, and printed by the program as they lie in dist/.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

const UNITS: [&str; 5] = [
    "parley-relay.service",
    "parley-relay.socket",
    "parley-relay-http.socket",
    "parley-relay-update.service",
    "parley-relay-update.timer",
];

/// The most that `systemd-analyze security` may find.
const EXPOSURE: f64 = 1.5;

/// The units in a directory of their own, with a program that is there.
fn units() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in UNITS {
        let text = fs::read_to_string(dist().join(name)).unwrap();
        let text = text.replace("/usr/local/bin/parley-relay", env!("CARGO_BIN_EXE_parley-relay"));
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn dist() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist")
}

/// `None`: there is no systemd-analyze, which has been said.
fn analyze(arguments: &[&str], unit: &Path) -> Option<Output> {
    match Command::new("systemd-analyze").args(arguments).arg(unit).output() {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "systemd-analyze cannot be run, and in CI it must: {error}"
            );
            println!("skipped: systemd-analyze cannot be run: {error}");
            None
        }
    }
}

fn exposure(unit: &Path) -> Option<f64> {
    let output = analyze(&["security", "--offline=true", "--no-pager"], unit)?;
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, score) = text.rsplit_once(".service: ").unwrap_or_else(|| panic!("no score: {text}"));
    Some(score.split_whitespace().next().unwrap().parse().unwrap())
}

#[test]
fn systemd_takes_every_unit_without_a_word() {
    let directory = units();
    for name in UNITS {
        let Some(output) = analyze(&["verify", "--man=no"], &directory.path().join(name)) else {
            return;
        };
        let told = String::from_utf8(output.stderr).unwrap();
        // What it says of the machine's own units is none of ours.
        let ours: Vec<_> = told.lines().filter(|line| line.contains("parley")).collect();
        assert!(output.status.success() && ours.is_empty(), "{name}: {told}");
    }
}

#[test]
fn the_service_is_hardened_with_one_capability_and_more_so_without_any() {
    let directory = units();
    let service = directory.path().join("parley-relay.service");
    let Some(score) = exposure(&service) else { return };
    let drop_in = directory.path().join("parley-relay.service.d");
    fs::create_dir(&drop_in).unwrap();
    fs::copy(dist().join("parley-relay-socket.conf"), drop_in.join("socket.conf")).unwrap();
    let with_sockets = exposure(&service).unwrap();
    println!("exposure: {score}, with sockets {with_sockets}");
    assert!(score <= EXPOSURE, "{score}");
    assert!(with_sockets < score, "{with_sockets}");
}

#[test]
fn the_program_prints_the_units_as_they_are() {
    for name in UNITS.into_iter().chain(["parley-relay-socket.conf"]) {
        let output = Command::new(env!("CARGO_BIN_EXE_parley-relay")).args(["unit", name]).output().unwrap();
        assert_eq!(output.stdout, fs::read(dist().join(name)).unwrap(), "{name}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_parley-relay")).arg("unit").output().unwrap();
    assert_eq!(output.stdout, fs::read(dist().join("parley-relay.service")).unwrap());
}

#[test]
fn the_drain_fits_into_the_time_that_systemd_gives() {
    let text = fs::read_to_string(dist().join("parley-relay.service")).unwrap();
    let example =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml")).unwrap();
    let seconds = |text: &str, key: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_matches(|character: char| !character.is_ascii_digit()).parse().unwrap()
    };
    assert!(seconds(&text, "TimeoutStopSec=") >= seconds(&example, "drain = ") + 10);
}

#[test]
fn a_reload_checks_first_what_the_service_was_started_with() {
    let text = fs::read_to_string(dist().join("parley-relay.service")).unwrap();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    let started = value("ExecStart=").replace("parley-relay --config", "parley-relay check --config");
    assert_eq!(value("ExecReload="), started);
}
