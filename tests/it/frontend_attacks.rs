//! attacks.md F1: nothing but regular files below the directory, whatever is asked for and whatever lies there.

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::{
    harness::{
        Client, Frames, Relay, Version, chance::cases, frames::RST_STREAM, kept::Kept, on_h1_and_h2, within,
    },
    paths::variants::variants,
};

/// The front end in a directory, and what it must not show beside it.
fn builder() -> crate::harness::relay::RelayBuilder {
    Relay::builder()
        .toml("uri_prefix = \"abc\"\n[frontend]\nmode = \"serve\"\ndirectory = \"{dir}/front\"")
        .file("front/index.html", "INDEX")
        .file("front/about.html", "ABOUT")
        .file("front/media/main.js", "let a = 1;\n".repeat(1000))
        .file("front/README.md", "SECRET of excluded_paths")
        .file("front/.git/config", "SECRET of excluded_paths")
        .file("front/.git/index.html", "SECRET of excluded_paths")
        .file("secret.txt", "SECRET")
        .file("secret.html", "SECRET")
        .file("outside/secret.txt", "SECRET")
}

/// All that is no regular file of the directory's own, and the paths that would show it.
fn traps(front: &Path) -> Vec<&'static str> {
    symlink("../secret.txt", front.join("relative.txt")).unwrap();
    symlink(front.parent().unwrap().join("secret.txt"), front.join("absolute.txt")).unwrap();
    symlink("relative.txt", front.join("twice.txt")).unwrap();
    symlink("../secret.html", front.join("page.html")).unwrap();
    symlink("..", front.join("up")).unwrap();
    symlink("../outside", front.join("outside")).unwrap();
    symlink("/proc/self/root", front.join("root")).unwrap();
    symlink("/proc/self/environ", front.join("environ.txt")).unwrap();
    symlink("/proc/self/fd", front.join("fd")).unwrap();
    symlink("loop.txt", front.join("loop.txt")).unwrap();
    symlink("../secret.txt", front.join("media/main.js.br")).unwrap();
    symlink("../../secret.txt", front.join("media/main.js.gz")).unwrap();
    symlink("/dev/zero", front.join("zero.bin")).unwrap();
    symlink("/dev/tty", front.join("tty.txt")).unwrap();
    fs::create_dir_all(front.join("directory.html/x")).unwrap();
    mknodat(CWD, front.join("pipe.txt"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
    mknodat(CWD, front.join("about.html.br"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
    drop(UnixListener::bind(front.join("socket.txt")).unwrap());
    // Only root may make one.
    let _ =
        mknodat(CWD, front.join("device.bin"), FileType::CharacterDevice, Mode::from(0o644), makedev(1, 5));
    vec![
        "/abc/relative.txt",
        "/abc/absolute.txt",
        "/abc/twice.txt",
        "/abc/page.html",
        "/abc/page",
        "/abc/up/secret.txt",
        "/abc/up/secret.html",
        "/abc/up/secret",
        "/abc/up/front/index.html",
        "/abc/outside/secret.txt",
        "/abc/root/etc/passwd.txt",
        "/abc/root/etc/os-release.",
        "/abc/environ.txt",
        "/abc/fd/0.txt",
        "/abc/loop.txt",
        "/abc/media/main.js.br",
        "/abc/media/main.js.gz",
        "/abc/zero.bin",
        "/abc/tty.txt",
        "/abc/directory.html",
        "/abc/directory",
        "/abc/directory.html/",
        "/abc/media/",
        "/abc/media",
        "/abc/pipe.txt",
        "/abc/about.html.br",
        "/abc/socket.txt",
        "/abc/device.bin",
        "/abc/index.html/",
        "/abc/index.html/x.html",
        "/abc/README.md",
        "/abc/readme.MD",
        "/abc/%52EADME.md",
        "/README.md",
        "//README.md",
        "/abc//README.md",
        "/abc/.git",
        "/abc/.git/",
        "/abc/.git/config",
        "/abc/.git/index.html",
        "/abc/.git/index",
        "/abc/.GIT/config",
        "/abc/%2egit/config",
        "/abc/%2Egi%74/config",
        "/.git/config",
        "//.git//config",
        "/abc/etc/passwd",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
    ]
}

on_h1_and_h2! {
    async fn f1_links_pipes_sockets_devices_and_directories_are_404(version) {
        let relay = builder().self_signed().start().await;
        let traps = traps(&relay.path("front"));
        let client = Client::https(&relay, version);
        for path in &traps {
            for (name, value) in [("x-plain", "1"), ("accept-encoding", "br, gzip"), ("range", "bytes=0-3")] {
                for method in ["GET", "HEAD"] {
                    let answer = client.call(method, path).header(name, value).send().await;
                    assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
                    assert!(!answer.body.windows(6).any(|part| part == b"SECRET"), "{path}");
                }
            }
        }
        // Files beside which such things lie are served as ever.
        for path in ["/abc/media/main.js", "/abc/about"] {
            for coding in ["br", "gzip", "identity"] {
                let answer = client.call("GET", path).header("accept-encoding", coding).send().await;
                assert_eq!(answer.status, 200, "{path}");
                assert!(!answer.body.windows(6).any(|part| part == b"SECRET"), "{path}: {coding}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_no_spelling_leads_out_of_the_directory() {
    let relay = builder().self_signed().start().await;
    let plain = builder().in_the_place_of(&relay).start().await;
    traps(&relay.path("front"));
    let count = cases(2_000, 20_000);
    for path in [
        "/abc/../secret.txt",
        "/abc/up/secret.txt",
        "/abc/.git/config",
        "/abc/media/../../outside/secret.txt",
    ] {
        let variants = variants(path, count);
        let mut kept = Kept::new(plain.http());
        for path in &variants {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let (status, body) = kept.exchange(&[request]).await;
            assert!([200, 400, 404].contains(&status), "{path}: {status}");
            assert!(!body.windows(6).any(|part| part == b"SECRET"), "{path}: {}", body.escape_ascii());
        }
        let mut frames = Frames::open(&relay, &[]).await;
        let mut stream = 1;
        for path in variants.iter().step_by(8) {
            if !frames.ask(stream, "GET", path).await {
                (frames, stream) = (Frames::open(&relay, &[]).await, 1);
                continue;
            }
            stream += 2;
            let mut taken = 0;
            loop {
                let Some(frame) = within("an answer", frames.next()).await else {
                    (frames, stream) = (Frames::open(&relay, &[]).await, 1);
                    break;
                };
                assert!(!frame.payload.windows(6).any(|part| part == b"SECRET"), "{path}");
                taken += frame.payload.len() as u32;
                if frame.ends() || frame.kind == RST_STREAM {
                    frames.window(0, taken.max(1)).await;
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn f1_an_error_page_from_outside_is_none() {
    let builder = builder().self_signed();
    let relay = builder.file("front/404.html", "PAGE").start().await;
    let front = relay.path("front");
    fs::remove_file(front.join("404.html")).unwrap();
    symlink("../secret.html", front.join("404.html")).unwrap();
    let relay = Relay::builder()
        .in_the_place_of(&relay)
        .self_signed()
        .toml("uri_prefix = \"abc\"\n[frontend]\nmode = \"serve\"\ndirectory = \"{dir}/front\"")
        .start()
        .await;
    let answer = Client::https(&relay, Version::Http1).get("/abc/nope").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (404, "not found"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_file_that_turns_into_a_link_meanwhile_shows_nothing() {
    let relay = builder().self_signed().start().await;
    let front = relay.path("front");
    let stop = Arc::new(AtomicBool::new(false));
    let turns = Arc::new(AtomicUsize::new(0));
    let turning = std::thread::spawn({
        let (front, stop, count) = (front.clone(), Arc::clone(&stop), Arc::clone(&turns));
        move || {
            let mut turns = 0;
            while !stop.load(Ordering::Relaxed) {
                let next = front.join("next");
                match turns % 2 {
                    0 => symlink("../secret.txt", &next).unwrap(),
                    _ => fs::write(&next, "a regular file").unwrap(),
                }
                fs::rename(&next, front.join("turning.txt")).unwrap();
                let next = front.join("next-directory");
                match turns % 2 {
                    0 => symlink("../outside", &next).unwrap(),
                    _ => {
                        fs::create_dir(&next).unwrap();
                        fs::write(next.join("secret.txt"), "a regular file").unwrap();
                    }
                }
                let place = front.join("turning");
                let _ = fs::remove_file(&place).or_else(|_| fs::remove_dir_all(&place));
                fs::rename(&next, &place).unwrap();
                turns += 1;
                count.store(turns, Ordering::Relaxed);
            }
        }
    });
    let client = Client::https(&relay, Version::Http2);
    let (mut found, mut absent) = (0, 0);
    let least = cases(300, 10_000);
    let give_up = Instant::now() + Duration::from_secs(30);
    while found + absent < least || (turns.load(Ordering::Relaxed) < 100 && Instant::now() < give_up) {
        for path in ["/abc/turning.txt", "/abc/turning/secret.txt"] {
            let answer = client.get(path).await;
            match answer.status.as_u16() {
                200 => found += 1,
                404 => absent += 1,
                other => panic!("{path}: {other}"),
            }
            assert!(answer.status == 404 || answer.text() == "a regular file", "{path}: {answer:?}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    turning.join().unwrap();
    let turns = turns.load(Ordering::Relaxed);
    assert!(found > 10 && absent > 10 && turns >= 100, "{found} found, {absent} absent, {turns} turns");
}
