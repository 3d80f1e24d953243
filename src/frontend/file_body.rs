//! A file, or a part of one, as a body: one chunk in memory at a time.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::{JoinHandle, spawn_blocking};

use super::directory::FoundFile;
use crate::error::BodyError;

/// Small: 64 streams of an HTTP/2 connection may each hold one that nobody takes (attacks.md A1).
const CHUNK: u64 = 16 * 1024;

/// The bytes of a file from `next` to `end`. A file that has become shorter is an error, never a short success.
pub(super) struct FileBody {
    file: Arc<FoundFile>,
    next: u64,
    end: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    pub(super) fn new(file: FoundFile, first: u64, len: u64) -> Self {
        Self { file: Arc::new(file), next: first, end: first + len, reading: None }
    }

    fn remaining(&self) -> u64 {
        self.end - self.next
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.remaining() == 0 {
            return Poll::Ready(None);
        }
        let (next, len) = (this.next, this.remaining().min(CHUNK));
        let reading = this.reading.get_or_insert_with(|| {
            let file = Arc::clone(&this.file);
            spawn_blocking(move || file.read(next, len))
        });
        let read = ready!(Pin::new(reading).poll(cx));
        this.reading = None;
        Poll::Ready(Some(match read.map_err(io::Error::from).flatten() {
            Ok(bytes) => {
                this.next += len;
                Ok(Frame::data(bytes))
            }
            Err(error) => {
                this.next = this.end;
                Err(BodyError::File(error))
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining())
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::*;
    use crate::frontend::directory::Directory;

    fn body_of(directory: &tempfile::TempDir, first: u64, len: u64) -> FileBody {
        let open = Directory::new(directory.path()).open().unwrap();
        FileBody::new(open.find("x").unwrap().unwrap(), first, len)
    }

    #[tokio::test]
    async fn chunks_are_bounded_and_the_size_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        std::fs::write(directory.path().join("x"), &bytes).unwrap();
        let mut body = body_of(&directory, 10, 150_000);
        assert_eq!(body.size_hint().exact(), Some(150_000));
        let mut got = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() as u64 <= CHUNK);
            got.extend_from_slice(&data);
        }
        assert!(got == bytes[10..150_010]);
        assert!(body.is_end_stream());
    }

    #[tokio::test]
    async fn a_file_that_is_cut_off_meanwhile_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("x"), vec![0; 4 * CHUNK as usize]).unwrap();
        let mut body = body_of(&directory, 0, 4 * CHUNK);
        body.frame().await.unwrap().unwrap();
        let file = std::fs::File::options().write(true).open(directory.path().join("x")).unwrap();
        file.set_len(2 * CHUNK + 1).unwrap();
        body.frame().await.unwrap().unwrap();
        let Err(BodyError::File(error)) = body.frame().await.unwrap() else {
            panic!("no error, or another");
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(body.frame().await.is_none());
    }
}
