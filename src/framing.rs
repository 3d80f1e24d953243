//! What the headers of a message say of its body.

use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING},
};

/// At most one framing header, which says one thing to everybody (attacks.md S2, S3, U1): hyper lets equal lengths
/// and repeated codings pass, and does not look at the length of a response to HEAD. The error says what is wrong.
pub(crate) fn one_framing(headers: &HeaderMap) -> Result<(), &'static str> {
    let count = |name| headers.get_all(name).iter().count();
    if count(CONTENT_LENGTH) + count(TRANSFER_ENCODING) > 1 {
        return Err("more than one framing header");
    }
    if headers.get(CONTENT_LENGTH).is_some_and(|length| !is_length(length.as_bytes())) {
        return Err("a Content-Length that is none");
    }
    match headers.get(TRANSFER_ENCODING) {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Err("a transfer coding other than chunked")
        }
        _ => Ok(()),
    }
}

/// Digits alone, and no more of them than every client can count with: up to 2^63.
fn is_length(text: &[u8]) -> bool {
    (1..=19).contains(&text.len())
        && text.iter().all(u8::is_ascii_digit)
        && (text.len() < 19 || text <= b"9223372036854775807".as_slice())
}

/// Whether a response is an event stream, which may be silent for as long as it likes.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn framing_of_length(length: &str) -> Result<(), &'static str> {
        one_framing(&HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_str(length).unwrap())]))
    }

    #[test]
    fn u1_a_length_is_a_number_that_everybody_can_count_with() {
        for length in ["0", "4", "0004", "9223372036854775807"] {
            assert_eq!(framing_of_length(length), Ok(()), "{length}");
        }
        for length in [
            "",
            "+4",
            "-4",
            "4, 4",
            "4 4",
            "0x4",
            "4.0",
            "four",
            "9223372036854775808",
            "18446744073709551615",
            "00000000000000000004",
        ] {
            assert!(framing_of_length(length).is_err(), "{length}");
        }
    }
}
