//! Files that the configuration names: whether the relay's user may read them, whoever may read them here.

use std::{
    fs::{self, File},
    path::Path,
};

use super::Finding;
use crate::config::{CertificateSource, Config, Frontend};

/// Of this user, who is the relay's own where its storage directory belongs to one.
pub(super) fn look(config: &Config, file: Option<&Path>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut look_at = |path: &Path, what: &str| {
        let read = if path.is_dir() { fs::read_dir(path).map(drop) } else { File::open(path).map(drop) };
        if let Err(error) = read {
            let text = format!("the relay's user cannot read {what}, {}: {error}", path.display());
            findings.push(Finding::fault(
                "files",
                text,
                "it needs leave to read it, and to enter each directory above it: namei -l shows them;\n\
                 the systemd unit sees no home directories",
            ));
        }
    };
    if let Some(file) = file {
        look_at(file, "its config");
    }
    if let Some(CertificateSource::Files { cert, key }) = config.tls.as_ref().map(|tls| &tls.certificates) {
        look_at(cert, "the certificate");
        look_at(key, "the key");
    }
    if let Frontend::Serve { directory, .. } = &config.frontend
        && !directory.as_os_str().is_empty()
    {
        look_at(directory, "the front end");
    }
    findings
}
