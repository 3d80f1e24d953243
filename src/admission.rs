//! Who may come in: how many connections a client may have open, and how often it may ask ([`rate`]).

pub(crate) mod rate;

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// One client: an IPv4 address, or the /64 of an IPv6 one, which one person has all of.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum ClientKey {
    V4(Ipv4Addr),
    V6([u8; 8]),
}

impl From<IpAddr> for ClientKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// The connections of each client. One for the whole process: it outlives reloads.
///
/// An entry goes with the client's last connection, so there are never more than `[limits] connections`, however many
/// addresses somebody comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    open: Mutex<HashMap<ClientKey, usize>>,
    /// When a refusal was last told.
    told: Mutex<Option<Instant>>,
}

/// One connection of a client, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// How many its client had when it came, with it.
    pub(crate) ordinal: usize,
    key: ClientKey,
    clients: Clients,
}

/// How often refusals are told: anybody can cause them.
const TELL_EVERY: Duration = Duration::from_secs(60);

impl Clients {
    /// Takes a connection in, unless its client has `most` already.
    pub(crate) fn admit(&self, client: IpAddr, most: usize) -> Option<Place> {
        let key = ClientKey::from(client);
        {
            let mut open = self.open();
            let count = open.entry(key).or_insert(0);
            if *count < most {
                *count += 1;
                return Some(Place { ordinal: *count, key, clients: self.clone() });
            }
        }
        self.tell(client, most);
        None
    }

    /// Now and then only.
    fn tell(&self, client: IpAddr, most: usize) {
        let mut told = lock(&self.0.told);
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(
                %client, most,
                "closed a connection: its client has as many as connections_per_client allows; \
                 if it is a proxy, name it in trusted_proxies"
            );
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<ClientKey, usize>> {
        lock(&self.0.open)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.clients.open().entry(self.key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// A panic cannot leave anything half changed here: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(clients: &Clients, address: &str, most: usize) -> Option<Place> {
        clients.admit(address.parse().unwrap(), most)
    }

    #[test]
    fn a_client_has_as_many_connections_as_it_may_and_others_have_theirs() {
        let clients = Clients::default();
        let mut places: Vec<_> = (0..3).map(|_| admit(&clients, "192.0.2.1", 3).unwrap()).collect();
        assert!(admit(&clients, "192.0.2.1", 3).is_none());
        assert!(admit(&clients, "::ffff:192.0.2.1", 3).is_none());
        assert!(admit(&clients, "192.0.2.2", 3).is_some());
        places.pop();
        assert!(admit(&clients, "192.0.2.1", 3).is_some());
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        let clients = Clients::default();
        let _place = admit(&clients, "2001:db8::1", 1).unwrap();
        assert!(admit(&clients, "2001:db8::ffff:1", 1).is_none());
        assert!(admit(&clients, "2001:db8:0:1::1", 1).is_some());
    }

    #[test]
    fn nothing_is_kept_of_a_client_that_is_gone() {
        let clients = Clients::default();
        let places: Vec<_> = (0..1000)
            .map(|n| clients.admit(IpAddr::from([0x2001, 0xdb8, 0, n, 0, 0, 0, 1]), 1).unwrap())
            .collect();
        assert_eq!(clients.open().len(), 1000);
        drop(places);
        assert!(clients.open().is_empty());
    }
}
