//! The handshake, the certificates, and plain HTTP where TLS is spoken.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, sync::Arc};

use rustix::process::Signal;
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{
    h2_cases::headers,
    harness::{
        Backend, Client, Frames, Pki, Raw, Relay, Version,
        frames::{END_STREAM, HEADERS},
        on_h1_and_h2, pki, raw,
        relay::RelayBuilder,
        within,
    },
};

const FILES: &str = "[tls]\nmode = \"files\"\ndomains = [\"localhost\"]\ncert = \"{dir}/cert.pem\"\nkey = \"{dir}/key.pem\"\nstorage = \"{dir}/storage\"";

fn with_files(pki: &Pki) -> RelayBuilder {
    let leaf = pki.leaf(&["localhost"]);
    Relay::builder().toml(FILES).file("cert.pem", leaf.cert).file("key.pem", leaf.key)
}

/// The certificate that the relay shows to a client that trusts `root`.
async fn shown(relay: &Relay, root: &[u8], name: &str) -> Vec<u8> {
    let config = pki::client_config(root, &["http/1.1"]);
    let stream = raw::handshake(relay.https(), config, name).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// What `openssl s_client` says about the relay.
async fn s_client(relay: &Relay, args: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", &relay.https().to_string(), "-CAfile"])
        .arg(relay.path("storage/local-ca/root.pem"))
        .args(args)
        .stdin(std::process::Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = within("openssl", run).await.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn alpn_chooses_the_version_of_http() {
    let relay = Relay::builder().self_signed().start().await;
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let stream = raw::handshake(relay.https(), relay.tls_client(offered), "localhost").await.unwrap();
        let got = stream.get_ref().1.alpn_protocol();
        assert_eq!(got, chosen.map(str::as_bytes), "{offered:?}");
    }
    // Without ALPN it is HTTP/1.1.
    let stream = raw::handshake(relay.https(), relay.tls_client(&[]), "localhost").await.unwrap();
    let mut raw = Raw::over(stream);
    raw.send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.read_response().await.status(), 404);
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let relay = Relay::builder().self_signed().start().await;
    for (flag, version) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let said = s_client(
            &relay,
            &[flag, "-servername", "localhost", "-verify_hostname", "localhost", "-alpn", "h2"],
        )
        .await;
        assert!(said.contains(&format!("New, {version}")), "{said}");
        assert!(said.contains("Verify return code: 0 (ok)") || said.contains("Verification: OK"), "{said}");
        assert!(said.contains("ALPN protocol: h2"), "{said}");
    }
    for flag in ["-tls1_1", "-tls1"] {
        let said = s_client(&relay, &[flag, "-servername", "localhost", "-cipher", "ALL:@SECLEVEL=0"]).await;
        assert!(
            said.contains("alert protocol version") || said.contains("alert handshake failure"),
            "{said}"
        );
        assert!(said.contains("Cipher is (NONE)"), "{said}");
    }
}

#[tokio::test]
async fn the_hybrid_key_exchange_is_offered() {
    let relay = Relay::builder().self_signed().start().await;
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&relay.root()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = raw::handshake(relay.https(), Arc::new(config), "localhost").await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn a_session_is_resumed_by_its_ticket() {
    let backend = Backend::start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = pki::versioned_client_config(&relay.root(), &["http/1.1"], &[version]);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let stream = raw::handshake(relay.https(), Arc::clone(&config), "localhost").await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            // A TLS 1.3 ticket comes after the handshake, with the first data.
            let mut raw = Raw::over(stream);
            raw.send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            assert_eq!(raw.read_response().await.body, b"ok");
        }
        assert_eq!(kinds[1], HandshakeKind::Resumed, "{version:?}: {kinds:?}");
    }
}

