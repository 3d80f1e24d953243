//! install.sh on little machines: a minimal Debian each, where a stand-in for systemd really starts what it is told to.

mod cut_off;
mod killed_update;
mod package;
mod systemd;
mod take_over;
mod trouble;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::harness::{Machine, machine::source};

const INSTALL: &str = "bash /srv/release/install.sh";
const CONFIG: &str = "/etc/parley-relay/config.toml";
const BINARY: &str = "/usr/local/bin/parley-relay";
const UNIT: &str = "/etc/systemd/system/parley-relay.service";

/// A machine with a release in /srv/release.
fn machine() -> Option<Machine> {
    machine_of("1g")
}

fn machine_of(size: &str) -> Option<Machine> {
    let machine = Machine::start(size)?;
    released(&machine);
    Some(machine)
}

/// Puts install.sh and the program into /srv/release.
fn released(machine: &Machine) {
    machine.copy(&source("install.sh"), "/srv/release/install.sh");
    release(machine, &std::fs::read(program()).unwrap());
}

/// Puts `program` into the release, with its checksum.
fn release(machine: &Machine, program: &[u8]) {
    let name = release_name();
    machine.write(&format!("/srv/release/{name}"), program);
    machine.must(&format!("cd /srv/release && sha256sum {name} >SHA256SUMS"));
}

fn release_name() -> &'static str {
    if std::env::consts::ARCH == "aarch64" { "relay-linux-arm64" } else { "relay-linux-x64" }
}

/// The program without what debuggers need, so that it is copied and hashed in no time.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let stripped = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let stripped = stripped.join(format!("parley-relay-{}", std::process::id()));
        let status = Command::new("strip")
            .arg("-o")
            .arg(&stripped)
            .arg(env!("CARGO_BIN_EXE_parley-relay"))
            .status()
            .unwrap();
        assert!(status.success());
        stripped
    })
}

/// The program as another version would be: it does the same, and is not the same file.
fn another_program() -> Vec<u8> {
    let mut program = std::fs::read(program()).unwrap();
    program.extend(b"another");
    program
}

/// A program that knows what the installer asks of it, and does not serve.
fn broken_program() -> &'static str {
    "#!/bin/bash\n\
     case $1 in\n\
     --version) echo parley-relay 99.0.0 ;;\n\
     unit | check | init | cert) exec /srv/good \"$@\" ;;\n\
     *) exit 1 ;;\n\
     esac\n"
}

/// The fingerprint of what is served at `port` for `name`.
#[track_caller]
fn served(machine: &Machine, port: u16, name: &str) -> String {
    machine.must(&format!(
        "openssl s_client -connect 127.0.0.1:{port} -servername {name} </dev/null 2>/dev/null \
         | openssl x509 -noout -fingerprint -sha256"
    ))
}

fn process(machine: &Machine) -> String {
    machine.read("/run/stub/active/parley-relay.service")
}

#[test]
fn a_fresh_install_serves_and_a_second_run_changes_nothing() {
    let Some(machine) = machine() else { return };
    let text = machine.must(&format!("{INSTALL} --yes --domain 192.168.1.20 --prefix s3cret"));
    assert!(text.contains("https://192.168.1.20/s3cret/") && text.contains("sha-256  "), "{text}");
    served(&machine, 443, "192.168.1.20");
    assert_eq!(machine.must(&format!("stat -c '%a %U:%G' {CONFIG}")), "640 root:parley-relay\n");
    assert!(machine.has("/run/stub/enabled/parley-relay.service"));
    assert!(!machine.has("/run/stub/enabled/parley-relay-update.timer"));
    let (files, running) = (machine.files(), process(&machine));
    let text = machine.must(&format!("{INSTALL} --yes"));
    assert!(text.contains("Nothing has changed"), "{text}");
    machine.assert_files(&files, &text);
    assert_eq!(process(&machine), running);
}

