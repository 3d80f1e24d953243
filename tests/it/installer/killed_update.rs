//! `parley-relay update` that was killed, under systemd: the next one ends it.

use super::{
    BINARY, another_program, release, served,
    systemd::{
        SERVES, UNITS, UPDATE, installed_with_good, on_disk, put_there, recorded, release_with_another_unit,
        show, until,
    },
};
use crate::harness::Machine;

const CHECK: &str = "/srv/good update --check --binary /usr/local/bin/parley-relay --mirror /srv/release";
const MARK: &str = "/usr/local/bin/.parley-relay.unfinished";

/// Releases the program as another file of the same version, and kills the update to it before it restarts anything.
fn killed_before_the_restart(machine: &Machine) {
    machine
        .must(&format!("{UPDATE} --any-version --mirror /srv/first").replace("--mirror /srv/release ", ""));
    release(machine, &another_program());
    tell_version(machine, "/srv/release");
    let ran = machine.run(&format!("{UPDATE} --any-version --restart-with 'kill -KILL $PPID'; exit $?"));
    assert_eq!(ran.code, Some(137), "{}", ran.text);
    assert!(machine.has(MARK));
    assert!(!runs_what_is_on_disk(machine));
}

fn tell_version(machine: &Machine, directory: &str) {
    machine.must(&format!(
        "cd {directory} && {BINARY} --version | cut -d ' ' -f 2 >version.txt && sha256sum version.txt >>SHA256SUMS"
    ));
}

/// Kills the update when the relay that ran before has ended.
fn killed_in_the_restart(machine: &Machine) {
    let before = show(machine, "MainPID");
    let ran = machine.run(&format!(
        "{UPDATE} & until ! kill -0 {before} 2>/dev/null; do sleep 0.05; done; kill -KILL $!; wait $!; exit $?"
    ));
    assert_eq!(ran.code, Some(137), "{}", ran.text);
    assert!(machine.has(MARK));
}

fn runs_what_is_on_disk(machine: &Machine) -> bool {
    machine.run(&format!("[ /proc/{}/exe -ef {BINARY} ]", show(machine, "MainPID"))).code == Some(0)
}

#[track_caller]
fn ended(machine: &Machine) {
    let running = show(machine, "MainPID");
    let text = machine.must(UPDATE);
    assert!(text.trim_end().ends_with("is the newest release"), "{text}");
    assert_eq!(show(machine, "MainPID"), running);
    assert!(!machine.has(MARK));
}

#[test]
fn a_relay_that_an_update_did_not_come_to_restart_is_handed_over_by_the_next() {
    let Some(machine) = installed_with_good() else { return };
    let state = || ["InvocationID", "ActiveState"].map(|property| show(&machine, property));
    let before = state();
    tell_version(&machine, "/srv/first");
    // The mark is not all: an update of an earlier version left none.
    for first in ["true".to_owned(), format!("rm {MARK}")] {
        killed_before_the_restart(&machine);
        machine.must(&first);
        let running = show(&machine, "MainPID");
        let text = machine.must(CHECK);
        assert!(text.contains("is the newest release, but the relay still runs another program"), "{text}");
        assert_eq!(show(&machine, "MainPID"), running);
        let text = machine.must(UPDATE);
        assert!(
            text.contains("but the relay still ran another program: the relay runs this one now and answers"),
            "{text}"
        );
        assert!(runs_what_is_on_disk(&machine));
        assert_eq!(state(), before);
        ended(&machine);
    }
    // The timer's, and one of an older unit, which may not see what the relay runs.
    machine.must("bash /srv/release/install.sh modify --yes --updates weekly");
    machine.must("echo MIRROR_BASE_URL=/srv/release >/etc/parley-relay/update.env");
    for capabilities in ["", "CapabilityBoundingSet=~CAP_SYS_PTRACE"] {
        killed_before_the_restart(&machine);
        let drop_in = "/run/systemd/system/parley-relay-update.service.d";
        machine.must(&format!(
            "mkdir -p {drop_in} && printf '[Service]\\n{capabilities}\\n' >{drop_in}/a.conf && systemctl daemon-reload \
             && systemctl start parley-relay-update.service"
        ));
        assert!(runs_what_is_on_disk(&machine), "{}", machine.must("journalctl --no-pager -n 20"));
        let told = machine.must("journalctl --no-pager -n 20 -u parley-relay-update");
        let told = told.lines().rev().find(|line| line.contains("is the newest release")).unwrap();
        assert_eq!(told.contains("still ran another program"), capabilities.is_empty(), "{told}");
        ended(&machine);
    }
}

