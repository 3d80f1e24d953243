//! What goes wrong: downloads, disks, ports, terminals. Nothing is left half done.

use super::{
    BINARY, CONFIG, INSTALL, another_program, machine, machine_of, process, program, release, release_name,
    served,
};
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
fn with_a_key_on_the_machine_nothing_is_taken_unchecked() {
    let Some(machine) = machine() else { return };
    machine.must("cd /root && minisign -G -W -p a.pub -s a.key && install -D -m 644 a.pub /etc/parley-relay/update.pub");
    let install = format!("{INSTALL} --yes --domain chat.lan");
    refused(&machine, &install, "has no signature");
    machine.must("cd /srv/release && minisign -S -s /root/a.key -m SHA256SUMS");
    machine.must("mv /usr/bin/minisign /usr/bin/minisign.off");
    refused(
        &machine,
        &install,
        "minisign is not there to check the signature with: install it, or remove the key",
    );
    machine.must("mv /usr/bin/minisign.off /usr/bin/minisign");
    let text = machine.must(&install);
    assert!(text.contains("the signature is right"), "{text}");
}

#[test]
fn a_release_older_than_what_is_installed_is_refused_unless_any_version_is_asked_for() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    machine.copy(program(), "/srv/good");
    let of_version = |version: &str| {
        let program = format!(
            "#!/bin/bash\ncase $1 in --version) echo parley-relay {version} ;; *) exec /srv/good \"$@\" ;; esac\n"
        );
        release(&machine, program.as_bytes());
    };
    of_version("10.0.0");
    machine.must(&format!("{INSTALL} update --yes"));
    for older in ["9.9.9", "10.0.0-rc.1", "2.0.0+10"] {
        of_version(older);
        refused(&machine, &format!("{INSTALL} update --yes"), "older than what is installed");
    }
    refused(&machine, &format!("{INSTALL} install --yes"), "--any-version");
    let text = machine.must(&format!("{INSTALL} update --yes --any-version"));
    assert!(text.contains("parley-relay 10.0.0 is parley-relay 2.0.0+10 now"), "{text}");
}

#[test]
fn a_mirror_without_tls_needs_a_signature_or_to_be_trusted_by_name() {
    let Some(mut machine) = machine() else { return };
    let mirror = machine.serve("/srv/release");
    let elsewhere = mirror.replace("127.0.0.1", "mirror.lan");
    machine.must("echo 127.0.0.1 mirror.lan >>/etc/hosts");
    let install = |mirror: &str, flags: &str| {
        format!(
            "bash -s -- --yes --domain chat.lan --port 8443 --mirror '{mirror}' {flags} </srv/release/install.sh"
        )
    };
    for insecure in [elsewhere.clone(), "HTTP://127.0.0.1@mirror.lan".into(), "http://127.0.0.1.lan".into()] {
        refused(&machine, &install(&insecure, ""), "reached without TLS");
    }
    for none in ["mirror.lan", "ftp://mirror.lan", "file:///srv/release"] {
        refused(&machine, &install(none, "--plain-http"), "no URL that begins with https://");
    }
    // From this machine it may not lead away either.
    let redirect = machine.send_on(&elsewhere);
    refused(&machine, &install(&redirect, ""), &format!("not followed: {elsewhere}/SHA256SUMS"));
    machine.must(&install(&redirect, "--plain-http"));
    let env = format!("MIRROR_BASE_URL={redirect}\nUPDATE_FLAGS=--plain-http\n");
    assert_eq!(machine.read("/etc/parley-relay/update.env"), env);
    machine.must(&format!("{INSTALL} uninstall --yes --purge"));
    machine.must("cd /root && minisign -G -W -p a.pub -s a.key");
    machine.must("cd /srv/release && minisign -S -s /root/a.key -m SHA256SUMS");
    machine.must(&install(&elsewhere, "--public-key /root/a.pub"));
    served(&machine, 8443, "chat.lan");
}

