//! How many connections a listener has over all workers, and how many of them are one client's. Looked at once a
//! connection, never for a request.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_model::ConnectionLimits;

use crate::errors::Reason;

/// Parts of the table of clients: workers rarely want the same one at the same time.
const SHARDS: usize = 16;

/// The connections of one listener, for as long as its name is known.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    open: AtomicUsize,
    clients: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
    hasher: RandomState,
}

/// A connection that was let in; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    /// Where it is counted for its client.
    client: Option<IpAddr>,
}

impl Admission {
    /// Lets a connection in where the limits have room for it.
    pub(crate) fn admit(
        self: &Arc<Self>,
        limits: ConnectionLimits,
        client: IpAddr,
    ) -> Result<Admitted, Reason> {
        let before = self.open.fetch_add(1, Relaxed);
        let mut admitted = Admitted {
            admission: Arc::clone(self),
            client: None,
        };
        if limits.max.is_some_and(|max| before >= max as usize) {
            return Err(Reason::TooMany);
        }
        if let Some(max) = limits.max_per_client {
            let client = counted_as(client);
            let mut clients = self.clients_of(client);
            let count = clients.entry(client).or_insert(0);
            if *count >= max {
                return Err(Reason::TooManyOfClient);
            }
            *count += 1;
            admitted.client = Some(client);
        }
        Ok(admitted)
    }

    fn clients_of(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        let shard = self.hasher.hash_one(client) as usize % SHARDS;
        self.clients[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Relaxed);
        if let Some(client) = self.client
            && let Entry::Occupied(mut count) = self.admission.clients_of(client).entry(client)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// An IPv6 client has a whole /64 to call from (RFC 4291, section 2.5.1).
fn counted_as(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max: Option<u32>, max_per_client: Option<u32>) -> ConnectionLimits {
        ConnectionLimits {
            max,
            max_per_client,
        }
    }

    #[test]
    fn there_is_room_again_when_connections_have_ended() {
        let admission = Arc::<Admission>::default();
        let admit =
            |client: &str| admission.admit(limits(Some(3), Some(2)), client.parse().unwrap());
        let first = admit("192.0.2.1").unwrap();
        let second = admit("::ffff:192.0.2.1").unwrap();
        assert_eq!(admit("192.0.2.1").unwrap_err(), Reason::TooManyOfClient);
        let third = admit("192.0.2.2").unwrap();
        assert_eq!(admit("192.0.2.3").unwrap_err(), Reason::TooMany);
        drop(first);
        drop(admit("192.0.2.1").unwrap());
        drop((second, third));
        assert_eq!(admission.open.load(Relaxed), 0);
        assert!(
            admission
                .clients
                .iter()
                .all(|shard| shard.lock().unwrap().is_empty())
        );
    }

    #[test]
    fn a_client_of_ipv6_is_its_network() {
        let admission = Arc::<Admission>::default();
        let admit = |client: &str| admission.admit(limits(None, Some(1)), client.parse().unwrap());
        let _first = admit("2001:db8::1").unwrap();
        assert_eq!(admit("2001:db8::2").unwrap_err(), Reason::TooManyOfClient);
        assert!(admit("2001:db8:0:1::1").is_ok());
    }
}
