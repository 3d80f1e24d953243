//! A download of any size out of one block of memory.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::error::BodyError;

/// What is sent without a `size`.
const DEFAULT: u64 = 64 << 20;

/// Enough for any test of memory, and an end to a link that someone leaves open.
const LIMIT: u64 = 16 << 30;

/// The byte at offset `n` of every download is `n % 251`: 251 is a prime, so that a block which is lost,
/// doubled or moved by a power of two shows.
const PERIOD: usize = 251;

/// Whole periods, near the size of one read of hyper's.
static BLOCK: [u8; PERIOD * 256] = block();

const fn block() -> [u8; PERIOD * 256] {
    let mut block = [0; PERIOD * 256];
    let mut at = 0;
    while at < block.len() {
        block[at] = (at % PERIOD) as u8;
        at += 1;
    }
    block
}

/// A body of the pattern, with its length known.
pub(super) struct Download {
    left: u64,
}

impl Download {
    pub(super) fn new(size: u64) -> Self {
        Self { left: size }
    }
}

impl http_body::Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let length = usize::try_from(this.left).map_or(BLOCK.len(), |left| left.min(BLOCK.len()));
        this.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&BLOCK[..length])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The `size` of a query; `None` where it is no size or beyond the limit.
pub(super) fn size_of(query: &str) -> Option<u64> {
    let Some(text) = query.split('&').find_map(|pair| pair.strip_prefix("size=")) else {
        return Some(DEFAULT);
    };
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let unit: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(unit).filter(|size| *size <= LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_or_none_and_a_limit() {
        assert_eq!(size_of(""), Some(64 << 20));
        assert_eq!(size_of("x=1&size=3"), Some(3));
        assert_eq!(size_of("size=3B"), Some(3));
        assert_eq!(size_of("size=2KiB"), Some(2048));
        assert_eq!(size_of("size=1MiB&x"), Some(1 << 20));
        assert_eq!(size_of("size=16GiB"), Some(16 << 30));
        let bad = [
            "size=17GiB",
            "size=",
            "size=GiB",
            "size=1MB",
            "size=-1",
            "size=1.5MiB",
            "size=99999999999999999999",
        ];
        for query in bad {
            assert_eq!(size_of(query), None, "{query}");
        }
    }

    #[tokio::test]
    async fn each_byte_is_its_offset_modulo_251() {
        use http_body_util::BodyExt;
        let size = 3 * BLOCK.len() as u64 + 17;
        let bytes = Download::new(size).collect().await.expect("it cannot fail").to_bytes();
        assert_eq!(bytes.len() as u64, size);
        assert!(bytes.iter().enumerate().all(|(at, byte)| *byte as usize == at % 251));
    }
}
