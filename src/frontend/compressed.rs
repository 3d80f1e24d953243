//! Files that were compressed once and are kept in memory.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Write},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::HeaderValue;

use super::{conditional::Validators, directory::FoundFile, encoding::Coding};

/// Below a kilobyte there is nothing to gain; above, the file is better compressed beforehand.
pub(super) const COMPRESSED_SIZES: RangeInclusive<u64> = 1024..=2 * 1024 * 1024;

/// How much is kept, in bytes.
const CAPACITY: usize = 16 * 1024 * 1024;

/// What an entry costs beside its bytes, roughly, so that many small ones are bounded too.
const ENTRY_OVERHEAD: usize = 256;

/// A state of a file in one coding: its tag names both.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key {
    name: Arc<str>,
    etag: HeaderValue,
}

/// The compressed files of one front end.
#[derive(Default)]
pub(super) struct CompressedFiles {
    kept: Mutex<Kept>,
    /// Taken while a file is compressed: one at a time bounds memory and processor time, and who has waited
    /// finds what the one before has made.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The cache itself: the oldest entry goes first, which a file that has changed since soon is.
#[derive(Default)]
struct Kept {
    files: HashMap<Key, Bytes>,
    by_age: VecDeque<Key>,
    size: usize,
}

impl Key {
    pub(super) fn new(name: &str, validators: &Validators) -> Self {
        Self {
            name: name.into(),
            etag: validators.etag.clone(),
        }
    }
}

impl CompressedFiles {
    /// `file` in `coding`, from memory or made now.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        key: Key,
        file: FoundFile,
        coding: Coding,
    ) -> io::Result<Bytes> {
        if let Some(bytes) = self.get(&key) {
            return Ok(bytes);
        }
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if let Some(bytes) = self.get(&key) {
            return Ok(bytes);
        }
        let this = Arc::clone(self);
        let job = move || {
            // Held to the end of the work, even when nobody waits for it any more.
            let _turn = turn;
            let bytes = compress(&file.read(0, file.len)?, coding)?;
            this.lock().insert(key, bytes.clone(), CAPACITY);
            Ok(bytes)
        };
        tokio::task::spawn_blocking(job).await?
    }

    fn get(&self, key: &Key) -> Option<Bytes> {
        self.lock().files.get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing that runs under the lock can panic halfway through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn insert(&mut self, key: Key, bytes: Bytes, capacity: usize) {
        self.size += bytes.len() + ENTRY_OVERHEAD;
        if let Some(replaced) = self.files.insert(key.clone(), bytes) {
            self.size -= replaced.len() + ENTRY_OVERHEAD;
        } else {
            self.by_age.push_back(key);
        }
        while self.size > capacity
            && let Some(oldest) = self.by_age.pop_front()
        {
            if let Some(bytes) = self.files.remove(&oldest) {
                self.size -= bytes.len() + ENTRY_OVERHEAD;
            }
        }
    }
}

fn compress(bytes: &[u8], coding: Coding) -> io::Result<Bytes> {
    let compressed = Vec::with_capacity(bytes.len() / 2);
    match coding {
        Coding::Brotli => {
            let mut encoder = brotli::CompressorWriter::new(compressed, 4096, BROTLI_QUALITY, BROTLI_WINDOW);
            encoder.write_all(bytes)?;
            Ok(encoder.into_inner().into())
        }
        Coding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(compressed, flate2::Compression::new(6));
            encoder.write_all(bytes)?;
            Ok(encoder.finish()?.into())
        }
    }
}

const BROTLI_QUALITY: u32 = 7;

/// As a power of two: as much as the largest file that is compressed here.
const BROTLI_WINDOW: u32 = 21;
