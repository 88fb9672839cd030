//! `pause`, `resume`, `close` and `topup` patch the spec, `hold` and `release-hold` an annotation. Each waits until the
//! operator has applied the change.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, error::ErrorKind};
use couponry_crds::{
    CodeSource, CouponEvent, HOLD, IssuingMode,
    status::{CouponEventStatus, condition, reason},
};
use couponry_output::Stdout;
use indicatif::HumanCount;
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{Cluster, event_name, parsed},
    view,
};

const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Maximum number of attempts to patch after conflicts with concurrent changes.
const MAX_ATTEMPTS: u32 = 5;

#[derive(Debug, Args)]
struct Waiting {
    /// Do not wait until the operator has applied the change.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for the operator.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout_seconds: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// Name of the event.
    #[arg(value_parser = event_name)]
    name: String,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// Name of the event.
    #[arg(value_parser = event_name)]
    name: String,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Hold {
    /// Name of the event.
    #[arg(value_parser = event_name)]
    name: String,
    /// Why issuing is held. Everyone who may read the event can read it.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseHold {
    /// Name of the event.
    #[arg(value_parser = event_name)]
    name: String,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Close {
    /// Name of the event.
    #[arg(value_parser = event_name)]
    name: String,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Topup {
    /// Name of the event.
    #[arg(value_parser = event_name)]
    name: String,
    /// Number of coupons to add.
    #[arg(value_name = "N", required_unless_present = "to", value_parser = clap::value_parser!(u64).range(1..))]
    add: Option<u64>,
    /// New totalCount, instead of the number of coupons to add. Can be repeated: an event that has this number is not
    /// changed.
    #[arg(long, value_name = "TOTAL", conflicts_with = "add")]
    to: Option<u64>,
    #[command(flatten)]
    waiting: Waiting,
}

impl Pause {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        let Self { name, waiting } = self;
        let event = pause(cluster, &name, None).await?;
        let is_done = |status: &CouponEventStatus| !status.may_be_open();
        waiting.wait(cluster, event, "paused", is_done).await
    }
}

impl Resume {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        let Self { name, waiting } = self;
        let event = resume(cluster, &name, None).await?;
        let is_done = |status: &CouponEventStatus| reason_of(status, condition::OPEN) != reason::PAUSED;
        waiting.wait(cluster, event, "resumed", is_done).await
    }
}

impl Hold {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        let Self { name, reason, waiting } = self;
        let change = |event: &CouponEvent| {
            ensure!(event.spec.issuance != IssuingMode::Closed, "the event {name} is closed and cannot be held");
            Ok(Some(json!({"metadata": {"annotations": {HOLD: reason}}})))
        };
        let event = patch(cluster, &name, None, change).await?;
        // An annotation does not change the generation: the message of a previous hold has another reason.
        let held_for = format!(": {}.", event.hold().unwrap_or_default());
        let is_done = |status: &CouponEventStatus| match reason_of(status, condition::OPEN) {
            reason::HELD => status.condition(condition::OPEN).is_some_and(|open| open.message.contains(&held_for)),
            other => [reason::ENDED, reason::CLOSED].contains(&other),
        };
        waiting.wait(cluster, event, "held", is_done).await
    }
}

impl ReleaseHold {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        let Self { name, waiting } = self;
        let change = |event: &CouponEvent| {
            Ok(event.annotations().contains_key(HOLD).then(|| json!({"metadata": {"annotations": {HOLD: null}}})))
        };
        let event = patch(cluster, &name, None, change).await?;
        let is_done = |status: &CouponEventStatus| reason_of(status, condition::OPEN) != reason::HELD;
        waiting.wait(cluster, event, "no longer held", is_done).await
    }
}

impl Close {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        let Self { name, yes, waiting } = self;
        let event = cluster.event(&name).await?;
        if !yes && event.spec.issuance != IssuingMode::Closed {
            confirm(&event)?;
        }
        let event = close(cluster, &name, event.uid().as_deref()).await?;
        let is_done = |status: &CouponEventStatus| reason_of(status, condition::OPEN) == reason::CLOSED;
        waiting.wait(cluster, event, "closed", is_done).await
    }
}

