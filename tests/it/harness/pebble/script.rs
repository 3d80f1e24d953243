//! Programs that a test writes: hooks of the relay's, and what the relay is started by.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// Writes `text` to `path`, executable.
///
/// By a child process: were the file open for writing in this one, another test's fork could inherit it at the
/// wrong moment, and the program could not be executed ("text file busy").
pub(crate) fn write_script(path: &Path, text: &str) {
    let mut install = Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    install.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
}
