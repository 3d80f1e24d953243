//! What was tried for a certificate and what comes next, on disk: a restart loop or a reload never orders
//! again what was just tried.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use tracing::warn;

use super::schedule::{self, Window};
use crate::{
    config::{Subject, acme::ChallengeKind},
    storage::{Storage, StorageError},
    tls::certificate::Validity,
};

/// The directory of certificates in the storage directory.
pub(crate) const CERTIFICATES: &str = "certificates";

/// One certificate's page, `certificates/<name>/meta.json`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Entry {
    /// The directory of the CA that issued the certificate.
    pub(crate) ca: Option<String>,
    /// How control over the name was last shown.
    pub(crate) challenge: Option<ChallengeKind>,
    /// When the certificate came, by our clock.
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) issued: Option<OffsetDateTime>,
    /// When it is to be renewed: chosen once, so that a restart does not choose anew.
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) renew_at: Option<OffsetDateTime>,
    /// No renewal before, whatever else is said: the certificate did not fit our clock.
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) hold_until: Option<OffsetDateTime>,
    /// When the CA wants it to be renewed, if it said so.
    pub(crate) window: Option<Window>,
    /// When to ask for that again.
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) ask_window_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) last_attempt: Option<OffsetDateTime>,
    /// Failed tries in a row.
    pub(crate) failures: u32,
    pub(crate) last_error: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) next_try: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) failing_since: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) last_alarm: Option<OffsetDateTime>,
    /// CAs that asked to be left alone, by their directories, and until when.
    #[serde(with = "moments")]
    pub(crate) held: BTreeMap<String, OffsetDateTime>,
}

/// What is to be done for a certificate now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Wait,
    /// Ask the CA when it wants the certificate to be renewed.
    AskWindow,
    Order,
}

impl Entry {
    /// The page of `subject`; an empty one where there is none, or none that can be read.
    pub(crate) fn load(storage: &Storage, subject: &Subject) -> Result<Self, StorageError> {
        let file = file(subject);
        let Some(text) = storage.read(&file)? else {
            return Ok(Self::default());
        };
        Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
            warn!(name = %subject, file = %storage.path(&file).display(), "what was tried is forgotten: {error}");
            Self::default()
        }))
    }

    /// Writes the page of `subject`.
    pub(crate) fn store(&self, storage: &Storage, subject: &Subject) -> Result<(), StorageError> {
        // Strings, numbers and times in a struct: nothing of that fails to become JSON.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        storage.write(&file(subject), &text)
    }

    /// What is to be done at `now` for a certificate with this life; `None`: there is none.
    pub(crate) fn step(&self, validity: Option<Validity>, now: OffsetDateTime) -> Step {
        let reached = |moment: Option<OffsetDateTime>| moment.is_none_or(|moment| moment <= now);
        let due = validity.is_none() || reached(self.renew_at) && reached(self.hold_until);
        if !reached(self.next_try) {
            Step::Wait
        } else if due {
            Step::Order
        } else if self.ask_window_at.is_some_and(|moment| moment <= now) {
            Step::AskWindow
        } else {
            Step::Wait
        }
    }

    /// Makes sense of the page after the clock went back (K10): a wait that was counted from a time which has
    /// not come yet begins now, so that it is neither lost nor a year long.
    pub(crate) fn settle(&mut self, now: OffsetDateTime) {
        let ahead = |moment: Option<OffsetDateTime>| moment.is_some_and(|moment| moment > now);
        if let Some(last) = self.last_attempt.filter(|last| *last > now) {
            let shift = last - now;
            self.last_attempt = Some(now);
            self.next_try = self.next_try.map(|next| next - shift);
            self.held.values_mut().for_each(|until| *until -= shift);
        }
        if ahead(self.issued) {
            self.issued = Some(now);
            self.hold_until = None;
        }
        let tomorrow = now + Duration::DAY;
        self.ask_window_at = self.ask_window_at.map(|moment| moment.min(tomorrow));
        self.failing_since = self.failing_since.map(|moment| moment.min(now));
        self.last_alarm = self.last_alarm.map(|moment| moment.min(now));
    }

    /// Before an order is begun: should the process end in the middle of it, that counts as a failure.
    pub(crate) fn begin(&mut self, now: OffsetDateTime, random: f64) {
        self.last_attempt = Some(now);
        self.next_try = Some(now + schedule::back_off(self.failures.saturating_add(1), random));
    }

    /// A certificate with this life came from `ca`.
    pub(crate) fn succeed(&mut self, ca: String, validity: Validity, now: OffsetDateTime, random: f64) {
        let life = validity.lifetime();
        // A clock that is a year ahead finds each new certificate expired: one order, not one after another (K10).
        let fits = validity.not_before - Duration::DAY <= now && now <= validity.not_before + life / 3;
        *self = Self {
            challenge: self.challenge,
            issued: Some(now),
            renew_at: Some(schedule::renewal(validity, random)),
            hold_until: (!fits).then(|| now + life / 3),
            ask_window_at: Some(now),
            last_attempt: Some(now),
            held: std::mem::take(&mut self.held),
            ca: Some(ca),
            ..Self::default()
        };
        self.held.retain(|_, until| *until > now);
    }

    /// The order failed; no CA can be asked before `open_at`.
    pub(crate) fn fail(
        &mut self,
        error: String,
        open_at: Option<OffsetDateTime>,
        now: OffsetDateTime,
        random: f64,
    ) {
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(error);
        self.failing_since.get_or_insert(now);
        let next = now + schedule::back_off(self.failures, random);
        self.next_try = Some(open_at.map_or(next, |open| open.max(next)));
    }

    /// The CA named its window, and when it wants to be asked again.
    pub(crate) fn learn_window(
        &mut self,
        window: Window,
        ask_again: OffsetDateTime,
        validity: Validity,
        random: f64,
    ) {
        self.ask_window_at = Some(ask_again);
        if self.window == Some(window) {
            return;
        }
        let chosen = schedule::renewal_within(window, random);
        self.window = chosen.is_some().then_some(window);
        // Never after its end, whatever the CA says.
        let chosen = chosen.unwrap_or_else(|| schedule::renewal(validity, random));
        self.renew_at = Some(chosen.min(validity.not_after));
    }

    /// Whether somebody has to be told that the renewal keeps failing: when it has done so for a third of
    /// what was left of the certificate's life, at once where there is none, and then once a day.
    pub(crate) fn alarm_due(&self, validity: Option<Validity>, now: OffsetDateTime) -> bool {
        let Some(since) = self.failing_since else {
            return false;
        };
        let left = validity.map_or(Duration::ZERO, |validity| validity.not_after - since);
        now - since >= Duration::ZERO.max(left / 3)
            && self.last_alarm.is_none_or(|last| now - last >= Duration::DAY)
    }
}

