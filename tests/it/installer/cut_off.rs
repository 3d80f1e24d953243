//! Runs that are interrupted or killed: nothing is left half done, or the next run finds and mends it.

use super::{
    BINARY, CONFIG, INSTALL, another_program, broken_program, machine, machine_of, process, program, release,
    served, take_over::older_with_certbot,
};
use crate::harness::{Machine, is_long};

/// Waits until what is served is that again.
#[track_caller]
fn served_again(machine: &Machine, fingerprint: &str) {
    served_as(machine, "chat.lan", fingerprint);
}

#[track_caller]
fn served_as(machine: &Machine, name: &str, fingerprint: &str) {
    machine
        .must("until openssl s_client -connect 127.0.0.1:443 </dev/null >/dev/null 2>&1; do sleep 0.1; done");
    assert_eq!(served(machine, 443, name), fingerprint);
}

#[test]
fn what_is_undone_is_undone_to_its_end_however_often_somebody_interrupts() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    let fingerprint = served(&machine, 443, "chat.lan");
    let files = machine.files();
    machine.copy(program(), "/srv/good");
    release(&machine, broken_program().as_bytes());
    // At a terminal, Ctrl-C is for all that the script has started too.
    for (signal, whom) in [("INT", "-- -$!"), ("TERM", "$!"), ("HUP", "-- -$!")] {
        // One whose program was changed under it is not asked to hand over: it is restarted.
        machine.must(&format!("cp {BINARY} /usr/local/bin/new && mv /usr/local/bin/new {BINARY}"));
        let ran = machine.run(&format!(
            "set -m; rm /run/stub/log; {INSTALL} update --yes --wait 40 & until grep -qs restart /run/stub/log; do sleep 0.1; done; \
             sleep 0.5; for try in 1 2 3 4 5 6; do kill -{signal} {whom}; sleep 0.03; done 2>/dev/null; wait $!"
        ));
        assert!(ran.code > Some(128) && ran.text.contains("as it was before"), "{signal}\n{}", ran.text);
        machine.assert_files(&files, &ran.text);
        served_again(&machine, &fingerprint);
    }
    assert_eq!(std::fs::read(machine.path(BINARY)).unwrap(), std::fs::read(program()).unwrap());
}

/// Lets install.sh be killed when it has written everything, and says so to nobody.
fn killed(machine: &Machine, line: &str) {
    machine.must("cp /usr/bin/systemctl /srv/systemctl");
    machine.must("sed -i '2i [ \"$1\" != daemon-reload ] || kill -KILL $PPID' /usr/bin/systemctl");
    assert_eq!(machine.run(&format!("{line}; exit $?")).code, Some(137), "{line}");
    machine.must("cp /srv/systemctl /usr/bin/systemctl");
}

fn leftovers(machine: &Machine) -> String {
    machine.must("find /usr/local /etc -name '*.parley-*' -o -name .unfinished")
}

#[test]
fn an_update_that_was_killed_is_finished_by_the_next_one() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    let (fingerprint, running) = (served(&machine, 443, "chat.lan"), process(&machine));
    let update = format!("{INSTALL} update --yes --wait 2");
    release(&machine, &another_program());
    killed(&machine, &update);
    assert_eq!(process(&machine), running);
    let text = machine.must(&update);
    assert!(text.contains("was cut off"), "{text}");
    assert_ne!(process(&machine), running);
    assert_eq!(served(&machine, 443, "chat.lan"), fingerprint);
    assert_eq!(leftovers(&machine), "");

    // Two broken ones: what is undone is both.
    machine.copy(program(), "/srv/good");
    release(&machine, broken_program().as_bytes());
    killed(&machine, &update);
    release(&machine, broken_program().replace("99", "100").as_bytes());
    let ran = machine.run(&update);
    assert!(ran.code == Some(1) && ran.text.contains("as it was before"), "{}", ran.text);
    assert_eq!(std::fs::read(machine.path(BINARY)).unwrap(), another_program());
    served_again(&machine, &fingerprint);
    release(&machine, &another_program());
    machine.must(&update);
    assert_eq!(leftovers(&machine), "");
    let text = machine.must(&update);
    assert!(text.contains("the newest already") && !text.contains("cut off"), "{text}");
}

#[test]
fn a_change_of_the_config_that_was_killed_is_finished_by_the_next_one() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    for (change, port) in [("--port 8443", 8443), ("--prefix another", 8443)] {
        let (line, running) = (format!("{INSTALL} modify --yes {change}"), process(&machine));
        killed(&machine, &line);
        let text = machine.must(&line);
        assert!(text.contains("was cut off"), "{text}");
        assert_ne!(process(&machine), running);
        served(&machine, port, "chat.lan");
        assert_eq!(leftovers(&machine), "");
    }
    assert!(machine.read(CONFIG).contains("another"));
    // Of one that was killed when all was done: it is of no use.
    machine.must(&format!("ln {BINARY} /usr/local/bin/.parley-relay.parley-old"));
    let running = process(&machine);
    let text = machine.must(&format!("{INSTALL} modify --yes"));
    assert!(text.contains("Nothing has changed"), "{text}");
    assert_eq!((process(&machine), leftovers(&machine)), (running, String::new()));
}

