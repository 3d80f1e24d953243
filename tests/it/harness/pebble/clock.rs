//! A relay whose clock is wrong, by Debian's libfaketime. Timers are left alone.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::script::write_script;

/// A clock that runs ahead of the machine's.
pub(crate) struct Clock(TempDir);

impl Clock {
    pub(crate) fn ahead_by_days(days: i32) -> Self {
        let clock = Self(TempDir::new().unwrap());
        clock.jump_to_days(days);
        let script = format!(
            r#"#!/bin/sh
echo $$ >>{dir}/processes
for library in /usr/lib/*/faketime/libfaketimeMT.so.1; do
  LD_PRELOAD=$library FAKETIME_TIMESTAMP_FILE={dir}/offset FAKETIME_CACHE_DURATION=1 \
    FAKETIME_DONT_FAKE_MONOTONIC=1 exec {relay} "$@"
done
"#,
            dir = clock.0.path().display(),
            relay = env!("CARGO_BIN_EXE_parley-relay")
        );
        write_script(&clock.relay(), &script);
        clock
    }

    /// The relay, run by this clock.
    pub(crate) fn relay(&self) -> PathBuf {
        self.0.path().join("relay")
    }

    /// Sets the clock of relays that run.
    pub(crate) fn jump_to_days(&self, days: i32) {
        fs::write(self.0.path().join("offset"), format!("{days:+}d\n")).unwrap();
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        // The library leaves these behind where its process is killed.
        let processes = fs::read_to_string(self.0.path().join("processes")).unwrap_or_default();
        for process in processes.lines() {
            for kind in ["faketime_shm", "sem.faketime_sem"] {
                let _ = fs::remove_file(format!("/dev/shm/{kind}_{process}"));
            }
        }
    }
}