/// Closing is permanent, so the user must type the event's name instead of `y`.
fn confirm(event: &CouponEvent) -> anyhow::Result<()> {
    let name = event.name_any();
    let available = event.status.as_ref().and_then(|status| status.available);
    let unused =
        available.map_or_else(String::new, |count| format!(" {} coupons will not be issued.", HumanCount(count)));
    if !console::user_attended() {
        let message = format!("closing {name} is permanent: confirm with --yes\n");
        bail!(clap::Error::raw(ErrorKind::MissingRequiredArgument, message));
    }
    write!(Stdout, "Closing {name} is permanent: it cannot be reopened.{unused}\nType the event's name to confirm: ")?;
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed).context("cannot read the confirmation")?;
    ensure!(typed.trim() == name, "not confirmed: {name} was not closed");
    Ok(())
}

impl Topup {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        let Self { name, add, to, waiting } = self;
        let total = to.map(Total::To).or_else(|| add.map(Total::Add)).context("specify the number of coupons")?;
        let event = topup(cluster, &name, total, None).await?;
        let total = event.spec.total_count;
        let is_loaded = |status: &CouponEventStatus| {
            is_true(status, condition::PRELOADED) && status.loaded.is_some_and(|loaded| loaded >= total)
        };
        let topped_up = format!("topped up to {} coupons", HumanCount(total));
        if event.spec.code_source() == CodeSource::Generated || event.status.as_ref().is_some_and(is_loaded) {
            return waiting.wait(cluster, event, &topped_up, is_loaded).await;
        }
        let awaits_codes = |status: &CouponEventStatus| {
            is_loaded(status) || reason_of(status, condition::PRELOADED) == reason::AWAITING_CODES
        };
        let done = format!("{topped_up}, whose codes have to be imported with `kubectl couponry import`");
        waiting.wait(cluster, event, &done, awaits_codes).await
    }
}

/// An event with a count per discount does not determine which count a top-up raises.
fn topup_by_counts_instructions(event: &CouponEvent, new: u64) -> String {
    let name = event.name_any();
    let more = new.saturating_sub(event.spec.total_count);
    let discounts: Vec<String> = event
        .spec
        .discounts
        .iter()
        .map(|discount| format!("{} of {}", HumanCount(discount.count.unwrap_or(0)), discount.discount()))
        .collect();
    format!(
        "{name} has a count for each discount ({}). Raise one or more counts by {} in total, and totalCount to {new}, in \
         one change: kubectl edit ce {name}",
        discounts.join(", "),
        HumanCount(more)
    )
}

/// Changes the manifest so that issuing is suspended. As for the other changes, with a UID only that event is changed.
pub(crate) async fn pause(cluster: &Cluster, name: &str, uid: Option<&str>) -> anyhow::Result<CouponEvent> {
    let change = |event: &CouponEvent| match event.spec.issuance {
        IssuingMode::Closed => bail!("the event {name} is closed and cannot be paused"),
        IssuingMode::Auto | IssuingMode::Paused => Ok(Some(json!({"spec": {"issuance": "Paused"}}))),
    };
    patch(cluster, name, uid, change).await
}

/// Changes the manifest so that issuing continues.
pub(crate) async fn resume(cluster: &Cluster, name: &str, uid: Option<&str>) -> anyhow::Result<CouponEvent> {
    let change = |event: &CouponEvent| match event.spec.issuance {
        IssuingMode::Closed => bail!("the event {name} is closed and cannot be resumed"),
        IssuingMode::Auto | IssuingMode::Paused => Ok(Some(json!({"spec": {"issuance": "Auto"}}))),
    };
    patch(cluster, name, uid, change).await
}

/// Changes the manifest so that the event ends permanently.
pub(crate) async fn close(cluster: &Cluster, name: &str, uid: Option<&str>) -> anyhow::Result<CouponEvent> {
    patch(cluster, name, uid, |_| Ok(Some(json!({"spec": {"issuance": "Closed"}})))).await
}

/// The number of coupons after a top-up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Total {
    /// So many more than now.
    Add(u64),
    To(u64),
    /// From the number that the user has seen: repeated, it changes nothing.
    Raise {
        from: u64,
        to: u64,
    },
}