#[test]
fn who_has_installed_is_told_what_is_not_well_and_where_things_are() {
    let Some(mut machine) = machine() else { return };
    let away = ["Automatic updates are off", CONFIG, "error    backend"];
    let install = format!("{INSTALL} --yes --domain chat.lan");
    for line in [install.clone(), format!("{INSTALL} modify --yes --prefix another"), install] {
        let text = machine.must(&line);
        for told in away {
            assert!(text.contains(told), "{told}\n{text}");
        }
        assert!(!text.contains("\nok "), "{text}");
    }
    machine.write("/srv/backend/another/health", "ok");
    let backend = machine.serve("/srv/backend");
    let text = machine.must(&format!("{INSTALL} modify --yes --updates weekly --backend {backend}"));
    for told in &away[..1] {
        assert!(!text.contains(told), "{told}\n{text}");
    }
    assert!(!text.contains("error    backend"), "{text}");
    let ran = machine.type_in(INSTALL, &["d"]);
    assert!(ran.text.contains("\nok       backend"), "{}", ran.text);
}

#[test]
fn the_questions_are_answered_at_a_terminal() {
    let Some(machine) = machine() else { return };
    machine.write("/opt/parley-chat/config.toml", SOVA);
    // I, domain, the prefix and the address of Sova's, the directory, a number, the port, no proxy, the front end,
    // a number for its kind and its URL, updates, and when.
    let answers = ["i", "chat.lan", "", "", "", "1", "8443", "", "", "", "3", "05:30"];
    let ran = machine.type_in(INSTALL, &answers);
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    for text in ["[M] Modify", "[abcdefghij0123456789]", "https://chat.lan:8443/abcdefghij0123456789/", "█"]
    {
        assert!(ran.text.contains(text), "{text}\n{}", ran.text);
    }
    served(&machine, 8443, "chat.lan");
    let config = machine.read(CONFIG);
    for line in
        ["mode = \"self-signed\"", "url = \"http://127.0.0.1:4000\"", "port = 8443", "max_streams = 24"]
    {
        assert!(config.contains(line), "{line}\n{config}");
    }
    let schedule = machine.read("/etc/systemd/system/parley-relay-update.timer.d/schedule.conf");
    assert_eq!(schedule, "[Timer]\nOnCalendar=\nOnCalendar=*-*-* 05:30\n");
    assert!(machine.has("/run/stub/enabled/parley-relay-update.timer"));
    // M, another name and prefix, no updates; all else stays. As it comes from the web: through a pipe.
    let piped = "bash -c 'bash -s -- --files /srv/release </srv/release/install.sh'";
    let ran = machine.type_in(piped, &["m", "relay.lan", "another", "", "", "", "", "", "", "", "1"]);
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    served(&machine, 8443, "relay.lan");
    let changed = config.replace("chat.lan", "relay.lan").replace("abcdefghij0123456789", "another");
    assert_eq!(machine.read(CONFIG), changed);
    assert!(!machine.has("/run/stub/enabled/parley-relay-update.timer"));
}

#[test]
fn an_answer_that_cannot_be_meant_is_asked_for_again() {
    let Some(machine) = machine() else { return };
    let answers = [
        "i",
        "https://chat.lan/",
        "chat.lan",
        "my prefix",
        "s3cret",
        "localhost:1",
        "",
        "relay",
        "",
        "1",
        "70000",
        "8443",
        "proxy",
        "",
        "",
        "",
        "1",
    ];
    let ran = machine.type_in(INSTALL, &answers);
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    for text in [
        "not https://chat.lan/",
        "letters, digits",
        "a URL, please",
        "begins with /",
        "up to 65535",
        "or off",
    ] {
        assert!(ran.text.contains(text), "{text}\n{}", ran.text);
    }
    served(&machine, 8443, "chat.lan");
    let ran = machine.run(&format!("sh {}", INSTALL.strip_prefix("bash ").unwrap()));
    assert!(ran.code == Some(1) && ran.text.contains("sudo bash install.sh"), "{}", ran.text);
    // It asks nothing, so that it needs no terminal.
    assert!(machine.run(&format!("{INSTALL} doctor")).text.contains("ports"));
}

