//! One client's share of a budget: what is over it stays for others.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Budget;
use crate::{
    admission::ClientKey,
    client::{Client, StandsFor},
};

/// So many one client may have in any case: a browser opens up to six connections to a server.
const LEAST: usize = 4;

/// The shares of the clients that have something, or wait for it. An entry goes with the last of both.
pub(super) type Shares = Mutex<HashMap<ClientKey, Arc<Semaphore>>>;

/// One place in a client's share, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    /// `None`: of a client that stands for many.
    _place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    /// Dropped before the entry is looked at, as is everything else that holds the semaphore.
    permit: Option<OwnedSemaphorePermit>,
    client: ClientKey,
    budget: Budget,
}

impl Budget {
    /// A place in the share of `client`, which is one of `parts` of the budget, if there is one now.
    pub(crate) fn try_share(&self, client: &Client, parts: usize) -> Option<Share> {
        let Some((mut place, places)) = self.place(client, parts) else {
            return Some(Share { _place: None });
        };
        place.permit = Some(places.try_acquire_owned().ok()?);
        Some(Share { _place: Some(place) })
    }

    /// The same, when there is one. Those of one client wait in the order they came.
    pub(crate) async fn share(&self, client: &Client, parts: usize) -> Share {
        let Some((mut place, places)) = self.place(client, parts) else {
            return Share { _place: None };
        };
        // The semaphore is never closed.
        place.permit = places.acquire_owned().await.ok();
        Share { _place: Some(place) }
    }

    /// SECURITY: a client is an address, or an IPv6 /64. Without shares one of them, with a hundred uploads as slow as
    /// `least_rate` lets them be, has every connection to the backend (attacks.md L1).
    fn place(&self, client: &Client, parts: usize) -> Option<(Place, Arc<Semaphore>)> {
        if client.stands_for == StandsFor::Many {
            return None;
        }
        let key = ClientKey::from(client.address);
        // A budget that a reload resized counts for clients that come anew.
        let size = || Arc::new(Semaphore::new((self.most() / parts).max(LEAST)));
        let places = Arc::clone(self.shares().entry(key).or_insert_with(size));
        Some((Place { permit: None, client: key, budget: self.clone() }, places))
    }

    /// A panic cannot leave it half changed: each change is one call.
    fn shares(&self) -> MutexGuard<'_, HashMap<ClientKey, Arc<Semaphore>>> {
        self.0.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shares = self.budget.shares();
        self.permit = None;
        // Others of this client hold the semaphore too, and drop it before they come here.
        if let Entry::Occupied(entry) = shares.entry(self.client)
            && Arc::strong_count(entry.get()) == 1
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::uri::Scheme;

    fn client(address: &str) -> Client {
        Client { address: address.parse().unwrap(), scheme: Scheme::HTTPS, stands_for: StandsFor::Itself }
    }

    #[tokio::test]
    async fn a_client_has_its_share_and_others_have_theirs() {
        let budget = Budget::new(20);
        let (one, other) = (client("2001:db8::1"), client("2001:db8:0:1::1"));
        let mut taken: Vec<_> = (0..5).map(|_| budget.try_share(&one, 4).unwrap()).collect();
        assert!(budget.try_share(&client("2001:db8::2"), 4).is_none(), "the same /64");
        assert!(budget.try_share(&other, 4).is_some());
        let many = Client { stands_for: StandsFor::Many, ..one.clone() };
        let _all: Vec<_> = (0..20).map(|_| budget.try_share(&many, 4).unwrap()).collect();

        let waiting = budget.share(&one, 4);
        let mut waiting = std::pin::pin!(waiting);
        assert!(at_once(waiting.as_mut()).await.is_none());
        taken.pop();
        assert!(at_once(waiting).await.is_some());
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_client_that_is_gone_or_gave_up() {
        let budget = Budget::new(0);
        let one = client("192.0.2.1");
        let mut taken: Vec<_> = (0..LEAST).map(|_| budget.try_share(&one, 4).unwrap()).collect();
        {
            let mut waiting = std::pin::pin!(budget.share(&one, 4));
            assert!(at_once(waiting.as_mut()).await.is_none());
            // It is given a place, and goes before it takes it.
            taken.clear();
            assert_eq!(budget.shares().len(), 1);
        }
        assert!(budget.shares().is_empty());
    }

    /// What `future` gives at once.
    async fn at_once<F: Future>(future: F) -> Option<F::Output> {
        tokio::time::timeout(std::time::Duration::ZERO, future).await.ok()
    }
}
