//! Streams, their states and their windows (RFC 9113, sections 5 and 6; attacks.md D1); and what is allowed and rare,
//! which goes through.

use crate::{
    h2_cases::{
        FLOW_CONTROL_ERROR, LARGEST, OUR_WINDOW,
        Outcome::{Connection, Status, Stream},
        PENDING, PROTOCOL_ERROR, REFUSED, REFUSED_STREAM, SERVED, STREAM_CLOSED, cancel, depends_on, halves,
        headers, open, pending, request, run, served_by, window,
    },
    harness::{
        Backend, Frames, Relay, Reply,
        frames::{
            ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PADDED,
            PING, PRIORITY, PRIORITY_UPDATE, PUSH_PROMISE, RST_STREAM, SETTINGS, WITH_PRIORITY, block, frame,
            settings,
        },
        within,
    },
};

#[tokio::test]
async fn d1_frames_come_on_streams_whose_state_allows_them() {
    let taken_back = [pending(1), cancel(1)].concat();
    run(vec![
        ("DATA on stream 0", frame(DATA, 0, 0, b"x"), Connection(PROTOCOL_ERROR)),
        ("HEADERS on stream 0", headers(END_STREAM, 0, &request("GET", REFUSED)), Connection(PROTOCOL_ERROR)),
        ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, &depends_on(1)), Connection(PROTOCOL_ERROR)),
        ("RST_STREAM on stream 0", cancel(0), Connection(PROTOCOL_ERROR)),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), Connection(PROTOCOL_ERROR)),
        ("PING on a stream", frame(PING, 0, 1, &[0; 8]), Connection(PROTOCOL_ERROR)),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), Connection(PROTOCOL_ERROR)),
        (
            "PUSH_PROMISE of a client",
            [
                open(1),
                frame(
                    PUSH_PROMISE,
                    END_HEADERS,
                    1,
                    &[&[0, 0, 0, 2][..], &block(&request("GET", REFUSED))].concat(),
                ),
            ]
            .concat(),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "PUSH_PROMISE of a stream of the client's",
            [
                open(1),
                frame(
                    PUSH_PROMISE,
                    END_HEADERS,
                    1,
                    &[&[0, 0, 0, 3][..], &block(&request("GET", REFUSED))].concat(),
                ),
            ]
            .concat(),
            Connection(PROTOCOL_ERROR),
        ),
        ("DATA on an idle stream", frame(DATA, END_STREAM, 1, b"x"), Connection(PROTOCOL_ERROR)),
        ("RST_STREAM on an idle stream", cancel(1), Connection(PROTOCOL_ERROR)),
        ("WINDOW_UPDATE on an idle stream", window(1, 1), Connection(PROTOCOL_ERROR)),
        (
            "HEADERS on a stream of ours",
            headers(END_STREAM, 2, &request("GET", REFUSED)),
            Connection(PROTOCOL_ERROR),
        ),
        ("DATA on a stream of ours", frame(DATA, END_STREAM, 2, b"x"), Connection(PROTOCOL_ERROR)),
        ("RST_STREAM on a stream of ours", cancel(2), Connection(PROTOCOL_ERROR)),
        (
            "a stream with a lower number",
            [pending(5), headers(END_STREAM, 3, &request("GET", REFUSED))].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "DATA after the end of a stream",
            [pending(1), frame(DATA, END_STREAM, 1, b"x")].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        ("HEADERS after the end of a stream", [pending(1), pending(1)].concat(), Connection(PROTOCOL_ERROR)),
        (
            "DATA after the client took the stream back",
            [taken_back.clone(), frame(DATA, END_STREAM, 1, b"x")].concat(),
            Stream(STREAM_CLOSED),
        ),
        (
            "HEADERS after the client took the stream back",
            [taken_back.clone(), headers(END_STREAM, 1, &request("GET", REFUSED))].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "a stream that depends on itself",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | WITH_PRIORITY,
                1,
                &[&depends_on(1)[..], &block(&request("GET", REFUSED))].concat(),
            ),
            Stream(PROTOCOL_ERROR),
        ),
        (
            "PRIORITY by which a stream depends on itself",
            [pending(1), frame(PRIORITY, 0, 1, &depends_on(1))].concat(),
            Stream(PROTOCOL_ERROR),
        ),
        (
            "one stream more than there may be",
            (0..65).flat_map(|number| pending(2 * number + 1)).chain(cancel(1)).collect(),
            Stream(REFUSED_STREAM),
        ),
    ])
    .await;
}