#[test]
fn modify_changes_what_it_is_told_and_keeps_what_a_person_wrote() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan --upstream-proxy socks5://127.0.0.1:1080"));
    let rule = "\n# Nobody calls here.\n[[paths]]\nprefix = \"/api/v1/channel/*/call\"\naction = \"block\"\n";
    let before = machine.read(CONFIG) + rule;
    machine.write(CONFIG, &before);
    machine.must(&format!("{INSTALL} modify --yes --upstream-proxy off --port 8443 --frontend off"));
    served(&machine, 8443, "chat.lan");
    let after = machine.read(CONFIG);
    assert!(after.ends_with(rule), "{after}");
    for line in ["enabled = false", "port = 8443", "mode = \"disabled\""] {
        assert!(after.contains(line), "{line}\n{after}");
    }
    assert_eq!(machine.must(&format!("stat -c '%a %U:%G' {CONFIG}")), "640 root:parley-relay\n");
    let ran = machine.run(&format!("{INSTALL} modify --yes --port 99999"));
    assert!(ran.code == Some(1) && ran.text.contains("--port"), "{}", ran.text);
    assert_eq!(machine.read(CONFIG), after);
}

#[test]
fn what_is_given_as_nothing_is_taken_away_and_what_is_turned_off_keeps_no_password() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    let plain = machine.read(CONFIG);
    machine.write("/srv/bin/hook", "#!/bin/sh\n");
    let modify = |flags: &str| {
        machine.must(&format!("{INSTALL} modify --yes {flags}"));
        machine.read(CONFIG)
    };
    // An address for a CA that is not asked yet is kept for later too.
    assert!(modify("--email a@example.org").contains("email = \"a@example.org\""));
    let dns = modify("--certificate dns --dns-hook /srv/bin/hook");
    assert!(dns.contains("hook = \"/srv/bin/hook\"") && dns.contains("a@example.org"), "{dns}");
    assert_eq!(modify(""), dns);
    let by_port = modify("--certificate acme --email ''");
    assert!(!by_port.contains("/srv/bin/hook") && !by_port.contains("a@example.org"), "{by_port}");
    modify("--certificate dns --dns-hook /srv/bin/hook");
    let local = modify("--certificate self-signed");
    assert!(!local.contains("/srv/bin/hook"), "{local}");
    modify("--upstream-proxy socks5://me:s3cret@127.0.0.1:1");
    let off = modify("--upstream-proxy off");
    assert!(off.contains("enabled = false") && !off.contains("s3cret"), "{off}");
    assert!(plain.lines().filter(|line| line.starts_with('#')).all(|line| off.contains(line)), "{off}");
    for (flags, code, told) in [
        ("--directory relay", 1, "no absolute path"),
        ("--directory /", 1, "no absolute path"),
        ("--take-over maybe", 64, "--take-over is yes or no"),
    ] {
        let ran = machine.run(&format!("{INSTALL} modify --yes {flags}"));
        assert!(ran.code == Some(code) && ran.text.contains(told), "{flags}\n{}", ran.text);
        assert_eq!(machine.read(CONFIG), off, "{flags}");
    }
}

#[test]
fn update_puts_a_new_program_in_place_and_a_broken_one_is_undone() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    let (fingerprint, first) = (served(&machine, 443, "chat.lan"), process(&machine));
    let text = machine.must(&format!("{INSTALL} update --yes"));
    assert!(text.contains("the newest already"), "{text}");
    assert_eq!(process(&machine), first);
    release(&machine, &another_program());
    machine.must(&format!("{INSTALL} update --yes"));
    machine.must(&format!("for exe in /proc/[0-9]*/exe; do [ $exe -ef {BINARY} ] && exit; done; exit 1"));
    assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
    assert_eq!(std::fs::read(machine.path(BINARY)).unwrap(), another_program());

    let files = machine.files();
    machine.copy(program(), "/srv/good");
    release(&machine, broken_program().as_bytes());
    let ran = machine.run(&format!("{INSTALL} update --yes --wait 2"));
    assert!(ran.code == Some(1) && ran.text.contains("does not answer"), "{}", ran.text);
    assert!(ran.text.contains("as it was before"), "{}", ran.text);
    machine.assert_files(&files, &ran.text);
    // It answers again as soon as it has started.
    machine
        .must("until openssl s_client -connect 127.0.0.1:443 </dev/null >/dev/null 2>&1; do sleep 0.1; done");
    assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
}