#[test]
fn files_beside_the_script_that_others_could_have_put_there_are_not_used() {
    let Some(machine) = machine() else { return };
    let install = format!("{INSTALL} --yes --domain chat.lan");
    let name = release_name();
    for (line, undo) in [
        ("chmod 1777 /srv/release", "chmod 755 /srv/release"),
        ("chown 1000 /srv/release", "chown 0 /srv/release"),
        ("chmod 666 /srv/release/SHA256SUMS", "chmod 644 /srv/release/SHA256SUMS"),
        // Another could be put in its place.
        ("chown 1000 /srv", "chown 0 /srv"),
        (&format!("chown 1000 /srv/release/{name}"), &format!("chown 0 /srv/release/{name}")),
        (
            &format!("chown :1000 /srv/release/{name} && chmod 775 /srv/release/{name}"),
            &format!("chown :0 /srv/release/{name}"),
        ),
    ] {
        machine.must(line);
        refused(&machine, &install, "it is not used");
        machine.must(undo);
    }
    // Who ran sudo may, and whoever names the place.
    machine.must("chown -R 1000:1000 /srv/release && chmod -R g+w /srv/release");
    machine.must(&format!("SUDO_UID=1000 SUDO_GID=1000 {install}"));
    machine.must(&format!("{INSTALL} uninstall --yes --purge && chmod 1777 /srv/release"));
    machine.must(&format!("{install} --files /srv/release"));
    assert_eq!(machine.must(&format!("stat -c '%a %U:%G' {BINARY}")), "755 root:root\n");
}

#[test]
fn a_mirror_directory_of_the_last_time_is_used_only_if_nobody_else_could_write_to_it() {
    let Some(machine) = machine() else { return };
    machine.must("cp -r /srv/release /srv/mirror");
    let piped = |arguments: &str| format!("bash -s -- {arguments} --yes </srv/release/install.sh");
    let given = "--mirror /srv/mirror";
    machine.must(&piped(&format!("--domain chat.lan {given} --updates weekly")));
    let using = |directory: &str| format!("Using {directory}/{}", release_name());
    let text = machine.must(&piped("update"));
    assert!(text.contains(&using("/srv/mirror")), "{text}");
    for (line, undo) in [
        ("chown 1000 /srv/mirror", "chown 0 /srv/mirror"),
        ("chmod 666 /srv/mirror/SHA256SUMS", "chmod 644 /srv/mirror/SHA256SUMS"),
    ] {
        machine.must(line);
        refused(&machine, &piped("update"), "it is not used");
        // What is named now, or lies beside the script, comes before it.
        for (update, directory) in [
            (format!("{INSTALL} update --yes"), "/srv/release"),
            (piped("update --files /srv/release"), "/srv/release"),
        ] {
            let text = machine.must(&update);
            assert!(text.contains(&using(directory)), "{update}\n{text}");
        }
        machine.must(undo);
    }
    machine.must("mv /srv/mirror /srv/away");
    refused(&machine, &piped("update"), "is it mounted?");
}

#[test]
fn a_directory_that_others_could_put_something_into_is_not_kept_as_the_mirror() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan --updates weekly"));
    machine.must("mkdir -p /srv/bob/link && cp -r /srv/release /srv/bob/m && ln -s /srv/bob/m /srv/m");
    machine.must("mkdir -m 1777 /srv/sticky && cp -r /srv/release /srv/sticky/m");
    for (line, mirror, undo) in [
        ("chown 1000 /srv/bob/m", "/srv/bob/m", "chown 0 /srv/bob/m"),
        // Who may rename it has it too.
        ("chown 1000 /srv/bob", "/srv/bob/m", "chown 0 /srv/bob"),
        ("chmod 777 /srv/bob", "/srv/bob/m", "chmod 755 /srv/bob"),
        ("chown :1000 /srv/bob; chmod 775 /srv/bob", "/srv/bob/m", "chown :0 /srv/bob; chmod 755 /srv/bob"),
        ("chown 1000 /srv/bob", "/srv/m", "chown 0 /srv/bob"),
        (
            "ln -sfT ../m /srv/bob/link/m; chown 1000 /srv/bob/link",
            "/srv/bob/link/m",
            "chown 0 /srv/bob/link",
        ),
        ("chown -h 1000 /srv/m", "/srv/m", "chown -h 0 /srv/m"),
        ("chmod 1777 /srv/bob/m", "/srv/bob/m", "chmod 755 /srv/bob/m"),
        ("ln -s loop /srv/loop", "/srv/loop", "rm /srv/loop"),
    ] {
        machine.must(line);
        let line = format!("SUDO_UID=1000 SUDO_GID=1000 {INSTALL} modify --yes --mirror {mirror}");
        refused(&machine, &line, "it is not kept as the mirror");
        machine.must(undo);
    }
    for mirror in ["/srv/m", "/srv/bob/link/m", "/srv/sticky/m"] {
        machine.must(&format!("{INSTALL} modify --yes --mirror {mirror}"));
        assert_eq!(machine.read("/etc/parley-relay/update.env"), format!("MIRROR_BASE_URL={mirror}\n"));
    }
    // One that was kept before is not run by a timer that is turned on now.
    machine.must(&format!("{INSTALL} modify --yes --updates off --mirror /srv/bob/m"));
    machine.must("chown 1000 /srv/bob");
    for action in ["install --mirror /srv/bob/m", "update --mirror /srv/bob/m", "modify --updates weekly"] {
        refused(&machine, &format!("{INSTALL} {action} --yes"), "it is not kept as the mirror");
    }
    // What is signed may come from anybody.
    machine.must("cd /root && minisign -G -W -p a.pub -s a.key");
    machine.must(&format!("{INSTALL} modify --yes --mirror /srv/bob/m --public-key /root/a.pub"));
}

