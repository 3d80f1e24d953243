//! Where releases come from: a web server, or a directory such as a USB stick.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use http::uri::Scheme;
use minisign_verify::PublicKey;
use semver::Version;

use super::{
    error::{FetchError, SourceError, UntrueRelease, UpdateError},
    fetch::{Sink, Web},
    release::{self, SIGNATURE, SUMS, Sha256, Sums, VERSION},
    trust,
};
use crate::config::{FrontendUrl, ProxyUrl};

/// Of the small files: a hundred checksums have 10 KB.
const TEXT_LIMIT: u64 = 64 * 1024;
/// Of the program, which has a dozen MB.
const BINARY_LIMIT: u64 = 256 * 1024 * 1024;

/// A place with the files of the newest release.
pub(super) enum Mirror {
    Web(Web),
    Directory(PathBuf),
}

/// How a mirror is trusted that is reached without TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PlainHttp {
    /// Only with a signature, or on this machine.
    Refuse,
    Allow,
}

/// What a mirror offers.
pub(super) struct Offer {
    pub(super) version: Version,
    sums: Sums,
}

impl Mirror {
    /// A directory that is there, or else a URL.
    pub(super) fn new(
        place: &str,
        proxy: Option<&ProxyUrl>,
        key: Option<&PublicKey>,
        plain_http: PlainHttp,
    ) -> Result<Self, SourceError> {
        if Path::new(place).is_dir() {
            return Ok(Self::Directory(place.into()));
        }
        if !place.contains("://") {
            return Err(SourceError::NoDirectory(place.into()));
        }
        let base: FrontendUrl = place.parse().map_err(SourceError::Mirror)?;
        let https = base.origin.scheme == Scheme::HTTPS;
        // SECURITY: what comes over plain HTTP runs as root here. A signature makes up for it; checksums from the
        // same place do not.
        if !https && key.is_none() && plain_http == PlainHttp::Refuse && base.origin.loopback().is_none() {
            return Err(SourceError::PlainHttp);
        }
        Ok(Self::Web(Web::new(base, proxy).map_err(SourceError::Client)?))
    }

    /// Fails where it is a directory that others than root can change. Who names one has looked at it; one that was
    /// kept may be anything by now.
    pub(super) fn check_trust(&self) -> Result<(), SourceError> {
        let Self::Directory(directory) = self else { return Ok(()) };
        let files = [VERSION, SUMS].into_iter().chain(release::BINARY).collect::<Vec<_>>();
        trust::check(directory, &files).map_err(SourceError::Trust)
    }

    /// What the newest release says of itself, believed.
    ///
    /// The signature is over the checksums, and these hold the version: a mirror cannot call an old release new.
    pub(super) async fn offer(&self, key: Option<&PublicKey>) -> Result<Offer, UpdateError> {
        let version = self.text(VERSION).await?;
        let sums = self.text(SUMS).await?;
        if let Some(key) = key {
            let signature = self.text(SIGNATURE).await?;
            release::verify(sums.as_bytes(), &signature, key)?;
        }
        let sums = Sums::parse(&sums)?;
        if Sha256::digest(version.as_bytes()) != sums.of(VERSION)? {
            return Err(UntrueRelease::Digest(VERSION).into());
        }
        Ok(Offer { version: release::version(&version)?, sums })
    }

    /// Writes one file of the offer into `target`, which holds nothing yet, and checks it.
    pub(super) async fn download(
        &self,
        file: &'static str,
        offer: &Offer,
        target: (&Path, &mut File),
    ) -> Result<(), UpdateError> {
        let expected = offer.sums.of(file)?;
        let (path, out) = target;
        let mut sink = Sink::new(file, BINARY_LIMIT, path, out);
        match self {
            Self::Web(web) => web.large(file, &mut sink).await?,
            Self::Directory(directory) => copy(&directory.join(file), &mut sink)?,
        }
        if sink.finish() != expected {
            return Err(UntrueRelease::Digest(file).into());
        }
        Ok(())
    }

    async fn text(&self, file: &'static str) -> Result<String, FetchError> {
        let text = match self {
            Self::Web(web) => web.small(file, TEXT_LIMIT).await?,
            Self::Directory(directory) => {
                let path = directory.join(file);
                let mut text = Vec::new();
                File::open(&path)
                    .and_then(|opened| opened.take(TEXT_LIMIT + 1).read_to_end(&mut text))
                    .map_err(|source| FetchError::Read { file: path, source })?;
                text
            }
        };
        if text.len() as u64 > TEXT_LIMIT {
            return Err(FetchError::TooLarge { file });
        }
        String::from_utf8(text).map_err(|_| FetchError::NotUtf8 { file })
    }
}

/// Reads a file of a directory into `sink`.
fn copy(path: &Path, sink: &mut Sink<'_>) -> Result<(), UpdateError> {
    let unreadable = |source| FetchError::Read { file: path.to_owned(), source };
    let mut opened = File::open(path).map_err(unreadable)?;
    sink.expect(opened.metadata().ok().map(|metadata| metadata.len()));
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match opened.read(&mut buffer).map_err(unreadable)? {
            0 => return Ok(()),
            read => sink.take(&buffer[..read])?,
        }
    }
}
