//! Frames that RFC 9113 forbids, in the order of its sections (attacks.md D1): each is a stream error, or the end of
//! the connection by GOAWAY; what is allowed and rare goes through. The h2 crate says PROTOCOL_ERROR where some of the
//! errors have codes of their own.

use crate::{
    h2_cases::{
        COMPRESSION_ERROR, ENHANCE_YOUR_CALM, FRAME_SIZE_ERROR, LARGEST,
        Outcome::{Connection, Status},
        PROTOCOL_ERROR, REFUSED, cancel, depends_on, halves, open, pending, request, run, window,
    },
    harness::frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY,
        RST_STREAM, SETTINGS, WINDOW_UPDATE, WITH_PRIORITY, block, frame, settings,
    },
};

#[tokio::test]
async fn d1_frames_have_the_size_that_their_type_and_the_settings_say() {
    let (half, _) = halves(REFUSED);
    let large = vec![0; LARGEST + 1];
    let large_block = block(&[("x-large", "x".repeat(LARGEST))]);
    run(vec![
        (
            "DATA larger than we take",
            [open(1), frame(DATA, END_STREAM, 1, &large)].concat(),
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "HEADERS larger than we take",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &large_block),
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "CONTINUATION larger than we take",
            [frame(HEADERS, 0, 1, &half), frame(CONTINUATION, END_HEADERS, 1, &large_block)].concat(),
            Connection(FRAME_SIZE_ERROR),
        ),
        ("SETTINGS larger than we take", frame(SETTINGS, 0, 0, &[0; 16_386]), Connection(FRAME_SIZE_ERROR)),
        ("an unknown frame larger than we take", frame(0xbe, 0, 0, &large), Connection(FRAME_SIZE_ERROR)),
        ("PING of 7 bytes", frame(PING, 0, 0, &[0; 7]), Connection(PROTOCOL_ERROR)),
        ("PING of 9 bytes", frame(PING, 0, 0, &[0; 9]), Connection(PROTOCOL_ERROR)),
        (
            "RST_STREAM of 3 bytes",
            [pending(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "RST_STREAM of 5 bytes",
            [pending(1), frame(RST_STREAM, 0, 1, &[0; 5])].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        ("PRIORITY of 4 bytes", frame(PRIORITY, 0, 1, &[0; 4]), Connection(PROTOCOL_ERROR)),
        ("PRIORITY of 6 bytes", frame(PRIORITY, 0, 1, &[0; 6]), Connection(PROTOCOL_ERROR)),
        ("WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]), Connection(PROTOCOL_ERROR)),
        (
            "WINDOW_UPDATE of 5 bytes",
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1, 0]),
            Connection(PROTOCOL_ERROR),
        ),
        ("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5]), Connection(PROTOCOL_ERROR)),
        (
            "SETTINGS that acknowledge and say something",
            frame(SETTINGS, ACK, 0, &settings(&[(3, 1)])),
            Connection(PROTOCOL_ERROR),
        ),
        ("GOAWAY of 7 bytes", frame(GOAWAY, 0, 0, &[0; 7]), Connection(PROTOCOL_ERROR)),
        (
            "HEADERS with too short a priority",
            frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, &[0; 4]),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "DATA whose padding is all of it",
            [open(1), frame(DATA, PADDED, 1, &[4, 0, 0, 0])].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "DATA with padding and no length of it",
            [open(1), frame(DATA, PADDED, 1, &[])].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "HEADERS with more padding than there is",
            frame(HEADERS, END_HEADERS | PADDED, 1, &[255, 0x82]),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "HEADERS with padding and no length of it",
            frame(HEADERS, END_HEADERS | PADDED, 1, &[]),
            Connection(PROTOCOL_ERROR),
        ),
    ])
    .await;
}

#[tokio::test]
async fn d1_header_blocks_are_whole_and_in_one_piece() {
    let (one, two) = halves(REFUSED);
    let begun = frame(HEADERS, END_STREAM, 1, &one);
    let broken_by =
        |other: Vec<u8>| [begun.clone(), other, frame(CONTINUATION, END_HEADERS, 1, &two)].concat();
    let coded = |bytes: &[u8]| {
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &[&block(&request("GET", REFUSED)), bytes].concat())
    };
    run(vec![
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &two), Connection(PROTOCOL_ERROR)),
        (
            "CONTINUATION after the end",
            [pending(1), frame(CONTINUATION, END_HEADERS, 1, &two)].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "CONTINUATION on stream 0",
            broken_by(frame(CONTINUATION, END_HEADERS, 0, &two)),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "CONTINUATION on another stream",
            broken_by(frame(CONTINUATION, END_HEADERS, 3, &two)),
            Connection(PROTOCOL_ERROR),
        ),
        ("a block broken by DATA", broken_by(frame(DATA, 0, 1, b"x")), Connection(PROTOCOL_ERROR)),
        ("a block broken by HEADERS", broken_by(pending(3)), Connection(PROTOCOL_ERROR)),
        (
            "a block broken by PRIORITY",
            broken_by(frame(PRIORITY, 0, 1, &depends_on(0))),
            Connection(PROTOCOL_ERROR),
        ),
        ("a block broken by RST_STREAM", broken_by(cancel(1)), Connection(PROTOCOL_ERROR)),
        ("a block broken by SETTINGS", broken_by(frame(SETTINGS, 0, 0, &[])), Connection(PROTOCOL_ERROR)),
        ("a block broken by PING", broken_by(frame(PING, 0, 0, &[0; 8])), Connection(PROTOCOL_ERROR)),
        ("a block broken by WINDOW_UPDATE", broken_by(window(0, 1)), Connection(PROTOCOL_ERROR)),
        (
            "a block broken by an unknown frame",
            broken_by(frame(0xbe, 0, 1, b"x")),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "a block that ends within a field",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &one),
            Connection(PROTOCOL_ERROR),
        ),
        ("index 0", coded(&[0x80]), Connection(PROTOCOL_ERROR)),
        ("an index beyond the table", coded(&[0xff, 0x00]), Connection(PROTOCOL_ERROR)),
        ("a name beyond the table", coded(&[0x7f, 0x00, 0x01, b'x']), Connection(PROTOCOL_ERROR)),
        (
            "an index without end",
            coded(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "a table larger than we allow",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[&[0x3f, 0xe2, 0x1f][..], &block(&request("GET", REFUSED))].concat(),
            ),
            Connection(PROTOCOL_ERROR),
        ),
        ("a table that changes at the end of a block", coded(&[0x20]), Connection(PROTOCOL_ERROR)),
        (
            "Huffman padding of more than 7 bits",
            coded(&[0x00, 0x01, b'x', 0x82, 0x1f, 0xff]),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "Huffman padding that is not all ones",
            coded(&[0x00, 0x01, b'x', 0x81, 0x18]),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "Huffman with the end of string",
            coded(&[0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
            Connection(PROTOCOL_ERROR),
        ),
    ])
    .await;
}

#[tokio::test]
async fn d1_header_lists_have_a_limit() {
    let fill = |count: usize, size: usize| {
        let fields: Vec<_> = (0..count).map(|number| (format!("x-{number}"), "x".repeat(size))).collect();
        let block = [block(&request("GET", REFUSED)), block(&fields)].concat();
        let mut pieces = block.chunks(LARGEST).peekable();
        let mut bytes = frame(HEADERS, END_STREAM, 1, pieces.next().unwrap());
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            bytes.extend(frame(CONTINUATION, flags, 1, piece));
        }
        bytes
    };
    run(vec![
        ("17 KiB in one field", fill(1, 17 << 10), Status(431)),
        ("20 KiB in 20 fields", fill(20, 1 << 10), Status(431)),
        ("80 KiB in 80 fields", fill(80, 1 << 10), Connection(COMPRESSION_ERROR)),
        ("2,000 fields of one byte", fill(2000, 1), Connection(ENHANCE_YOUR_CALM)),
    ])
    .await;
}
