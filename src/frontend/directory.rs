//! The directory: opens regular files below it, and nothing else (attacks.md F1).

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use bytes::{Bytes, BytesMut};
use cap_std::{
    ambient_authority,
    fs::{Dir, OpenOptions, OpenOptionsExt},
};
use rustix::{fs::OFlags, io::Errno};

/// The directory by its name. It is opened anew for each request, so that one that is replaced as a whole, or
/// that comes late, is served without a reload.
#[derive(Clone, Debug)]
pub(super) struct Directory(Arc<Path>);

/// The directory as it is now.
pub(super) struct OpenDirectory(Dir);

/// An open regular file, and what it was when it was opened.
#[derive(Debug)]
pub(super) struct FoundFile {
    file: File,
    pub(super) len: u64,
    pub(super) modified: SystemTime,
    /// Seconds and nanoseconds of the last change to content or metadata. Nobody can set it, so it moves even
    /// where one release is unpacked over another with the same sizes and the same clamped times.
    pub(super) changed: (i64, i64),
}

impl Directory {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn open(&self) -> io::Result<OpenDirectory> {
        Dir::open_ambient_dir(&self.0, ambient_authority()).map(OpenDirectory)
    }
}

impl OpenDirectory {
    /// The regular file of this relative name. `None`: there is none, or it lies outside.
    pub(super) fn find(&self, name: &str) -> io::Result<Option<FoundFile>> {
        let mut options = OpenOptions::new();
        // SECURITY: F1. Opening a FIFO would wait for a writer, and opening a terminal could make it ours.
        // The flags are bits of a C int: the cast keeps them.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        options.read(true).custom_flags(flags.bits().cast_signed());
        // SECURITY: F1. cap-std resolves every step beneath the directory (openat2 where the kernel has it), so
        // that no symlink leads out, not even one that is changed meanwhile.
        let file = match self.0.open_with(name, &options) {
            Ok(file) => file.into_std(),
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        Ok(Some(FoundFile {
            len: metadata.len(),
            modified: metadata.modified()?,
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            file,
        }))
    }
}

/// Whether a failed open means that no file of ours has that name, and not that it cannot be read.
pub(super) fn is_absence(error: &io::Error) -> bool {
    match Errno::from_io_error(error) {
        Some(errno) => matches!(
            errno,
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO | Errno::NODEV
        ),
        // An escape is cap-std's own error, and carries no errno.
        None => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

impl FoundFile {
    /// `len` bytes from `first`; fewer are an error: the head has promised them.
    pub(super) fn read(&self, first: u64, len: u64) -> io::Result<Bytes> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = BytesMut::zeroed(len);
        self.file.read_exact_at(&mut bytes, first)?;
        Ok(bytes.freeze())
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, sync::mpsc, thread, time::Duration};

    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

    use super::*;

    #[test]
    fn f1_only_regular_files_below_the_directory_are_found() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("mura");
        std::fs::create_dir_all(path.join("media")).unwrap();
        std::fs::write(parent.path().join("secret"), "SECRET").unwrap();
        std::fs::write(path.join("media/main.js"), "MAIN").unwrap();
        symlink("..", path.join("up")).unwrap();
        symlink("/proc/self/root", path.join("root")).unwrap();
        let directory = Directory::new(&path).open().unwrap();
        // CanonicalPath lets none of the first three through; the directory does not rely on it.
        for name in [
            "../secret",
            "media/../../secret",
            "/etc/hostname",
            "up/secret",
            "root/etc/hostname",
            "media",
            "",
        ] {
            assert!(directory.find(name).unwrap().is_none(), "{name}");
        }
        let file = directory.find("media/../media/main.js").unwrap().unwrap();
        assert_eq!(file.read(1, 2).unwrap(), "AI");
    }

    #[test]
    fn f1_what_is_no_regular_file_is_not_found_and_does_not_block() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        symlink("fifo", path("link")).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        // /dev/zero: only root can make one, for others the name is missing.
        let _ = mknodat(CWD, path("device"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 5));
        let open = Directory::new(directory.path()).open().unwrap();
        // On a thread that a blocking open would keep, so that the test fails and does not hang.
        let (sender, found) = mpsc::channel();
        thread::spawn(move || {
            for name in ["fifo", "link", "socket", "device"] {
                sender.send((name, open.find(name).unwrap().is_some())).unwrap();
            }
        });
        for name in ["fifo", "link", "socket", "device"] {
            assert_eq!(found.recv_timeout(Duration::from_secs(10)), Ok((name, false)));
        }
    }

    #[test]
    fn a_read_that_comes_short_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("x"), "four").unwrap();
        let file = Directory::new(directory.path()).open().unwrap().find("x").unwrap().unwrap();
        assert_eq!(file.read(0, 5).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
