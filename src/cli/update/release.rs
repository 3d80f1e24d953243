//! What a release says of itself: its version, its files' checksums, and who signed them.

use std::{collections::HashMap, fmt};

use aws_lc_rs::digest;
use minisign_verify::{PublicKey, Signature};
use semver::Version;

use super::error::UntrueRelease;

/// The file that names the version.
pub(super) const VERSION: &str = "version.txt";
/// The file with the checksums of all others, as sha256sum writes it.
pub(super) const SUMS: &str = "SHA256SUMS";
/// The signature of the checksums, as minisign makes it.
pub(super) const SIGNATURE: &str = "SHA256SUMS.minisig";

/// The file for the kind of machine that this program was built for; `None`: no release has one.
pub(super) const BINARY: Option<&str> = if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
    Some("relay-linux-x64")
} else if cfg!(all(target_os = "linux", target_arch = "aarch64")) {
    Some("relay-linux-arm64")
} else {
    None
};

/// A SHA-256 digest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Sha256([u8; digest::SHA256_OUTPUT_LEN]);

/// The checksums of a release, by the names of its files.
#[derive(Debug)]
pub(super) struct Sums(HashMap<String, Sha256>);

/// A SHA-256 in the making.
pub(super) struct Hasher(digest::Context);

/// The version in the text of `version.txt`; a `v` before it, as tags have, is taken off.
pub(super) fn version(text: &str) -> Result<Version, UntrueRelease> {
    let line = text.trim();
    Version::parse(line.strip_prefix('v').unwrap_or(line)).map_err(UntrueRelease::Version)
}

/// That these checksums are signed with that key.
pub(super) fn verify(sums: &[u8], signature: &str, key: &PublicKey) -> Result<(), UntrueRelease> {
    let signature = Signature::decode(signature).map_err(UntrueRelease::Signature)?;
    // Only signatures of a digest, which minisign has made by default since 2020.
    key.verify(sums, &signature, false).map_err(UntrueRelease::Signature)
}

impl Sums {
    /// Of the text of `SHA256SUMS`: a digest, two characters, and a name, line by line.
    pub(super) fn parse(text: &str) -> Result<Self, UntrueRelease> {
        let mut sums = HashMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (digest, name) = line.split_once([' ', '\t']).ok_or(UntrueRelease::Sums)?;
            // A space or `*` tells text from binary, which is the same here.
            let name = name.strip_prefix([' ', '*']).unwrap_or(name);
            let digest = Sha256::parse(digest).ok_or(UntrueRelease::Sums)?;
            // Of two checksums for one file, somebody else might check the other.
            if sums.insert(name.to_owned(), digest).is_some() {
                return Err(UntrueRelease::Sums);
            }
        }
        Ok(Self(sums))
    }

    /// The checksum of one file.
    pub(super) fn of(&self, name: &'static str) -> Result<Sha256, UntrueRelease> {
        self.0.get(name).copied().ok_or(UntrueRelease::NotListed(name))
    }
}

impl Sha256 {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
        if text.len() != bytes.len() * 2 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Of bytes that are all there.
    pub(super) fn digest(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Hasher {
    pub(super) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> Sha256 {
        let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
        // A SHA-256 digest has just as many.
        bytes.copy_from_slice(self.0.finish().as_ref());
        Sha256(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn versions_are_compared_by_their_numbers_and_a_tags_v_is_taken_off() {
        let version = |text| version(text).unwrap();
        assert!(version("0.10.0\n") > version("0.9.9"));
        assert!(version("v1.0.0-rc.1") < version("1.0.0"));
        for text in ["", "1.0", "latest", "<html>", "1.0.0 1.0.1", "1.0.0\n1.0.1"] {
            assert!(super::version(text).is_err(), "{text}");
        }
    }

    #[test]
    fn checksums_are_read_as_sha256sum_writes_them() {
        let sums = Sums::parse(&format!("{EMPTY}  a\n{} *b\n\n", EMPTY.to_uppercase())).unwrap();
        assert_eq!(sums.of("a").unwrap(), Sha256::digest(b""));
        assert_eq!(sums.of("b").unwrap(), Sha256::digest(b""));
        assert_ne!(sums.of("a").unwrap(), Sha256::digest(b"x"));
        assert!(matches!(sums.of("c"), Err(UntrueRelease::NotListed("c"))));
    }

    #[test]
    fn what_is_no_list_of_checksums_is_refused() {
        let twice = format!("{EMPTY}  a\n{EMPTY}  a\n");
        for text in ["<html>not found</html>", "abc  a", &EMPTY[1..], &twice, &format!("g{}  a", &EMPTY[1..])]
        {
            assert!(matches!(Sums::parse(text), Err(UntrueRelease::Sums)), "{text}");
        }
    }

    #[test]
    fn a_signature_is_good_for_those_bytes_and_that_key_alone() {
        let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
        let key = PublicKey::from_base64(&pair.pk.to_base64()).unwrap();
        let signed = minisign::sign(None, &pair.sk, &b"sums"[..], None, None).unwrap().to_string();
        verify(b"sums", &signed, &key).unwrap();
        assert!(matches!(verify(b"sumz", &signed, &key), Err(UntrueRelease::Signature(_))));
        assert!(verify(b"sums", "no signature", &key).is_err());
        let other = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
        let other = PublicKey::from_base64(&other.pk.to_base64()).unwrap();
        assert!(verify(b"sums", &signed, &other).is_err());
    }
}
