//! `parley-relay demo`: what a newcomer tries first, tried with curl.

use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness::{Client, Relay, Version, within};

async fn demo() -> Relay {
    Relay::with_args(["demo", "--port", "0", "--storage"]).arg("{dir}/storage").start().await
}

/// Runs curl against `path` of the demo.
async fn curl(relay: &Relay, args: &[&str], path: &str) -> String {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--no-buffer", "--max-time", "4", "--cacert"])
        .arg(relay.path("storage/local-ca/root.pem"))
        .args(args)
        .arg(format!("https://{}{path}", relay.authority()))
        .stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = within("curl", run).await.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn curl_sees_the_live_stream_over_both_versions() {
    let relay = demo().await;
    for (flag, status) in [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")] {
        let said = curl(&relay, &[flag, "--include"], "/api/v1/stream").await;
        assert!(said.starts_with(status), "{said}");
        assert!(said.to_ascii_lowercase().contains("content-type: text/event-stream"), "{said}");
        assert!(said.matches("\ndata:").count() >= 3, "one a second, in four: {said}");
    }
}

#[tokio::test]
async fn the_page_the_index_the_echo_and_the_download_are_there() {
    let relay = demo().await;
    let page = curl(&relay, &[], "/").await;
    assert!(page.contains("<html") && page.contains("EventSource"), "{page}");
    let index = curl(&relay, &[], "/api/v1/").await;
    assert!(serde_json::from_str::<serde_json::Value>(&index).is_ok(), "{index}");
    let echo = curl(&relay, &["--data-binary", "hello"], "/api/v1/echo").await;
    assert!(echo.contains("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"), "{echo}");
    let client = Client::https(&relay, Version::Http2);
    assert_eq!(client.get("/api/v1/download?size=3MiB").await.body.len(), 3 * 1024 * 1024);
}

#[tokio::test]
async fn it_says_where_it_is_and_by_which_fingerprint() {
    let relay = demo().await;
    let said = relay.logs().join("\n");
    assert!(said.contains(&format!("https://localhost:{}/", relay.https().port())), "{said}");
    let mut openssl = Command::new("openssl");
    openssl
        .args(["s_client", "-servername", "localhost", "-connect", &relay.https().to_string()])
        .stdin(Stdio::null());
    let shown = tokio::task::spawn_blocking(move || openssl.output().unwrap()).await.unwrap().stdout;
    let mut lines = BufReader::new(&shown[..]).lines();
    let mut pem = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.starts_with("-----BEGIN") || !pem.is_empty() {
            pem.push_str(&line);
            pem.push('\n');
        }
        if line.starts_with("-----END") {
            break;
        }
    }
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate);
    let fingerprint: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    assert!(said.contains(&fingerprint.join(":")), "{said}\n{fingerprint:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromium_sees_the_live_stream_over_h2() {
    let browser = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser");
    assert!(
        std::path::Path::new(browser).join("node_modules").exists(),
        "the browser driver is missing: npm ci --prefix tests/browser (tests/run does that)"
    );
    let relay = demo().await;
    let picture = tempfile::Builder::new().suffix(".png").tempfile().unwrap();
    let mut node = Command::new("node");
    node.current_dir(browser)
        .args(["demo.mjs", &format!("https://localhost:{}/", relay.https().port())])
        .args(["--protocol", "h2", "--secure", "yes", "--screenshot"])
        .arg(picture.path())
        .stdin(Stdio::null());
    // It bounds each of its own steps.
    let output = tokio::task::spawn_blocking(move || node.output().unwrap()).await.unwrap();
    let (told, faults) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{faults}");
    let told: serde_json::Value = serde_json::from_str(told.trim()).unwrap();
    assert_eq!((&told["state"], &told["protocol"]), (&"OPEN".into(), &"h2".into()), "{told}");
    assert!(picture.as_file().metadata().unwrap().len() > 10_000);
}
