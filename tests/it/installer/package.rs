//! The Debian package and install.sh's relay on one machine.

use std::fs;

use super::{BINARY, CONFIG, INSTALL, UNIT, machine, released, served};
use crate::harness::{Machine, machine::source};

/// What cargo-deb puts into the maintainer scripts in the place of `#DEBHELPER#`, as of version 3.8.0.
fn generated(script: &str) -> &'static str {
    match script {
        "postinst" => {
            "if deb-systemd-helper debian-installed parley-relay.service; then\n\
             deb-systemd-helper unmask parley-relay.service >/dev/null || true\n\
             if deb-systemd-helper --quiet was-enabled parley-relay.service; then\n\
             deb-systemd-helper enable parley-relay.service >/dev/null || true\n\
             fi\n\
             fi\n\
             deb-systemd-helper update-state parley-relay.service >/dev/null || true\n\
             if [ -d /run/systemd/system ]; then\n\
             systemctl --system daemon-reload >/dev/null || true\n\
             if [ -n \"$2\" ]; then deb-systemd-invoke try-restart parley-relay.service >/dev/null || true; fi\n\
             fi\n"
        }
        "prerm" => {
            "if [ -d /run/systemd/system ] && [ \"$1\" = remove ]; then\n\
             deb-systemd-invoke stop parley-relay.service >/dev/null || true\n\
             fi\n"
        }
        "postrm" => {
            "if [ -d /run/systemd/system ]; then systemctl --system daemon-reload >/dev/null || true; fi\n\
             if [ \"$1\" = remove ]; then deb-systemd-helper mask parley-relay.service >/dev/null || true; fi\n\
             if [ \"$1\" = purge ]; then\n\
             deb-systemd-helper purge parley-relay.service >/dev/null || true\n\
             deb-systemd-helper unmask parley-relay.service >/dev/null || true\n\
             fi\n"
        }
        _ => "",
    }
}

/// Makes a package of our scripts, as they are with what is generated, the unit and the program.
fn package(machine: &Machine, scripts: &[&str]) {
    machine.must("rm -rf /srv/deb && mkdir -p /srv/deb/DEBIAN /srv/deb/usr/bin /srv/deb/etc/parley-relay && install -m 755 /srv/release/relay-linux-* /srv/deb/usr/bin/parley-relay");
    for script in scripts {
        let text = fs::read_to_string(source(&format!("dist/debian/{script}"))).unwrap();
        let to = format!("/srv/deb/DEBIAN/{script}");
        machine.write(&to, text.replace("#DEBHELPER#", generated(script)));
        machine.must(&format!("chmod 755 {to}"));
    }
    let unit = fs::read_to_string(source("dist/parley-relay.service")).unwrap();
    machine.write(
        "/srv/deb/lib/systemd/system/parley-relay.service",
        unit.replace("/usr/local/bin/", "/usr/bin/"),
    );
    machine.write(
        "/srv/deb/DEBIAN/control",
        "Package: parley-relay\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@invalid>\nDescription: a relay\n",
    );
    machine.must("dpkg-deb --build -Znone /srv/deb /srv/relay.deb");
}

#[test]
fn every_script_of_the_package_has_the_place_without_which_cargo_deb_makes_none() {
    for entry in fs::read_dir(source("dist/debian")).unwrap() {
        let file = entry.unwrap().path();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.lines().any(|line| line == "#DEBHELPER#"), "{}", file.display());
    }
}

#[test]
fn what_is_left_of_a_package_neither_stops_nor_disables_the_installers_service() {
    let Some(machine) = Machine::boot("1g") else { return };
    released(&machine);
    package(&machine, &["preinst", "postinst", "prerm", "postrm"]);
    machine.must("dpkg -i /srv/relay.deb && systemctl enable parley-relay && dpkg -r parley-relay");
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    let state = || machine.must("systemctl show --property MainPID,ActiveState,UnitFileState parley-relay");
    let before = state();
    assert!(before.contains("=active") && before.contains("=enabled"), "{before}");
    machine.must("dpkg -P parley-relay");
    assert_eq!(state(), before);
    assert_eq!(machine.must("find /var/lib/systemd/deb-systemd-helper-* -name 'parley-relay*'"), "");
    // Both at once, from before the package looked.
    package(&machine, &["postinst", "prerm", "postrm"]);
    machine.must("dpkg -i /srv/relay.deb && dpkg -P parley-relay");
    assert_eq!(state(), before);
    // Without install.sh's relay, all of it goes.
    machine.must(&format!(
        "{INSTALL} uninstall --yes && dpkg -i /srv/relay.deb && systemctl enable --now parley-relay"
    ));
    assert!(state().contains("=active"));
    machine.must("dpkg -P parley-relay");
    assert!(state().contains("=inactive"));
    assert!(!machine.has("/etc/systemd/system/multi-user.target.wants/parley-relay.service"));
    assert!(!machine.has("/var/lib/parley-relay"));
}

#[test]
fn a_package_is_refused_where_the_installers_relay_is_and_takes_over_what_that_leaves() {
    let Some(machine) = machine() else { return };
    package(&machine, &["preinst", "postrm"]);
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    let ran = machine.run("dpkg -i /srv/relay.deb");
    assert!(ran.code == Some(1) && ran.text.contains("install.sh uninstall"), "{}", ran.text);
    assert!(!machine.has("/usr/bin/parley-relay"));
    machine.must(&format!("{INSTALL} uninstall --yes"));
    machine.must("dpkg -i /srv/relay.deb");
    assert!(machine.has(CONFIG) && machine.has("/var/lib/parley-relay/local-ca"));
    machine.must("dpkg -P parley-relay");
    assert!(!machine.has("/var/lib/parley-relay"));
}

#[test]
fn where_both_are_already_each_is_removed_without_the_others_state() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    let fingerprint = served(&machine, 443, "chat.lan");
    // As it was before the package looked.
    package(&machine, &["postrm"]);
    machine.must("dpkg -i /srv/relay.deb && dpkg -P parley-relay");
    assert!(machine.has("/var/lib/parley-relay/local-ca"));
    assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
    machine.must("dpkg -i /srv/relay.deb");
    let ran = machine.run(&format!("{INSTALL} update --yes"));
    assert!(
        ran.code == Some(1) && ran.text.contains("uninstall removes the one of this script"),
        "{}",
        ran.text
    );
    let text = machine.must(&format!("{INSTALL} uninstall --yes --purge"));
    assert!(text.contains("they stay"), "{text}");
    assert!(!machine.has(BINARY) && !machine.has(UNIT) && machine.has("/usr/bin/parley-relay"));
    assert!(machine.has(CONFIG) && machine.has("/var/lib/parley-relay/local-ca"));
    machine.must("id parley-relay");
    let ran = machine.run(&format!("{INSTALL} uninstall --yes"));
    assert!(ran.code == Some(1) && ran.text.contains("apt updates and removes it"), "{}", ran.text);
}
