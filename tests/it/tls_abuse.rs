//! What comes at a TLS port that is no honest handshake, byte by byte (attacks.md T1).

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConnection, pki_types::ServerName};

use crate::harness::{Client, Relay, Version, within};

/// Record types (RFC 8446, section 5.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const HEARTBEAT: u8 = 24;

/// Alert descriptions (RFC 8446, section 6).
const HANDSHAKE_FAILURE: u8 = 40;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;
const UNRECOGNIZED_NAME: u8 = 112;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// A handshake that takes longer than this is no use to a test.
const CONFIG: &str = "[limits]\nhandshake = \"2s\"";

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ended {
    /// With a fatal alert of this description.
    Alert(u8),
    /// The relay went on with the handshake.
    ServerHello,
    /// Closed without a word.
    Closed,
}

/// A ClientHello that says what it is told to.
struct Hello {
    version: [u8; 2],
    suites: Vec<u8>,
    compression: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    /// One that the relay takes.
    fn honest() -> Self {
        Self {
            version: [3, 3],
            suites: [0x1301_u16, 0x1302, 0xc02b, 0xc02f]
                .iter()
                .flat_map(|suite| suite.to_be_bytes())
                .collect(),
            compression: vec![0],
            extensions: vec![
                (0, names(&[b"localhost"])),
                (10, sized_16(&[0, 29, 0, 23])),
                (11, vec![1, 0]),
                (13, sized_16(&[4, 3, 8, 4, 4, 1])),
                (43, vec![4, 3, 4, 3, 3]),
                (51, sized_16(&[&[0, 29][..], &sized_16(&[9; 32])].concat())),
            ],
        }
    }

    fn with(mut self, kind: u16, content: Vec<u8>) -> Self {
        self.extensions.retain(|(other, _)| *other != kind);
        self.extensions.push((kind, content));
        self
    }

    fn without(mut self, kinds: &[u16]) -> Self {
        self.extensions.retain(|(kind, _)| !kinds.contains(kind));
        self
    }

    /// The handshake message.
    fn message(&self) -> Vec<u8> {
        let extensions: Vec<u8> = self
            .extensions
            .iter()
            .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &sized_16(content)].concat())
            .collect();
        let body = [
            &self.version[..],
            &[7; 32],
            &[0],
            &sized_16(&self.suites),
            &[u8::try_from(self.compression.len()).unwrap()],
            &self.compression,
            &sized_16(&extensions),
        ]
        .concat();
        [&[1, 0][..], &sized_16(&body)].concat()
    }

    fn record(&self) -> Vec<u8> {
        record(HANDSHAKE, &self.message())
    }
}

fn sized_16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1][..], &sized_16(payload)].concat()
}

/// The content of a server_name extension.
fn names(names: &[&[u8]]) -> Vec<u8> {
    sized_16(&names.iter().flat_map(|name| [&[0][..], &sized_16(name)].concat()).collect::<Vec<_>>())
}

/// Sends `bytes` to the TLS port and tells how that ends.
fn sent(address: SocketAddr, bytes: &[u8]) -> Ended {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // An error: the relay has closed already, which is told by what it wrote before.
    let _ = stream.write_all(bytes);
    let mut head = [0; 7];
    let mut read = 0;
    while read < head.len() {
        match stream.read(&mut head[read..]) {
            Ok(0) => return Ended::Closed,
            Ok(length) => read += length,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ended::Closed,
            Err(error) => panic!("the connection does not end: {error}"),
        }
    }
    match head {
        [ALERT, _, _, 0, 2, 2, description] => Ended::Alert(description),
        [HANDSHAKE, ..] => Ended::ServerHello,
        other => panic!("neither an alert nor a handshake: {other:?}"),
    }
}

/// The same without holding up the test's runtime.
async fn ended(relay: &Relay, bytes: Vec<u8>) -> Ended {
    let address = relay.https();
    within("the end", tokio::task::spawn_blocking(move || sent(address, &bytes))).await.unwrap()
}

