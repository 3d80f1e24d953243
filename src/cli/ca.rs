//! `ca`: what a person needs to make a device trust the local CA.

use std::{
    fmt::Write as _,
    fs,
    io::{self, IsTerminal, Write as _},
    path::{self, Path, PathBuf},
    process::ExitCode,
};

use aws_lc_rs::digest;
use qrcode::{QrCode, render::unicode::Dense1x2};
use rustix::process::geteuid;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{EXIT_CONFIG, EXIT_INTERNAL, cert::StorageArgs};
use crate::{
    config::Environment,
    storage::Storage,
    tls::{certificate::fingerprint, local_ca},
};

/// What `ca` shows, and what it writes where.
#[derive(clap::Args, Debug)]
pub(crate) struct CaArgs {
    #[command(flatten)]
    storage: StorageArgs,

    /// Write the root as a DER certificate, for Android, Windows and Linux
    #[arg(long, value_name = "FILE")]
    crt: Option<PathBuf>,
    /// Write the root as a configuration profile, for iPhone, iPad and Mac
    #[arg(long, value_name = "FILE")]
    mobileconfig: Option<PathBuf>,
}

/// Shows the root in `storage` and exports it. Reads nothing but the certificate: the key stays where it is.
pub(crate) fn run(arguments: &CaArgs) -> ExitCode {
    let directory = match arguments.storage.directory(&Environment::of_process()) {
        Ok(directory) => directory,
        Err(code) => return code,
    };
    // It is shown in commands, which are typed elsewhere.
    let storage = Storage::at(&path::absolute(&directory).unwrap_or(directory));
    let file = storage.path(local_ca::ROOT);
    let pem = match storage.read(local_ca::ROOT) {
        Ok(Some(pem)) => pem,
        Ok(None) => {
            eprintln!(
                "error: there is no local CA: {} is made when the relay first starts with a self-signed \
                 certificate; --storage DIR names another directory",
                file.display()
            );
            return EXIT_CONFIG.into();
        }
        Err(error) => {
            eprintln!("error: {error}");
            return EXIT_CONFIG.into();
        }
    };
    let der = match CertificateDer::from_pem_slice(&pem) {
        Ok(der) => der,
        Err(error) => {
            eprintln!(
                "error: {} is damaged: {error}; the relay makes it anew when it starts",
                file.display()
            );
            return EXIT_CONFIG.into();
        }
    };
    let fingerprint = fingerprint(&der);
    let mut stdout = io::stdout();
    let mut report = describe(&file, &fingerprint, &arguments.command(geteuid().is_root()));
    if stdout.is_terminal() {
        report += &qr_code(&fingerprint);
    }
    let exports =
        [(&arguments.crt, der.to_vec()), (&arguments.mobileconfig, mobileconfig(&der, &pem).into_bytes())];
    for (file, contents) in exports {
        let Some(file) = file else { continue };
        if let Err(error) = fs::write(file, contents) {
            eprintln!("error: {} cannot be written: {error}", file.display());
            return EXIT_INTERNAL.into();
        }
        report += &format!("wrote {}\n", file.display());
    }
    match stdout.write_all(report.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // Who closed the pipe has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            EXIT_INTERNAL.into()
        }
    }
}

impl CaArgs {
    /// What exports the same root, for a shell. Whoever had to be root for it has to be again.
    fn command(&self, as_root: bool) -> String {
        let mut command = if as_root { "sudo parley-relay ca" } else { "parley-relay ca" }.to_owned();
        for (flag, path) in [("--config", &self.storage.config), ("--storage", &self.storage.storage)] {
            if let Some(path) = path {
                let path = path::absolute(path).unwrap_or_else(|_| path.clone());
                command += &format!(" {flag} {}", shell_word(&path.display().to_string()));
            }
        }
        command
    }
}

fn describe(file: &Path, fingerprint: &str, command: &str) -> String {
    format!(
        "root     {file}
sha-256  {fingerprint}

A device that trusts this root trusts the relay. Compare the fingerprint before you install it.
  Android     {command} --crt FILE; Settings, Security, More, Install a certificate, CA certificate
  iOS         {command} --mobileconfig FILE, open it; Settings, Profile Downloaded, Install;
              then General, About, Certificate Trust Settings, turn it on
  Windows     {command} --crt FILE; as administrator: certutil -addstore Root FILE
  macOS       {command} --crt FILE; sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain FILE
  Linux       sudo install -m 644 {quoted} /usr/local/share/ca-certificates/parley-relay.crt && sudo update-ca-certificates
  Firefox     Settings, Privacy & Security, View Certificates, Authorities, Import

",
        file = file.display(),
        quoted = shell_word(&file.display().to_string()),
    )
}

