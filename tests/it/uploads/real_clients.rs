//! attacks.md M1: what honest clients send is not refused: at most one form in a thousand.

use std::{path::Path, process::Command};

use super::{BLOCK_FILES, MESSAGES};
use crate::harness::{Flask, Relay, chance::Chance};

/// Forms of each client; there are four.
const FORMS: usize = 250;

/// What a client's own script tells of its forms: how many came back value for value, and how many did not.
#[derive(Debug, serde::Deserialize)]
struct Told {
    whole: usize,
    refused: usize,
}

async fn tell(mut command: Command) -> Told {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (told, faults) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{faults}");
    serde_json::from_str(told.trim()).unwrap_or_else(|error| panic!("{error}: {told}{faults}"))
}

/// Names and values of all sorts, as a person might type them.
fn fields(chance: &mut Chance) -> Vec<(String, String)> {
    const NAMES: &[&str] =
        &["content", "channel", "a[]", "größe", "имя", "名前", "two words", "filename", "x;y", "it's 100%"];
    const WORDS: &[&str] =
        &["hello", "سلام", "🎉", "\"quoted\"", "--", "a=b&c", "filename=x", "\\", "é", ";", "\r\n", "%0d%0a"];
    (0..=chance.below(6))
        .map(|_| {
            let words = (0..chance.below(20)).map(|_| chance.pick(WORDS)).collect::<Vec<_>>();
            (chance.pick(NAMES).to_owned(), words.join(" "))
        })
        .collect()
}

/// curl's forms: one process for all of them.
async fn curl(url: &str) -> Told {
    let mut chance = Chance::new(7);
    let forms: Vec<_> = (0..FORMS).map(|_| fields(&mut chance)).collect();
    let mut command = Command::new("curl");
    for (number, form) in forms.iter().enumerate() {
        if number > 0 {
            command.arg("--next");
        }
        command.args(["--silent", "--show-error", "--max-time", "20", "--write-out", "\n", url]);
        for (name, value) in form {
            command.arg("--form-string").arg(format!("{name}={value}"));
        }
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<serde_json::Value> = text
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), FORMS);
    let is_whole = |(form, answer): &(&Vec<(String, String)>, &serde_json::Value)| {
        // Flask groups the values of one name.
        let mut sent: Vec<_> = form.iter().map(|(name, value)| serde_json::json!([name, value])).collect();
        let mut got = answer["form"].as_array().cloned().unwrap_or_default();
        sent.sort_by_key(ToString::to_string);
        got.sort_by_key(ToString::to_string);
        sent == got
    };
    let whole = forms.iter().zip(&answers).filter(is_whole).count();
    Told { whole, refused: FORMS - whole }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m1_at_most_one_of_a_thousand_honest_forms_of_real_clients_is_refused() {
    let flask = Flask::start(&[]).await;
    let relay = Relay::builder().toml(BLOCK_FILES).backend(flask.address()).start().await;
    let page = format!("http://localhost:{}/", relay.http().port());
    let url = format!("{page}{}", &MESSAGES[1..]);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let script = |client: &str| {
        let mut command = Command::new("node");
        command.current_dir(tests.join("browser")).args([
            "forms.mjs",
            client,
            &page,
            &url,
            &FORMS.to_string(),
        ]);
        command
    };
    let mut httpx = Command::new(tests.join("peers/.venv/bin/python"));
    httpx.arg(tests.join("peers/forms.py")).args([&url, &FORMS.to_string()]);

    let (mut whole, mut refused) = (0, 0);
    for (client, told) in [
        ("curl", curl(&url).await),
        ("httpx", tell(httpx).await),
        ("node's fetch", tell(script("node")).await),
        ("Chromium's fetch and forms", tell(script("chromium")).await),
    ] {
        assert_eq!(told.whole + told.refused, FORMS, "{client}: {told:?}");
        whole += told.whole;
        refused += told.refused;
    }
    assert_eq!(whole + refused, 4 * FORMS);
    eprintln!("{whole} came back value for value, {refused} were refused");
    assert!(refused <= 1, "{refused} were refused");
}