/// Whether it is well: an honest client is answered, and nothing panicked.
async fn is_well(relay: &Relay) {
    assert_eq!(Client::https(relay, Version::Http2).get("/").await.status, 404);
    let panics: Vec<_> = relay.logs().into_iter().filter(|line| line.contains("panicked")).collect();
    assert!(panics.is_empty(), "{panics:?}");
}

async fn relay() -> Relay {
    Relay::builder().self_signed().toml(CONFIG).start().await
}

#[tokio::test]
async fn t1_what_is_older_than_tls_1_2_gets_an_alert() {
    let relay = relay().await;
    assert_eq!(ended(&relay, Hello::honest().record()).await, Ended::ServerHello);
    for version in [[3, 0], [3, 1], [3, 2]] {
        let hello = Hello { version, ..Hello::honest() }.without(&[43, 51]);
        assert_eq!(ended(&relay, hello.record()).await, Ended::Alert(PROTOCOL_VERSION), "{version:?}");
    }
    // The same by supported_versions.
    for version in [[2, 0], [3, 0], [3, 1], [3, 2], [0x7f, 0x1c]] {
        let hello = Hello::honest().with(43, [&[2][..], &version].concat());
        assert_eq!(ended(&relay, hello.record()).await, Ended::Alert(PROTOCOL_VERSION), "{version:?}");
    }
    // SSL 2.0 has no records that an alert could be written in.
    let ssl2 =
        [&[0x80, 46, 1, 0, 2, 0, 21, 0, 0, 0, 16][..], &[1, 0, 128, 2, 0, 128, 3, 0, 128], &[5; 28]].concat();
    assert!(matches!(ended(&relay, ssl2).await, Ended::Closed | Ended::Alert(_)));
    is_well(&relay).await;
}

#[tokio::test]
async fn t1_a_hello_that_leaves_nothing_in_common_gets_an_alert() {
    let relay = relay().await;
    let honest = Hello::honest;
    for (what, hello, descriptions) in [
        // NULL, EXPORT, RC4, 3DES, CBC, static RSA.
        (
            "weak suites",
            Hello { suites: vec![0, 1, 0, 3, 0, 5, 0, 10, 0, 47, 0, 0x9c], ..honest() }.without(&[43, 51]),
            &[HANDSHAKE_FAILURE][..],
        ),
        (
            "no suites",
            Hello { suites: vec![], ..honest() },
            &[HANDSHAKE_FAILURE, DECODE_ERROR, ILLEGAL_PARAMETER],
        ),
        (
            "compression",
            Hello { compression: vec![1], ..honest() },
            &[ILLEGAL_PARAMETER, DECODE_ERROR, HANDSHAKE_FAILURE],
        ),
        ("no group", honest().with(10, sized_16(&[0, 19])).without(&[51]), &[HANDSHAKE_FAILURE, 109]),
        ("no signature", honest().with(13, sized_16(&[2, 1])).without(&[43, 51]), &[HANDSHAKE_FAILURE]),
        (
            "another protocol",
            honest().with(16, sized_16(b"\x08http/0.9")).without(&[43, 51]),
            &[NO_APPLICATION_PROTOCOL],
        ),
        ("an empty protocol", honest().with(16, sized_16(b"\0")), &[DECODE_ERROR, ILLEGAL_PARAMETER]),
    ] {
        let ended = ended(&relay, hello.record()).await;
        assert!(matches!(ended, Ended::Alert(got) if descriptions.contains(&got)), "{what}: {ended:?}");
    }
    is_well(&relay).await;
}