#[test]
fn uninstall_removes_what_was_installed_and_nothing_else() {
    let Some(machine) = machine() else { return };
    machine.write("/etc/systemd/system/other.service", "[Service]\nExecStart=/bin/true\n");
    machine.write("/opt/parley-relay/mura/index.html", "the front end");
    let before = machine.files();
    let text = machine.must(&format!("umask 077; {INSTALL} --yes --domain chat.lan"));
    assert!(!text.contains("warning:"), "{text}");
    machine.must(&format!("{INSTALL} uninstall --yes"));
    assert!(!machine.has(BINARY) && !machine.has(UNIT) && machine.has(CONFIG));
    assert!(machine.has("/var/lib/parley-relay/local-ca/root.pem"));
    assert!(!machine.has("/run/stub/active/parley-relay.service"));
    assert!(!machine.has("/run/stub/enabled/parley-relay.service"));
    // What was kept is found again.
    let root = machine.read("/var/lib/parley-relay/local-ca/root.pem");
    machine.must(&format!("{INSTALL} --yes"));
    served(&machine, 443, "chat.lan");
    assert_eq!(machine.read("/var/lib/parley-relay/local-ca/root.pem"), root);
    // As `parley-relay update` keeps it.
    machine.write("/etc/parley-relay/update.env", "MIRROR_BASE_URL=/srv/release\n");
    let ran = machine.type_in(INSTALL, &["x", "y", "y"]);
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    machine.assert_files(&before, &ran.text);
    assert_ne!(machine.run("id parley-relay").code, Some(0));
}

#[test]
fn sockets_have_the_ports_and_the_host_of_the_config_and_are_asked_for_once() {
    let Some(machine) = machine() else { return };
    let before = machine.files();
    let [https, http, drop_in] =
        ["parley-relay.socket", "parley-relay-http.socket", "parley-relay.service.d/10-socket.conf"]
            .map(|name| format!("/etc/systemd/system/{name}"));
    let ports = || {
        [&https, &http].map(|file| {
            let line = format!("sed -n 's/^ListenStream=//p' {file} 2>/dev/null; true");
            machine.must(&line).trim().to_owned()
        })
    };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan --sockets yes --http-port 8080"));
    assert_eq!(ports(), ["443", "8080"]);
    assert_eq!(machine.must(&format!("parley-relay unit parley-relay-socket.conf | cmp - {drop_in}")), "");
    // Each is enabled before the service is started, which starts them.
    let log = machine.read("/run/stub/log");
    let at = |call: &str| log.find(call).unwrap_or_else(|| panic!("{call}\n{log}"));
    let start = at("restart --no-block parley-relay.service");
    for unit in ["parley-relay.socket", "parley-relay-http.socket", "parley-relay.service"] {
        assert!(at(&format!("enable --quiet {unit}")) < start, "{log}");
    }
    assert!(at("daemon-reload") < start, "{log}");

    machine.must(&format!("sed -i 's/^http_port = .*/&\\nhost = \"127.0.0.1\"/' {CONFIG}"));
    release(&machine, &another_program());
    machine.must(&format!("{INSTALL} update --yes"));
    assert_eq!(ports(), ["127.0.0.1:443", "127.0.0.1:8080"]);
    machine.must(&format!("sed -i 's/^host = .*/host = \"::1\"/' {CONFIG}"));
    machine.must(&format!("{INSTALL} modify --yes --port 8443"));
    assert_eq!(ports(), ["[::1]:8443", "[::1]:8080"]);
    let ran = machine.run(&format!("{INSTALL} modify --yes --port auto"));
    assert!(ran.code == Some(1), "{}", ran.text);
    machine.must(&format!("{INSTALL} modify --yes --http-port 0"));
    assert_eq!(ports(), ["[::1]:8443", ""]);
    machine.must(&format!("{INSTALL} modify --yes --sockets no"));
    assert!(!machine.has(&https) && !machine.has(&drop_in));
    for unit in ["parley-relay.socket", "parley-relay-http.socket"] {
        assert!(!machine.has(&format!("/run/stub/enabled/{unit}")), "{unit}");
    }
    machine.must(&format!("{INSTALL} uninstall --yes --purge"));

    // Plain HTTP is for a proxy on this machine.
    machine.must(&format!("{INSTALL} --yes --certificate off --sockets yes"));
    assert_eq!(ports(), ["127.0.0.1:7861", ""]);
    let text = machine.must(&format!("{INSTALL} uninstall --yes --purge"));
    machine.assert_files(&before, &text);
    assert_eq!(machine.run(&format!("{INSTALL} --sockets maybe")).code, Some(64));
}