/// A path as a shell takes it for one word.
fn shell_word(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// The fingerprint for another device's camera; nothing, should it not fit (it does: 95 characters).
fn qr_code(fingerprint: &str) -> String {
    let Ok(code) = QrCode::new(fingerprint) else {
        return String::new();
    };
    // Light modules are drawn, dark ones left blank: most terminals are dark.
    let drawn = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    format!("The fingerprint, for another device's camera; it is not the site's address:\n{drawn}\n\n")
}

/// An Apple configuration profile with the root, of `der` and the same in `pem`.
///
/// Its identifiers follow from the certificate: installing it twice leaves one profile, and the profile of
/// another root is another one.
fn mobileconfig(der: &[u8], pem: &[u8]) -> String {
    let pem = String::from_utf8_lossy(pem);
    // PEM is base64 between two marker lines (RFC 7468); a property list takes the same.
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let (profile, payload) = (uuid("profile", der), uuid("root", der));
    let name = format!("parley-relay local CA {}", &profile[..8]);
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>PayloadContent</key>
	<array>
		<dict>
			<key>PayloadCertificateFileName</key>
			<string>parley-relay.crt</string>
			<key>PayloadContent</key>
			<data>{base64}</data>
			<key>PayloadDisplayName</key>
			<string>{name}</string>
			<key>PayloadIdentifier</key>
			<string>parley-relay.root.{payload}</string>
			<key>PayloadType</key>
			<string>com.apple.security.root</string>
			<key>PayloadUUID</key>
			<string>{payload}</string>
			<key>PayloadVersion</key>
			<integer>1</integer>
		</dict>
	</array>
	<key>PayloadDisplayName</key>
	<string>{name}</string>
	<key>PayloadIdentifier</key>
	<string>parley-relay.profile.{profile}</string>
	<key>PayloadType</key>
	<string>Configuration</string>
	<key>PayloadUUID</key>
	<string>{profile}</string>
	<key>PayloadVersion</key>
	<integer>1</integer>
</dict>
</plist>
"#
    )
}

/// A UUID of version 8 (RFC 9562, section 5.8) that is the same for the same certificate.
fn uuid(purpose: &str, der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, &[purpose.as_bytes(), der].concat());
    let mut text = String::with_capacity(36);
    for (index, byte) in digest.as_ref().iter().take(16).enumerate() {
        let byte = match index {
            6 => byte & 0x0f | 0x80,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02X}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (Vec<u8>, String) {
        let made = rcgen::generate_simple_self_signed(["root".to_owned()]).unwrap();
        (made.cert.der().to_vec(), made.cert.pem())
    }

    #[test]
    fn a_profile_carries_the_certificate_and_is_the_same_each_time() {
        let (der, pem) = root();
        let profile = mobileconfig(&der, pem.as_bytes());
        assert_eq!(profile, mobileconfig(&der, pem.as_bytes()));
        let data = profile.split("<data>").nth(1).unwrap().split("</data>").next().unwrap();
        let again = format!("-----BEGIN CERTIFICATE-----\n{data}\n-----END CERTIFICATE-----\n");
        assert_eq!(CertificateDer::from_pem_slice(again.as_bytes()).unwrap().as_ref(), der);
        assert!(!profile.contains(&uuid("profile", &root().0)));
    }

    #[test]
    fn uuids_follow_from_the_certificate_and_say_how() {
        let id = uuid("root", b"der");
        assert_eq!(id, uuid("root", b"der"));
        assert_ne!(id, uuid("profile", b"der"));
        let lengths: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(&id[14..15], "8");
        assert!(matches!(&id[19..20], "8" | "9" | "A" | "B"));
    }

    #[test]
    fn exports_are_written_and_a_missing_root_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = CaArgs {
            storage: StorageArgs { config: None, storage: Some(directory.path().to_owned()) },
            crt: Some(directory.path().join("root.crt")),
            mobileconfig: Some(directory.path().join("root.mobileconfig")),
        };
        assert_eq!(run(&arguments), EXIT_CONFIG.into());
        assert!(!directory.path().join("root.crt").exists());
        let (der, pem) = root();
        let storage = Storage::open(directory.path()).unwrap();
        storage.write(local_ca::ROOT, pem.as_bytes()).unwrap();
        assert_eq!(run(&arguments), ExitCode::SUCCESS);
        assert_eq!(fs::read(directory.path().join("root.crt")).unwrap(), der);
        assert!(directory.path().join("root.mobileconfig").exists());
    }

    #[test]
    fn each_command_is_one_line_and_one_word_is_the_path() {
        let text = describe(Path::new("/var/lib/it's here/root.pem"), "AB:CD", "parley-relay ca");
        let line = |word: &str| text.lines().find(|line| line.contains(word)).unwrap();
        assert!(line("security add-trusted-cert").ends_with(" -k /Library/Keychains/System.keychain FILE"));
        assert!(line("sudo install").ends_with(
            r"install -m 644 '/var/lib/it'\''s here/root.pem' /usr/local/share/ca-certificates/parley-relay.crt && sudo update-ca-certificates"
        ));
        assert_eq!(
            shell_word("/var/lib/parley-relay/local-ca/root.pem"),
            "/var/lib/parley-relay/local-ca/root.pem"
        );
    }

    #[test]
    fn the_command_that_exports_is_told_whole() {
        let of = |config: Option<&str>, storage: Option<&str>| CaArgs {
            storage: StorageArgs { config: config.map(PathBuf::from), storage: storage.map(PathBuf::from) },
            crt: None,
            mobileconfig: None,
        };
        assert_eq!(of(None, None).command(false), "parley-relay ca");
        assert_eq!(of(Some("/etc/a b"), None).command(true), "sudo parley-relay ca --config '/etc/a b'");
        let command = of(None, Some("/srv/s")).command(true);
        assert_eq!(command, "sudo parley-relay ca --storage /srv/s");
        let text = describe(Path::new("/srv/s/root.pem"), "AB:CD", &command);
        for (system, flag) in
            [("Android", "--crt"), ("iOS", "--mobileconfig"), ("Windows", "--crt"), ("macOS", "--crt")]
        {
            let line = format!("  {system:10}  sudo parley-relay ca --storage /srv/s {flag} FILE");
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_fingerprint_fits_a_code_which_says_what_it_is() {
        let code = qr_code(&fingerprint(b"der"));
        assert!(code.lines().count() > 10);
        assert!(code.starts_with("The fingerprint, for another device's camera"), "{code}");
    }
}
