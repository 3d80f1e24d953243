//! The Debian package and install.sh's relay on one machine.

use std::fs;

use super::{BINARY, CONFIG, INSTALL, UNIT, machine, served};
use crate::harness::{Machine, machine::source};

/// Makes a package of our scripts, without those that systemd's helpers fill, and the program.
fn package(machine: &Machine, scripts: &[&str]) {
    machine.must("rm -rf /srv/deb && mkdir -p /srv/deb/DEBIAN /srv/deb/usr/bin && cp /srv/release/relay-linux-* /srv/deb/usr/bin/parley-relay");
    for script in scripts {
        let to = format!("/srv/deb/DEBIAN/{script}");
        machine.copy(&source(&format!("dist/debian/{script}")), &to);
        machine.must(&format!("chmod 755 {to}"));
    }
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
