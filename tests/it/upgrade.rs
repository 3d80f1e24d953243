//! SIGUSR2 and `parley-relay upgrade`: another process takes over, and nobody is refused.

use std::{
    fs::{self, File, TryLockError},
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::PathBuf,
    process::Output,
    time::Duration,
};

use rustix::process::Signal;

use crate::harness::{
    Backend, Client, Relay, Reply, Version,
    client::next_chunk,
    load::{Amount, Load, ticking},
    process::raise_descriptor_limit,
    relay::{RelayBuilder, field, stderr},
};

const BINARY: &str = env!("CARGO_BIN_EXE_parley-relay");

/// Runs the real binary under the name of the script.
const REAL: &str = "exec -a \"$0\" \"$REAL\" \"$@\"";

/// A relay whose binary can be replaced: a script that runs the real one.
fn replaceable() -> (RelayBuilder, PathBuf) {
    let builder = Relay::builder().self_signed().file("bin/relay", script(REAL));
    let builder = builder.env("REAL", BINARY);
    let path = builder.path("bin/relay");
    executable(&path);
    (builder.binary(path.clone()), path)
}

fn script(line: &str) -> String {
    format!("#!/bin/bash\n{line}\n")
}

fn executable(path: &PathBuf) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Puts another binary in the place of the old one, as a package manager does.
fn replace(path: &PathBuf, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    executable(&new);
    fs::rename(new, path).unwrap();
}

async fn upgrade_command(relay: &Relay) -> Output {
    relay.command("upgrade", &[]).await
}

#[tokio::test]
async fn k4_an_upgrade_under_load_is_noticed_by_nobody() {
    raise_descriptor_limit();
    let amount = if crate::harness::is_long() { Amount::LARGE } else { Amount::SMALL };
    let (backend, ticks) = ticking(amount.tick).await;
    let mut relay = Relay::builder()
        .self_signed()
        .backend(backend.address())
        .toml("[backend]\nmax_connections = 2000\n[log]\naccess = false")
        .start()
        .await;
    let load = Load::start(&relay, amount).await;
    load.all_streams_go_on(&ticks).await;
    let before = load.answered();
    relay.upgrade().await;
    for stream in &load.streams {
        stream
            .until("a stream to come back", |story| {
                story.opened.len() > story.ended.len() && story.opened.len() > 1
            })
            .await;
    }
    load.all_streams_go_on(&ticks).await;
    let after = load.answered();
    let (figures, streams) = load.stop().await;
    assert!(before > 0 && after > before + 20, "{before} {after}");
    let mut ends = Vec::new();
    for stream in &streams {
        let story = stream.until("its story", |_| true).await;
        // Ended well, once, with a word about when to come back.
        assert_eq!((story.opened.len(), story.ended.len()), (2, 1), "{story:?}");
        ends.push(story.ended[0]);
    }
    ends.sort();
    let (first, last) = (ends[0], ends[ends.len() - 1]);
    println!("{} streams ended within {:?}, {figures}", ends.len(), last - first);
    // 10 ms each, and by chance.
    assert!(last - first > Duration::from_millis(amount.streams as u64 * 5), "{:?}", last - first);
    drop(streams);
    assert_eq!(relay.first_end().await.code(), Some(0));
}

#[tokio::test]
async fn a_reload_that_is_asked_for_during_an_upgrade_is_done_by_whoever_serves_then() {
    let mut relay = Relay::builder().self_signed().start().await;
    let count = |relay: &Relay, what: &str| relay.logs().iter().filter(|line| line.contains(what)).count();
    relay.signal(Signal::USR2);
    // The new process has read its configuration, and does not serve yet.
    while count(&relay, " configured ") < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let config = relay.path("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("level = \"trace\"", "level = \"debug\"")).unwrap();
    relay.signal(Signal::HUP);
    let line = relay.log_with(&["another process has taken over"]).await;
    relay.heir(field(&line, "pid").unwrap().parse().unwrap());
    relay.log_with(&["reloaded"]).await;
    assert_eq!(Client::https(&relay, Version::Http2).get("/").await.status, 404);
    assert_eq!(relay.first_end().await.code(), Some(0));
}

