//! Certificates from a real ACME server: every kind of name, and what the world sees.

use std::{os::unix::fs::PermissionsExt, process::Command};

use crate::harness::{
    Pebble, Raw, Relay,
    pebble::{Served, Step, Stored},
    pki, raw,
};

const NAME: &str = "chat.example.org";

fn challenges(kinds: &[&str]) -> String {
    format!("[tls.acme]\nchallenges = {kinds:?}")
}

/// Fails unless openssl and rustls believe what the relay serves for `name`.
async fn verify_from_outside(pebble: &Pebble, relay: &Relay, name: &str) {
    let root = pebble.issuing_root().await;
    let root_file = relay.path("issuing-root.pem");
    std::fs::write(&root_file, &root).unwrap();
    let openssl = |arguments: &[&str], last: &std::path::Path| {
        let output = Command::new("openssl")
            .args(arguments)
            .arg(last)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
    };
    let address = relay.https().to_string();
    // An address is never sent as the server's name (RFC 6066, section 3).
    let (check, sni) = if name.parse::<std::net::IpAddr>().is_ok() {
        ("-verify_ip", &["-noservername"][..])
    } else {
        ("-verify_hostname", &["-servername", name][..])
    };
    let connect = ["s_client", "-brief", "-verify_return_error", "-connect", &address, check, name];
    openssl(&[&connect, sni, &["-CAfile"]].concat(), &root_file);
    let chain = relay.path(&format!("storage/certificates/{name}/fullchain.pem"));
    let (root_path, chain_path) = (root_file.to_str().unwrap(), chain.to_str().unwrap());
    openssl(&["verify", "-CAfile", root_path, "-untrusted", chain_path, check, name], &chain);
    let config = pki::client_config(root.as_bytes(), &["http/1.1"]);
    let stream = raw::handshake(relay.https(), config, name).await.unwrap();
    let mut raw = Raw::over(stream);
    raw.send(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    assert_eq!(raw.read_response().await.status(), 404);
}

#[tokio::test]
async fn http_01_brings_a_certificate_that_the_world_believes() {
    let pebble = Pebble::start().await;
    let relay = pebble.relay(&[NAME]).toml(&challenges(&["http-01"])).start().await;
    let served = pebble.issued(&relay, NAME).await;
    assert_eq!(served.names(), [NAME]);
    verify_from_outside(&pebble, &relay, NAME).await;
    let stored = Stored::read(&relay.path("storage"), NAME).unwrap();
    assert_eq!(stored.chain.chain, served.chain);
    assert_eq!(stored.meta["challenge"], "http-01", "{}", stored.meta);
    let mode = |name: &str| std::fs::metadata(relay.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("storage/certificates"), 0o700);
    let front = &pebble.front;
    assert_eq!((front.count(Step::NewAccount), front.count(Step::NewOrder)), (1, 1));
    for request in front.seen(Step::NewOrder) {
        assert!(request.user_agent.starts_with("parley-relay/"), "{request:?}");
        assert_eq!(request.payload["replaces"], serde_json::Value::Null);
    }
}

#[tokio::test]
async fn tls_alpn_01_needs_no_port_80() {
    let pebble = Pebble::start().await;
    let relay = pebble
        .relay(&[NAME])
        .toml("[server]\nhttp_port = 0")
        .toml(&challenges(&["tls-alpn-01"]))
        .start()
        .await;
    pebble.issued(&relay, NAME).await;
    verify_from_outside(&pebble, &relay, NAME).await;
    let stored = Stored::read(&relay.path("storage"), NAME).unwrap();
    assert_eq!(stored.meta["challenge"], "tls-alpn-01");
    // With the challenge over, nobody is shown an answer to it.
    Served::with_alpn(relay.https(), NAME, &["acme-tls/1"]).await.unwrap_err();
}

#[tokio::test]
async fn an_ip_address_gets_a_certificate_of_the_short_lived_profile() {
    let newer = Pebble::newer();
    let has_profiles = newer.is_some();
    let pebble = newer.unwrap_or_else(Pebble::builder).offers_short_lived();
    let pebble = pebble.start().await;
    let address = pebble.address().to_string();
    for (kind, port) in [("http-01", 1), ("tls-alpn-01", 0)] {
        // The older Pebble looks for a name that RFC 8738 does not have.
        if kind == "tls-alpn-01" && !has_profiles {
            continue;
        }
        let relay = pebble
            .relay(&[&address])
            .toml(&challenges(&[kind]))
            .toml(if port == 0 { "[server]\nhttp_port = 0" } else { "" })
            .start()
            .await;
        let served = pebble.issued(&relay, &address).await;
        assert_eq!(served.names(), [&*address]);
        if has_profiles {
            assert_eq!(served.days(), 6);
            let order = pebble.front.seen(Step::NewOrder).pop().unwrap();
            assert_eq!(order.payload["profile"], "shortlived");
        }
        verify_from_outside(&pebble, &relay, &address).await;
    }
}

#[tokio::test]
async fn the_configured_profile_is_asked_for() {
    let Some(pebble) = Pebble::newer() else { return };
    let pebble = pebble.offers_short_lived().start().await;
    let relay = pebble.relay(&[NAME]).toml("[tls.acme]\nprofile = \"shortlived\"").start().await;
    assert_eq!(pebble.issued(&relay, NAME).await.days(), 6);
}

#[tokio::test]
async fn a_profile_that_the_ca_does_not_have_is_told_with_those_that_it_has() {
    let Some(pebble) = Pebble::newer() else { return };
    let pebble = pebble.offers_short_lived().start().await;
    let relay = pebble.relay(&[NAME]).toml("[tls.acme]\nprofile = \"weekly\"").start().await;
    relay.log_with(&["weekly", "shortlived"]).await;
    assert!(!Served::at(relay.https(), NAME).await.unwrap().is_pebbles());
}

#[tokio::test]
async fn an_external_account_is_bound_and_a_wrong_key_is_told() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let pebble = Pebble::builder().external_account("kid-1", KEY).start().await;
    let account = "[tls.acme]\neab_kid = \"kid-1\"\neab_hmac_file = \"{dir}/key\"";
    let wrong = pebble.relay(&[NAME]).file("key", KEY.to_lowercase()).toml(account).start().await;
    let refused = wrong.log_with(&["external"]).await;
    assert!(!refused.contains(&KEY.to_lowercase()), "{refused}");
    drop(wrong);
    let relay = pebble.relay(&[NAME]).file("key", format!("{KEY}\n")).toml(account).start().await;
    pebble.issued(&relay, NAME).await;
    assert!(!relay.logs().join("\n").contains(KEY));
}

