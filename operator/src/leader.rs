//! Which of several operators works: the one that holds the Lease. The others stand by.
//!
//! # How
//! Who holds the lease renews it every two seconds. Who does not looks at it as often, and takes it when it was given up, or when
//! it has not changed for as long as it says it lasts, by the looker's own clock: clocks of different machines are never
//! compared. Every write carries the version that it replaces, so that of two who take it one succeeds.
//!
//! # Guarantees
//! Who could not renew for ten seconds, counted from before the last request that succeeded, stops working; nobody else takes the
//! lease before fifteen. On a shutdown the work is stopped first, and the lease given up after it.
//!
//! # Caveats
//! A process that was frozen sees that its time is over as soon as it runs again, but by then each of its looks may have gone a
//! step further, and a request that it had sent is on its way:
//! [ADR 0008](../../docs/adr/0008-overtaken-operators.md) is what makes that harmless, not the lease.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use clap::{ArgAction, Args};
use couponry_runtime::CancellationToken;
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

/// How long the lease must stay unchanged before another may take it.
const LEASE_SECONDS: i32 = 15;
/// More than any holder asks for: a lease that claims to last longer was written by hand, or by mistake.
const LONGEST_LEASE_SECONDS: i32 = 60;
/// How long the holder goes on without having renewed it.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is renewed, and how often the others look at it.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// How long the API server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Whether this operator shares its work with others.
#[derive(Debug, Args)]
#[command(next_help_heading = "Several operators")]
pub(crate) struct LeaderArgs {
    /// Work only while holding a Lease in the namespace: of several operators one works and the others stand by.
    #[arg(long, env, value_name = "BOOL", action = ArgAction::Set, default_value_t = false, num_args = 0..=1,
        default_missing_value = "true", require_equals = true)]
    leader_elect: bool,
    /// The name of the Lease.
    #[arg(long, env, default_value = "couponry-operator", value_name = "NAME")]
    lease_name: String,
    /// What this operator calls itself in the Lease. No two may have the same. Without it: the name of the host and the
    /// number of the process.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
}

impl LeaderArgs {
    /// The election to stand in; None: this operator works alone.
    pub(crate) fn election(&self, client: Client, namespace: &str) -> Option<Election> {
        self.leader_elect.then(|| Election {
            leases: Api::namespaced(client, namespace),
            lease_name: self.lease_name.clone(),
            identity: self.identity.clone().filter(|given| !given.is_empty()).unwrap_or_else(own_name),
        })
    }
}

fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = Some(host.trim()).filter(|host| !host.is_empty()).unwrap_or("operator");
    format!("{host}-{}", std::process::id())
}

/// What an operator stands in to become the one that works. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Election {
    leases: Api<Lease>,
    lease_name: String,
    identity: String,
}

/// The time in which this operator leads.
struct Term {
    /// Before which request the lease was certainly ours. Closed: it is somebody else's.
    renewed: watch::Receiver<Instant>,
    /// Ends the renewing.
    stop: CancellationToken,
    /// Renews, and returns the lease as it was left.
    renewing: JoinHandle<Lease>,
}

/// What the lease looked like, and since when it does.
struct Sighting {
    spec: LeaseSpec,
    since: Instant,
}

/// Runs `work` while this operator leads, as often as it comes to lead; without an election always. Returns when `work` does,
/// or at the shutdown.
pub(crate) async fn lead(
    election: Option<Election>,
    metrics: &Metrics,
    shutdown: &CancellationToken,
    work: impl AsyncFn(),
) {
    let Some(election) = election else {
        metrics.leads(true);
        return work().await;
    };
    while let Some(mut term) = election.begin(shutdown).await {
        metrics.leads(true);
        let is_over = select! {
            // First, so that a process that was frozen for long begins nothing new. What the controller has begun runs in tasks of
            // its own, until it is dropped.
            biased;
            () = term.over() => true,
            () = work() => false,
        };
        metrics.leads(false);
        let lease = term.end().await;
        if !is_over {
            return election.give_up(lease).await;
        }
        tracing::error!(lease = election.lease_name, "the lease is lost: standing by");
    }
}

