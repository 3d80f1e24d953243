//! An order that a CA may have fulfilled and whose certificate we do not have yet, on disk with its key: the
//! certificate is fetched after a restart, and not ordered a second time.

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::storage::{Storage, StorageError};

/// CAs forget orders after a week (Let's Encrypt) at the latest.
const KEPT: Duration = Duration::WEEK;

/// Where such an order of one name is kept.
pub(super) struct Pending<'a> {
    /// `None`: the order is a rehearsal, and its certificate of no use.
    pub(super) storage: Option<&'a Storage>,
    /// `certificates/<name>/order.json`.
    pub(super) file: String,
    /// The directory of the CA that is asked.
    pub(super) ca: String,
}

/// An order that was begun. No `Debug`: it has the certificate's key.
#[derive(Deserialize, Serialize)]
pub(super) struct Started {
    pub(super) url: String,
    /// In PEM.
    pub(super) key: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) begun: OffsetDateTime,
}

#[derive(Deserialize, Serialize)]
struct Stored<S> {
    ca: String,
    order: S,
}

impl Pending<'_> {
    /// The order that was begun with this CA.
    pub(super) fn load(&self) -> Result<Option<Started>, StorageError> {
        let Some(storage) = self.storage else {
            return Ok(None);
        };
        let Some(text) = storage.read(&self.file)? else {
            return Ok(None);
        };
        // A file that is damaged is no loss; its text would be in the parser's message.
        let stored: Option<Stored<Started>> = serde_json::from_slice(&text).ok();
        let age = |started: &Started| OffsetDateTime::now_utc() - started.begun;
        Ok(stored
            .filter(|stored| stored.ca == self.ca)
            .map(|stored| stored.order)
            .filter(|started| age(started) < KEPT))
    }

    pub(super) fn store(&self, started: &Started) -> Result<(), StorageError> {
        let Some(storage) = self.storage else {
            return Ok(());
        };
        let stored = Stored { ca: self.ca.clone(), order: started };
        // Strings and a time in structs: nothing of that fails to become JSON.
        storage.write(&self.file, &serde_json::to_vec_pretty(&stored).unwrap_or_default())
    }

    /// The order is over.
    pub(super) fn clear(&self) -> Result<(), StorageError> {
        self.storage.map_or(Ok(()), |storage| storage.remove(&self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_gone_on_with_at_its_own_ca_for_a_week() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let at = |ca: &str| Pending {
            storage: Some(&storage),
            file: "certificates/a/order.json".into(),
            ca: ca.into(),
        };
        let begun = |begun| Started { url: "https://ca/order/1".into(), key: "key".into(), begun };
        let now = OffsetDateTime::now_utc();
        assert!(at("one").load().unwrap().is_none());
        at("one").store(&begun(now)).unwrap();
        assert_eq!(at("one").load().unwrap().unwrap().url, "https://ca/order/1");
        assert!(at("two").load().unwrap().is_none());
        at("one").store(&begun(now - Duration::days(8))).unwrap();
        assert!(at("one").load().unwrap().is_none());
        at("one").store(&begun(now)).unwrap();
        at("one").clear().unwrap();
        assert!(at("one").load().unwrap().is_none());
    }
}
