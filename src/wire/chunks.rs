//! A chunked body, byte by byte (RFC 9112 7.1), with nothing that another reader could take for something else.

use super::{
    BodyFault,
    head::{is_control, is_token},
};

/// The longest chunk-size line, extensions included: nobody sends any.
const LINE: usize = 256;
/// The longest trailer section. Trailers are dropped, but have to be read.
const TRAILERS: usize = 8 << 10;
/// The most trailers: fewer than hyper takes.
const TRAILER_LINES: u8 = 64;
/// The digits of the largest length.
const DIGITS: u8 = 16;

/// Follows one chunked body to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Chunks {
    at: At,
    /// The size of the chunk that its line tells.
    size: u64,
    digits: u8,
    /// How many bytes the line has, or the trailer section.
    length: usize,
    trailers: u8,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    /// A digit, or the end of the digits.
    Size,
    Extension,
    SizeLf,
    /// This many bytes of data.
    Data(u64),
    DataCr,
    DataLf,
    /// A trailer, or the empty line after the last.
    Line,
    Name,
    Value,
    LineLf,
    LastLf,
    End,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self { at: At::Size, size: 0, digits: 0, length: 0, trailers: 0 }
    }

    pub(super) fn have_ended(&self) -> bool {
        self.at == At::End
    }

    /// How many of `bytes` belong to the body, up to its end or to what is none.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> (usize, Result<(), BodyFault>) {
        let mut taken = 0;
        while let Some(byte) = bytes.get(taken)
            && self.at != At::End
        {
            if let At::Data(left) = &mut self.at {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - taken);
                *left -= here as u64;
                if *left == 0 {
                    self.at = At::DataCr;
                }
                taken += here;
                continue;
            }
            if let Err(reason) = next(self.at, *byte).and_then(|next| self.enter(*byte, next)) {
                return (taken, Err(BodyFault(reason)));
            }
            taken += 1;
        }
        (taken, Ok(()))
    }

    fn enter(&mut self, byte: u8, mut next: At) -> Result<(), &'static str> {
        const NO_SIZE: &str = "a chunk size that is no number";
        self.length += 1;
        if next == At::Size && self.at == At::Size {
            self.digits += 1;
            if self.digits > DIGITS {
                return Err(NO_SIZE);
            }
            let digit = char::from(byte).to_digit(16).ok_or(NO_SIZE)?;
            self.size = self.size << 4 | u64::from(digit);
        } else if self.at == At::Size && self.digits == 0 {
            return Err(NO_SIZE);
        }
        if self.at == At::SizeLf {
            next = if self.size == 0 { At::Line } else { At::Data(self.size) };
            self.length = 0;
        } else if self.at == At::DataLf {
            *self = Self::new();
        }
        if self.at == At::LineLf {
            self.trailers += 1;
        }
        if self.trailers > TRAILER_LINES {
            return Err("too many trailers");
        }
        let (limit, reason) = match next {
            At::Line | At::Name | At::Value | At::LineLf | At::LastLf => (TRAILERS, "too many trailers"),
            At::Size | At::Extension | At::SizeLf | At::Data(_) | At::DataCr | At::DataLf | At::End => {
                (LINE, "a chunk line that is too long")
            }
        };
        if self.length > limit && next != At::End {
            return Err(reason);
        }
        self.at = next;
        Ok(())
    }
}

/// What follows `byte`, which comes at `at`.
fn next(at: At, byte: u8) -> Result<At, &'static str> {
    const NOT_CRLF: &str = "a line end that is not CRLF in a chunked body";
    match (at, byte) {
        (At::Size, b'\r') | (At::Extension, b'\r') => Ok(At::SizeLf),
        (At::Size, b';') => Ok(At::Extension),
        (At::Size | At::Extension | At::Name | At::Value, b'\n') => Err(NOT_CRLF),
        (At::Size, _) => Ok(At::Size),
        (At::Extension, byte) if is_control(byte) => Err("a control character in a chunk extension"),
        (At::Extension, _) => Ok(At::Extension),
        // The size decides what follows it.
        (At::SizeLf, b'\n') => Ok(At::Line),
        (At::DataCr, b'\r') => Ok(At::DataLf),
        (At::DataLf, b'\n') => Ok(At::Size),
        (At::DataCr | At::DataLf, _) => Err("a chunk that does not end where it said"),
        (At::Line, b'\r') => Ok(At::LastLf),
        (At::Line | At::Name, byte) if is_token(byte) => Ok(At::Name),
        (At::Name, b':') => Ok(At::Value),
        (At::Line | At::Name, _) => Err("a trailer name that is no token"),
        (At::Value, b'\r') => Ok(At::LineLf),
        (At::Value, byte) if is_control(byte) => Err("a control character in a trailer"),
        (At::Value, _) => Ok(At::Value),
        (At::LineLf, b'\n') => Ok(At::Line),
        (At::LastLf, b'\n') => Ok(At::End),
        (At::SizeLf | At::LineLf | At::LastLf, _) => Err(NOT_CRLF),
        // Not looked at byte by byte.
        (At::Data(_) | At::End, _) => Ok(at),
    }
}
