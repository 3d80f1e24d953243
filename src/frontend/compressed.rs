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

/// Measured: 140 KB of script in 5 ms and 4 MB of memory, 2 MiB in 60 ms and 13 MB. Quality 9 makes them 1 and
/// 4 % smaller in 24 and 140 ms, with 35 and 42 MB.
const BROTLI_QUALITY: u32 = 6;

/// As a power of two: as much as the largest file that is compressed here.
const BROTLI_WINDOW: u32 = 21;

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
        Self { name: name.into(), etag: validators.etag.clone() }
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
    let compressed = match coding {
        Coding::Brotli => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, BROTLI_QUALITY, BROTLI_WINDOW);
            encoder.write_all(bytes)?;
            encoder.into_inner()
        }
        Coding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            encoder.write_all(bytes)?;
            encoder.finish()?
        }
    };
    // As a boxed slice, because a vector's spare capacity would be kept too, and not be counted.
    Ok(compressed.into_boxed_slice().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::directory::Directory;

    fn key(name: &str) -> Key {
        Key { name: name.into(), etag: HeaderValue::from_static("\"x-br\"") }
    }

    #[test]
    fn the_oldest_go_first_and_the_size_stays_bounded() {
        let mut kept = Kept::default();
        let entry = 1000 - ENTRY_OVERHEAD;
        for name in ["a", "b", "b", "c", "d"] {
            kept.insert(key(name), vec![0; entry].into(), 3000);
        }
        assert_eq!((kept.size, kept.files.len(), kept.by_age.len()), (3000, 3, 3));
        assert!(!kept.files.contains_key(&key("a")));
        kept.insert(key("e"), vec![0; 5000].into(), 3000);
        assert_eq!((kept.size, kept.files.len(), kept.by_age.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn many_requests_at_once_compress_a_file_once() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("x"), vec![b'x'; 100_000]).unwrap();
        let open = Directory::new(directory.path()).open().unwrap();
        let files = Arc::new(CompressedFiles::default());
        let requests: Vec<_> = (0..8)
            .map(|_| {
                let (files, file) = (Arc::clone(&files), open.find("x").unwrap().unwrap());
                tokio::spawn(async move { files.fetch(key("x"), file, Coding::Gzip).await.unwrap() })
            })
            .collect();
        let mut buffers = Vec::new();
        for request in requests {
            buffers.push(request.await.unwrap());
        }
        assert!(buffers.iter().all(|bytes| bytes.as_ptr() == buffers[0].as_ptr()));
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_is_an_error_and_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        std::fs::write(&path, vec![b'x'; 5000]).unwrap();
        let file = Directory::new(directory.path()).open().unwrap().find("x").unwrap().unwrap();
        std::fs::write(&path, "short").unwrap();
        let files = Arc::new(CompressedFiles::default());
        let error = files.fetch(key("x"), file, Coding::Brotli).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(files.get(&key("x")).is_none());
    }
}
