//! What goes wrong: downloads, disks, ports, terminals. Nothing is left half done.

use super::{BINARY, INSTALL, another_program, machine, machine_of, process, release, release_name, served};
use crate::harness::Machine;

/// Runs what has to fail with this in its text, and asserts that the machine is as it was.
#[track_caller]
fn refused(machine: &Machine, line: &str, told: &str) {
    let files = machine.files();
    let ran = machine.run(line);
    assert_eq!(ran.code, Some(1), "{line}\n{}", ran.text);
    assert!(ran.text.contains(told), "{told}\n{}", ran.text);
    machine.assert_files(&files, &ran.text);
}

#[test]
fn a_download_is_checked_before_anything_is_replaced() {
    let Some(mut machine) = machine() else { return };
    let mirror = machine.serve("/srv/release");
    // As it comes from the web: the script through a pipe, the rest from the mirror.
    let install =
        format!("MIRROR_BASE_URL={mirror} bash -s -- --yes --domain chat.lan </srv/release/install.sh");
    let name = release_name();
    machine.must(&format!("echo x >>/srv/release/{name}"));
    refused(&machine, &install, "is damaged");
    machine.must(&format!("cd /srv/release && sha256sum {name} | sed 's/{name}/other/' >SHA256SUMS"));
    refused(&machine, &install, "no SHA256SUMS names");
    machine.must("rm /srv/release/SHA256SUMS");
    refused(&machine, &install, "SHA256SUMS cannot be had");
    release(&machine, &another_program());
    machine.must(&format!("mv /srv/release/{name} /srv/release/gone"));
    refused(&machine, &install, "cannot be had");
    refused(&machine, &install.replace(&mirror, "http://127.0.0.1:1"), "cannot be had");
    machine.must(&format!("mv /srv/release/gone /srv/release/{name}"));
    machine.must(&install);
    served(&machine, 443, "chat.lan");
    // Who can download can update, and from the same place.
    assert!(machine.has("/run/stub/enabled/parley-relay-update.timer"));
    assert_eq!(machine.read("/etc/parley-relay/update.env"), format!("MIRROR_BASE_URL={mirror}\n"));
}

#[test]
fn a_signature_is_checked_when_there_is_a_key() {
    let Some(machine) = machine() else { return };
    machine.must("cd /root && minisign -G -W -p a.pub -s a.key && minisign -G -W -p b.pub -s b.key");
    let install = format!("{INSTALL} --yes --domain chat.lan --public-key /root/a.pub");
    refused(&machine, &install, "has no signature");
    machine.must("cd /srv/release && minisign -S -s /root/b.key -m SHA256SUMS");
    refused(&machine, &install, "signature of SHA256SUMS is wrong");
    machine.must("cd /srv/release && minisign -S -s /root/a.key -m SHA256SUMS");
    let text = machine.must(&install);
    assert!(text.contains("the signature is right"), "{text}");
    served(&machine, 443, "chat.lan");
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let Some(machine) = machine_of("300m") else { return };
    let fill = "cat /dev/zero >/srv/fill 2>/dev/null; true";
    machine.must(fill);
    refused(&machine, &format!("{INSTALL} --yes --domain chat.lan"), "is the disk full?");
    // Room for small files, and not for the program.
    machine.must("truncate --size=-1M /srv/fill");
    refused(&machine, &format!("{INSTALL} --yes --domain chat.lan"), "is the disk full?");
    assert_ne!(machine.run("id parley-relay").code, Some(0));
    machine.must("rm /srv/fill");
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    let (fingerprint, running) = (served(&machine, 443, "chat.lan"), process(&machine));
    release(&machine, &another_program());
    for room in ["0", "1M"] {
        machine.must(&format!("{fill}; truncate --size=-{room} /srv/fill"));
        refused(&machine, &format!("{INSTALL} update --yes"), "is the disk full?");
    }
    assert_eq!((served(&machine, 443, "chat.lan"), process(&machine)), (fingerprint, running));
    assert!(!machine.has("/usr/local/bin/.parley-relay.parley-new"));
}

#[test]
fn a_port_that_is_taken_is_told_and_nothing_is_installed() {
    let Some(mut machine) = machine() else { return };
    let taken = machine.serve("/srv/release");
    let port = taken.rsplit_once(':').unwrap().1.to_owned();
    let line = format!("{INSTALL} --yes --domain chat.lan --port {port}");
    refused(&machine, &line, &format!("port {port} is taken"));
    assert_ne!(machine.run("id parley-relay").code, Some(0));
    assert!(!machine.has(BINARY));
}

#[test]
fn who_cannot_install_is_told_why_and_what_to_do() {
    let Some(machine) = machine() else { return };
    refused(&machine, &format!("setpriv --reuid 1000 --regid 1000 --clear-groups {INSTALL} --yes"), "sudo");
    refused(&machine, INSTALL, "no terminal to ask on");
    refused(&machine, &format!("{INSTALL} --yes"), "--domain gives it");
    refused(&machine, &format!("{INSTALL} update --yes"), "not installed");
    refused(&machine, &format!("{INSTALL} uninstall --yes"), "not installed");
    refused(
        &machine,
        &format!("{INSTALL} --yes --domain chat.lan --cert /none --key /none"),
        "no file /none",
    );
    refused(&machine, &format!("{INSTALL} --yes --domain chat..lan"), "--domain");
    for line in ["--prot 1", "--domain", "--certificate none --yes --domain chat.lan"] {
        assert_eq!(machine.run(&format!("{INSTALL} {line}")).code, Some(64), "{line}");
    }
    let help = machine.must(&format!("{INSTALL} --help"));
    assert!(help.contains("--upstream-proxy URL"), "{help}");
}