#[test]
fn an_update_that_was_killed_in_its_restart_is_taken_back_by_the_next_if_the_relay_does_not_answer() {
    let Some(machine) = installed_with_good() else { return };
    let (before, fingerprint) = (put_there(&machine), served(&machine, 443, "chat.lan"));
    let old = std::fs::read(machine.path(BINARY)).unwrap();
    for serve in ["sleep 1; exit 1", "exec sleep 1000"] {
        release_with_another_unit(&machine, "98.0.0", serve);
        killed_in_the_restart(&machine);
        let ran = machine.run(UPDATE);
        assert_eq!(ran.code, Some(70), "{}", ran.text);
        assert!(ran.text.contains("98.0.0 does not work here"), "{}", ran.text);
        assert!(ran.text.contains("the previous program is back, and answers"), "{}", ran.text);
        assert_eq!(std::fs::read(machine.path(BINARY)).unwrap(), old);
        assert_eq!((put_there(&machine), machine.has(MARK)), (before.clone(), false));
        assert_eq!(show(&machine, "RestartUSec"), "2s");
        assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
    }
    // Killed in going back: the units are those of a program that is gone.
    release_with_another_unit(&machine, "98.0.0", "sleep 1; exit 1");
    killed_in_the_restart(&machine);
    machine.must(&format!("mv {BINARY}.previous {BINARY}"));
    until(&machine, "systemctl is-active --quiet parley-relay");
    let ran = machine.run(UPDATE);
    assert_eq!(ran.code, Some(70), "{}", ran.text);
    assert_eq!(std::fs::read(machine.path(BINARY)).unwrap(), old);
    assert_eq!((put_there(&machine), machine.has(MARK)), (before, false));
    // Two broken ones: what is gone back to is what worked.
    killed_in_the_restart(&machine);
    release_with_another_unit(&machine, "98.0.1", "sleep 1; exit 1");
    let _ = machine.run(UPDATE);
    assert_eq!(std::fs::read(machine.path(&format!("{BINARY}.previous"))).unwrap(), old);
}

#[test]
fn an_update_that_is_stopped_in_its_restart_ends_it_and_a_shutdown_does_not_wait_for_that() {
    let Some(machine) = installed_with_good() else { return };
    machine.must("bash /srv/release/install.sh modify --yes --updates weekly");
    machine.must("echo MIRROR_BASE_URL=/srv/release >/etc/parley-relay/update.env");
    let stopped = |stop: &str| {
        let before = show(&machine, "MainPID");
        machine.must(&format!(
            "systemctl start --no-block parley-relay-update.service; while kill -0 {before} 2>/dev/null; do sleep 0.05; \
             done; {stop} parley-relay-update.service"
        ));
    };
    release_with_another_unit(&machine, "98.0.0", &format!("sleep 3; {SERVES}"));
    stopped("systemctl stop");
    let told = machine.must("journalctl --no-pager -u parley-relay-update.service");
    assert!(told.contains("0.1.0 is replaced by 98.0.0; the relay runs it and answers"), "{told}");
    assert!(!machine.has(MARK));

    // What takes long to stop lets us look on.
    machine.write(
        &format!("{UNITS}/hold.service"),
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/bin/sleep 60\n",
    );
    machine.must("systemctl daemon-reload && systemctl start hold.service");
    release_with_another_unit(&machine, "99.0.0", &format!("sleep 20; {SERVES}"));
    stopped("systemctl --no-block poweroff #");
    let begun = std::time::Instant::now();
    until(
        &machine,
        "systemctl show --property ActiveState parley-relay-update.service | grep -q 'inactive\\|failed'",
    );
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    let told = machine.must("journalctl --no-pager -n 30 -u parley-relay-update.service");
    assert!(told.contains("is left to the next update"), "{told}");
    assert_eq!(machine.must(&format!("{BINARY} --version")), "parley-relay 99.0.0\n");
    assert!(machine.has(MARK));
}

#[test]
fn an_update_that_was_killed_is_watched_to_its_end_by_the_next_with_its_units() {
    let Some(machine) = installed_with_good() else { return };
    let fingerprint = served(&machine, 443, "chat.lan");
    let unit = format!("{UNITS}/parley-relay.service");
    machine.must("cp -a /etc/parley-relay/installed /srv/manifest && cp -a /etc/systemd/system/parley-relay.service /srv/unit");
    release_with_another_unit(&machine, "99.0.0", &format!("sleep 4; {SERVES}"));
    killed_in_the_restart(&machine);
    let text = machine.must(&UPDATE.replace("3s", "20s"));
    assert!(text.contains("the update to it was cut off: the relay runs this one now and answers"), "{text}");
    let new = machine.read(&unit);
    let assert_whole = |text: &str| {
        assert_eq!((machine.read(&unit), recorded(&machine)), (new.clone(), on_disk(&machine)), "{text}");
        assert_eq!(show(&machine, "RestartUSec"), "3s", "{text}");
        assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
        ended(&machine);
    };
    assert_whole(&text);
    // As it is where it was killed before the units were written, and where those had not been written down.
    for (left, told) in [
        (
            "cp -a /srv/unit /etc/systemd/system/parley-relay.service",
            "units were still those of another: the relay runs",
        ),
        ("true", "is the newest release\n"),
    ] {
        machine.must(&format!(
            "cp -a /srv/manifest /etc/parley-relay/installed && {left} && systemctl daemon-reload"
        ));
        let text = machine.must(&UPDATE.replace("3s", "20s"));
        assert!(text.contains(told), "{text}");
        assert_whole(&text);
    }
    // Somebody's own is not told of again and again.
    machine.must(&format!("echo '# mine' >>{unit}; sed -i 's/^unit parley-relay.service .*/unit parley-relay.service {}/' /etc/parley-relay/installed", "0".repeat(64)));
    let text = machine.must(UPDATE);
    assert!(!text.contains("edited"), "{text}");
}
