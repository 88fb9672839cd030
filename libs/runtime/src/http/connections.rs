//! Limits the number of connections, in total and per client address.
//!
//! When the limit is reached, the connection that has waited longest for a request is closed for the new one, so that
//! idle clients cannot lock out others. If every connection is processing a request, the new one waits, and the next
//! response closes its connection.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::connection_state::ConnectionState;

/// Minimum interval between warnings that the connection limit is reached.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// How many idle connections one search finds, so that not every eviction searches all connections.
const CANDIDATES: usize = 64;

/// Limits of the number of connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// In total.
    pub total: usize,
    /// Of one client address. 0: no limit.
    pub per_address: usize,
}

/// Metrics of the connections.
#[derive(Clone, Debug, Default)]
pub struct ConnectionMetrics {
    /// Open connections.
    pub open: Gauge,
    /// The total limit.
    pub limit: Gauge,
    /// Idle connections that were closed because of the total limit.
    pub evicted: Counter,
    /// Connections that were closed at once because of the limit per address.
    pub rejected: Counter,
}

/// The open connections, as the task that accepts them sees them.
pub(super) struct Connections {
    limits: ConnectionLimits,
    metrics: ConnectionMetrics,
    free: Arc<Semaphore>,
    open: Arc<Mutex<Open>>,
    close_next: Arc<AtomicBool>,
    /// When cancelled, each response closes its connection.
    draining: CancellationToken,
    /// The result of the last search for idle connections; the longest idle one is the last.
    candidates: Vec<(u64, ConnectionState)>,
    last_warning: Option<Instant>,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    states: HashMap<u64, ConnectionState>,
    /// Number of connections per address. Empty without a limit per address.
    by_address: HashMap<IpAddr, usize>,
}