#[test]
fn a_front_end_that_the_service_cannot_read_is_told() {
    let Some(machine) = machine() else { return };
    machine.must("mkdir -p /srv/mura /home/me/mura && touch /srv/mura/index.html /home/me/mura/index.html");
    machine.must("chmod 700 /srv/mura");
    let text = machine.must(&format!("{INSTALL} --yes --domain chat.lan --frontend /srv/mura"));
    assert!(text.contains("may not read /srv/mura"), "{text}");
    let text = machine.must(&format!("{INSTALL} modify --yes --frontend /home/me/mura"));
    assert!(text.contains("ProtectHome"), "{text}");
}

#[test]
fn certificate_files_that_are_roots_alone_are_served() {
    let Some(machine) = machine() else { return };
    machine.must(&key_pair("/root/tls", "chat.example.org"));
    let text = machine.must(&format!(
        "{INSTALL} --yes --domain chat.example.org --cert /root/tls/cert.pem --key /root/tls/key.pem"
    ));
    let wanted = machine.must("openssl x509 -in /root/tls/cert.pem -noout -fingerprint -sha256");
    assert_eq!(served(&machine, 443, "chat.example.org"), wanted);
    assert_eq!(machine.must("stat -c '%a %U:%G' /etc/parley-relay/tls/key.pem"), "640 root:parley-relay\n");
    // A renewed one is copied by the line that was told.
    let hook = text.lines().map(str::trim).find(|line| line.starts_with("install -m 640 -g parley-relay "));
    let hook = hook.unwrap_or_else(|| panic!("{text}"));
    assert!(hook.ends_with(" && systemctl reload parley-relay"), "{hook}");
    machine.must(&key_pair("/root/tls", "chat.example.org"));
    machine.must(hook.strip_suffix(" && systemctl reload parley-relay").unwrap());
    for name in ["cert", "key"] {
        machine.must(&format!("cmp /root/tls/{name}.pem /etc/parley-relay/tls/{name}.pem"));
    }
    assert_eq!(machine.must("stat -c '%a %U:%G' /etc/parley-relay/tls/key.pem"), "640 root:parley-relay\n");
}

#[test]
fn a_key_that_is_roots_alone_is_copied_with_its_certificate_so_that_a_renewal_parts_no_pair() {
    let Some(machine) = machine() else { return };
    machine.must(&key_pair("/srv/tls", "chat.example.org"));
    machine.must(&format!(
        "{INSTALL} --yes --domain chat.example.org --cert /srv/tls/cert.pem --key /srv/tls/key.pem"
    ));
    let fingerprint = served(&machine, 443, "chat.example.org");
    // Renewed, and not copied: the one before serves on, after a restart too.
    machine.must(&key_pair("/srv/tls", "chat.example.org"));
    machine.must("systemctl restart parley-relay.service");
    machine
        .must("until openssl s_client -connect 127.0.0.1:443 </dev/null >/dev/null 2>&1; do sleep 0.1; done");
    assert_eq!(served(&machine, 443, "chat.example.org"), fingerprint);
}

#[test]
fn a_config_for_use_behind_another_proxy_is_plain_http() {
    let Some(machine) = machine() else { return };
    let text = machine.must(&format!("{INSTALL} --yes --certificate off --port 7000"));
    assert!(text.contains("port 7000"), "{text}");
    machine.must("wget -q -O - http://127.0.0.1:7000/none || [ $? = 8 ]");
}