/// What is read may lie on a disk that does not answer: here, in a pipe that nobody writes into.
#[tokio::test]
async fn a_reload_that_hangs_does_not_keep_the_relay_from_ending() {
    let mut relay = Relay::builder().self_signed().start().await;
    let config = relay.path("config.toml");
    fs::remove_file(&config).unwrap();
    let (directory, mode) = (rustix::fs::CWD, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    rustix::fs::mknodat(directory, &config, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    relay.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(200)).await;
    relay.signal(Signal::TERM);
    assert_eq!(relay.end().await.code(), Some(0));
}

#[tokio::test]
async fn the_command_upgrades_again_and_again_and_the_binary_on_disk_is_run() {
    let (builder, path) = replaceable();
    let mut relay = builder.start().await;
    for version in ["second", "third"] {
        replace(&path, &script(&format!("echo this is the {version} >&2\n{REAL}")));
        let output = upgrade_command(&relay).await;
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(output.status.success() && text.contains("has taken over"), "{text}{}", stderr(&output));
        relay.heir(text.split(' ').nth(1).unwrap().parse().unwrap());
        relay.log_with(&["this is the", version]).await;
        assert_eq!(Client::https(&relay, Version::Http2).get("/").await.status, 404);
    }
    assert_eq!(relay.first_end().await.code(), Some(0));
    relay.signal(Signal::TERM);
    assert_eq!(relay.end().await.code(), Some(0));
    assert!(!relay.path("relay.json").exists());
}

#[tokio::test]
async fn with_a_broken_binary_the_old_one_goes_on_and_says_why() {
    let (builder, path) = replaceable();
    let backend = Backend::builder().on("/events", |_| Reply::events()).start().await;
    let relay = builder.backend(backend.address()).start().await;
    let client = Client::https(&relay, Version::Http2);
    let mut body = client.call("GET", "/events").open().await.into_body();
    let feed = backend.feed().await;
    for (content, reason) in [
        (script("exit 3"), "exit status: 3"),
        (script("kill -9 $$"), "signal: 9"),
        ("\x7fELF, but not for long".to_owned(), "cannot be started"),
        // Another program: it does not say that it is ready.
        (script("echo rady >&0; exit 0"), "exit status: 0"),
    ] {
        replace(&path, &content);
        let output = upgrade_command(&relay).await;
        assert_eq!(output.status.code(), Some(75), "{content}");
        assert!(
            stderr(&output).contains("no upgrade") && stderr(&output).contains(reason),
            "{}",
            stderr(&output)
        );
        relay.log_with(&["no upgrade", reason, "this process goes on as before"]).await;
        feed.send("data: 1\n\n").await;
        assert_eq!(next_chunk(&mut body).await.unwrap(), "data: 1\n\n");
        assert_eq!(Client::https(&relay, Version::Http1).get("/x").await.status, 200);
    }
}

#[tokio::test]
async fn a_broken_config_refuses_the_upgrade_and_the_faults_are_told() {
    let mut relay = Relay::builder().self_signed().start().await;
    let good = relay.config();
    relay.set_config(&good.replace("mode = \"disabled\"", "mode = \"disabld\""));
    let output = upgrade_command(&relay).await;
    assert_eq!(output.status.code(), Some(75));
    let told = stderr(&output);
    assert!(
        told.starts_with("error: no upgrade: the new process refuses:\nerror: `frontend.mode`"),
        "{told}"
    );
    assert!(told.contains("did you mean `disabled`?"), "{told}");
    relay.log_with(&["no upgrade, and this process goes on as before: the new process refuses:"]).await;
    // The caret is under what it points at.
    let column = |line: &str, what: &str| line.find(what).unwrap_or_else(|| panic!("{line}"));
    let (line, carets) = (
        relay.log_with(&["ERROR", "| mode", "disabld"]).await,
        relay.log_with(&["ERROR", "| ", "^^^"]).await,
    );
    assert_eq!(column(&line, "\"disabld"), column(&carets, "^"), "{line}\n{carets}");
    // A port that another has.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    relay.set_config(&good.replace("http_port = 0", &format!("http_port = {port}")));
    let output = upgrade_command(&relay).await;
    assert!(stderr(&output).contains("cannot listen on 127.0.0.1"), "{}", stderr(&output));
    assert!(stderr(&output).contains("take another port: [server] http_port = "), "{}", stderr(&output));
    assert_eq!(Client::https(&relay, Version::Http2).get("/").await.status, 404);
    // The same config mended: it is another upgrade, and works.
    relay.set_config(&good);
    relay.upgrade().await;
    assert_eq!(relay.first_end().await.code(), Some(0));
    assert_eq!(Client::https(&relay, Version::Http2).get("/").await.status, 404);
}

#[tokio::test]
async fn a_binary_that_hangs_is_killed_and_the_old_one_goes_on() {
    if !crate::harness::is_long() {
        return;
    }
    let (builder, path) = replaceable();
    let relay = builder.start().await;
    replace(&path, &script("exec sleep 1000"));
    relay.signal(Signal::USR2);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(Client::https(&relay, Version::Http2).get("/").await.status, 404);
    relay.log_with(&["no upgrade", "not ready in 20 s"]).await;
    assert_eq!(Client::https(&relay, Version::Http2).get("/").await.status, 404);
}

#[tokio::test]
async fn nothing_runs_is_an_error_that_says_where_it_was_looked_for() {
    let output = crate::harness::relay::run(["upgrade"]).await;
    assert_eq!(output.status.code(), Some(69));
    let text = stderr(&output);
    assert!(text.contains("no relay runs") && text.contains("looked in /"), "{text}");
}

#[tokio::test]
async fn the_manager_learns_the_new_process_from_the_old_one_and_readiness_from_the_new() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(crate::harness::DEADLINE)).unwrap();
    let next = || {
        let mut message = [0; 4096];
        let length = socket.recv(&mut message).expect("the manager is told nothing");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    // As systemd does: the variable is for one process alone.
    let builder =
        Relay::builder().self_signed().file("run", script("export WATCHDOG_PID=$$\nexec \"$REAL\" \"$@\""));
    executable(&builder.path("run"));
    let run = builder.path("run");
    let mut relay = builder
        .binary(run)
        .env("REAL", BINARY)
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "400000")
        .start()
        .await;
    while next() != "WATCHDOG=1" {}
    relay.signal(Signal::USR2);
    let main = loop {
        let message = next();
        if let Some(pid) = message.strip_prefix("MAINPID=") {
            break pid.parse().unwrap();
        }
        assert!(message == "WATCHDOG=1" || message.starts_with("STATUS="), "{message}");
    };
    relay.heir(main);
    assert_ne!(u32::try_from(main).unwrap(), relay.id());
    let message = next();
    assert!(message.starts_with("READY=1\n"), "{message}");
    // That variable is not passed on: it would say that another process is watched.
    while next() != "WATCHDOG=1" {}
    // The old one is no longer asked, and does not say that the service stops.
    assert_eq!(relay.first_end().await.code(), Some(0));
    socket.set_nonblocking(true).unwrap();
    let mut message = [0; 4096];
    while let Ok(length) = socket.recv(&mut message) {
        let text = String::from_utf8_lossy(&message[..length]);
        assert!(!text.starts_with("STOPPING"), "{text}");
    }
}

