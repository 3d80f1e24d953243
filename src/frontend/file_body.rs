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

const CHUNK: u64 = 64 * 1024;

/// The bytes of a file from `next` to `end`. A file that has become shorter is an error, never a short success.
pub(super) struct FileBody {
    file: Arc<FoundFile>,
    next: u64,
    end: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    pub(super) fn new(file: FoundFile, first: u64, len: u64) -> Self {
        Self {
            file: Arc::new(file),
            next: first,
            end: first + len,
            reading: None,
        }
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