#[test]
fn a_mirror_that_automatic_updates_would_not_see_is_refused() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    machine.must("mkdir -p /home/me && ln -s /home/me /srv/link");
    let modify =
        |mirror: &str, updates: &str| format!("{INSTALL} modify --yes --updates {updates} --mirror {mirror}");
    for mirror in ["/home/me", "/root/mirror", "/run/user/0", "/tmp", "/var/tmp/a", "/srv/link"] {
        refused(
            &machine,
            &modify(mirror, "weekly"),
            &format!("automatic updates do not see the mirror {mirror}"),
        );
    }
    refused(&machine, &modify("'https://mirror.example/\"a'", "weekly"), "quotes");
    machine.must(&modify("/homes", "weekly"));
    // Nobody but this script looks there when there are none. Turned on later, they are refused too.
    machine.must(&modify("/home/me", "off"));
    refused(&machine, &format!("{INSTALL} modify --yes --updates weekly"), "do not see the mirror /home/me");
    machine.must(&modify("/srv/mirror", "weekly"));
    refused(
        &machine,
        &format!("{INSTALL} update --yes --mirror /home/me --files /srv/release"),
        "--files DIR",
    );
    // What is brought once does not come from there.
    machine.must("sed -i s:/srv/mirror:/home/me: /etc/parley-relay/update.env");
    let text = machine.must(&format!("{INSTALL} update --yes --files /srv/release"));
    assert!(text.contains("warning: automatic updates do not see the mirror /home/me"), "{text}");
}

#[test]
fn what_only_updates_read_is_no_reason_to_restart_the_relay_and_is_told() {
    let Some(machine) = machine() else { return };
    machine.must("cd /root && minisign -G -W -p a.pub -s a.key");
    machine.must("cd /srv/release && minisign -S -s /root/a.key -m SHA256SUMS");
    machine.must(&format!("{INSTALL} --yes --domain chat.lan --updates weekly"));
    let running = process(&machine);
    machine.must("echo 'UPDATE_FLAGS=--proxy http://me:s3cret@127.0.0.1:1' >/etc/parley-relay/update.env");
    for (arguments, told) in [
        ("modify --mirror https://a.example", "update.env: updates come from https://a.example"),
        ("install --mirror https://b.example", "update.env: updates come from https://b.example"),
        (
            "update --mirror http://c.example --plain-http",
            "http://c.example through a proxy, with --plain-http",
        ),
        ("install --public-key /root/a.pub", "update.pub: updates are checked with the key of /root/a.pub"),
        ("modify --updates daily", "automatic updates: daily 04:00"),
        ("install --update-time 05:30", "OnCalendar=*-*-* 05:30"),
        ("install --updates off", "automatic updates: off"),
    ] {
        let line = format!("{INSTALL} {arguments} --yes");
        let text = machine.must(&line);
        let told = told.strip_prefix("OnCalendar=").unwrap_or(told);
        assert!(text.contains("The relay stays as it is") && text.contains(told), "{line}\n{text}");
        assert!(!text.contains("Nothing has changed") && !text.contains("s3cret"), "{line}\n{text}");
        assert_eq!(process(&machine), running, "{line}");
    }
    assert!(!machine.has("/run/stub/enabled/parley-relay-update.timer"));
    for action in ["install", "modify"] {
        let text = machine.must(&format!("{INSTALL} {action} --yes"));
        assert!(text.contains("Nothing has changed"), "{text}");
    }
}

