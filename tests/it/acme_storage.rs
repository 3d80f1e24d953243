//! Certificates on disk: whole or not there, whatever happens (attacks.md K9).

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::harness::{
    Pebble,
    pebble::{Clock, Fault, Served, SmallDisk, Step, Stored, make_due},
    relay::RelayBuilder,
};

const NAME: &str = "chat.example.org";

#[tokio::test]
async fn k9_after_kill_9_at_any_point_of_a_write_the_pair_on_disk_is_whole() {
    let points: u32 = if crate::harness::is_long() { 200 } else { 20 };
    let pebble = Pebble::builder().reuses_authorizations(100).start().await;
    let relay = pebble.relay(&[NAME]).start().await;
    pebble.front.wait_answered(Step::Certificate, 1).await;
    let answered = Instant::now();
    relay.log_with(&["certificate issued"]).await;
    let write = answered.elapsed().max(Duration::from_millis(5));
    // Half of the points before the moment at which this write was over, the last ones long after it.
    let delay = |point: u32| write * 4 * point * point / (points * points);
    let storage = relay.path("storage");
    let directory = storage.join("certificates").join(NAME);
    // What is stored is due for renewal by this clock.
    let clock = Clock::ahead_by_days(70);
    let mut next = pebble.relay_after(relay, &[NAME]).binary(clock.relay());
    let (mut kept, mut replaced) = (0, 0);
    for point in 0..points {
        // In turns the first certificate of all is written, and one that replaces another.
        if point % 2 == 0 {
            fs::remove_dir_all(&directory).unwrap();
        } else {
            // The ledger knows that it was just tried. Killed in time, there is none.
            let _ = fs::remove_file(directory.join("meta.json"));
        }
        let serial = || Stored::read(&storage, NAME).map(|stored| stored.chain.serial());
        let before = serial();
        let downloads = pebble.front.count(Step::Certificate);
        let relay = next.start().await;
        pebble.front.wait_answered(Step::Certificate, downloads + 1).await;
        tokio::time::sleep(delay(point)).await;
        next = pebble.relay_after(relay, &[NAME]).binary(clock.relay());
        let after = serial();
        assert!(after.is_some() || before.is_none(), "{point}: the old pair is gone");
        if after == before {
            kept += 1;
        } else {
            replaced += 1;
        }
        fs::create_dir_all(&directory).unwrap();
    }
    assert!(kept > 0 && replaced > 0, "{kept} kept, {replaced} replaced: all points are on one side");
    // And the next one makes what it finds good.
    fs::remove_dir_all(&directory).unwrap();
    let relay = next.start().await;
    pebble.issued(&relay, NAME).await;
}

#[tokio::test]
async fn k9_on_a_full_disk_the_relay_serves_and_says_what_is_wrong_and_writes_when_there_is_room() {
    let Some(disk) = SmallDisk::mount() else { return };
    let pebble = Pebble::start().await;
    pebble.front.fault(Step::Finalize, Fault::Hold);
    let relay = on_disk(pebble.relay(&[NAME]), &disk).start().await;
    pebble.front.wait(Step::Finalize, 1).await;
    disk.fill();
    pebble.front.heal();
    relay.log_with(&["cannot be written", "space"]).await;
    Served::at(relay.https(), NAME).await.unwrap();
    let half = Stored::read(&disk.path().join("storage"), NAME);
    assert!(half.is_none());
    disk.empty();
    // When its turn has come, what was ordered is fetched and stored.
    let storage = disk.path().join("storage");
    let next = on_disk(pebble.relay_after(relay, &[NAME]), &disk);
    make_due(&storage, NAME, "next_try");
    let relay = next.start().await;
    pebble.issued(&relay, NAME).await;
    assert!(Stored::read(&storage, NAME).is_some());
    assert_eq!(pebble.front.count(Step::NewOrder), 1);
}

#[tokio::test]
async fn storage_that_becomes_read_only_stops_nobody_and_is_told() {
    let Some(disk) = SmallDisk::mount() else { return };
    let pebble = Pebble::start().await;
    pebble.front.fault(Step::Finalize, Fault::Hold);
    let relay = on_disk(pebble.relay(&[NAME]), &disk).start().await;
    pebble.front.wait(Step::Finalize, 1).await;
    disk.make_read_only();
    pebble.front.heal();
    relay.log_with(&["cannot be written", "ead-only"]).await;
    Served::at(relay.https(), NAME).await.unwrap();
}

#[tokio::test]
async fn storage_that_is_read_only_from_the_beginning_is_refused_at_check_and_at_the_start() {
    let Some(disk) = SmallDisk::mount() else { return };
    let pebble = Pebble::start().await;
    disk.make_read_only();
    let output = on_disk(pebble.relay(&[NAME]), &disk).run().await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains(disk.path().to_str().unwrap()) && said.contains("writable"), "{said}");
    pebble.front.no_more_than(Step::Directory, 0).await;
}

#[tokio::test]
async fn two_relays_on_one_storage_say_so_and_order_once_between_them() {
    let pebble = Pebble::start().await;
    pebble.front.fault(Step::Finalize, Fault::Hold);
    let first = pebble.relay(&[NAME]).start().await;
    pebble.front.wait(Step::Finalize, 1).await;
    let second = pebble
        .relay(&[NAME])
        .toml(&format!("[server]\nport = 0\nhttp_port = 0\n[tls]\nstorage = {:?}", first.path("storage")))
        .start()
        .await;
    second.log_with(&["another process"]).await;
    pebble.front.no_more_than(Step::NewOrder, 1).await;
    pebble.front.heal();
    let served = pebble.issued(&first, NAME).await;
    assert_eq!(pebble.issued(&second, NAME).await.serial(), served.serial());
    pebble.front.no_more_than(Step::NewOrder, 1).await;
}

fn on_disk(relay: RelayBuilder, disk: &SmallDisk) -> RelayBuilder {
    relay.toml(&format!("[tls]\nstorage = {:?}", disk.path().join("storage")))
}