#[test]
fn what_a_plain_uninstall_has_kept_a_purge_removes_later() {
    let Some(machine) = machine() else { return };
    machine.must(&key_pair("/root/tls", "chat.example.org"));
    let before = machine.files();
    let install = format!(
        "{INSTALL} --yes --domain chat.example.org --cert /root/tls/cert.pem --key /root/tls/key.pem"
    );
    let uninstall = format!("{INSTALL} uninstall --yes");
    for again in [false, true] {
        machine.must(&install);
        machine.must(&uninstall);
        assert!(machine.has(CONFIG) && machine.has("/etc/parley-relay/tls/key.pem"));
        let ran = machine.run(&uninstall);
        assert!(ran.code == Some(1) && ran.text.contains("--purge"), "{}", ran.text);
        if again {
            // Nothing of that run knows of the copies.
            machine.must(&format!("{INSTALL} --yes --certificate self-signed"));
        } else {
            machine.write(UNIT, "[Service]\nExecStart=/bin/sleep infinity\n");
            machine.must("systemctl start parley-relay.service");
        }
        let text = machine.must(&format!("{uninstall} --purge"));
        // What somebody has put there since stays.
        if !again {
            process(&machine);
            machine.must(&format!("systemctl stop parley-relay.service && rm {UNIT}"));
        }
        machine.assert_files(&before, &text);
        assert!(!machine.has("/etc/parley-relay") && !machine.has("/var/lib/parley-relay"));
        assert_ne!(machine.run("id parley-relay").code, Some(0));
    }
}

#[test]
fn a_purge_leaves_no_key_where_the_storage_is_a_mount_or_a_link() {
    for (line, told) in [
        ("mkdir /var/lib/parley-relay && mount --bind /data /var/lib/parley-relay", "stays: it is a mount"),
        ("ln -s /data /var/lib/parley-relay", "was a link to /data"),
    ] {
        let Some(machine) = machine() else { return };
        machine.must(&key_pair("/root/tls", "chat.lan"));
        machine.must(&format!("mkdir /data && {line}"));
        machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
        machine.must("chown parley-relay: /data && systemctl restart parley-relay.service");
        machine.must("until [ -f /data/local-ca/root-key.pem ]; do sleep 0.1; done");
        machine.must(&format!("{INSTALL} modify --yes --cert /root/tls/cert.pem --key /root/tls/key.pem"));
        let text = machine.must(&format!("{INSTALL} uninstall --yes --purge"));
        assert!(text.contains(told), "{text}");
        assert_eq!(machine.must("find /data -mindepth 1"), "");
        assert!(!machine.has("/etc/parley-relay"), "{text}");
        assert_ne!(machine.run("id parley-relay").code, Some(0));
    }
}

#[test]
fn an_account_that_was_there_before_outlives_a_purge() {
    let Some(machine) = machine() else { return };
    let (install, purge) =
        (format!("{INSTALL} --yes --domain chat.lan"), format!("{INSTALL} uninstall --yes --purge"));
    machine.must("useradd --system parley-relay");
    machine.must(&install);
    let text = machine.must(&purge);
    assert!(text.contains("stays: userdel parley-relay"), "{text}");
    machine.must("userdel parley-relay");
    // One of ours is known for ours after a second run, and after a plain uninstall.
    for line in [&install, &install, &format!("{INSTALL} uninstall --yes"), &install, &purge] {
        machine.must(line);
    }
    assert_ne!(machine.run("id parley-relay").code, Some(0));
}

/// A line of bash that makes cert.pem and key.pem in `directory`, as the original's installer does.
fn key_pair(directory: &str, name: &str) -> String {
    format!(
        "mkdir -p {directory} && cd {directory} && openssl req -x509 -newkey rsa:2048 -nodes -days 3650 \
         -keyout key.pem -out cert.pem -subj /CN={name} -addext subjectAltName=DNS:{name} 2>/dev/null \
         && chmod 600 key.pem"
    )
}

/// Sova's config, as far as it matters here.
const SOVA: &str = "version=6\n\nuri_prefix=\"abcdefghij0123456789\"\n[server]\n    host=\"127.0.0.1\"\n    port=4000\n    \
    threads=32\n    max_content_length=67108864\n[frontend]\n    hosted=true\n";