#[tokio::test]
async fn certificates_are_kept_by_one_process_at_a_time() {
    let nobody = crate::harness::peers::free_address();
    let mut relay = Relay::builder()
        .toml(&format!(
            "[tls]\nmode = \"acme\"\ndomains = [\"chat.example.org\"]\nstorage = \"{{dir}}/storage\"\n\
             [tls.acme]\ndirectory = \"https://{nobody}/directory\""
        ))
        .start()
        .await;
    let is_locked = || {
        let lock = File::open(relay.path("storage/acme/lock")).unwrap();
        matches!(lock.try_lock(), Err(TryLockError::WouldBlock))
    };
    assert!(is_locked());
    let lock = relay.path("storage/acme/lock");
    relay.upgrade().await;
    assert_eq!(relay.first_end().await.code(), Some(0));
    crate::harness::within("the new process to have the lock", async {
        // Tried rarely: whoever tries has it for a moment.
        while !matches!(File::open(&lock).unwrap().try_lock(), Err(TryLockError::WouldBlock)) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    // A reload that changes what is asked of the CA keeps it too, and nobody is warned of another process.
    relay.set_config(
        &relay.config().replace("[\"chat.example.org\"]", "[\"chat.example.org\", \"b.example.org\"]"),
    );
    relay.reload("reloaded").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(matches!(File::open(&lock).unwrap().try_lock(), Err(TryLockError::WouldBlock)));
    let warned = relay.logs().into_iter().find(|line| line.contains("another process keeps certificates"));
    assert_eq!(warned, None);
}