#[test]
fn a_proxy_to_download_through_is_the_one_of_later_updates_too() {
    let Some(mut machine) = machine() else { return };
    // As a proxy is asked for it: by the whole URL, of a name that only the proxy knows.
    machine.must("mkdir -p /srv/proxy/http: && ln -s ../../release /srv/proxy/http:/mirror.invalid");
    machine.must("cp /srv/release/install.sh /srv/ && cd /srv/release && echo 0.0.1 >version.txt && sha256sum version.txt >>SHA256SUMS");
    let proxy = machine.serve("/srv/proxy").replace("//", "//me:s3cret@");
    let install = "bash /srv/install.sh";
    let flags = "--yes --domain chat.lan --mirror http://mirror.invalid --plain-http";
    refused(&machine, &format!("{install} {flags}"), "cannot be had");
    refused(&machine, &format!("{install} {flags} --proxy ftp://a"), "--proxy is a URL");
    refused(&machine, &format!("{install} {flags} --proxy 'http://a b'"), "has spaces");
    refused(&machine, &format!("PARLEY_RELAY_DOWNLOAD_PROXY=socks5://a {install} {flags}"), "SOCKS");
    let text = machine.must(&format!("PARLEY_RELAY_DOWNLOAD_PROXY={proxy} {install} {flags}"));
    assert!(!text.contains("s3cret"), "{text}");
    let env = "/etc/parley-relay/update.env";
    let kept = format!("MIRROR_BASE_URL=http://mirror.invalid\nUPDATE_FLAGS=--proxy {proxy} --plain-http\n");
    assert_eq!(
        (machine.read(env), machine.must(&format!("stat -c %a {env}"))),
        (kept.clone(), "600\n".into())
    );
    for line in
        [format!("{install} update --yes"), "parley-relay update".into(), format!("{install} modify --yes")]
    {
        let text = machine.must(&line);
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(machine.read(env), kept);
    }
    let text = machine.must(&format!("{install} modify --yes --proxy off --updates weekly"));
    assert!(text.contains("updates come from http://mirror.invalid, with --plain-http"), "{text}");
    assert_eq!(machine.read(env), "MIRROR_BASE_URL=http://mirror.invalid\nUPDATE_FLAGS=--plain-http\n");
}

#[test]
fn the_file_of_flags_and_mirror_which_may_hold_passwords_is_as_hidden_as_somebody_made_it() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan --updates weekly"));
    let env = "/etc/parley-relay/update.env";
    let mode = || machine.must(&format!("stat -c %a {env}"));
    machine.must(&format!("{INSTALL} modify --yes --mirror https://a.example"));
    assert_eq!(mode(), "644\n");
    machine
        .must(&format!("echo 'UPDATE_FLAGS=--proxy http://me:s3cret@127.0.0.1:1' >{env}; chmod 600 {env}"));
    machine.must(&format!("{INSTALL} modify --yes --mirror https://b.example"));
    assert!(machine.read(env).contains("b.example") && mode() == "600\n", "{}", mode());
    machine.must(&format!("rm {env}; {INSTALL} modify --yes --mirror https://me:s3cret@c.example"));
    assert_eq!(mode(), "600\n");
}

#[test]
fn an_update_by_hand_comes_from_the_mirror_of_automatic_updates_too() {
    let Some(mut machine) = machine() else { return };
    let mirror = machine.serve("/srv/release").replace("127.0.0.1", "mirror.lan");
    machine.must("echo 127.0.0.1 mirror.lan >>/etc/hosts");
    machine.must(&format!("{INSTALL} --yes --domain chat.lan --mirror {mirror} --plain-http"));
    machine.copy(program(), "/srv/good");
    let program =
        "#!/bin/bash\ncase $1 in --version) echo parley-relay 99.0.0 ;; *) exec /srv/good \"$@\" ;; esac\n";
    release(&machine, program.as_bytes());
    machine.must("cd /srv/release && echo 99.0.0 >version.txt && sha256sum version.txt >>SHA256SUMS");
    let says = format!("update.env says MIRROR_BASE_URL={mirror} --plain-http, as for automatic updates");

    let check = "parley-relay update --check";
    let ran = machine.run(check);
    assert!(
        ran.code == Some(1) && ran.text.contains(&says) && ran.text.contains("99.0.0 can be had"),
        "{}",
        ran.text
    );
    // What is given, and another program's updates, are not the file's.
    for other in [
        format!("{check} --mirror /srv/release"),
        format!("MIRROR_BASE_URL=/srv/release {check}"),
        "cp /usr/local/bin/parley-relay /srv/other && /srv/other update --check --proxy http://127.0.0.1:1"
            .into(),
    ] {
        let ran = machine.run(&other);
        assert!(!ran.text.contains("update.env"), "{other}\n{}", ran.text);
    }
    for (line, told) in [
        ("UPDATE_FLAGS=--plain-htp", "UPDATE_FLAGS in /etc/parley-relay/update.env is not understood"),
        ("MIRROR_BASE_URL='/srv", "line 3 of /etc/parley-relay/update.env is not understood"),
    ] {
        let env = "/etc/parley-relay/update.env";
        let ran = machine.run(&format!(
            "cp {env} /srv/env; echo \"{line}\" >>{env}; {check}; code=$?; cp /srv/env {env}; exit $code"
        ));
        assert!(ran.code == Some(78) && ran.text.contains(told), "{line}\n{}", ran.text);
    }
    let text = machine.must("parley-relay update --restart-with true");
    assert!(text.contains(&says) && text.contains("is replaced by 99.0.0"), "{text}");
}