#[tokio::test]
async fn several_names_have_a_certificate_each_and_one_account_and_lan_names_a_local_one() {
    let pebble = Pebble::start().await;
    let names = ["a.example.org", "b.example.org", "chat.lan"];
    let relay = pebble
        .relay(&names)
        .toml("[tls]\nmode = \"auto\"\n[tls.acme]\nemail = \"admin@example.org\"\nkey_type = \"p384\"")
        .start()
        .await;
    for name in &names[..2] {
        let served = pebble.issued(&relay, name).await;
        assert_eq!(served.names(), [*name]);
        assert_eq!(served.key_curve(), "1.3.132.0.34", "P-384");
        assert!(Stored::read(&relay.path("storage"), name).is_some());
    }
    let local = pki::client_config(&relay.root(), &["http/1.1"]);
    raw::handshake(relay.https(), local, "chat.lan").await.unwrap();
    let accounts = pebble.front.seen(Step::NewAccount);
    assert_eq!(accounts.len(), 1, "{accounts:?}");
    assert_eq!(accounts[0].payload["contact"][0], "mailto:admin@example.org");
    let relay = pebble.relay_after(relay, &["a.example.org", "b.example.org", "c.example.org"]).start().await;
    pebble.issued(&relay, "c.example.org").await;
    assert_eq!(pebble.front.count(Step::NewAccount), 1, "the account is stored");
    assert_eq!(pebble.front.count(Step::NewOrder), 3, "what is stored is not ordered again");
}

#[tokio::test]
async fn without_a_front_it_goes_as_well() {
    let pebble = Pebble::start().await;
    let relay = pebble
        .relay(&[NAME])
        .toml(&format!("[tls.acme]\ndirectory = \"{}\"", pebble.direct_directory()))
        .start()
        .await;
    pebble.issued(&relay, NAME).await;
}
