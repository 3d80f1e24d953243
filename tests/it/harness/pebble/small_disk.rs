//! A file system of its own, which can be filled up or made read-only.

use std::{fs, io::Write, path::Path, process::Command};

use tempfile::TempDir;

/// A mounted file system of 1 MiB. Dropping it unmounts it.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, and a line that says so, where we may not mount.
    pub(crate) fn mount() -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let mounted = mount(&["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs"], dir.path());
        if !mounted {
            eprintln!("skipped: a small file system can be mounted by root alone");
            return None;
        }
        Some(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves not a byte free.
    pub(crate) fn fill(&self) {
        let mut filler = fs::File::create(self.filler()).unwrap();
        let error = loop {
            if let Err(error) = filler.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Frees what [`Self::fill`] took.
    pub(crate) fn empty(&self) {
        // Emptied first: a process that another test just forked may still hold it.
        fs::write(self.filler(), "").unwrap();
        fs::remove_file(self.filler()).unwrap();
    }

    /// For whoever opens a file there from now on. By a mount over the first one, because a file system on which
    /// files are open for writing stays writable.
    pub(crate) fn make_read_only(&self) {
        let path = self.path().to_str().unwrap();
        assert!(mount(&["--bind", path], self.path()));
        assert!(mount(&["-o", "remount,bind,ro"], self.path()));
    }

    fn filler(&self) -> std::path::PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the relay may still be on its way out. Again: it may have been made read-only.
        let unmount = || {
            let output = Command::new("umount").arg("-l").arg(self.path()).output();
            output.is_ok_and(|output| output.status.success())
        };
        assert!(unmount() || std::thread::panicking());
        while unmount() {}
    }
}

fn mount(arguments: &[&str], at: &Path) -> bool {
    let output = Command::new("mount").args(arguments).arg(at).output();
    output.is_ok_and(|output| output.status.success())
}