/// Occupies a slot until it is dropped.
pub(super) struct Slot {
    id: u64,
    address: Option<IpAddr>,
    open: Arc<Mutex<Open>>,
    count: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits, metrics: ConnectionMetrics, draining: CancellationToken) -> Self {
        metrics.limit.set(i64::try_from(limits.total).unwrap_or(i64::MAX));
        Self {
            limits,
            metrics,
            free: Arc::new(Semaphore::new(limits.total.min(Semaphore::MAX_PERMITS))),
            open: Arc::default(),
            close_next: Arc::default(),
            draining,
            candidates: Vec::new(),
            last_warning: None,
        }
    }

    /// Waits for a slot for a new connection from this address. None if the address has too many connections.
    pub(super) async fn slot(&mut self, peer: IpAddr) -> Option<(Slot, ConnectionState)> {
        let address = (self.limits.per_address > 0).then(|| address_block(peer));
        // Only this task adds connections, so their number can only decrease until the new one is added.
        if let Some(address) = address
            && lock(&self.open).by_address.get(&address).is_some_and(|count| *count >= self.limits.per_address)
        {
            self.metrics.rejected.inc();
            tracing::debug!(%address, "rejected a connection, its address has too many");
            return None;
        }
        let permit = self.permit().await?;
        // A token per connection: checking a shared token for every response would contend on its lock.
        let state = ConnectionState::new(self.close_next.clone(), self.draining.child_token());
        let mut open = lock(&self.open);
        let id = open.next_id;
        open.next_id += 1;
        open.states.insert(id, state.clone());
        if let Some(address) = address {
            *open.by_address.entry(address).or_default() += 1;
        }
        drop(open);
        self.metrics.open.inc();
        let slot = Slot { id, address, open: self.open.clone(), count: self.metrics.open.clone(), _permit: permit };
        Some((slot, state))
    }

    async fn permit(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Some(permit);
        }
        if self.last_warning.is_none_or(|last| last.elapsed() > WARN_INTERVAL) {
            tracing::warn!(
                limit = self.limits.total,
                "connection limit reached, the longest idle connections are closed"
            );
            self.last_warning = Some(Instant::now());
        }
        // Set before the search, so that a connection that becomes idle after the search closes.
        self.close_next.store(true, Ordering::SeqCst);
        if let Some(idle) = self.longest_idle() {
            self.close_next.store(false, Ordering::SeqCst);
            idle.evict();
            self.metrics.evicted.inc();
        }
        let permit = self.free.clone().acquire_owned().await.ok();
        self.close_next.store(false, Ordering::SeqCst);
        permit
    }

    fn longest_idle(&mut self) -> Option<ConnectionState> {
        loop {
            // A connection that was used since the search is idle for less time than the remaining candidates.
            while let Some((since, state)) = self.candidates.pop() {
                if state.waiting_since() == Some(since) {
                    return Some(state);
                }
            }
            self.candidates = self.find_idle();
            if self.candidates.is_empty() {
                return None;
            }
        }
    }

    /// The [`CANDIDATES`] longest idle connections, the longest idle one last.
    fn find_idle(&self) -> Vec<(u64, ConnectionState)> {
        let open = lock(&self.open);
        let mut idle: Vec<(u64, u64)> =
            open.states.iter().filter_map(|(id, state)| Some((state.waiting_since()?, *id))).collect();
        if idle.len() > CANDIDATES {
            idle.select_nth_unstable(CANDIDATES);
            idle.truncate(CANDIDATES);
        }
        idle.sort_unstable_by(|a, b| b.cmp(a));
        idle.into_iter().filter_map(|(since, id)| Some((since, open.states.get(&id)?.clone()))).collect()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.states.remove(&self.id);
        if let Some(address) = self.address
            && let Some(count) = open.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
        self.count.dec();
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address block that is usually assigned to one subscriber: an IPv4 address, or an IPv6 prefix of 64 bits.
#[must_use]
pub fn address_block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::LazyLock};

    use tokio::time;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    static LIMITS: LazyLock<ConnectionLimits> = LazyLock::new(|| ConnectionLimits { total: 200, per_address: 0 });

    /// Fills all slots, one per millisecond.
    async fn full() -> (Connections, Vec<(Slot, ConnectionState)>) {
        let mut connections = Connections::new(*LIMITS, ConnectionMetrics::default(), CancellationToken::new());
        let mut slots = Vec::new();
        for _ in 0..LIMITS.total {
            slots.push(connections.slot(PEER).await.unwrap());
            time::advance(Duration::from_millis(1)).await;
        }
        (connections, slots)
    }

    fn is_evicted(state: &ConnectionState) -> bool {
        state.waiting().is_some() && state.waiting_since().is_none()
    }

    #[tokio::test(start_paused = true)]
    async fn longest_idle_connection_is_evicted_at_the_limit() {
        let (mut connections, mut slots) = full().await;
        // The first is processing a request, the second has been used just now, so the third is the longest idle.
        slots[0].1.begin_request();
        slots[1].1.begin_request();
        assert!(!slots[1].1.end_request());
        for number in 2..LIMITS.total {
            let new = connections.slot(PEER);
            tokio::pin!(new);
            assert!(time::timeout(Duration::from_secs(1), &mut new).await.is_err(), "all slots are occupied");
            // The slots that were evicted before are dropped.
            assert!(is_evicted(&slots[2].1), "{number}");
            assert_eq!(slots.iter().filter(|(_, state)| is_evicted(state)).count(), 1, "{number}");
            slots.remove(2);
            slots.push(new.await.unwrap());
        }
        assert_eq!(connections.metrics.evicted.get(), LIMITS.total as u64 - 2);
        assert_eq!(connections.metrics.open.get(), i64::try_from(LIMITS.total).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn next_response_closes_its_connection_if_none_is_idle() {
        let (mut connections, mut slots) = full().await;
        for (_, state) in &slots {
            state.begin_request();
        }
        let metrics = connections.metrics.clone();
        let new = connections.slot(PEER);
        tokio::pin!(new);
        assert!(time::timeout(Duration::from_secs(1), &mut new).await.is_err());
        assert!(slots[7].1.end_request(), "the response closes its connection");
        assert!(!slots[8].1.end_request(), "one is enough");
        slots.remove(7);
        assert!(new.await.is_some());
        assert_eq!(metrics.evicted.get(), 0);
    }

    #[tokio::test]
    async fn connections_of_one_address_are_limited() {
        let limits = ConnectionLimits { total: 10, per_address: 2 };
        let mut connections = Connections::new(limits, ConnectionMetrics::default(), CancellationToken::new());
        let other = "192.0.2.7".parse().unwrap();
        let first = connections.slot(PEER).await.unwrap();
        let _second = connections.slot(PEER).await.unwrap();
        assert!(connections.slot(PEER).await.is_none());
        let _other = connections.slot(other).await.unwrap();
        drop(first);
        assert!(connections.slot(PEER).await.is_some());
        assert_eq!(connections.metrics.rejected.get(), 1);
    }

    #[test]
    fn address_block_is_64_bits_of_ipv6_and_all_of_ipv4() {
        let block = |address: &str| address_block(address.parse().unwrap()).to_string();
        assert_eq!(block("192.0.2.7"), "192.0.2.7");
        assert_eq!(block("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(block("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(block("2001:db8:1:2:ffff::"), "2001:db8:1:2::");
    }
}
