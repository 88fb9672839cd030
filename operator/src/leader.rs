//! Leader election: of several replicas, the one that holds the Lease reconciles. The others are on standby.
//!
//! The leader renews the lease every two seconds. A standby replica reads it as often, and acquires it when it was
//! released, or when it has not changed for its duration. That time is measured on the replica's own clock: clocks of
//! different machines are never compared. Every write replaces a specific resource version, so of two replicas that
//! try to acquire the lease only one succeeds.
//!
//! # Guarantees
//! A leader that has not renewed the lease for ten seconds, counted from before its last successful request, stops
//! reconciling. No other replica acquires the lease within fifteen seconds after the last renewal. At shutdown the
//! reconciliation stops first, then the lease is released.
//!
//! # Caveats
//! A process that was suspended detects the loss of its leadership when it resumes, but requests that it had sent
//! before may still take effect, and each running reconciliation may get one step further. Fencing in the stores makes
//! these harmless, not the lease: [ADR 0008](../../docs/adr/0008-stale-operators.md).

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use clap::{ArgAction, Args};
use couponry_runtime::{CancellationToken, error_chain};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    select,
    sync::watch,
    task::JoinHandle,
    time::{self, Instant},
};

use crate::metrics::Metrics;

/// The lease expires when it has not been renewed for this long.
const LEASE_DURATION_SECONDS: i32 = 15;
/// Upper limit for the duration in a lease that another program or a person wrote.
const MAX_LEASE_DURATION_SECONDS: i32 = 60;
/// The leader stops reconciling when it has not renewed the lease for this long.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the leader renews the lease, and a standby replica reads it.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

#[derive(Debug, Args)]
#[command(next_help_heading = "Leader election")]
pub(crate) struct LeaderArgs {
    /// Reconcile only while holding a Lease in the namespace, so that several replicas can run: one is active, the
    /// others are on standby.
    #[arg(long, env, value_name = "BOOL", action = ArgAction::Set, default_value_t = false, num_args = 0..=1,
        default_missing_value = "true", require_equals = true)]
    leader_elect: bool,
    /// Name of the Lease.
    #[arg(long, env, default_value = "couponry-operator", value_name = "NAME")]
    lease_name: String,
    /// Identity of this replica in the Lease. Must be unique. Default: host name and process id.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
}

impl LeaderArgs {
    /// None: leader election is off, and this replica is always the leader.
    pub(crate) fn election(&self, client: Client, namespace: &str) -> Option<Election> {
        self.leader_elect.then(|| Election {
            leases: Api::namespaced(client, namespace),
            lease_name: self.lease_name.clone(),
            identity: self.identity.clone().filter(|identity| !identity.is_empty()).unwrap_or_else(default_identity),
        })
    }
}

fn default_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = Some(host.trim()).filter(|host| !host.is_empty()).unwrap_or("operator");
    format!("{host}-{}", std::process::id())
}

#[derive(Clone)]
pub(crate) struct Election {
    leases: Api<Lease>,
    lease_name: String,
    identity: String,
}

/// A period in which this replica is the leader.
struct Leadership {
    /// The time before the last successful renewal was sent. The channel is closed when the lease is lost.
    renewed_at: watch::Receiver<Instant>,
    stop_renewal: CancellationToken,
    /// Returns the last version of the lease.
    renewal: JoinHandle<Lease>,
}

/// A lease as this replica first observed it.
struct ObservedLease {
    spec: LeaseSpec,
    /// When this version was first observed.
    since: Instant,
}

#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("request to the API server failed")]
    Api(#[from] kube::Error),
    #[error("the API server did not respond within {REQUEST_TIMEOUT:?}")]
    TimedOut,
}

/// Runs `work` during each period of leadership; without an election, immediately. Returns when `work` returns, or at
/// shutdown.
pub(crate) async fn run_while_leader(
    election: Option<Election>,
    metrics: &Metrics,
    shutdown: &CancellationToken,
    work: impl AsyncFn(),
) {
    let Some(election) = election else {
        metrics.set_leader(true);
        return work().await;
    };
    while let Some(mut leadership) = election.acquire(shutdown).await {
        metrics.set_leader(true);
        let is_lost = select! {
            // The loss is polled first, so that a process that was suspended starts no new work.
            biased;
            () = leadership.lost() => true,
            () = work() => false,
        };
        metrics.set_leader(false);
        let lease = leadership.end().await;
        if !is_lost {
            return election.release(lease).await;
        }
        tracing::error!(lease = election.lease_name, "lease lost, entering standby");
    }
}

