//! The `cert` commands beside a relay that runs.

use std::process::Command;

use crate::harness::{
    Pebble, Pki, Relay,
    pebble::{Served, Step, Stored},
    process::Process,
    relay,
};

const NAME: &str = "chat.example.org";

/// Runs `cert` on the storage directory of `of` and gives what it answers.
async fn cert(of: &Relay, arguments: &[&str]) -> String {
    let storage = of.path("storage");
    let mut all = vec!["cert"];
    all.extend(arguments);
    all.extend(["--storage", storage.to_str().unwrap()]);
    let output = relay::run(all).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn list_shows_what_is_there_and_what_went_wrong() {
    let pebble = Pebble::start().await;
    let relay = pebble.relay(&[NAME]).start().await;
    pebble.issued(&relay, NAME).await;
    relay.log_with(&["certificate issued"]).await;
    pebble.front.down();
    let relay = pebble.relay_after(relay, &[NAME, "new.example.org"]).start().await;
    relay.log_with(&["new.example.org", "next_try"]).await;
    let rows: serde_json::Value = serde_json::from_str(&cert(&relay, &["list", "--json"]).await).unwrap();
    let row = |name: &str| {
        let mut rows = rows.as_array().unwrap().iter();
        rows.find(|row| row["name"] == name).unwrap()
    };
    assert!(row(NAME)["issuer"].as_str().unwrap().contains("Pebble"), "{rows}");
    assert!(row(NAME)["next_renewal"].is_string() && row(NAME)["last_error"].is_null());
    let failed = row("new.example.org");
    assert!(failed["issuer"].is_null() && failed["next_try"].is_string(), "{rows}");
    assert!(failed["last_error"].as_str().unwrap().contains("localhost"), "{rows}");
    let table = cert(&relay, &["list"]).await;
    assert!(table.lines().any(|line| line.starts_with(NAME)), "{table}");
}

#[tokio::test]
async fn renew_makes_the_relay_that_runs_renew_now() {
    let pebble = Pebble::start().await;
    let relay = pebble.relay(&[NAME]).start().await;
    let first = pebble.issued(&relay, NAME).await;
    relay.log_with(&["certificate issued"]).await;
    cert(&relay, &["renew", NAME]).await;
    pebble.renewed(&relay, NAME, &first).await;
    pebble.front.no_more_than(Step::NewOrder, 2).await;
}

#[tokio::test]
async fn import_takes_over_certbots_files_and_the_relay_serves_them_at_once() {
    let pebble = Pebble::start().await;
    pebble.front.down();
    let relay = pebble.relay(&[NAME]).start().await;
    let live = tempfile::tempdir().unwrap();
    let leaf = Pki::new().leaf(&[NAME]);
    std::fs::write(live.path().join("fullchain.pem"), leaf.cert).unwrap();
    std::fs::write(live.path().join("privkey.pem"), leaf.key).unwrap();
    cert(&relay, &["import", live.path().to_str().unwrap()]).await;
    relay.log_with(&[NAME, "another process"]).await;
    let served = Served::at(relay.https(), NAME).await.unwrap();
    assert!(served.issuer().contains("Test root"), "{}", served.issuer());
    let stored = Stored::read(&relay.path("storage"), NAME).unwrap();
    assert_eq!(stored.chain.chain, served.chain);
}

#[tokio::test]
async fn import_warns_of_a_certificate_for_none_of_the_configured_names_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let leaf = Pki::new().leaf(&["other.example.org"]);
    std::fs::write(at("fullchain.pem"), leaf.cert).unwrap();
    std::fs::write(at("privkey.pem"), &leaf.key).unwrap();
    let live = directory.path().to_str().unwrap();
    for (asked, warned) in [(NAME, true), ("other.example.org", false)] {
        let config = at("config.toml");
        let text = format!("version = 1\n[tls]\nstorage = {:?}\ndomains = [{asked:?}]\n", at("storage"));
        std::fs::write(&config, text).unwrap();
        let output = relay::run(["cert", "import", live, "--config", config.to_str().unwrap()]).await;
        let stderr = relay::stderr(&output);
        assert!(output.status.success(), "{stderr}");
        let warning = "the certificate is for other.example.org, and ";
        assert_eq!(stderr.contains(warning), warned, "{asked}: {stderr}");
        assert_eq!(stderr.contains(&format!("asks for {NAME}")), warned, "{asked}: {stderr}");
        assert!(Stored::read(&at("storage"), "other.example.org").is_some(), "it went on");
    }

    // A key of another certificate is no matter of warnings.
    std::fs::remove_dir_all(at("storage")).unwrap();
    std::fs::write(at("privkey.pem"), Pki::new().leaf(&["other.example.org"]).key).unwrap();
    let config = at("config.toml");
    let output = relay::run(["cert", "import", live, "--config", config.to_str().unwrap()]).await;
    assert!(!output.status.success());
    assert!(!at("storage").exists(), "{}", relay::stderr(&output));
}

#[tokio::test]
async fn issue_by_hand_shows_the_record_goes_on_when_it_is_there_and_the_relay_serves_it() {
    let pebble = Pebble::start().await;
    let Some(binary) = pebble.dns.relay() else { return };
    pebble.front.down();
    let wildcard = "*.example.org";
    let relay = pebble.relay(&[wildcard]).start().await;
    relay.log_with(&[wildcard, "next_try"]).await;
    pebble.front.heal();
    let mut command = Command::new(binary);
    command.args(["cert", "issue", "--dns-manual", wildcard, "--config"]).arg(relay.path("config.toml"));
    let mut issuing = Process::spawn(command);
    let record = issuing.line("a record to add", |line| line.contains(" IN TXT ")).await;
    let mut words = record.split_whitespace();
    let name = words.next().unwrap().trim_end_matches('.');
    let value = words.next_back().unwrap().trim_matches('"');
    assert_eq!(name, "_acme-challenge.example.org");
    let hook = Command::new(pebble.dns.hook())
        .args(["present", name, value])
        .env("CERTBOT_DOMAIN", "example.org")
        .env("CERTBOT_VALIDATION", value)
        .status();
    assert!(hook.unwrap().success());
    let status = issuing.end().await;
    assert!(status.success(), "{}", issuing.lines().join("\n"));
    assert_eq!(pebble.issued(&relay, NAME).await.names(), [wildcard]);
}