#[tokio::test]
async fn a_client_that_names_nobody_is_served() {
    let backend = Backend::start().await;
    let relay = Relay::builder()
        .backend(backend.address())
        .toml("[tls]\nmode = \"self-signed\"\ndomains = [\"127.0.0.1\", \"localhost\"]\nstorage = \"{dir}/storage\"")
        .start()
        .await;
    // An address is never sent as a name (RFC 6066, section 3), and the certificate is for it all the same.
    let stream = raw::handshake(relay.https(), relay.tls_client(&["http/1.1"]), "127.0.0.1").await.unwrap();
    let mut raw = Raw::over(stream);
    raw.send("GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    assert_eq!(raw.read_response().await.body, b"ok");
}

#[tokio::test]
async fn t1_an_unknown_name_is_rejected_with_an_alert() {
    let relay = Relay::builder().self_signed().start().await;
    let refused = raw::handshake(relay.https(), relay.tls_client(&["h2"]), "evil.example").await.unwrap_err();
    let cause = refused.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    assert!(matches!(cause, Some(rustls::Error::AlertReceived(_))), "{refused:?}");
}

#[tokio::test]
async fn t1_an_unknown_name_gets_the_first_certificate_where_so_configured() {
    let relay = Relay::builder().self_signed().toml("[tls]\nunknown_names = \"default\"").start().await;
    let said = s_client(&relay, &["-servername", "evil.example", "-verify_hostname", "localhost"]).await;
    assert!(said.contains("Verification: OK"), "{said}");
}

#[tokio::test]
async fn t1_garbage_ends_the_connection_and_nothing_else() {
    let relay = Relay::builder().self_signed().start().await;
    for garbage in [
        &b"\x80\x2e\x01\x00\x02"[..],
        b"\x16\x03\x01\xff\xff",
        &[0; 600],
        b"SSH-2.0-x\r\n",
        b"\xff\xff\xff\xff\xff\xff",
    ] {
        let mut raw = Raw::plain(relay.https()).await;
        raw.try_send(garbage).await;
        raw.finish().await;
        raw.read_to_end().await;
    }
    assert_eq!(Client::https(&relay, Version::Http2).get("/x").await.status, 404);
}

#[tokio::test]
async fn t1_plain_http_on_the_tls_port_is_sent_to_https() {
    let backend = Backend::start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let port = relay.https().port();
    for host in [format!("localhost:{port}"), "localhost".to_owned(), "evil.example".to_owned()] {
        let mut raw = Raw::plain(relay.https()).await;
        raw.send(format!("GET /x/y?z=1 HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let response = raw.read_response().await;
        assert_eq!(response.status(), 301, "{host}");
        let location = format!("https://localhost:{port}/x/y?z=1");
        assert_eq!(response.header("location"), Some(&*location), "{host}");
    }
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn a_restart_keeps_root_and_certificate() {
    let mut relay = Relay::builder().self_signed().start().await;
    let root = relay.root();
    let leaf = shown(&relay, &root, "localhost").await;
    relay.signal(Signal::TERM);
    assert!(relay.end().await.success());
    let again = Relay::builder().in_the_place_of(&relay).self_signed().start().await;
    assert_eq!(again.root(), root);
    assert_eq!(shown(&again, &root, "localhost").await, leaf);
}

#[tokio::test]
async fn the_local_cas_files_are_the_owners_alone() {
    let relay = Relay::builder().self_signed().start().await;
    let mut files = 0;
    let mut open = vec![relay.path("storage")];
    while let Some(path) = open.pop() {
        let meta = fs::metadata(&path).unwrap();
        let mode = meta.permissions().mode() & 0o777;
        if meta.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{}", path.display());
            files += 1;
        }
    }
    assert!(files >= 3, "the root, its key, and the leaf with its own");
}

#[tokio::test]
async fn files_are_served_and_read_anew_when_they_change() {
    let pki = Pki::new();
    let root = pki.root().into_bytes();
    let relay = with_files(&pki).start().await;
    let first = shown(&relay, &root, "localhost").await;

    let new = pki.leaf(&["localhost"]);
    // A broken pair first: the certificate is new, the key is not.
    replace(&relay.path("cert.pem"), &new.cert);
    relay.log_with(&["WARN"]).await;
    assert_eq!(shown(&relay, &root, "localhost").await, first, "a broken pair never replaces a good one");

    replace(&relay.path("key.pem"), &new.key);
    let expected = CertificateDer::from_pem_slice(new.cert.as_bytes()).unwrap();
    within("the new certificate", async {
        while shown(&relay, &root, "localhost").await != expected.as_ref() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// As certbot does: a new file in the old one's place.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn hsts_is_sent_where_it_is_configured() {
    let relay = Relay::builder().self_signed().toml("[tls]\nhsts = \"180d\"").start().await;
    let answer = Client::https(&relay, Version::Http2).get("/x").await;
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=15552000"));
    let relay = Relay::builder().self_signed().start().await;
    let answer = Client::https(&relay, Version::Http2).get("/x").await;
    assert_eq!(answer.header("strict-transport-security"), None);
}

/// The status of a GET for `host` over TLS, with SNI localhost.
async fn asked_for(relay: &Relay, version: Version, host: &str) -> u16 {
    match version {
        Version::Http1 => {
            let mut raw = Raw::tls(relay).await;
            raw.send(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            raw::status(&raw.read_head().await)
        }
        Version::Http2 => {
            let mut frames = Frames::open(relay, &[]).await;
            let request = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", "/x")];
            assert!(frames.write(&headers(END_STREAM, 1, &request)).await);
            within("an answer", async {
                loop {
                    let frame = frames.next().await.expect("an answer");
                    if frame.kind == HEADERS {
                        return frame.status();
                    }
                }
            })
            .await
        }
    }
}

on_h1_and_h2! {
    async fn a_host_that_is_none_of_ours_is_misdirected_and_the_backend_does_not_hear_of_it(version) {
        let backend = Backend::start().await;
        let tls = "[tls]\nmode = \"self-signed\"\ndomains = [\"chat.lan\"]\nstorage = \"{dir}/storage\"";
        let relay = Relay::builder().toml(tls).backend(backend.address()).start().await;
        for host in ["evil.example", "chat.lan.evil.example", "192.0.2.7:443", "[2001:db8::1]"] {
            assert_eq!(asked_for(&relay, version, host).await, 421, "{host}");
        }
        assert_eq!(backend.requests().len(), 0);
        for host in ["chat.lan", "CHAT.lan:8443", "localhost", "127.0.0.1", "[::1]:443"] {
            assert_eq!(asked_for(&relay, version, host).await, 200, "{host}");
        }
        // Who asks for other names to be served, and a proxy in front, know what they do.
        for toml in ["[tls]\nunknown_names = \"default\"", "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]"] {
            let relay = Relay::builder().toml(tls).backend(backend.address()).toml(toml).start().await;
            assert_eq!(asked_for(&relay, version, "other.example").await, 200, "{toml}");
        }
    }
}

#[tokio::test]
async fn a_client_that_offers_http_1_0_alone_is_served() {
    let backend = Backend::start().await;
    let relay = Relay::builder().self_signed().backend(backend.address()).start().await;
    let config = relay.tls_client(&["http/1.0"]);
    let stream = raw::handshake(relay.https(), config, "localhost").await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.0"[..]));
    let mut raw = Raw::over(stream);
    raw.send("GET /x HTTP/1.0\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw::status(&raw.read_head().await), 200);
}
