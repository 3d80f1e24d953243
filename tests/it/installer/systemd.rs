//! The units under systemd itself, on a machine that it runs.

use std::time::{Duration, Instant};

use super::{BINARY, CONFIG, INSTALL, another_program, broken_program, program, release, released, served};
use crate::harness::Machine;

pub(super) const UNITS: &str = "/etc/systemd/system";
const MANIFEST: &str = "/etc/parley-relay/installed";

/// A machine that systemd runs, with a release on it, and a relay that was installed from there.
fn installed() -> Option<Machine> {
    let machine = Machine::boot("1g")?;
    released(&machine);
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    Some(machine)
}

/// A property of the service.
pub(super) fn show(machine: &Machine, property: &str) -> String {
    show_of(machine, "parley-relay.service", property)
}

fn show_of(machine: &Machine, unit: &str, property: &str) -> String {
    machine.must(&format!("systemctl show --value --property {property} {unit}")).trim().to_owned()
}

/// Whether units are there, run and start at boot: of the HTTPS socket, the HTTP socket and the service.
fn states(machine: &Machine) -> [String; 3] {
    ["parley-relay.socket", "parley-relay-http.socket", "parley-relay.service"].map(|unit| {
        let [load, active, enabled] =
            ["LoadState", "ActiveState", "UnitFileState"].map(|property| show_of(machine, unit, property));
        format!("{load} {active} {enabled}").trim().to_owned()
    })
}

const UP: &str = "loaded active enabled";
const GONE: &str = "not-found inactive";

/// What lies among systemd's units and in the relay's own directory, with checksums, links too.
pub(super) fn put_there(machine: &Machine) -> String {
    machine.must(
        "find /etc/systemd /etc/parley-relay \\( -type f -exec sha256sum {} + \\) -o -print 2>/dev/null | sort; true",
    )
}

/// Asserts that a restart refuses nobody who asks at 443.
#[track_caller]
fn refuses_nobody_in_a_restart(machine: &Machine) {
    // While it is down, the socket takes the connection, which is answered when it is up again.
    let ask = "openssl s_client -connect 127.0.0.1:443 -servername chat.lan </dev/null 2>/dev/null";
    machine.must(&format!(
        "systemctl restart parley-relay & for try in 1 2 3 4 5 6 7 8; do {ask} | grep -q 'BEGIN CERT' || exit 1; done; wait"
    ));
}