impl Election {
    /// Waits until this replica is the leader. None: the shutdown came first.
    async fn acquire(&self, shutdown: &CancellationToken) -> Option<Leadership> {
        let mut observed = None;
        while !shutdown.is_cancelled() {
            let sent_at = Instant::now();
            // Not cancelled by the shutdown: an acquired lease must be released.
            match with_timeout(self.try_acquire_or_renew(&mut observed)).await {
                Ok(Some(lease)) => {
                    tracing::info!(lease = self.lease_name, identity = self.identity, "lease acquired");
                    return Some(self.clone().start_renewal(lease, sent_at));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        lease = self.lease_name,
                        error = error_chain(&error),
                        "cannot acquire the lease, retrying"
                    );
                }
            }
            select! {
                () = time::sleep(RETRY_PERIOD) => {}
                () = shutdown.cancelled() => {}
            }
        }
        None
    }

    /// Acquires the lease if it is free or expired, renews it if this replica holds it. None: another replica holds
    /// it.
    async fn try_acquire_or_renew(&self, last: &mut Option<ObservedLease>) -> Result<Option<Lease>, kube::Error> {
        let Some(found) = self.leases.get_opt(&self.lease_name).await? else {
            let metadata = ObjectMeta { name: Some(self.lease_name.clone()), ..ObjectMeta::default() };
            let lease = self.claim(Lease { metadata, spec: None });
            return none_if_conflict(self.leases.create(&PostParams::default(), &lease).await);
        };
        let spec = found.spec.clone().unwrap_or_default();
        let now = Instant::now();
        let observed = match last.take() {
            Some(last) if last.spec == spec => last,
            last => {
                let holder = holder(&spec);
                if holder != last.as_ref().and_then(|last| self::holder(&last.spec)) {
                    tracing::info!(lease = self.lease_name, holder = holder.unwrap_or("none"), "lease holder observed");
                }
                ObservedLease { spec, since: now }
            }
        };
        let is_available = observed.is_available_to(&self.identity, now);
        *last = Some(observed);
        if !is_available {
            return Ok(None);
        }
        self.replace(self.claim(found)).await
    }

    /// The lease with this replica as its holder and the current time as its renewal.
    fn claim(&self, mut lease: Lease) -> Lease {
        let now = Some(MicroTime(Timestamp::now()));
        let spec = lease.spec.get_or_insert_default();
        if holder(spec) != Some(&self.identity) {
            // The first acquisition is not a transition.
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
            spec.acquire_time.clone_from(&now);
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(LEASE_DURATION_SECONDS);
        spec.renew_time = now;
        lease
    }

    /// Replaces the version that `lease` was derived from. None: the lease has changed since.
    async fn replace(&self, lease: Lease) -> Result<Option<Lease>, kube::Error> {
        none_if_conflict(self.leases.replace(&self.lease_name, &PostParams::default(), &lease).await)
    }

    /// `sent_at`: when the request that acquired the lease was sent.
    fn start_renewal(self, lease: Lease, sent_at: Instant) -> Leadership {
        let (sender, renewed_at) = watch::channel(sent_at);
        let stop_renewal = CancellationToken::new();
        // A separate task, so that long computations of the work do not delay the renewal.
        let renewal = tokio::spawn(self.renew(lease, sender, stop_renewal.clone()));
        Leadership { renewed_at, stop_renewal, renewal }
    }

    async fn renew(self, mut lease: Lease, renewed_at: watch::Sender<Instant>, stop: CancellationToken) -> Lease {
        loop {
            select! {
                () = time::sleep(RETRY_PERIOD) => {}
                () = stop.cancelled() => return lease,
            }
            let sent_at = Instant::now();
            if sent_at >= *renewed_at.borrow() + RENEW_DEADLINE {
                return lease;
            }
            match with_timeout(self.renew_once(&lease)).await {
                Ok(Some(newer)) => {
                    lease = newer;
                    renewed_at.send_replace(sent_at);
                }
                Ok(None) => return lease,
                Err(error) => {
                    tracing::warn!(
                        lease = self.lease_name,
                        error = error_chain(&error),
                        "cannot renew the lease, retrying"
                    );
                }
            }
        }
    }

    /// None: another replica holds the lease.
    async fn renew_once(&self, lease: &Lease) -> Result<Option<Lease>, kube::Error> {
        match self.replace(self.claim(lease.clone())).await? {
            Some(newer) => Ok(Some(newer)),
            // Changed by another replica, by a person, or by this replica in a request whose response was lost.
            None => self.try_acquire_or_renew(&mut None).await,
        }
    }

    /// Lets a standby replica acquire the lease immediately.
    async fn release(&self, mut lease: Lease) {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        match with_timeout(self.replace(lease)).await {
            Ok(_) => tracing::info!(lease = self.lease_name, "lease released"),
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(lease = self.lease_name, error, "cannot release the lease, it will expire");
            }
        }
    }
}