#[tokio::test]
async fn t1_a_name_that_is_none_gets_an_alert_and_any_spelling_of_ours_a_certificate() {
    let relay = relay().await;
    for (name, expected) in [
        (&b"LocalHost"[..], Ended::ServerHello),
        (b"other.example", Ended::Alert(UNRECOGNIZED_NAME)),
        (b"localhost.evil", Ended::Alert(UNRECOGNIZED_NAME)),
        (b"*", Ended::Alert(ILLEGAL_PARAMETER)),
        (b"", Ended::Alert(ILLEGAL_PARAMETER)),
        (b"local\0host", Ended::Alert(ILLEGAL_PARAMETER)),
        (b"local host", Ended::Alert(ILLEGAL_PARAMETER)),
        (&[b'a'; 300], Ended::Alert(ILLEGAL_PARAMETER)),
        ("loc\u{e4}lhost".as_bytes(), Ended::Alert(ILLEGAL_PARAMETER)),
    ] {
        let ended = ended(&relay, Hello::honest().with(0, names(&[name])).record()).await;
        let alerts = matches!((ended, expected), (Ended::Alert(_), Ended::Alert(_)));
        assert!(ended == expected || alerts, "{name:?}: {ended:?}");
    }
    let two = Hello::honest().with(0, names(&[b"localhost", b"other.example"]));
    assert!(matches!(ended(&relay, two.record()).await, Ended::Alert(_)));
    is_well(&relay).await;
}

#[tokio::test]
async fn t1_records_that_are_no_handshake_end_the_connection() {
    let relay = relay().await;
    let hello = Hello::honest().record();
    let long = [&[1, 1, 0, 0][..], &[0; 16_000]].concat();
    for (what, bytes) in [
        ("an unknown record type", record(99, b"x")),
        ("a heartbeat", record(HEARTBEAT, &[1, 0x40, 0])),
        ("data before the handshake", record(APPLICATION_DATA, b"GET / HTTP/1.1\r\n\r\n")),
        ("a ChangeCipherSpec first", record(CHANGE_CIPHER_SPEC, &[1]).repeat(100)),
        ("a Finished first", record(HANDSHAKE, &[20, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("a ServerHello", record(HANDSHAKE, &[2, 0, 0, 4, 3, 3, 0, 0])),
        ("a message of no known type", record(HANDSHAKE, &[77, 0, 0, 0])),
        ("empty records", record(HANDSHAKE, b"").repeat(2000)),
        ("a record that is too long", [&[HANDSHAKE, 3, 1, 0xff, 0xff][..], &[0; 65_535]].concat()),
        ("a message that is too long", record(HANDSHAKE, &[1, 0xff, 0xff, 0xff])),
        ("a hello of 80 KB", record(HANDSHAKE, &long).repeat(5)),
        ("a hello and then data", [&hello[..hello.len() - 9], &record(APPLICATION_DATA, b"x")].concat()),
        (
            "half a hello and another",
            [&record(HANDSHAKE, &Hello::honest().message()[..60]), &hello[..]].concat(),
        ),
        ("a fatal alert", record(ALERT, &[2, 40])),
        ("warnings without end", record(ALERT, &[1, 90]).repeat(500)),
        ("zeros", vec![0; 4096]),
        ("ones", vec![0xff; 4096]),
        ("SSH", b"ssh-2.0-x\r\n".to_vec()),
        ("lower-case HTTP", b"get / http/1.1\r\n\r\n".to_vec()),
    ] {
        let ended = ended(&relay, bytes).await;
        assert_ne!(ended, Ended::ServerHello, "{what}");
    }
    is_well(&relay).await;
}

#[tokio::test]
async fn t1_a_hello_in_records_of_one_byte_is_a_hello() {
    let relay = relay().await;
    let (address, config) = (relay.https(), relay.tls_client(&["http/1.1"]));
    let spoken = tokio::task::spawn_blocking(move || {
        let mut client = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let (head, message) = hello.split_at(5);
        assert_eq!(usize::from(head[3]) << 8 | usize::from(head[4]), message.len(), "one record");
        for byte in message {
            stream.write_all(&record(HANDSHAKE, &[*byte])).unwrap();
        }
        while client.is_handshaking() {
            client.complete_io(&mut stream).unwrap();
        }
        let mut tls = rustls::Stream::new(&mut client, &mut stream);
        tls.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        tls.read_exact(&mut answer).unwrap();
        answer
    });
    assert_eq!(&within("the answer", spoken).await.unwrap(), b"HTTP/1.1 404");
    is_well(&relay).await;
}

/// Numbers that look random, the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_a_damaged_hello_harms_nobody() {
    let hellos = if crate::harness::is_long() { 20_000 } else { 600 };
    let relay = relay().await;
    is_well(&relay).await;
    let (address, config) = (relay.https(), relay.tls_client(&["h2", "http/1.1"]));
    let before = relay.rss();
    let damaged = move |seed: u64| {
        let mut client =
            ClientConnection::new(Arc::clone(&config), ServerName::try_from("localhost").unwrap()).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..=chance.below(4) {
            let at = chance.below(hello.len());
            match chance.below(3) {
                0 => hello[at] ^= 1 << chance.below(8),
                1 => hello[at] = u8::try_from(chance.below(256)).unwrap(),
                _ => hello.truncate(at.max(1)),
            }
        }
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // Whether it is taken, refused or waited for in vain: it ends, and that is all that is asked here.
        let _ = stream.write_all(&hello).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "a damaged hello is kept");
        }
    };
    let all = tokio::task::spawn_blocking(move || {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let damaged = &damaged;
                scope.spawn(move || (0..hellos / 8).for_each(|n| damaged(n * 8 + thread + 1)));
            }
        });
    });
    all.await.unwrap();
    is_well(&relay).await;
    let grown = relay.rss().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more after {hellos} damaged hellos");
}