/// Waits until `line` succeeds.
#[track_caller]
pub(super) fn until(machine: &Machine, line: &str) {
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

/// Asserts that a reload of what `edit` makes of the config fails and tells why, and that the relay goes on; puts the
/// config back.
#[track_caller]
fn refuses_to_reload(machine: &Machine, edit: &str, told: &str) {
    let running = show(machine, "MainPID");
    machine.must(&format!("cp {CONFIG} /srv/config.toml && {edit}"));
    let ran = machine.run("systemctl reload parley-relay");
    assert_ne!(ran.code, Some(0), "{edit}: {}", ran.text);
    machine.must("journalctl --sync");
    let journal = machine.must("journalctl --no-pager --output cat --unit parley-relay");
    assert!(journal.contains(told), "{told}\n{journal}");
    // It was not even asked.
    assert!(!journal.contains("is refused"), "{journal}");
    assert_eq!((show(machine, "ActiveState"), show(machine, "MainPID")), ("active".into(), running));
    served(machine, 443, "chat.lan");
    machine.must(&format!("cat /srv/config.toml >{CONFIG}"));
}

#[test]
fn a_reload_of_a_broken_config_fails_and_tells_why_and_the_one_before_stays() {
    let Some(machine) = installed() else { return };
    // What root may read and the relay may not is none of its files.
    machine.write("/etc/secret/cert.pem", "");
    machine.must("chmod 600 /etc/secret/cert.pem");
    for sockets in ["no", "yes"] {
        machine.must(&format!("{INSTALL} modify --yes --sockets {sockets}"));
        let end = machine.must(&format!("wc -l <{CONFIG}"));
        let line = end.trim().parse::<usize>().unwrap() + 1;
        refuses_to_reload(&machine, &format!("echo 'nonsense =' >>{CONFIG}"), &format!("{CONFIG}:{line}:"));
        let unreadable =
            "mode = \"files\"\\ncert = \"/etc/secret/cert.pem\"\\nkey = \"/etc/secret/cert.pem\"";
        refuses_to_reload(
            &machine,
            &format!("sed -i 's|^mode = \"self-signed\"|{unreadable}|' {CONFIG}"),
            "Permission denied",
        );
        machine.must(&format!("sed -i s/chat.lan/relay.lan/ {CONFIG} && systemctl reload parley-relay"));
        until(&machine, "systemctl show --property StatusText parley-relay | grep -q relay.lan");
        machine.must(&format!("sed -i s/relay.lan/chat.lan/ {CONFIG} && systemctl reload parley-relay"));
        until(&machine, "systemctl show --property StatusText parley-relay | grep -q chat.lan");
    }
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
    refuses_nobody_in_a_restart(&machine);
    assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
    assert!(machine.must("wget -S --max-redirect 0 http://127.0.0.1/ 2>&1 || true").contains(" 301 "));

    // What was set up by hand is left alone by whoever is not told of sockets.
    let before = put_there(&machine);
    release(&machine, &another_program());
    machine.must(&format!("{INSTALL} update --yes && {INSTALL} modify --yes && {INSTALL} --yes"));
    assert_eq!(put_there(&machine), before);
    assert_eq!(states(&machine), [UP, UP, UP]);
    // Whoever is told of them takes over the sockets, and not the drop-in.
    let modify = format!("{INSTALL} modify --yes --sockets");
    let ran = machine.run(&format!("{modify} yes"));
    assert!(ran.code == Some(1) && ran.text.contains(&format!("{drop_in}/socket.conf")), "{}", ran.text);
    assert_eq!((put_there(&machine), states(&machine)), (before, [UP, UP, UP].map(str::to_owned)));
    machine.must(&format!("rm {drop_in}/socket.conf && {modify} yes"));
    assert_eq!((recorded(&machine), states(&machine)), (on_disk(&machine), [UP, UP, UP].map(str::to_owned)));
    machine.must(&format!("{modify} no"));
    assert_eq!(states(&machine), [GONE, GONE, UP]);
    assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
}

#[test]
fn sockets_are_installed_changed_and_taken_away_again() {
    let Some(machine) = Machine::boot("1g") else { return };
    released(&machine);
    let before = put_there(&machine);
    machine.must(&format!("{INSTALL} --yes --domain chat.lan --sockets yes"));
    assert_eq!(states(&machine), [UP, UP, UP]);
    assert_eq!(recorded(&machine), on_disk(&machine));
    let fingerprint = served(&machine, 443, "chat.lan");
    let capabilities = || {
        let status = machine.must(&format!("cat /proc/{}/status", show(&machine, "MainPID")));
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
        u64::from_str_radix(line.unwrap(), 16).unwrap()
    };
    assert_eq!(capabilities(), 0);
    refuses_nobody_in_a_restart(&machine);
    assert!(machine.must("wget -S --max-redirect 0 http://127.0.0.1/ 2>&1 || true").contains(" 301 "));
    let (there, running) = (put_there(&machine), show(&machine, "MainPID"));
    for action in ["install", "modify"] {
        let text = machine.must(&format!("{INSTALL} {action} --yes"));
        assert!(text.contains("Nothing has changed"), "{text}");
    }
    assert_eq!((put_there(&machine), show(&machine, "MainPID")), (there, running));
    // Changed in the config alone, it is still systemd's.
    let doctor = || machine.run("parley-relay doctor").text;
    assert!(!doctor().contains("systemd keeps port"), "{}", doctor());
    machine.must(&format!(
        "cp -p {CONFIG} /srv/config && sed -i 's/^\\[tls\\]/[server]\\nport = 8443\\n[tls]/' {CONFIG}"
    ));
    let told = doctor();
    assert!(
        told.contains(
            "systemd keeps port 443 for the relay, by parley-relay.socket, and the config says 8443"
        ),
        "{told}"
    );
    machine.must(&format!("cp -p /srv/config {CONFIG}"));

    // Each port by itself, and both; one that is not wanted any more.
    for (flags, port, http_port) in [
        ("--port 8443", 8443, 80),
        ("--http-port 8080", 8443, 8080),
        ("--port 443 --http-port 80", 443, 80),
        ("--http-port 0", 443, 0),
        ("--http-port 8080", 443, 8080),
    ] {
        machine.must(&format!("{INSTALL} modify --yes {flags}"));
        let http = if http_port == 0 { GONE } else { UP };
        assert_eq!(states(&machine), [UP, http, UP], "{flags}");
        assert_eq!(served(&machine, port, "chat.lan"), fingerprint, "{flags}");
        let listening =
            machine.must("cat /proc/net/tcp6 | awk '$4 == \"0A\" { sub(/.*:/, \"\", $2); print $2 }'");
        let mut listening: Vec<_> =
            listening.lines().map(|port| u16::from_str_radix(port, 16).unwrap()).collect();
        listening.sort_unstable();
        let mut wanted = vec![port, http_port];
        wanted.retain(|port| *port != 0);
        wanted.sort_unstable();
        assert_eq!(listening, wanted, "{flags}");
        assert_eq!(recorded(&machine), on_disk(&machine));
    }

    machine.must(&format!("{INSTALL} modify --yes --sockets no"));
    assert_eq!(states(&machine), [GONE, GONE, UP]);
    assert_eq!((capabilities(), served(&machine, 443, "chat.lan")), (1 << 10, fingerprint.clone()));
    assert!(!machine.has(&format!("{UNITS}/parley-relay.service.d")));
    assert_eq!(recorded(&machine), on_disk(&machine));
    assert!(!machine.read(MANIFEST).contains("socket.conf"));

    machine.must(&format!("{INSTALL} modify --yes --sockets yes"));
    assert_eq!(states(&machine), [UP, UP, UP]);
    assert_eq!((capabilities(), served(&machine, 443, "chat.lan")), (0, fingerprint));
    machine.must(&format!("{INSTALL} uninstall --yes --purge"));
    assert_eq!(states(&machine), [GONE, GONE, GONE]);
    assert_eq!(put_there(&machine), before);
}

#[test]
fn who_changes_to_sockets_and_back_is_away_no_longer_than_a_restart_takes() {
    let Some(machine) = installed() else { return };
    // A hundredth of a second for each try: the tries in a row that were refused.
    let longest = |line: &str| -> u32 {
        let text = machine.must(&format!(
            "{{ {line} >/dev/null; touch /srv/done; }} & row=0 most=0; rm -f /srv/done; until [ -f /srv/done ]; do \
             if (exec 3<>/dev/tcp/127.0.0.1/443) 2>/dev/null; then row=0; else row=$((row + 1)); fi; \
             [ $row -le $most ] || most=$row; sleep 0.01; done; echo $most; wait"
        ));
        text.trim().parse().unwrap()
    };
    let restart = longest("systemctl restart parley-relay");
    for sockets in ["yes", "no"] {
        let away = longest(&format!("{INSTALL} modify --yes --sockets {sockets}"));
        println!("a restart: {restart}, --sockets {sockets}: {away}");
        assert!(away <= 2 * restart + 20, "--sockets {sockets}: {away}, a restart: {restart}");
    }
}

#[test]
fn sockets_that_cannot_be_had_are_undone() {
    let Some(mut machine) = installed() else { return };
    let taken = machine.serve("/srv/release");
    let taken = taken.rsplit_once(':').unwrap().1.to_owned();
    let fingerprint = served(&machine, 443, "chat.lan");
    let undone = |flags: &str, wanted: [&str; 3]| {
        let before = put_there(&machine);
        let line = format!("{INSTALL} modify --yes --wait 3 --port {taken} {flags}");
        let ran = machine.run(&line);
        assert!(ran.code == Some(1) && ran.text.contains("as it was before"), "{line}\n{}", ran.text);
        assert_eq!(put_there(&machine), before, "{line}\n{}", ran.text);
        assert_eq!(states(&machine), wanted, "{line}\n{}", ran.text);
        assert_eq!(served(&machine, 443, "chat.lan"), fingerprint, "{line}");
    };
    undone("--sockets yes", [GONE, GONE, UP]);
    machine.must(&format!("{INSTALL} modify --yes --sockets yes"));
    undone("", [UP, UP, UP]);
    undone("--http-port 0", [UP, UP, UP]);
    undone("--sockets no", [UP, UP, UP]);
    refuses_nobody_in_a_restart(&machine);
}

#[test]
fn an_install_with_sockets_that_does_not_answer_leaves_nothing() {
    let Some(machine) = Machine::boot("1g") else { return };
    released(&machine);
    machine.copy(program(), "/srv/good");
    machine.must("chmod 755 /srv/good");
    release(&machine, broken_program().as_bytes());
    let before = put_there(&machine);
    let ran = machine.run(&format!("{INSTALL} --yes --domain chat.lan --sockets yes --wait 3"));
    assert!(ran.code == Some(1) && ran.text.contains("as it was before"), "{}", ran.text);
    assert_eq!(put_there(&machine), before, "{}", ran.text);
    assert_eq!(states(&machine), [GONE, GONE, GONE]);
}

#[test]
fn an_update_brings_new_sockets_with_the_ports_of_the_machine_and_takes_them_back() {
    let Some(machine) = installed_with_good() else { return };
    machine.must(&format!("{INSTALL} modify --yes --sockets yes --port 8443"));
    let fingerprint = served(&machine, 8443, "chat.lan");
    let before = put_there(&machine);
    let backlog = || show_of(&machine, "parley-relay.socket", "Backlog");
    release_with_another_unit(&machine, "98.0.0", "exit 1");
    for update in [UPDATE.to_owned(), format!("{INSTALL} update --yes --wait 3")] {
        let ran = machine.run(&update);
        assert_ne!(ran.code, Some(0), "{}", ran.text);
        assert_eq!(put_there(&machine), before, "{}", ran.text);
        until(&machine, "systemctl is-active --quiet parley-relay");
        assert_eq!((backlog(), states(&machine)), ("4096".into(), [UP, UP, UP].map(str::to_owned)));
        assert_eq!(served(&machine, 8443, "chat.lan"), fingerprint);
    }
    for (version, update) in [("99.0.0", UPDATE.to_owned()), ("99.0.1", format!("{INSTALL} update --yes"))] {
        machine.must(&format!("{INSTALL} install --yes --any-version --files /srv/first"));
        assert_eq!(backlog(), "4096");
        release_with_another_unit(&machine, version, SERVES);
        // systemd shows what it has read; the socket is what it was opened with.
        let opened = || show_of(&machine, "parley-relay.socket", "ActiveEnterTimestampMonotonic");
        let before = opened();
        let text = machine.must(&update);
        assert!(!text.contains("edited"), "{text}");
        assert_ne!(opened(), before, "{text}");
        assert_eq!((backlog(), states(&machine)), ("2048".into(), [UP, UP, UP].map(str::to_owned)));
        assert!(machine.read(&format!("{UNITS}/parley-relay.socket")).contains("ListenStream=8443\n"));
        assert_eq!(recorded(&machine), on_disk(&machine));
        assert_eq!(served(&machine, 8443, "chat.lan"), fingerprint);
    }
    // What somebody has edited stays, and is told of.
    let mine = format!("{UNITS}/parley-relay.service.d/10-socket.conf");
    machine.must(&format!("echo '# mine' >>{mine} && systemctl daemon-reload"));
    let text = machine.read(&mine);
    machine.must("cp -r /srv/first/* /srv/release/");
    machine.must(&format!("{INSTALL} update --yes --any-version"));
    assert_eq!(machine.read(&mine), text);
    assert_eq!(backlog(), "4096");
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
fn an_update_or_another_config_is_taken_over_by_a_new_process_and_no_port_is_closed() {
    let Some(machine) = installed_with_good() else { return };
    let state = || ["InvocationID", "MainPID"].map(|property| show(&machine, property));
    let ask = |port| {
        format!(
            "openssl s_client -connect 127.0.0.1:{port} -servername chat.lan </dev/null 2>/dev/null | grep -q 'BEGIN CERT'"
        )
    };
    let mut before = state();
    release(&machine, &another_program());
    for (action, port) in [("update", 443), ("modify --prefix another", 443), ("modify --port 8443", 8443)] {
        let probe = if port == 443 { ask(443) } else { "sleep 0.1".into() };
        machine.must(&format!(
            "{INSTALL} {action} --yes & while kill -0 $! 2>/dev/null; do {probe} || exit 1; done; wait $! && {}",
            ask(port)
        ));
        let after = state();
        assert!(after[0] == before[0] && after[1] != before[1], "{action}: {before:?} {after:?}");
        machine.must(&format!("[ /proc/{}/exe -ef {BINARY} ]", after[1]));
        before = after;
    }
    // One that is not fit is not asked a second time, and the relay that runs hears nothing of it.
    release(&machine, broken_program().as_bytes());
    let ran = machine.run(&format!("{INSTALL} update --yes"));
    assert!(ran.code == Some(1) && ran.text.contains("the one that runs goes on"), "{}", ran.text);
    assert_eq!(state(), before);
    // Another unit needs another service.
    release_with_another_unit(&machine, "99.0.0", SERVES);
    machine.must(&format!("{INSTALL} update --yes"));
    assert_ne!(state()[0], before[0]);
    // The time that the one before takes to end is not the new one's.
    let drop_in = format!("{UNITS}/parley-relay.service.d");
    machine
        .must(&format!("mkdir {drop_in} && printf '[Service]\nExecStop=/bin/sleep 6\n' >{drop_in}/a.conf"));
    machine.must("systemctl daemon-reload");
    let begun = Instant::now();
    machine.must(&format!("{INSTALL} modify --yes --port 9443 --wait 3 && {}", ask(9443)));
    assert!(begun.elapsed() > Duration::from_secs(6));
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

/// A release of `version` whose service waits three seconds before it starts again, with a mirror's files.
pub(super) fn release_with_another_unit(machine: &Machine, version: &str, serve: &str) {
    let text = format!(
        "#!/bin/bash\ncase $1 in\n--version) echo parley-relay {version} ;;\n\
         unit) /srv/good \"$@\" | sed 's/^RestartSec=2/RestartSec=3/; s/^Backlog=4096/Backlog=2048/' ;;\n\
         update) exec /srv/good \"$@\" --binary {BINARY} ;;\n\
         check | init | cert | health | upgrade) exec /srv/good \"$@\" ;;\n*) {serve} ;;\nesac\n"
    );
    release(machine, text.as_bytes());
    machine.must(&format!(
        "cd /srv/release && echo {version} >version.txt && sha256sum version.txt >>SHA256SUMS"
    ));
}

pub(super) const SERVES: &str = "exec /srv/good \"$@\"";
pub(super) const UPDATE: &str = "/srv/good update --binary /usr/local/bin/parley-relay --mirror /srv/release \
     --config /etc/parley-relay/config.toml --well-within 3s";

/// [`installed`], with the program at /srv/good too.
pub(super) fn installed_with_good() -> Option<Machine> {
    let machine = installed()?;
    machine.copy(program(), "/srv/good");
    machine.must("chmod 755 /srv/good && cp -r /srv/release /srv/first");
    Some(machine)
}

/// The checksums of the units in the manifest, and the names.
pub(super) fn recorded(machine: &Machine) -> String {
    machine.must(&format!("sed -n 's/^unit \\([^ ]*\\) \\(.*\\)/\\2  \\1/p' {MANIFEST} | sort -k 2"))
}

/// Those of what is on disk.
pub(super) fn on_disk(machine: &Machine) -> String {
    machine.must(&format!(
        "cd {UNITS} && sha256sum parley-relay*.service parley-relay*.timer parley-relay*.socket \
         parley-relay.service.d/10-socket.conf 2>/dev/null \
         | sed s/parley-relay.service.d.10-socket.conf/parley-relay-socket.conf/ | sort -k 2; true"
    ))
}

#[test]
fn an_update_brings_its_unit_and_one_that_is_undone_takes_it_back() {
    let Some(machine) = installed_with_good() else { return };
    let unit = format!("{UNITS}/parley-relay.service");
    let (old, fingerprint) = (machine.read(&unit), served(&machine, 443, "chat.lan"));
    assert_eq!(recorded(&machine), on_disk(&machine));
    let manifest = machine.read(MANIFEST);
    release_with_another_unit(&machine, "98.0.0", "exit 1");
    for update in [UPDATE.to_owned(), format!("{INSTALL} update --yes --wait 3")] {
        let ran = machine.run(&update);
        assert_ne!(ran.code, Some(0), "{}", ran.text);
        assert_eq!(machine.read(&unit), old, "{}", ran.text);
        assert_eq!(machine.read(MANIFEST), manifest, "{}", ran.text);
        assert_eq!(show(&machine, "RestartUSec"), "2s");
        until(&machine, "systemctl is-active --quiet parley-relay");
        assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
    }

    release_with_another_unit(&machine, "99.0.0", SERVES);
    let text = machine.must(UPDATE);
    assert!(!text.contains("edited"), "{text}");
    assert_eq!(machine.read(&unit), old.replace("RestartSec=2", "RestartSec=3"));
    assert_eq!(
        (show(&machine, "RestartUSec"), show(&machine, "NeedDaemonReload")),
        ("3s".into(), "no".into())
    );
    assert_eq!(recorded(&machine), on_disk(&machine));
    assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
}

#[test]
fn where_usr_local_is_a_link_an_update_still_knows_the_program_of_the_units() {
    let Some(machine) = Machine::boot("1g") else { return };
    machine.must("mv /usr/local /var/usrlocal && ln -s ../var/usrlocal /usr/local");
    released(&machine);
    machine.copy(program(), "/srv/good");
    machine.must(&format!("chmod 755 /srv/good && {INSTALL} --yes --domain chat.lan --updates weekly"));
    machine.must("echo MIRROR_BASE_URL=/srv/release >/etc/parley-relay/update.env");
    let fingerprint = served(&machine, 443, "chat.lan");
    // By hand, and by the timer.
    for (version, update) in [("98.0.0", UPDATE), ("99.0.0", "systemctl start parley-relay-update.service")] {
        release_with_another_unit(&machine, version, SERVES);
        let ran = machine.run(&format!("flock /usr/local/bin {update}"));
        assert_ne!(ran.code, Some(0), "the lock is another: {}", ran.text);
        machine.must(update);
        assert_eq!(machine.must(&format!("{BINARY} --version")), format!("parley-relay {version}\n"));
        assert_eq!((show(&machine, "RestartUSec"), recorded(&machine)), ("3s".into(), on_disk(&machine)));
        assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
    }
}

#[test]
fn the_update_that_the_timer_starts_may_write_the_unit_and_the_note_of_it_too() {
    let Some(machine) = installed_with_good() else { return };
    machine.must(&format!("{INSTALL} modify --yes --updates weekly"));
    machine.must("echo MIRROR_BASE_URL=/srv/release >/etc/parley-relay/update.env");
    let start = "systemctl start parley-relay-update.service || { journalctl --no-pager -n 20; exit 1; }";
    // Where the note cannot be written, the unit stays: it would count as edited from then on.
    let read_only = "/run/systemd/system/parley-relay-update.service.d";
    machine.must(&format!(
        "mkdir -p {read_only} && printf '[Service]\\nReadOnlyPaths=/etc/parley-relay\\n' >{read_only}/a.conf \
         && systemctl daemon-reload"
    ));
    let manifest = machine.read(MANIFEST);
    release_with_another_unit(&machine, "98.0.0", SERVES);
    machine.must(start);
    assert_eq!((show(&machine, "RestartUSec"), machine.read(MANIFEST)), ("2s".into(), manifest));
    assert_eq!(machine.must(&format!("{BINARY} --version")), "parley-relay 98.0.0\n");

    // An older install has no such note.
    machine.must(&format!("rm -r {read_only} && systemctl daemon-reload"));
    release_with_another_unit(&machine, "99.0.0", SERVES);
    machine.must(start);
    assert_eq!(show(&machine, "RestartUSec"), "3s");
    assert_eq!(recorded(&machine), on_disk(&machine));
}

#[test]
fn a_unit_that_we_wrote_is_renewed_though_the_program_on_disk_prints_another() {
    let Some(machine) = installed_with_good() else { return };
    let unit = format!("{UNITS}/parley-relay.service");
    let old = machine.read(&unit);
    // Somebody copies a program by hand, and its unit not.
    let by_hand = "#!/bin/bash\ncase $1 in\nunit) /srv/good \"$@\" | sed s/^RestartSec=2/RestartSec=5/ ;;\n\
        *) exec /srv/good \"$@\" ;;\nesac\n";
    for update in [UPDATE.to_owned(), format!("{INSTALL} update --yes")] {
        machine.must(&format!("{INSTALL} install --yes --any-version --files /srv/first"));
        assert_eq!(machine.read(&unit), old);
        machine.write("/usr/local/bin/.by-hand", by_hand);
        machine.must(&format!("mv /usr/local/bin/.by-hand {BINARY}"));
        release_with_another_unit(&machine, "99.0.0", SERVES);
        let text = machine.must(&update);
        assert!(!text.contains("edited"), "{text}");
        assert_eq!(machine.read(&unit), old.replace("RestartSec=2", "RestartSec=3"), "{text}");
        assert_eq!(recorded(&machine), on_disk(&machine));
    }
}

#[test]
fn in_an_older_install_what_the_old_program_prints_tells_which_unit_was_edited() {
    let Some(machine) = installed_with_good() else { return };
    let unit = format!("{UNITS}/parley-relay.service");
    let old = machine.read(&unit);
    for update in [UPDATE.to_owned(), format!("{INSTALL} update --yes")] {
        machine.must(&format!("{INSTALL} install --yes --any-version --files /srv/first"));
        machine.must(&format!("sed -i '/^unit /d' {MANIFEST}"));
        release_with_another_unit(&machine, "99.0.0", SERVES);
        machine.must(&update);
        assert_eq!(machine.read(&unit), old.replace("RestartSec=2", "RestartSec=3"));
        assert_eq!(recorded(&machine), on_disk(&machine));
    }
}

#[test]
fn a_unit_that_somebody_edited_outlives_updates_and_the_new_one_is_told_of() {
    let Some(machine) = installed_with_good() else { return };
    let unit = format!("{UNITS}/parley-relay.service");
    machine.must(&format!("echo '# mine' >>{unit} && systemctl daemon-reload"));
    let mine = machine.read(&unit);
    // A program with the same unit has nothing to tell.
    release(&machine, &another_program());
    let text = machine.must(&format!("{INSTALL} update --yes"));
    assert!(!text.contains("edited"), "{text}");
    assert_eq!(machine.read(&unit), mine);
    for (version, update) in [("98.0.0", UPDATE.to_owned()), ("99.0.0", format!("{INSTALL} update --yes"))] {
        release_with_another_unit(&machine, version, SERVES);
        // What is installed after the first round prints the same unit as the next: only the first has another.
        machine.copy(program(), "/usr/local/bin/.good");
        machine.must("chmod 755 /usr/local/bin/.good && mv /usr/local/bin/.good /usr/local/bin/parley-relay");
        let text = machine.must(&update);
        assert!(
            text.contains("has been edited and stays")
                && text.contains("parley-relay unit parley-relay.service"),
            "{text}"
        );
        assert_eq!(machine.read(&unit), mine);
    }
    assert_eq!(show(&machine, "RestartUSec"), "2s");
}

#[test]
fn a_unit_that_somebody_edited_outlives_every_action_until_replacing_it_is_asked_for() {
    let Some(machine) = installed_with_good() else { return };
    machine.must(&format!("{INSTALL} modify --yes --updates weekly --sockets yes"));
    let (files, ours) = (
        ["parley-relay.service", "parley-relay-update.service", "parley-relay.socket"]
            .map(|unit| format!("{UNITS}/{unit}")),
        on_disk(&machine),
    );
    for file in &files {
        machine.must(&format!("echo '# mine' >>{file}"));
    }
    let mine = || files.each_ref().map(|file| machine.read(file));
    let edited = mine();
    // The schedule is what was answered, and what somebody has added.
    let schedule = format!("{UNITS}/parley-relay-update.timer.d/schedule.conf");
    machine.must(&format!("echo RandomizedDelaySec=1h >>{schedule}"));
    let scheduled = machine.read(&schedule);
    // With the manifest's checksums, and by what the program prints.
    for manifest in ["", "sed -i '/^unit .*service /d' /etc/parley-relay/installed"] {
        machine.must(&format!("systemctl daemon-reload; {manifest}"));
        for action in ["install --prefix a", "modify --prefix b", "update"] {
            let text = machine.must(&format!("{INSTALL} {action} --yes"));
            assert!(!text.contains("edited"), "{action}\n{text}");
            assert_eq!(mine(), edited, "{action}\n{text}");
        }
    }
    assert!(!machine.has("/opt/parley-relay/backup"));
    assert_eq!(machine.read(&schedule), scheduled);
    // A socket on another port cannot stay as it was.
    let text = machine.must(&format!("{INSTALL} modify --yes --port 8443"));
    assert!(text.contains("parley-relay.socket was somebody's own"), "{text}");
    assert_eq!(machine.must("cat /opt/parley-relay/backup/*/*"), edited[2]);
    served(&machine, 8443, "chat.lan");
    // Of a new program's unit one is told.
    release_with_another_unit(&machine, "99.0.0", SERVES);
    let text = machine.must(&format!("{INSTALL} install --yes --port 443"));
    assert!(text.contains("has been edited and stays") && text.contains("--replace-units"), "{text}");
    assert_eq!(mine()[..2], edited[..2]);

    machine.must("rm -r /opt/parley-relay/backup");
    release(&machine, &std::fs::read(program()).unwrap());
    let text = machine.must(&format!("{INSTALL} install --yes --any-version --replace-units"));
    assert!(text.contains("ours now"), "{text}");
    assert_eq!((on_disk(&machine), recorded(&machine)), (ours.clone(), ours));
    for (file, edited) in files.iter().zip(&edited).take(2) {
        let name = file.rsplit('/').next().unwrap();
        assert_eq!(
            &machine.read(&machine.must(&format!("printf %s /opt/parley-relay/backup/*/{name}"))),
            edited
        );
    }
    // An uninstall takes it away, and leaves a copy.
    machine.must(&format!("echo '# mine' >>{}", files[0]));
    let text = machine.must(&format!("{INSTALL} uninstall --yes"));
    assert!(text.contains("a copy is in /opt/parley-relay/backup"), "{text}");
    assert!(machine.read("/opt/parley-relay/backup/parley-relay.service").ends_with("# mine\n"));
}

#[test]
fn a_service_that_was_set_up_by_hand_is_backed_up_and_comes_back_when_ours_does_not_answer() {
    let Some(machine) = Machine::boot("1g") else { return };
    released(&machine);
    machine.copy(program(), "/srv/good");
    machine.must("chmod 755 /srv/good");
    let unit = format!("{UNITS}/parley-relay.service");
    let by_hand = "[Service]\nExecStart=/srv/good --domain chat.lan --storage /srv/state\n\n[Install]\nWantedBy=multi-user.target\n";
    machine.write(&unit, by_hand);
    machine.must("systemctl daemon-reload && systemctl enable --now parley-relay");
    until(&machine, "openssl s_client -connect 127.0.0.1:443 </dev/null >/dev/null 2>&1");
    let (fingerprint, before) = (served(&machine, 443, "chat.lan"), put_there(&machine));

    release(&machine, broken_program().as_bytes());
    let ran = machine.run(&format!("{INSTALL} --yes --domain chat.lan --wait 3"));
    assert!(ran.code == Some(1) && ran.text.contains("as it was before"), "{}", ran.text);
    assert_eq!(put_there(&machine), before, "{}", ran.text);
    assert_eq!(states(&machine)[2], UP);
    until(&machine, "openssl s_client -connect 127.0.0.1:443 </dev/null >/dev/null 2>&1");
    assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);

    release(&machine, &std::fs::read(program()).unwrap());
    let text = machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    assert!(text.contains("was somebody's own and is ours now"), "{text}");
    assert_eq!(machine.must("cat /opt/parley-relay/backup/*/parley-relay.service"), by_hand);
    assert_eq!(show(&machine, "Type"), "notify");
}

#[test]
fn what_answers_while_a_restart_has_not_begun_is_not_taken_for_the_new_process() {
    let Some(mut machine) = installed() else { return };
    let taken = machine.serve("/srv/release");
    let taken = taken.rsplit_once(':').unwrap().1;
    let unit = format!("{UNITS}/parley-relay.service");
    machine.must(&format!("echo '# mine' >>{unit} && systemctl daemon-reload"));
    let before = put_there(&machine);
    // A systemd that has much to do.
    machine.write(
        "/usr/local/sbin/systemctl",
        "#!/bin/bash\ncase $* in\n*--no-block*) (sleep 2; exec /usr/bin/systemctl \"$@\") 9>&- & ;;\n\
         *) exec /usr/bin/systemctl \"$@\" ;;\nesac\n",
    );
    machine.must("chmod 755 /usr/local/sbin/systemctl");
    let modify =
        "PATH=/usr/local/sbin:$PATH bash /srv/release/install.sh modify --yes --replace-units --wait 5";
    let ran = machine.run(&format!("{modify} --http-port {taken}"));
    assert!(ran.code == Some(1) && ran.text.contains("as it was before"), "{}", ran.text);
    assert_eq!(put_there(&machine), before, "{}", ran.text);
    until(&machine, "systemctl is-active --quiet parley-relay");
}

#[test]
fn the_mirror_of_an_install_is_the_mirror_of_later_updates_until_another_is_given() {
    let Some(mut machine) = installed() else { return };
    let (first, second) = (machine.serve("/srv/release"), machine.serve("/srv/release"));
    machine.must("cp /srv/release/install.sh /srv/");
    let install = "bash /srv/install.sh";
    let kept = "/etc/parley-relay/update.env";
    let told = |url: &str| format!("The mirror is the one that was kept in {kept}: {url} (");
    let text = machine.must(&format!("MIRROR_BASE_URL={first}/ {install} --yes"));
    assert!(!text.contains("was kept"), "{text}");
    assert_eq!(machine.read(kept), format!("MIRROR_BASE_URL={first}\n"));
    for action in ["update", "modify"] {
        let text = machine.must(&format!("{install} {action} --yes"));
        assert!(text.contains(&told(&first)), "{text}");
        assert!(action == "modify" || text.contains(&format!("Downloading {first}/")), "{text}");
    }
    // What somebody wrote beside it stays.
    machine.must(&format!("printf 'UPDATE_FLAGS=\"--well-within 9s --plain-http\"\\nLANG=C\\n' >>{kept}"));
    let text = machine.must(&format!("MIRROR_BASE_URL={second} {install} update --yes"));
    assert!(text.contains(&format!("Downloading {second}/")) && !text.contains("was kept"), "{text}");
    assert_eq!(
        machine.read(kept),
        format!("LANG=C\nMIRROR_BASE_URL={second}\nUPDATE_FLAGS=--well-within 9s\n")
    );
    machine.must(&format!("MIRROR_BASE_URL={second} {install} modify --yes --mirror {first}"));
    assert!(machine.must(&format!("{install} update --yes")).contains(&told(&first)));
    // The trust in a mirror without TLS is kept with it, and is none in another.
    machine.must("echo 127.0.0.1 mirror.lan other.lan >>/etc/hosts");
    let named = first.replace("127.0.0.1", "mirror.lan");
    machine.must(&format!("{install} modify --yes --mirror {named} --plain-http"));
    assert!(machine.must(&format!("{install} update --yes")).contains(&told(&named)));
    let other = first.replace("127.0.0.1", "other.lan");
    let ran = machine.run(&format!("{install} update --yes --mirror {other}"));
    assert!(ran.code == Some(1) && ran.text.contains("without TLS"), "{}", ran.text);
    // The project's own place is a mirror that can be given too.
    let releases = "https://github.com/Parley-Chat/relay/releases/latest/download";
    machine.must(&format!("{install} modify --yes --mirror {releases}"));
    assert!(!machine.read(kept).contains("MIRROR_BASE_URL"));
}

#[test]
fn a_public_key_that_was_given_once_is_the_timers_too_when_its_file_is_gone() {
    let Some(machine) = installed() else { return };
    machine.must("cd /root && for key in a b; do minisign -G -W -p $key.pub -s $key.key; done");
    let sign = |key: &str| {
        machine.must(&format!(
            "cd /srv/release && parley-relay --version | cut -d ' ' -f 2 >version.txt \
             && sha256sum relay-linux-* version.txt >SHA256SUMS && minisign -S -s /root/{key}.key -m SHA256SUMS"
        ));
    };
    let kept = "/etc/parley-relay/update.pub";
    let update = "parley-relay update --mirror /srv/release --public-key";
    let mirror = "/etc/parley-relay/update.env";
    // A key that signed nothing of what is there is not kept, nor is one that is only looked with.
    sign("a");
    assert_ne!(machine.run(&format!("{update} /root/b.pub")).code, Some(0));
    machine.must(&format!("{update} /root/a.pub --check"));
    assert!(!machine.has(kept));
    // Neither is a mirror without a key, nor a key whose mirror the timer's updates would not see.
    machine.must("parley-relay update --mirror /srv/release && cp -r /srv/release /root/release");
    let text = machine.must("parley-relay update --mirror /root/release --public-key /root/a.pub");
    assert!(text.contains("neither /root/a.pub nor the mirror is kept"), "{text}");
    assert!(!machine.has(kept) && !machine.has(mirror));
    // Both are, or where one of them cannot be written, neither.
    machine.must(&format!("touch {kept} && mount --bind {kept} {kept}"));
    let text = machine.must(&format!("{update} /root/a.pub"));
    assert!(
        text.contains("is not kept for later updates, nor is a mirror") && !machine.has(mirror),
        "{text}"
    );
    machine.must(&format!("umount {kept} && rm {kept}"));
    let text = machine.must(&format!("{update} /root/a.pub"));
    assert!(text.contains("/root/a.pub is kept as /etc/parley-relay/update.pub"), "{text}");
    assert!(text.contains("the mirror /srv/release is kept in /etc/parley-relay/update.env"), "{text}");
    assert_eq!(machine.read(mirror), "MIRROR_BASE_URL=/srv/release\n");
    assert_eq!(machine.must(&format!("stat -c '%a %U' {kept} && cmp {kept} /root/a.pub")), "644 root\n");

    // The installer's wins over it, in an update and where nothing is fetched.
    sign("b");
    machine.must(&format!("{INSTALL} update --yes --public-key /root/b.pub"));
    machine.must(&format!("cmp {kept} /root/b.pub"));
    machine.must(&format!("{INSTALL} modify --yes --public-key /root/a.pub --updates weekly"));
    machine.must(&format!("cmp {kept} /root/a.pub"));
    let ran = machine.run(&format!("{INSTALL} modify --yes --public-key {CONFIG}"));
    assert!(ran.code == Some(1) && ran.text.contains("holds no minisign public key"), "{}", ran.text);
    machine.must(&format!("cp /root/a.pub /root/kept && rm /root/a.pub && cmp {kept} /root/kept"));

    machine.must("echo MIRROR_BASE_URL=/srv/release >/etc/parley-relay/update.env");
    assert_ne!(machine.run("systemctl start parley-relay-update.service").code, Some(0));
    sign("a");
    machine.must("systemctl start parley-relay-update.service");
    // A directory is a mirror too, for the installer as for the timer.
    let text = machine.must("bash -s -- update --yes </srv/release/install.sh");
    assert!(text.contains("Using /srv/release/relay-linux") && text.contains("signature is right"), "{text}");
    machine.must(&format!("{INSTALL} uninstall --yes --purge"));
    assert!(!machine.has(kept));
}