/// Changes the manifest so that the event has more coupons.
pub(crate) async fn topup(
    cluster: &Cluster,
    name: &str,
    total: Total,
    uid: Option<&str>,
) -> anyhow::Result<CouponEvent> {
    let change = |event: &CouponEvent| {
        let old = event.spec.total_count;
        let new = match total {
            Total::Add(add) => old.checked_add(add).context("the new totalCount is too large")?,
            Total::To(new) | Total::Raise { to: new, .. } if new == old => return Ok(None),
            Total::To(new) => new,
            Total::Raise { from, to } => {
                ensure!(
                    from == old,
                    "{name} has {} coupons now, not {}: look at it again before you add coupons",
                    HumanCount(old),
                    HumanCount(from)
                );
                to
            }
        };
        ensure!(new > old, "{name} already has {} coupons: a top-up must increase this number", HumanCount(old));
        ensure!(event.spec.issuance != IssuingMode::Closed, "the event {name} is closed and cannot be topped up");
        if event.spec.discounts.iter().any(|discount| discount.count.is_some()) {
            bail!("{}", topup_by_counts_instructions(event, new));
        }
        Ok(Some(json!({"spec": {"totalCount": new}})))
    };
    patch(cluster, name, uid, change).await
}

/// Patches the event, unless `change` returns none. After a conflict with a concurrent change, computes the patch
/// again: a conflict proves that the patch was not applied, because the client does not repeat requests by itself.
async fn patch(
    cluster: &Cluster,
    name: &str,
    uid: Option<&str>,
    change: impl Fn(&CouponEvent) -> anyhow::Result<Option<Value>>,
) -> anyhow::Result<CouponEvent> {
    let mut attempt = 1;
    loop {
        let event = cluster.event(name).await?;
        if uid.is_some() && uid != event.metadata.uid.as_deref() {
            bail!("{name} was deleted and created again: look at the new event before you change it");
        }
        let Some(mut patch) = change(&event)? else { return Ok(event) };
        patch["metadata"]["resourceVersion"] = json!(event.metadata.resource_version);
        match cluster.events().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(event) => return parsed(&event).cloned(),
            Err(kube::Error::Api(status)) if status.code == 409 && attempt < MAX_ATTEMPTS => attempt += 1,
            Err(error) => {
                let is_refused = matches!(&error, kube::Error::Api(status) if status.code < 500);
                let error = cluster.explain(error, "patch");
                return Err(if is_refused { error } else { error.context(unconfirmed(name)) });
            }
        }
    }
}

fn unconfirmed(name: &str) -> String {
    format!(
        "the API server has not confirmed the change of {name}: it may be stored. Compare the event before you repeat \
         it (kubectl couponry status {name})"
    )
}

impl Waiting {
    /// Waits until the operator has applied the change, and prints the resulting status.
    async fn wait(
        self,
        cluster: &Cluster,
        event: CouponEvent,
        done: &str,
        is_done: impl Fn(&CouponEventStatus) -> bool,
    ) -> anyhow::Result<ExitCode> {
        let (name, generation) = (event.name_any(), event.metadata.generation);
        if self.no_wait {
            writeln!(Stdout, "the manifest of {name} is stored; it takes effect when the operator has applied it")?;
            return Ok(ExitCode::SUCCESS);
        }
        let until = Instant::now() + Duration::from_secs(self.timeout_seconds);
        loop {
            let event = cluster.event(&name).await?;
            let status = event.status.clone().unwrap_or_default();
            let is_observed = status.observed_generation >= generation;
            if is_observed && is_done(&status) {
                writeln!(Stdout, "{name} is {done}")?;
                writeln!(Stdout, "{}", view::summary(&event))?;
                return Ok(ExitCode::SUCCESS);
            }
            if Instant::now() >= until {
                let timeout = self.timeout_seconds;
                if !is_observed {
                    bail!(
                        "the change of {name} is stored, but no operator has observed it within {timeout} s: verify \
                         that an operator is running (kubectl couponry check)"
                    );
                }
                let stalled = status.condition(condition::STALLED).filter(|stalled| stalled.status == "True");
                match stalled {
                    Some(stalled) => {
                        bail!("{name} is not {done} after {timeout} s: {}", view::sanitize(&stalled.message))
                    }
                    None => bail!("{name} is not {done} after {timeout} s: {}", view::summary(&event)),
                }
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

fn is_true(status: &CouponEventStatus, type_: &str) -> bool {
    status.condition(type_).is_some_and(|condition| condition.status == "True")
}

fn reason_of<'a>(status: &'a CouponEventStatus, type_: &str) -> &'a str {
    status.condition(type_).map_or("", |condition| &condition.reason)
}