#[tokio::test]
async fn d1_settings_and_windows_are_in_range() {
    let is = |name: u16, value: u32| frame(SETTINGS, 0, 0, &settings(&[(name, value)]));
    run(vec![
        ("ENABLE_PUSH 2", is(2, 2), Connection(PROTOCOL_ERROR)),
        ("INITIAL_WINDOW_SIZE 2^31", is(INITIAL_WINDOW_SIZE, 1 << 31), Connection(PROTOCOL_ERROR)),
        ("MAX_FRAME_SIZE 16383", is(5, 16_383), Connection(PROTOCOL_ERROR)),
        ("MAX_FRAME_SIZE 2^24", is(5, 1 << 24), Connection(PROTOCOL_ERROR)),
        ("ENABLE_CONNECT_PROTOCOL 2", is(8, 2), Connection(PROTOCOL_ERROR)),
        (
            "an acknowledgement too many",
            [frame(SETTINGS, ACK, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        ("WINDOW_UPDATE of 0 on the connection", window(0, 0), Connection(PROTOCOL_ERROR)),
        ("WINDOW_UPDATE of 0 on a stream", [pending(1), window(1, 0)].concat(), Connection(PROTOCOL_ERROR)),
        (
            "a window beyond 2^31 on the connection",
            [window(0, (1 << 31) - 1), window(0, 1)].concat(),
            Connection(FLOW_CONTROL_ERROR),
        ),
        (
            "a window beyond 2^31 on a stream",
            [pending(1), window(1, (1 << 31) - 1)].concat(),
            Stream(FLOW_CONTROL_ERROR),
        ),
        (
            "a stream's window beyond 2^31 by SETTINGS",
            [pending(1), window(1, 1 << 30), is(INITIAL_WINDOW_SIZE, (1 << 31) - 1)].concat(),
            Connection(FLOW_CONTROL_ERROR),
        ),
    ])
    .await;
}

#[tokio::test]
async fn d1_a_body_larger_than_its_window_ends_its_stream() {
    let backend = Backend::builder().on(PENDING, |_| Reply::silence()).start().await;
    let relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[backend]\nmax_connections = 1")
        .start()
        .await;
    let mut frames = Frames::open(&relay, &[]).await;
    // It has the only connection: nobody takes the body of the next.
    assert!(frames.write(&pending(1)).await);
    backend.wait("the first request", |requests| requests.len() == 1).await;
    // Twice: the second is answered when the relay knows that its settings hold.
    for _ in 0..2 {
        assert!(frames.ping().await);
        within("PING", async { while frames.next().await.expect("an answer").kind != PING {} }).await;
    }
    assert!(frames.write(&open(3)).await);
    let sent =
        (0..=OUR_WINDOW / LARGEST).flat_map(|_| frame(DATA, 0, 3, &vec![0; LARGEST])).collect::<Vec<_>>();
    assert!(frames.write(&sent).await);
    let reset = within("RST_STREAM", async {
        loop {
            let frame = frames.next().await.expect("the connection goes on");
            if frame.kind == RST_STREAM {
                return frame;
            }
        }
    })
    .await;
    assert_eq!((reset.stream, reset.error_code()), (3, FLOW_CONTROL_ERROR));
    assert!(frames.ping().await);
    within("PING", async { while frames.next().await.expect("the connection goes on").kind != PING {} })
        .await;
}

#[tokio::test]
async fn a_client_that_says_goaway_gets_its_answers_and_then_the_connection_ends() {
    let (_backend, relay) = served_by().await;
    let mut frames = Frames::open(&relay, &[]).await;
    frames.get(1, SERVED).await;
    assert!(frames.send(GOAWAY, 0, 0, &[0; 8]).await);
    within("an answer", async { while !frames.next().await.expect("an answer first").ends() {} }).await;
    frames.until_closed().await;
}

#[tokio::test]
async fn what_is_rare_and_allowed_is_served() {
    let (one, two) = halves(SERVED);
    let whole = block(&request("GET", SERVED));
    let get = headers(END_STREAM, 1, &request("GET", SERVED));
    let padded = [&[3][..], &whole, &[0; 3]].concat();
    let prioritised = [&depends_on(3)[..], &whole].concat();
    let after = |frames: Vec<u8>| [frames, get.clone()].concat();
    run(vec![
        (
            "a block in two frames",
            [frame(HEADERS, END_STREAM, 1, &one), frame(CONTINUATION, END_HEADERS, 1, &two)].concat(),
            Status(200),
        ),
        (
            "a block of empty frames",
            [
                frame(HEADERS, END_STREAM, 1, &[]),
                frame(CONTINUATION, 0, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, &whole),
            ]
            .concat(),
            Status(200),
        ),
        ("padding", frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &padded), Status(200)),
        (
            "padding of nothing",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[&[0][..], &whole].concat()),
            Status(200),
        ),
        (
            "a priority",
            frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, &prioritised),
            Status(200),
        ),
        ("PRIORITY on an idle stream", after(frame(PRIORITY, 0, 5, &depends_on(3))), Status(200)),
        ("PRIORITY_UPDATE", after(frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=1")), Status(200)),
        ("an unknown frame", after(frame(0xbe, 0xff, 77, b"x")), Status(200)),
        ("an unknown flag", frame(HEADERS, END_HEADERS | END_STREAM | 0x82, 1, &whole), Status(200)),
        ("the reserved bit", frame(HEADERS, END_HEADERS | END_STREAM, 1 << 31 | 1, &whole), Status(200)),
        ("an unknown setting", after(frame(SETTINGS, 0, 0, &settings(&[(0x0a0a, 7)]))), Status(200)),
        ("a setting twice", after(frame(SETTINGS, 0, 0, &settings(&[(3, 1), (3, 7)]))), Status(200)),
        ("a PING that we did not ask for", after(frame(PING, ACK, 0, &[7; 8])), Status(200)),
        (
            "windows of a stream taken back",
            [pending(1), cancel(1), window(1, 1), headers(END_STREAM, 3, &request("GET", SERVED))].concat(),
            Status(200),
        ),
        (
            "a stream taken back twice",
            [pending(1), cancel(1), cancel(1), headers(END_STREAM, 3, &request("GET", SERVED))].concat(),
            Status(200),
        ),
        (
            "PRIORITY of a stream taken back",
            [
                pending(1),
                cancel(1),
                frame(PRIORITY, 0, 1, &depends_on(3)),
                headers(END_STREAM, 3, &request("GET", SERVED)),
            ]
            .concat(),
            Status(200),
        ),
        (
            "a body in padded DATA",
            [headers(0, 1, &request("POST", SERVED)), frame(DATA, END_STREAM | PADDED, 1, b"\x02abc\0\0")]
                .concat(),
            Status(200),
        ),
        (
            "an empty body",
            [headers(0, 1, &request("POST", SERVED)), frame(DATA, END_STREAM, 1, &[])].concat(),
            Status(200),
        ),
        ("streams that are skipped", headers(END_STREAM, 101, &request("GET", SERVED)), Status(200)),
        ("OPTIONS of all", headers(END_STREAM, 1, &request("OPTIONS", "*")), Status(204)),
    ])
    .await;
}
