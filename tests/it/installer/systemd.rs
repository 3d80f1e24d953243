//! The units under systemd itself, on a machine that it runs.

use std::time::{Duration, Instant};

use super::{BINARY, CONFIG, INSTALL, another_program, broken_program, program, release, released, served};
use crate::harness::Machine;

const UNITS: &str = "/etc/systemd/system";
const MANIFEST: &str = "/etc/parley-relay/installed";

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

/// A release of `version` whose service waits three seconds before it starts again, with a mirror's files.
fn release_with_another_unit(machine: &Machine, version: &str, serve: &str) {
    let text = format!(
        "#!/bin/bash\ncase $1 in\n--version) echo parley-relay {version} ;;\n\
         unit) /srv/good \"$@\" | sed s/^RestartSec=2/RestartSec=3/ ;;\n\
         update) exec /srv/good \"$@\" --binary {BINARY} ;;\n\
         check | init | cert | health | upgrade) exec /srv/good \"$@\" ;;\n*) {serve} ;;\nesac\n"
    );
    release(machine, text.as_bytes());
    machine.must(&format!(
        "cd /srv/release && echo {version} >version.txt && sha256sum version.txt >>SHA256SUMS"
    ));
}

const SERVES: &str = "exec /srv/good \"$@\"";
const UPDATE: &str = "/srv/good update --binary /usr/local/bin/parley-relay --mirror /srv/release \
     --config /etc/parley-relay/config.toml --well-within 3s";

/// [`installed`], with the program at /srv/good too.
fn installed_with_good() -> Option<Machine> {
    let machine = installed()?;
    machine.copy(program(), "/srv/good");
    machine.must("chmod 755 /srv/good && cp -r /srv/release /srv/first");
    Some(machine)
}

/// The checksums of the units in the manifest, and the names.
fn recorded(machine: &Machine) -> String {
    machine.must(&format!("sed -n 's/^unit \\([^ ]*\\) \\(.*\\)/\\2  \\1/p' {MANIFEST} | sort -k 2"))
}

/// Those of what is on disk.
fn on_disk(machine: &Machine) -> String {
    machine.must(&format!(
        "cd {UNITS} && sha256sum parley-relay*.service parley-relay*.timer 2>/dev/null | sort -k 2; true"
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
    machine.must(&format!(
        "printf 'UPDATE_FLAGS=\"--proxy http://127.0.0.1:1 --plain-http\"\\nLANG=C\\n' >>{kept}"
    ));
    let text = machine.must(&format!("MIRROR_BASE_URL={second} {install} update --yes"));
    assert!(text.contains(&format!("Downloading {second}/")) && !text.contains("was kept"), "{text}");
    assert_eq!(
        machine.read(kept),
        format!("LANG=C\nMIRROR_BASE_URL={second}\nUPDATE_FLAGS=--proxy http://127.0.0.1:1\n")
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
