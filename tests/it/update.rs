//! `update`: what is taken, what is refused, and that nothing is replaced before it is.

use std::{fs, os::unix::fs::PermissionsExt, process::Output};

use minisign::KeyPair;

use crate::harness::{
    Backend, Microsocks, Reply,
    mirror::{BINARY, Installed, Release, program, update, url, works},
    pebble::SmallDisk,
    peers::free_address,
    relay::stderr,
};

fn new() -> Vec<u8> {
    program("9.9.9", &works())
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, code: i32, text: &str) {
    let stderr = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(text), "{stderr}");
    assert!(stdout(output).is_empty());
}

#[tokio::test]
async fn a_newer_release_replaces_the_program_and_the_old_one_is_kept() {
    let installed = Installed::new();
    let old = installed.program();
    let mirror = Release::new("9.9.9", new()).serve().await;
    let output = installed.update(&["--mirror", &url(&mirror), "--restart-with", "true"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let told = stdout(&output);
    assert!(told.starts_with("0.0.1 is replaced by 9.9.9; the relay runs it; "), "{told}");
    assert_eq!(installed.names(), ["parley-relay", "parley-relay.previous"]);
    assert_eq!(installed.program(), new());
    assert_eq!(fs::read(installed.path("parley-relay.previous")).unwrap(), old);

    // Again: nothing newer is there, and the program is not even fetched.
    let fetched = mirror.requests().len();
    let output = installed.update(&["--mirror", &url(&mirror)]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "9.9.9 is the newest release\n");
    assert_eq!(mirror.requests().len(), fetched + 2);
}

#[tokio::test]
async fn an_older_release_is_taken_only_when_that_is_asked_for() {
    let installed = Installed::new();
    let mirror = Release::new("0.0.1-rc.1", program("0.0.1-rc.1", &works())).serve().await;
    for arguments in [&["--mirror", &url(&mirror)][..], &["--mirror", &url(&mirror), "--check"]] {
        let output = installed.update(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stdout(&output), "0.0.1 is installed; the mirror has 0.0.1-rc.1, which is older\n");
        installed.assert_untouched();
    }
    let output = installed.update(&["--mirror", &url(&mirror), "--any-version"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(installed.program(), program("0.0.1-rc.1", &works()));
}

#[tokio::test]
async fn check_only_tells_and_its_exit_code_says_whether_there_is_something() {
    let installed = Installed::new();
    for (version, code, text) in [
        ("9.9.9", 1, "9.9.9 can be had; 0.0.1 is installed\n"),
        ("0.0.1", 0, "0.0.1 is the newest release\n"),
    ] {
        let mirror = Release::new(version, new()).serve().await;
        let output = installed.update(&["--check", "--mirror", &url(&mirror)]).await;
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert_eq!(stdout(&output), text);
        installed.assert_untouched();
    }
}

#[tokio::test]
async fn files_in_a_directory_are_a_mirror_without_a_network() {
    let installed = Installed::new();
    let stick = tempfile::tempdir().unwrap();
    Release::new("v9.9.9", new()).write(stick.path());
    let output = installed.update(&["--mirror", stick.path().to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(installed.program(), new());
}

#[tokio::test]
async fn a_damaged_program_is_refused_and_nothing_is_left() {
    let installed = Installed::new();
    let mut damaged = new();
    damaged[40] ^= 1;
    let mirror = Release::new("9.9.9", new()).serve_binary(move |_| Reply::ok(damaged.clone())).await;
    let output = installed.update(&["--mirror", &url(&mirror)]).await;
    assert_refused(&output, 65, &format!("{BINARY} is not the file that SHA256SUMS tells of"));
    installed.assert_untouched();
}

#[tokio::test]
async fn a_download_that_always_breaks_off_is_refused() {
    let installed = Installed::new();
    let mirror = Release::new("9.9.9", new())
        .serve_binary(|_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n#!/bin/sh\n"))
        .await;
    let output = installed.update(&["--mirror", &url(&mirror)]).await;
    assert_refused(&output, 69, "broke off after 10 of 900 bytes");
    installed.assert_untouched();
}

#[tokio::test]
async fn a_download_that_broke_off_is_gone_on_with_where_it_broke() {
    let installed = Installed::new();
    let binary = new();
    let mirror = Release::new("9.9.9", new())
        .serve_binary(move |seen| {
            let from: usize = match seen.header("range") {
                Some(range) => range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap(),
                None => 0,
            };
            let status = if from == 0 { "200 OK" } else { "206 Partial Content" };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", binary.len() - from);
            // Fifty bytes at a time, then the line breaks.
            let end = binary.len().min(from + 50);
            Reply::raw([head.as_bytes(), &binary[from..end]].concat())
        })
        .await;
    let output = installed.update(&["--mirror", &url(&mirror)]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(installed.program(), new());
    assert!(mirror.requests().len() > 4);
}

#[tokio::test]
async fn with_a_key_only_what_it_signed_is_taken() {
    let installed = Installed::new();
    let pair = KeyPair::generate_unencrypted_keypair().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("update.pub");
    fs::write(&key_file, pair.pk.to_box().unwrap().to_string()).unwrap();
    let key_file = key_file.to_str().unwrap();

    let unsigned = Release::new("9.9.9", new()).serve().await;
    let output = installed.update(&["--mirror", &url(&unsigned), "--public-key", key_file]).await;
    assert_refused(&output, 69, "404 Not Found for SHA256SUMS.minisig");

    let other = KeyPair::generate_unencrypted_keypair().unwrap();
    let stranger = Release::new("9.9.9", new()).signed(&other).serve().await;
    let output = installed.update(&["--mirror", &url(&stranger), "--public-key", key_file]).await;
    assert_refused(&output, 65, "SHA256SUMS is not signed with the known key");

    // Another program with checksums to match, under the old signature.
    let honest = Release::new("9.9.9", new()).signed(&pair);
    let mut forged = Release::new("9.9.9", program("9.9.9", "rm -rf /"));
    forged.signature = honest.signature.clone();
    let forged = forged.serve().await;
    let output = installed.update(&["--mirror", &url(&forged), "--public-key", key_file]).await;
    assert_refused(&output, 65, "SHA256SUMS is not signed with the known key");

    // The version is signed too: an old release cannot be called a new one.
    let mut renamed = Release::new("0.0.1", program("0.0.1", &works())).signed(&pair);
    renamed.version = "9.9.9\n".to_owned();
    let renamed = renamed.serve().await;
    let output = installed.update(&["--mirror", &url(&renamed), "--public-key", key_file]).await;
    assert_refused(&output, 65, "version.txt is not the file that SHA256SUMS tells of");
    installed.assert_untouched();

    let honest = honest.serve().await;
    let output = installed.update(&["--mirror", &url(&honest), "--public-key", key_file]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(installed.program(), new());
}

#[tokio::test]
async fn a_program_that_does_not_run_or_is_another_version_is_not_taken() {
    let installed = Installed::new();
    for (binary, text) in [
        (b"#!/bin/sh\nexit 3\n".to_vec(), "its `--version` fails (exit status: 3)"),
        (b"\x7fELF and nothing more".to_vec(), "it cannot be started"),
        (program("9.9.8", &works()), "it calls itself \"parley-relay 9.9.8\", and should be 9.9.9"),
    ] {
        let mirror = Release::new("9.9.9", binary).serve().await;
        let output = installed.update(&["--mirror", &url(&mirror)]).await;
        assert_refused(&output, 65, text);
        installed.assert_untouched();
    }
}

#[tokio::test]
async fn a_program_that_refuses_the_config_is_not_taken_and_its_reasons_are_shown() {
    let installed = Installed::new();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    fs::write(&config, "version = 1\n[frontend]\nmode = \"disabled\"\n").unwrap();
    let strict =
        String::from_utf8(new()).unwrap().replace("check) exec", "check) echo unknown key >&2; exit 78;");
    let mirror = Release::new("9.9.9", strict.into_bytes()).serve().await;
    let arguments = ["--mirror", &url(&mirror), "--config", config.to_str().unwrap()];
    let output = installed.update(&arguments).await;
    assert_refused(&output, 65, "its `check` fails (exit status: 78):\nunknown key");
    installed.assert_untouched();

    // One that we refuse ourselves is told as `check` does.
    fs::write(&config, "version = 1\nprot = 1\n").unwrap();
    let output = installed.update(&arguments).await;
    assert_refused(&output, 78, "prot");
    installed.assert_untouched();
}

#[tokio::test]
async fn a_full_disk_leaves_the_old_program_alone() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let path = disk.path().join("parley-relay");
    fs::write(&path, program("0.0.1", &works())).unwrap();
    let mut large = new();
    large.resize(2 << 20, b'\n');
    let mirror = Release::new("9.9.9", large).serve().await;
    let output = update(&path, &["--mirror", &url(&mirror)]).await;
    assert_refused(&output, 73, "No space left on device");
    assert_eq!(fs::read(&path).unwrap(), program("0.0.1", &works()));
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn without_a_network_it_says_what_cannot_be_reached() {
    let installed = Installed::new();
    let output = installed.update(&["--mirror", &format!("http://{}/", free_address())]).await;
    assert_refused(&output, 69, "version.txt cannot be fetched from 127.0.0.1: ");
    assert!(stderr(&output).contains("Connection refused"), "{}", stderr(&output));
    installed.assert_untouched();
}

#[tokio::test]
async fn a_place_that_cannot_be_reached_brings_advice_and_the_proxy_on_the_way_is_named() {
    const ADVICE: &str = "--mirror or MIRROR_BASE_URL names another place, --proxy a proxy on the way\n";
    let installed = Installed::new();
    // The last without a proxy, and a name that there is not.
    let away = free_address();
    for proxy in [Some("socks5h"), Some("http"), None] {
        let mut arguments = vec!["--mirror".to_owned(), "https://mirror.invalid/".to_owned()];
        if let Some(scheme) = proxy {
            arguments.extend(["--proxy".to_owned(), format!("{scheme}://user:s3cret@{away}")]);
        }
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let output = installed.update(&arguments).await;
        let through = proxy.map(|_| format!(" through the proxy at {away}")).unwrap_or_default();
        assert_refused(&output, 69, &format!("version.txt cannot be fetched from mirror.invalid{through}: "));
        let told = stderr(&output);
        assert!(told.ends_with(&format!("; nothing was changed\n{ADVICE}")), "{told}");
        assert!(!told.contains("s3cret") && !told.contains("user"), "{told}");
    }
    // Who answers has been reached.
    let empty = Backend::builder().on("/dl/version.txt", |_| Reply::status("404 NOT FOUND")).start().await;
    let output = installed.update(&["--mirror", &url(&empty)]).await;
    assert_refused(&output, 69, "404");
    assert!(!stderr(&output).contains(ADVICE), "{}", stderr(&output));
    installed.assert_untouched();
}

#[tokio::test]
async fn what_a_mirror_answers_that_is_no_release_is_refused() {
    let installed = Installed::new();
    let portal = Backend::builder()
        .on("/dl/version.txt", |_| Reply::ok("<html>Log in to use this network</html>"))
        .on("/dl/SHA256SUMS", |_| Reply::ok("<html>Log in to use this network</html>"))
        .start()
        .await;
    let output = installed.update(&["--mirror", &url(&portal)]).await;
    assert_refused(&output, 65, "SHA256SUMS is no list of checksums");
    let endless = Backend::builder().on("/dl/version.txt", |_| Reply::zeros(1 << 30)).start().await;
    let output = installed.update(&["--mirror", &url(&endless)]).await;
    assert_refused(&output, 69, "version.txt is longer than such a file can be");
    installed.assert_untouched();
}

#[tokio::test]
async fn a_mirror_without_tls_needs_a_key_or_a_word_for_it() {
    let installed = Installed::new();
    let output = installed.update(&["--mirror", "http://mirror.example/"]).await;
    assert_refused(&output, 78, "--public-key");
    let output = installed.update(&["--mirror", "/media/no-such-stick"]).await;
    assert_refused(&output, 78, "the mirror /media/no-such-stick is no directory that is there");
    let output = installed.update(&["--mirror", "ftp://mirror.example/"]).await;
    assert_refused(&output, 78, "http://");
    installed.assert_untouched();
}

#[tokio::test]
async fn the_configs_upstream_proxy_is_the_way_to_the_mirror() {
    let installed = Installed::new();
    let mirror = Release::new("9.9.9", new()).serve().await;
    let proxy = Microsocks::start(Some(("user", "s3cret"))).await;
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    let text = format!(
        "version = 1\n[frontend]\nmode = \"disabled\"\n[upstream_proxy]\nenabled = true\n\
         url = \"socks5h://user:s3cret@{}\"\n",
        proxy.address()
    );
    fs::write(&config, text).unwrap();
    let arguments = ["--mirror", &url(&mirror), "--config", config.to_str().unwrap(), "--check"];
    let output = installed.update(&arguments).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    proxy.connected_to(&mirror.address().to_string()).await;
    assert!(!stderr(&output).contains("s3cret"));
}

#[tokio::test]
async fn two_updates_at_once_do_not_meet() {
    let installed = Installed::new();
    let held = fs::File::open(installed.path("")).unwrap();
    held.lock().unwrap();
    let mirror = Release::new("9.9.9", new()).serve().await;
    let output = installed.update(&["--mirror", &url(&mirror)]).await;
    assert_refused(&output, 75, "another update is at work");
    installed.assert_untouched();
    drop(held);
    let output = installed.update(&["--mirror", &url(&mirror)]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[tokio::test]
async fn a_mirror_that_sends_elsewhere_is_followed() {
    let installed = Installed::new();
    let mirror = Release::new("9.9.9", new()).serve().await;
    let elsewhere = url(&mirror);
    let mut latest = Backend::builder();
    for file in ["version.txt", "SHA256SUMS", BINARY] {
        let target = format!("{elsewhere}{file}");
        latest = latest
            .on(&format!("/latest/{file}"), move |_| Reply::status("302 Found").header("Location", &target));
    }
    let latest = latest.start().await;
    let output = installed.update(&["--mirror", &format!("http://{}/latest", latest.address())]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(installed.program(), new());
}

#[tokio::test]
async fn what_apt_installed_is_left_to_apt() {
    let installed = Installed::new();
    let mirror = Release::new("9.9.9", new()).serve().await;
    let (programs, seen) = (tempfile::tempdir().unwrap(), installed.path("parley-relay"));
    let dpkg = programs.path().join("dpkg-query");
    fs::write(&dpkg, format!("#!/bin/sh\n[ \"$*\" = \"--search {}\" ]\n", seen.display())).unwrap();
    fs::set_permissions(&dpkg, fs::Permissions::from_mode(0o755)).unwrap();
    let output = installed.update_with_path(programs.path(), &["--mirror", &url(&mirror)]).await;
    assert_refused(&output, 78, "belongs to the Debian package parley-relay");
    installed.assert_untouched();
    // Asking is free.
    let output = installed.update_with_path(programs.path(), &["--mirror", &url(&mirror), "--check"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}