impl Election {
    /// Waits until this operator leads. None: the shutdown came first.
    async fn begin(&self, shutdown: &CancellationToken) -> Option<Term> {
        let mut sighting = None;
        while !shutdown.is_cancelled() {
            let asked = Instant::now();
            // Never cut off by the shutdown: what is taken must be given up.
            match self.patiently(self.take(&mut sighting)).await {
                Ok(Some(lease)) => {
                    tracing::info!(lease = self.lease_name, identity = self.identity, "this operator leads");
                    return Some(self.clone().serve(lease, asked));
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(lease = self.lease_name, error, "cannot take the lease yet"),
            }
            select! {
                () = time::sleep(RETRY_PERIOD) => {}
                () = shutdown.cancelled() => {}
            }
        }
        None
    }

    /// Takes the lease if it can be had. None: somebody else holds it.
    async fn take(&self, last: &mut Option<Sighting>) -> Result<Option<Lease>, kube::Error> {
        let Some(found) = self.leases.get_opt(&self.lease_name).await? else {
            let metadata = ObjectMeta { name: Some(self.lease_name.clone()), ..ObjectMeta::default() };
            let lease = self.claimed(Lease { metadata, spec: None });
            return unless_overtaken(self.leases.create(&PostParams::default(), &lease).await);
        };
        let spec = found.spec.clone().unwrap_or_default();
        let now = Instant::now();
        let sighting = match last.take() {
            Some(last) if last.spec == spec => last,
            last => {
                let holder = holder(&spec);
                if holder != last.as_ref().and_then(|last| self::holder(&last.spec)) {
                    tracing::info!(lease = self.lease_name, holder = holder.unwrap_or("nobody"), "seen");
                }
                Sighting { spec, since: now }
            }
        };
        let may_take = sighting.is_free_for(&self.identity, now);
        *last = Some(sighting);
        if !may_take {
            return Ok(None);
        }
        self.put(self.claimed(found)).await
    }

    /// The lease with us as its holder from now on.
    fn claimed(&self, mut lease: Lease) -> Lease {
        let now = Some(MicroTime(Timestamp::now()));
        let spec = lease.spec.get_or_insert_default();
        if holder(spec) != Some(&self.identity) {
            // The first holder follows nobody.
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
            spec.acquire_time.clone_from(&now);
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(LEASE_SECONDS);
        spec.renew_time = now;
        lease
    }

    /// Replaces the version that `lease` was made from. None: that is no longer the version.
    async fn put(&self, lease: Lease) -> Result<Option<Lease>, kube::Error> {
        unless_overtaken(self.leases.replace(&self.lease_name, &PostParams::default(), &lease).await)
    }

    /// Keeps renewing the lease, which was asked for at `asked`.
    fn serve(self, lease: Lease, asked: Instant) -> Term {
        let (sender, renewed) = watch::channel(asked);
        let stop = CancellationToken::new();
        // A task of its own, which a long computation of the work does not hold up.
        let renewing = tokio::spawn(self.renew(lease, sender, stop.clone()));
        Term { renewed, stop, renewing }
    }

    async fn renew(self, mut lease: Lease, renewed: watch::Sender<Instant>, stop: CancellationToken) -> Lease {
        loop {
            select! {
                () = time::sleep(RETRY_PERIOD) => {}
                () = stop.cancelled() => return lease,
            }
            let asked = Instant::now();
            if asked >= *renewed.borrow() + RENEW_DEADLINE {
                return lease;
            }
            match self.patiently(self.renew_once(&lease)).await {
                Ok(Some(newer)) => {
                    lease = newer;
                    renewed.send_replace(asked);
                }
                Ok(None) => return lease,
                Err(error) => tracing::warn!(lease = self.lease_name, error, "cannot renew the lease"),
            }
        }
    }

    /// None: the lease is somebody else's.
    async fn renew_once(&self, lease: &Lease) -> Result<Option<Lease>, kube::Error> {
        match self.put(self.claimed(lease.clone())).await? {
            Some(newer) => Ok(Some(newer)),
            // It was changed: by another holder, by a person, or by ourselves in a request whose answer was lost.
            None => self.take(&mut None).await,
        }
    }

    /// Lets the next one begin at once.
    async fn give_up(&self, mut lease: Lease) {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        match self.patiently(self.put(lease)).await {
            Ok(_) => tracing::info!(lease = self.lease_name, "the lease is given up"),
            Err(error) => tracing::warn!(lease = self.lease_name, error, "cannot give up the lease: it will expire"),
        }
    }

    async fn patiently<T>(&self, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
        match time::timeout(PATIENCE, request).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer from Kubernetes within {PATIENCE:?}")),
        }
    }
}

impl Term {
    /// Waits until this operator may no longer work.
    async fn over(&mut self) {
        loop {
            let deadline = *self.renewed.borrow_and_update() + RENEW_DEADLINE;
            let mut sleep = pin!(time::sleep_until(deadline));
            // By the clock and not by the timer alone, which may be late in a process that was frozen.
            let by_the_clock =
                poll_fn(|cx| if Instant::now() >= deadline { Poll::Ready(()) } else { sleep.as_mut().poll(cx) });
            select! {
                biased;
                () = by_the_clock => return,
                changed = self.renewed.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Ends the renewing, and returns the lease as it was left.
    async fn end(self) -> Lease {
        self.stop.cancel();
        self.renewing.await.unwrap_or_default()
    }
}

impl Sighting {
    fn is_free_for(&self, identity: &str, now: Instant) -> bool {
        let Some(holder) = holder(&self.spec) else { return true };
        let seconds = self.spec.lease_duration_seconds.unwrap_or(LEASE_SECONDS).min(LONGEST_LEASE_SECONDS);
        let lasts = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        holder == identity || now >= self.since + lasts
    }
}

fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// None: somebody else was faster.
fn unless_overtaken(written: Result<Lease, kube::Error>) -> Result<Option<Lease>, kube::Error> {
    match written {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: Option<&str>, seconds: i32) -> Sighting {
        let spec = LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        };
        Sighting { spec, since: Instant::now() }
    }

    #[tokio::test]
    async fn a_lease_is_free_when_given_up_or_unchanged_for_as_long_as_it_lasts() {
        let after =
            |sighting: &Sighting, seconds| sighting.is_free_for("us", sighting.since + Duration::from_secs(seconds));
        assert!(after(&seen(None, 15), 0));
        assert!(after(&seen(Some(""), 15), 0));
        assert!(after(&seen(Some("us"), 15), 0));
        assert!(!after(&seen(Some("them"), 15), 14));
        assert!(after(&seen(Some("them"), 15), 15));
        assert!(after(&seen(Some("them"), i32::MAX), 60), "nor does more than any holder asks for");
        assert!(after(&seen(Some("them"), -1), 0), "nonsense does not hold it for ever");
    }

    #[tokio::test]
    async fn a_term_is_over_when_it_was_not_renewed_in_time_or_the_lease_is_somebody_elses() {
        let begun = |ago| {
            let (sender, renewed) = watch::channel(Instant::now() - ago);
            let renewing = tokio::spawn(std::future::pending());
            (sender, Term { renewed, stop: CancellationToken::new(), renewing })
        };
        let (_late_renewer, mut late) = begun(RENEW_DEADLINE);
        late.over().await;

        let (renewer, mut lost) = begun(Duration::ZERO);
        drop(renewer);
        lost.over().await;

        let (renewing, mut term) = begun(Duration::ZERO);
        let over = tokio::spawn(async move { term.over().await });
        renewing.send_replace(Instant::now());
        tokio::task::yield_now().await;
        assert!(!over.is_finished());
        over.abort();
    }
}