/// How many commands install.sh runs for `line`, in its own process.
fn commands(machine: &Machine, line: &str) -> u32 {
    machine.write(
        "/srv/count.sh",
        "set -T; trap '((++n)); [ $BASHPID != $$ ] || echo $n >/run/commands' DEBUG\n",
    );
    machine.must(&format!("BASH_ENV=/srv/count.sh {line}"));
    machine.read("/run/commands").trim().parse().unwrap()
}

/// Kills install.sh before its command of that number.
fn killed_at(machine: &Machine, line: &str, number: u32) {
    let kill = format!("set -T; trap '((++n != {number})) || [ $BASHPID != $$ ] || kill -KILL $$' DEBUG\n");
    machine.write("/srv/kill.sh", kill);
    let ran = machine.run(&format!("BASH_ENV=/srv/kill.sh {line}; exit $?"));
    assert_eq!(ran.code, Some(137), "{number}\n{}", ran.text);
}

/// Points all over `commands`, the last ones too: more of them in a long run.
fn points(commands: u32) -> impl Iterator<Item = u32> {
    let number = if is_long() { 60 } else { 8 };
    (1..=number).map(move |point| commands * point / number - 1)
}

#[test]
fn a_take_over_that_is_killed_anywhere_is_undone_or_finished_by_the_next_run() {
    let install = format!("{INSTALL} --yes --http-port 0");
    let Some(machine) = machine() else { return };
    older_with_certbot(&machine);
    let commands = commands(&machine, &install);
    for (point, number) in points(commands).zip(0..) {
        let machine = machine_of("1g").unwrap();
        older_with_certbot(&machine);
        machine.copy(program(), "/srv/good");
        let (files, crontab) = (machine.files(), machine.read("/var/crontab"));
        let fingerprint = served(&machine, 443, "chat.example.org");
        killed_at(&machine, &install, point);
        // It was killed while it told what it had done.
        let was_done =
            machine.has("/etc/parley-relay/installed") && !machine.has("/etc/parley-relay/.unfinished");
        if number % 2 == 0 && !was_done {
            release(&machine, broken_program().as_bytes());
            let ran = machine.run(&format!("{install} --wait 2"));
            assert!(ran.code == Some(1) && ran.text.contains("as it was before"), "{point}\n{}", ran.text);
            machine.assert_files(&files, &format!("{point} of {commands}\n{}", ran.text));
            for unit in ["parley-relay.service", "parley-relay-nginx.service"] {
                machine.must(&format!("systemctl is-active {unit} && systemctl is-enabled {unit}"));
            }
            assert_eq!(machine.run("id parley-relay").code, Some(1), "{point}\n{}", ran.text);
        } else {
            let text = machine.must(&install);
            assert_eq!(leftovers(&machine), "", "{point}\n{text}");
            assert_ne!(
                machine.run("systemctl is-enabled parley-relay-nginx.service").code,
                Some(0),
                "{text}"
            );
            let kept: Vec<_> = crontab.lines().filter(|line| !line.contains("certbot")).collect();
            assert_eq!(machine.read("/var/crontab").lines().collect::<Vec<_>>(), kept, "{point}\n{text}");
        }
        served_as(&machine, "chat.example.org", &fingerprint);
    }
}

#[test]
fn a_first_install_that_is_killed_anywhere_is_undone_by_an_uninstall() {
    let install = format!("{INSTALL} --yes --domain chat.lan --updates weekly");
    let Some(machine) = machine() else { return };
    let before = machine.files();
    let commands = commands(&machine, &install);
    machine.must(&format!("{INSTALL} uninstall --yes --purge"));
    machine.assert_files(&before, "uninstall");
    for point in points(commands) {
        killed_at(&machine, &install, point);
        let ran = machine.run(&format!("{INSTALL} uninstall --yes --purge"));
        assert!(ran.code == Some(0) || ran.text.contains("is not installed"), "{point}\n{}", ran.text);
        machine.assert_files(&before, &format!("{point} of {commands}\n{}", ran.text));
        assert_eq!(machine.run("id parley-relay").code, Some(1), "{point}\n{}", ran.text);
        assert_ne!(machine.run("systemctl is-active parley-relay.service").code, Some(0));
    }
}

#[test]
fn a_relay_that_is_down_or_of_another_program_is_started_though_nothing_is_new() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    for action in ["modify", "update", "install"] {
        machine.must("systemctl stop parley-relay.service");
        machine.must(&format!("{INSTALL} {action} --yes"));
        served(&machine, 443, "chat.lan");
        let running = process(&machine);
        machine.must(&format!("cp {BINARY} /usr/local/bin/new && mv /usr/local/bin/new {BINARY}"));
        machine.must(&format!("{INSTALL} {action} --yes"));
        assert_ne!(process(&machine), running, "{action}");
        let running = process(&machine);
        machine.must(&format!("{INSTALL} {action} --yes"));
        assert_eq!(process(&machine), running, "{action}");
    }
}

#[test]
fn an_uninstall_that_was_killed_can_be_run_again() {
    let Some(machine) = machine() else { return };
    machine.must(&format!("{INSTALL} --yes --domain chat.lan"));
    let line = format!("{INSTALL} uninstall --yes --purge");
    killed(&machine, &line);
    assert!(!machine.has(BINARY));
    let text = machine.must(&line);
    for path in ["/etc/parley-relay", "/var/lib/parley-relay", "/etc/systemd/system/parley-relay.service"] {
        assert!(!machine.has(path), "{path}\n{text}");
    }
    assert_ne!(machine.run("id parley-relay").code, Some(0));
}