async fn with_timeout<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, LeaseError> {
    Ok(time::timeout(REQUEST_TIMEOUT, request).await.map_err(|_| LeaseError::TimedOut)??)
}

impl Leadership {
    /// Waits until this replica must stop reconciling.
    async fn lost(&mut self) {
        loop {
            let deadline = *self.renewed_at.borrow_and_update() + RENEW_DEADLINE;
            let mut sleep = pin!(time::sleep_until(deadline));
            // Compares the clock, too, because the timer may fire late in a process that was suspended.
            let deadline_reached =
                poll_fn(|cx| if Instant::now() >= deadline { Poll::Ready(()) } else { sleep.as_mut().poll(cx) });
            select! {
                biased;
                () = deadline_reached => return,
                changed = self.renewed_at.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Stops the renewal and returns the last version of the lease.
    async fn end(self) -> Lease {
        self.stop_renewal.cancel();
        self.renewal.await.unwrap_or_default()
    }
}

impl ObservedLease {
    fn is_available_to(&self, identity: &str, now: Instant) -> bool {
        let Some(holder) = holder(&self.spec) else { return true };
        let seconds =
            self.spec.lease_duration_seconds.unwrap_or(LEASE_DURATION_SECONDS).min(MAX_LEASE_DURATION_SECONDS);
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        holder == identity || now >= self.since + duration
    }
}

fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// None: another replica has written the lease meanwhile.
fn none_if_conflict(written: Result<Lease, kube::Error>) -> Result<Option<Lease>, kube::Error> {
    match written {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(holder: Option<&str>, seconds: i32) -> ObservedLease {
        let spec = LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        };
        ObservedLease { spec, since: Instant::now() }
    }

    #[tokio::test]
    async fn lease_is_available_when_released_or_unchanged_for_its_duration() {
        let after =
            |lease: &ObservedLease, seconds| lease.is_available_to("us", lease.since + Duration::from_secs(seconds));
        assert!(after(&observed(None, 15), 0));
        assert!(after(&observed(Some(""), 15), 0));
        assert!(after(&observed(Some("us"), 15), 0));
        assert!(!after(&observed(Some("them"), 15), 14));
        assert!(after(&observed(Some("them"), 15), 15));
        assert!(after(&observed(Some("them"), i32::MAX), 60), "a longer duration is capped");
        assert!(after(&observed(Some("them"), -1), 0), "a negative duration counts as zero");
    }

    #[tokio::test]
    async fn leadership_is_lost_when_not_renewed_in_time_or_held_by_another() {
        let renewed_before = |elapsed| {
            let (sender, renewed_at) = watch::channel(Instant::now() - elapsed);
            let renewal = tokio::spawn(std::future::pending());
            (sender, Leadership { renewed_at, stop_renewal: CancellationToken::new(), renewal })
        };
        let (_sender, mut expired) = renewed_before(RENEW_DEADLINE);
        expired.lost().await;

        let (sender, mut taken_over) = renewed_before(Duration::ZERO);
        drop(sender);
        taken_over.lost().await;

        let (sender, mut current) = renewed_before(Duration::ZERO);
        let lost = tokio::spawn(async move { current.lost().await });
        sender.send_replace(Instant::now());
        tokio::task::yield_now().await;
        assert!(!lost.is_finished());
        lost.abort();
    }
}
