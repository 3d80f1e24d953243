//! The units under systemd itself, on a machine that it runs.

use std::time::{Duration, Instant};

use super::{CONFIG, INSTALL, another_program, broken_program, program, release, released, served};
use crate::harness::Machine;

const UNITS: &str = "/etc/systemd/system";

/// A machine that systemd runs, with a release on it, and a relay that was installed from there.
fn installed() -> Option<Machine> {
    let machine = Machine::boot("1g")?;
    released(&machine);
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    Some(machine)
}

/// A property of the service.
fn show(machine: &Machine, property: &str) -> String {
    let line = format!("systemctl show --value --property {property} parley-relay.service");
    machine.must(&line).trim().to_owned()
}

/// Waits until `line` succeeds.
#[track_caller]
fn until(machine: &Machine, line: &str) {
    machine.must(&format!("until {line}; do sleep 0.1; done"));
}

#[test]
fn the_service_runs_with_one_capability_reloads_upgrades_and_comes_back() {
    let Some(machine) = installed() else { return };
    assert_eq!(show(&machine, "ActiveState"), "active");
    assert!(show(&machine, "StatusText").contains("chat.lan"));
    let first = show(&machine, "MainPID");
    let status = machine.must(&format!("cat /proc/{first}/status"));
    let bind = format!("{:016x}", 1 << 10);
    for line in [format!("CapEff:\t{bind}"), format!("CapBnd:\t{bind}"), "NoNewPrivs:\t1".to_owned()] {
        assert!(status.contains(&line), "{line}\n{status}");
    }
    assert_eq!(machine.must(&format!("stat -c %U /proc/{first}")), "parley-relay\n");
    assert_eq!(
        machine.must("stat -c '%a %U' /var/lib/parley-relay /run/parley-relay"),
        "700 parley-relay\n750 parley-relay\n"
    );

    machine.must(&format!("sed -i s/chat.lan/relay.lan/ {CONFIG} && systemctl reload parley-relay"));
    until(&machine, "systemctl show --property StatusText parley-relay | grep -q relay.lan");
    assert_eq!(show(&machine, "MainPID"), first);
    let fingerprint = served(&machine, 443, "relay.lan");

    machine.must("parley-relay upgrade");
    until(&machine, &format!("[ $(systemctl show --value --property MainPID parley-relay) != {first} ]"));
    assert_eq!((show(&machine, "ActiveState"), show(&machine, "NRestarts")), ("active".into(), "0".into()));
    assert_eq!(served(&machine, 443, "relay.lan"), fingerprint);

    machine.must("kill -KILL $(systemctl show --value --property MainPID parley-relay)");
    until(&machine, "[ $(systemctl show --value --property NRestarts parley-relay) = 1 ]");
    until(&machine, "systemctl is-active --quiet parley-relay");
    assert_eq!(served(&machine, 443, "relay.lan"), fingerprint);

    machine.must("systemctl stop parley-relay");
    assert_eq!((show(&machine, "Result"), show(&machine, "ExecMainStatus")), ("success".into(), "0".into()));
}

#[test]
fn behind_sockets_the_service_has_no_capability_and_a_restart_refuses_nobody() {
    let Some(machine) = installed() else { return };
    let drop_in = format!("{UNITS}/parley-relay.service.d");
    machine.must(&format!(
        "systemctl stop parley-relay && mkdir {drop_in} && parley-relay unit parley-relay-socket.conf >{drop_in}/socket.conf \
         && for unit in parley-relay.socket parley-relay-http.socket; do parley-relay unit $unit >{UNITS}/$unit; done \
         && systemctl daemon-reload && systemctl enable --now parley-relay.socket parley-relay-http.socket parley-relay"
    ));
    let status = machine.must(&format!("cat /proc/{}/status", show(&machine, "MainPID")));
    assert!(
        status.contains("CapEff:\t0000000000000000") && status.contains("CapBnd:\t0000000000000000"),
        "{status}"
    );
    let fingerprint = served(&machine, 443, "chat.lan");
    // While it is down, the socket takes the connection, which is answered when it is up again.
    let ask = "openssl s_client -connect 127.0.0.1:443 -servername chat.lan </dev/null 2>/dev/null";
    machine.must(&format!(
        "systemctl restart parley-relay & for try in 1 2 3 4 5 6 7 8; do {ask} | grep -q 'BEGIN CERT' || exit 1; done; wait"
    ));
    assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
    assert!(machine.must("wget -S --max-redirect 0 http://127.0.0.1/ 2>&1 || true").contains(" 301 "));
}

#[test]
fn a_broken_program_is_undone_under_systemd_too() {
    let Some(machine) = installed() else { return };
    let fingerprint = served(&machine, 443, "chat.lan");
    release(&machine, &another_program());
    machine.must(&format!("{INSTALL} update --yes"));
    machine.copy(program(), "/srv/good");
    machine.must("chmod 755 /srv/good");
    // One that ends at once, and one that never says that it is ready, for which systemd would wait 90 s.
    for run in ["exit 1", "exec sleep 1000"] {
        release(&machine, broken_program().replace("exit 1", run).as_bytes());
        let begun = Instant::now();
        let ran = machine.run(&format!("{INSTALL} update --yes --wait 3"));
        assert!(ran.code == Some(1) && ran.text.contains("as it was before"), "{}", ran.text);
        assert!(begun.elapsed() < Duration::from_secs(60), "{run}: {:?}", begun.elapsed());
    }
    assert_eq!(show(&machine, "ActiveState"), "active");
    assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
    machine.must(&format!("{INSTALL} uninstall --yes --purge"));
    assert_eq!(show(&machine, "LoadState"), "not-found");
}

#[test]
fn updates_by_the_timer_come_from_the_mirror_without_tls_that_was_trusted() {
    let Some(mut machine) = installed() else { return };
    let mirror = machine.serve("/srv/release").replace("127.0.0.1", "mirror.lan");
    machine.must("echo 127.0.0.1 mirror.lan >>/etc/hosts");
    machine.must("parley-relay --version | cut -d ' ' -f 2 >/srv/release/version.txt");
    machine.must("cd /srv/release && sha256sum version.txt >>SHA256SUMS");
    let modify = format!("{INSTALL} modify --yes --updates weekly --mirror {mirror}");
    machine.must(&format!("{modify} --plain-http"));
    machine.must("systemctl start parley-relay-update.service");
    machine.must("sed -i /UPDATE_FLAGS/d /etc/parley-relay/update.env");
    assert_ne!(machine.run("systemctl start parley-relay-update.service").code, Some(0));
}