#[test]
fn what_was_checked_is_what_is_installed() {
    let Some(machine) = machine() else { return };
    // As soon as the sum is known, somebody changes the file.
    let swap = format!(
        "#!/bin/bash\n/usr/bin/sha256sum.real \"$@\"\necho swapped >/srv/release/{}\n",
        release_name()
    );
    machine.must("mv /usr/bin/sha256sum /usr/bin/sha256sum.real");
    machine.write("/usr/bin/sha256sum", &swap);
    machine.must("chmod 755 /usr/bin/sha256sum");
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    assert_eq!(machine.read(&format!("/srv/release/{}", release_name())), "swapped\n");
    assert_eq!(std::fs::read(machine.path(BINARY)).unwrap(), std::fs::read(program()).unwrap());
}

#[test]
fn what_is_secret_is_on_no_command_line() {
    let Some(machine) = machine() else { return };
    // A program that tells how it was started.
    let told = "#!/bin/bash\ntr '\\0' ' ' <\"/proc/$$/cmdline\" >>/srv/told\nexec /srv/good \"$@\"\n";
    machine.copy(program(), "/srv/good");
    release(&machine, told.as_bytes());
    machine.must(&format!(
        "PARLEY_RELAY_URI_PREFIX=s3cret PARLEY_RELAY_UPSTREAM_PROXY=socks5://me:passw0rd@127.0.0.1:1080 \
         PARLEY_RELAY_ACME_PROXY=http://me:passw1rd@127.0.0.1:3128 {INSTALL} --yes --domain chat.example.org"
    ));
    let (config, told) = (machine.read(CONFIG), machine.read("/srv/told"));
    assert!(told.contains(" init "), "{told}");
    for secret in ["s3cret", "passw0rd", "passw1rd"] {
        assert!(config.contains(secret) && !told.contains(secret), "{secret}\n{config}\n{told}");
    }
    machine.must(&format!("{INSTALL} modify --yes --prefix ''"));
    assert!(machine.read(CONFIG).contains("uri_prefix = \"\""), "{}", machine.read(CONFIG));
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
fn one_run_is_at_work_at_a_time_and_an_update_is_one() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    for action in ["install", "update", "modify --port 8443", "uninstall"] {
        let line = format!("flock --nonblock /usr/local/bin {INSTALL} {action} --yes");
        refused(&machine, &line, "is at work");
    }
    // It is held to the end, and no longer.
    let held = "sed -i '2i [ \"$1\" != daemon-reload ] || parley-relay update --mirror /srv/release' /usr/bin/systemctl";
    machine.must(&format!("cp /usr/bin/systemctl /srv/; {held}"));
    let text = machine.must(&format!("{INSTALL} modify --yes --port 8443"));
    assert!(text.contains("another update is at work in /usr/local/bin"), "{text}");
    machine.must("mv /srv/systemctl /usr/bin/systemctl");
    machine.must(&format!("{INSTALL} modify --yes --port 8444"));
    machine.must(&format!("rm /run/stub/log; {INSTALL} uninstall --yes"));
    assert!(machine.read("/run/stub/log").contains("stop parley-relay-update.service\n"));
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
    for line in [
        "--prot 1",
        "--domain",
        "--certificate none --yes --domain chat.lan",
        "--wait abc",
        "--wait 0",
        "--wait 08",
    ] {
        assert_eq!(machine.run(&format!("{INSTALL} {line}")).code, Some(64), "{line}");
    }
    let help = machine.must(&format!("{INSTALL} --help"));
    assert!(help.contains("--upstream-proxy URL"), "{help}");
}
