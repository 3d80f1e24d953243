//! Runs that are interrupted or killed: nothing is left half done, or the next run finds and mends it.

use super::{BINARY, INSTALL, broken_program, machine, program, release, served};
use crate::harness::Machine;

/// Waits until what is served is that again.
#[track_caller]
fn served_again(machine: &Machine, fingerprint: &str) {
    machine
        .must("until openssl s_client -connect 127.0.0.1:443 </dev/null >/dev/null 2>&1; do sleep 0.1; done");
    assert_eq!(served(machine, 443, "chat.lan"), fingerprint);
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
