//! How often a client may ask: a token bucket for each, in a table that does not grow with the attacker's networks.
//!
//! A bucket is one number, the instant at which it is full again (the generic cell rate algorithm), so one that is
//! full is as good as none and is forgotten. The keyed limiters of the usual crates have no bound on their tables.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{ClientKey, lock};

/// So many seconds' worth of requests may come at once from a client that was quiet: opening the front end takes dozens.
pub(crate) const BURST: u64 = 10;

/// The most clients that are followed. Beyond, who is not followed yet passes: it takes this many networks at once.
const MOST: usize = 1 << 16;
/// Below this many nothing is looked through.
const FEW: usize = 1 << 10;
const SECOND: u64 = 1_000_000_000;

/// The buckets of all clients.
#[derive(Debug)]
pub(crate) struct RateLimit {
    /// Nanoseconds that a request costs.
    cost: u64,
    born: Instant,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    /// When each is full again, in nanoseconds after `born`.
    full_at: HashMap<ClientKey, u64>,
    /// How many there may be before full ones are looked for, and not before when.
    sweep_from: usize,
    sweep_at: u64,
}

impl RateLimit {
    pub(crate) fn new(requests_per_second: NonZeroU32) -> Self {
        let buckets = Buckets { full_at: HashMap::new(), sweep_from: FEW, sweep_at: 0 };
        Self {
            cost: SECOND / u64::from(requests_per_second.get()),
            born: Instant::now(),
            buckets: Mutex::new(buckets),
        }
    }

    /// Takes a request from its client's bucket. `Err`: it is empty, and has one again after so long.
    pub(crate) fn take(&self, client: IpAddr) -> Result<(), Duration> {
        let now = u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.take_at(client.into(), now)
    }

    fn take_at(&self, client: ClientKey, now: u64) -> Result<(), Duration> {
        let mut buckets = lock(&self.buckets);
        let followed = buckets.full_at.get(&client).copied();
        if followed.is_none() && !buckets.has_room(now) {
            return Ok(());
        }
        let full_at = followed.unwrap_or(now).max(now).saturating_add(self.cost);
        let limit = now.saturating_add(BURST * SECOND);
        if full_at > limit {
            return Err(Duration::from_nanos(full_at - limit));
        }
        buckets.full_at.insert(client, full_at);
        Ok(())
    }
}

impl Buckets {
    /// Whether one more can be followed; forgets those that are full when there are many, and seldom.
    fn has_room(&mut self, now: u64) -> bool {
        if self.full_at.len() >= self.sweep_from && now >= self.sweep_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.sweep_from = (self.full_at.len() * 2).clamp(FEW, MOST);
            self.full_at.shrink_to(self.sweep_from);
            self.sweep_at = now.saturating_add(SECOND);
        }
        self.full_at.len() < MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> ClientKey {
        ClientKey::V4(n.into())
    }

    fn limit(rate: u32) -> RateLimit {
        RateLimit::new(NonZeroU32::new(rate).unwrap())
    }

    #[test]
    fn ten_seconds_worth_may_come_at_once_and_then_what_the_rate_says() {
        let limit = limit(5);
        assert!((0..50).all(|_| limit.take_at(key(1), 0).is_ok()));
        assert_eq!(limit.take_at(key(1), 0), Err(Duration::from_millis(200)));
        assert!(limit.take_at(key(2), 0).is_ok(), "another client has its own");
        // What is refused costs nothing.
        assert!(limit.take_at(key(1), SECOND / 5).is_ok());
        assert!(limit.take_at(key(1), SECOND / 5).is_err());
        assert_eq!((0..100).filter(|_| limit.take_at(key(1), 3 * SECOND).is_ok()).count(), 14);
        assert_eq!((0..100).filter(|_| limit.take_at(key(1), 1000 * SECOND).is_ok()).count(), 50);
    }

    #[test]
    fn the_table_has_a_bound_and_forgets_who_may_ask_again() {
        let limit = limit(1);
        for n in 0..200_000 {
            assert!(limit.take_at(key(n), 0).is_ok());
        }
        let len = |limit: &RateLimit| limit.buckets.lock().unwrap().full_at.len();
        assert_eq!(len(&limit), MOST);
        // Those who are followed are held to the rate all the while.
        assert_eq!((0..100).filter(|_| limit.take_at(key(1), 0).is_ok()).count(), 9);
        // All but one may ask again.
        assert!(limit.take_at(key(200_000), 2 * SECOND).is_ok());
        assert_eq!(len(&limit), 2);
        let buckets = limit.buckets.lock().unwrap();
        assert!(buckets.full_at.capacity() < 2 * FEW, "{}", buckets.full_at.capacity());
    }
}