/// `openssl s_client` with a line of input for each of `lines`, a moment apart, and what it said.
async fn s_client(relay: &Relay, version: &str, lines: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command
        .args([
            "s_client",
            version,
            "-crlf",
            "-servername",
            "localhost",
            "-connect",
            &relay.https().to_string(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    let run = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        for line in lines {
            // A command is one only where it is all that was read at once. An error: it has ended.
            std::thread::sleep(Duration::from_millis(100));
            if input.write_all(line.as_bytes()).is_err() {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(500));
        drop(input);
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    });
    within("openssl", run).await.unwrap()
}

#[tokio::test]
async fn t1_nothing_is_negotiated_anew() {
    let relay = relay().await;
    let said = s_client(&relay, "-tls1_2", &["R", "R", "R"]).await;
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    is_well(&relay).await;
}

#[tokio::test]
async fn t1_keys_may_be_changed_and_the_connection_goes_on() {
    let relay = relay().await;
    let lines = ["K", "k", "K", "K", "GET / HTTP/1.0\n"];
    let said = s_client(&relay, "-tls1_3", &lines).await;
    assert!(said.contains("KEYUPDATE") && said.contains(" 404 Not Found"), "{said}");
    is_well(&relay).await;
}

/// The published scanner, in full: minutes, so only in a long run.
#[tokio::test]
async fn t1_testssl_finds_nothing() {
    if !crate::harness::is_long() {
        return;
    }
    let relay = Relay::builder().self_signed().start().await;
    let report = relay.path("testssl.json");
    let mut command = Command::new("testssl");
    command
        .args(["--quiet", "--warnings", "off", "--color", "0", "--nodns", "none", "--sneaky", "--jsonfile"])
        .arg(&report)
        .args(["--protocols", "--std", "--fs", "--server-defaults", "--vulnerable"])
        .arg(format!("localhost:{}", relay.https().port()))
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&report).unwrap())
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)));
    let severe: Vec<_> = findings
        .iter()
        .filter(|finding| ["MEDIUM", "HIGH", "CRITICAL"].contains(&finding["severity"].as_str().unwrap()))
        // What follows from a root of our own, and from a name that nobody else knows.
        .filter(|finding| !finding["id"].as_str().unwrap().starts_with("cert_"))
        .collect();
    println!("testssl: {} findings, {} of them severe", findings.len(), severe.len());
    assert!(findings.len() > 60 && severe.is_empty(), "{severe:#?}");
    is_well(&relay).await;
}