/// Where `subject`'s certificate and page lie: a `*` is a `_`, so that no shell takes it for a pattern.
pub(crate) fn directory(subject: &Subject) -> String {
    format!("{CERTIFICATES}/{}", subject.to_string().replacen('*', "_", 1))
}

/// Of the name of a directory in [`CERTIFICATES`].
pub(crate) fn subject(directory: &str) -> Option<Subject> {
    match directory.strip_prefix("_.") {
        Some(parent) => format!("*.{parent}").parse().ok(),
        None => directory.parse().ok(),
    }
}

fn file(subject: &Subject) -> String {
    format!("{}/meta.json", directory(subject))
}

/// A map of moments as RFC 3339 texts.
mod moments {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use time::OffsetDateTime;

    #[derive(Deserialize, Serialize)]
    struct Moment(#[serde(with = "time::serde::rfc3339")] OffsetDateTime);

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<String, OffsetDateTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let map: BTreeMap<_, _> = map.iter().map(|(key, moment)| (key, Moment(*moment))).collect();
        map.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, OffsetDateTime>, D::Error> {
        let map = BTreeMap::<String, Moment>::deserialize(deserializer)?;
        Ok(map.into_iter().map(|(key, Moment(moment))| (key, moment)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-07-01 00:00 UTC);
    const YEAR: Duration = Duration::days(365);

    fn life() -> Validity {
        Validity { not_before: NOW, not_after: NOW + Duration::days(90) }
    }

    fn issued() -> Entry {
        let mut entry = Entry::default();
        entry.succeed("https://ca/dir".into(), life(), NOW, 0.0);
        entry.ask_window_at = None;
        entry
    }

    #[test]
    fn a_page_is_the_same_after_a_restart_and_a_damaged_one_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        for name in ["a.example", "*.a.example", "2001:db8::1"] {
            let subject: Subject = name.parse().unwrap();
            let mut entry = issued();
            entry.challenge = Some(ChallengeKind::Http01);
            entry.held.insert("https://ca/dir".into(), NOW);
            entry.fail("no".into(), None, NOW, 0.0);
            entry.store(&storage, &subject).unwrap();
            assert_eq!(Entry::load(&storage, &subject).unwrap(), entry);
            storage.write(&file(&subject), b"{").unwrap();
            assert_eq!(Entry::load(&storage, &subject).unwrap(), Entry::default());
        }
    }

    #[test]
    fn the_directory_of_a_certificate_is_a_name_that_a_shell_leaves_alone() {
        for (text, name) in [("a.example", "a.example"), ("*.a.example", "_.a.example")] {
            let parsed: Subject = text.parse().unwrap();
            assert_eq!(directory(&parsed), format!("certificates/{name}"));
            assert_eq!(subject(name), Some(parsed));
        }
        assert_eq!(subject("a..b"), None);
    }

    #[test]
    fn what_was_just_tried_is_not_tried_again_by_a_process_that_was_killed_in_the_middle() {
        let mut entry = Entry::default();
        assert_eq!(entry.step(None, NOW), Step::Order);
        entry.begin(NOW, 0.0);
        assert_eq!(entry.step(None, NOW + Duration::seconds(59)), Step::Wait);
        assert_eq!(entry.step(None, NOW + Duration::seconds(60)), Step::Order);
    }

    #[test]
    fn a_certificate_is_renewed_when_it_is_due_and_after_failures_when_the_wait_is_over() {
        let mut entry = issued();
        let due = NOW + Duration::days(60);
        assert_eq!(entry.step(Some(life()), due - Duration::SECOND), Step::Wait);
        assert_eq!(entry.step(Some(life()), due), Step::Order);
        entry.fail("no".into(), None, due, 0.0);
        entry.fail("no".into(), None, due, 0.0);
        assert_eq!(entry.step(Some(life()), due + Duration::seconds(119)), Step::Wait);
        assert_eq!(entry.step(Some(life()), due + Duration::seconds(120)), Step::Order);
        entry.fail("no".into(), Some(due + Duration::DAY), due, 0.0);
        assert_eq!(entry.next_try, Some(due + Duration::DAY));
    }

    #[test]
    fn the_window_of_the_ca_wins_and_the_point_in_it_is_chosen_once() {
        let mut entry = issued();
        let window = Window { start: NOW + Duration::days(30), end: NOW + Duration::days(32) };
        entry.learn_window(window, NOW + Duration::HOUR, life(), 0.5);
        assert_eq!(entry.renew_at, Some(NOW + Duration::days(31)));
        assert_eq!(entry.step(Some(life()), NOW + Duration::HOUR), Step::AskWindow);
        entry.learn_window(window, NOW + Duration::DAY, life(), 0.9);
        assert_eq!(entry.renew_at, Some(NOW + Duration::days(31)));
        let late = Window { start: NOW + YEAR, end: NOW + YEAR * 2 };
        entry.learn_window(late, NOW + Duration::DAY, life(), 0.5);
        assert_eq!(entry.renew_at, Some(life().not_after));
    }

    #[test]
    fn k10_a_clock_that_jumps_a_year_ahead_makes_one_order() {
        let mut entry = issued();
        let wrong = NOW + YEAR;
        assert_eq!(entry.step(Some(life()), wrong), Step::Order);
        // The CA's clock is right: what comes has expired a long time ago by ours.
        entry.begin(wrong, 0.0);
        entry.succeed("https://ca/dir".into(), life(), wrong, 0.0);
        entry.ask_window_at = None;
        assert_eq!(entry.step(Some(life()), wrong), Step::Wait);
        assert_eq!(entry.step(Some(life()), wrong + Duration::days(29)), Step::Wait);
        // The clock is put right again.
        entry.settle(NOW);
        assert_eq!(entry.step(Some(life()), NOW), Step::Wait);
        assert_eq!(entry.step(Some(life()), NOW + Duration::days(60)), Step::Order);
    }

    #[test]
    fn k10_a_clock_that_goes_back_keeps_the_wait_and_its_length() {
        let mut entry = Entry::default();
        entry.begin(NOW + YEAR, 0.0);
        entry.fail("no".into(), None, NOW + YEAR, 0.0);
        entry.held.insert("ca".into(), NOW + YEAR + Duration::HOUR);
        entry.settle(NOW);
        assert_eq!(entry.next_try, Some(NOW + Duration::MINUTE));
        assert_eq!(entry.held["ca"], NOW + Duration::HOUR);
        assert_eq!(entry.step(None, NOW), Step::Wait);
        let settled = entry.clone();
        entry.settle(NOW + Duration::SECOND);
        assert_eq!(entry, settled);
    }

    #[test]
    fn somebody_is_told_after_a_third_of_what_was_left_and_then_daily() {
        let mut entry = issued();
        let due = NOW + Duration::days(60);
        assert!(!entry.alarm_due(Some(life()), due));
        entry.fail("no".into(), None, due, 0.0);
        assert!(!entry.alarm_due(Some(life()), due + Duration::days(9)));
        let told = due + Duration::days(10);
        assert!(entry.alarm_due(Some(life()), told));
        entry.last_alarm = Some(told);
        assert!(!entry.alarm_due(Some(life()), told + Duration::hours(23)));
        assert!(entry.alarm_due(Some(life()), told + Duration::DAY));
        let mut without = Entry::default();
        without.fail("no".into(), None, NOW, 0.0);
        assert!(without.alarm_due(None, NOW));
    }
}
