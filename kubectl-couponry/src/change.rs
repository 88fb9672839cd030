//! `pause`, `resume`, `close` and `topup`: each a change of the manifest, and then a look at what came of it.

use std::{io::Write as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, error::ErrorKind};
use couponry_crds::{
    CouponEvent, Issuance,
    status::{CouponEventStatus, condition, reason},
};
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{Cluster, event_name, readable},
    view::{self, grouped},
};

const POLL: Duration = Duration::from_millis(200);

/// How often a change is made again because someone else was faster.
const ATTEMPTS: u32 = 5;

/// Whether to wait until the operator has followed.
#[derive(Debug, Args)]
struct Waiting {
    /// Do not wait until the operator has followed.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for the operator.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// The event.
    #[arg(value_parser = event_name)]
    name: String,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// The event.
    #[arg(value_parser = event_name)]
    name: String,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Close {
    /// The event.
    #[arg(value_parser = event_name)]
    name: String,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Topup {
    /// The event.
    #[arg(value_parser = event_name)]
    name: String,
    /// How many coupons to add.
    #[arg(value_name = "N", required_unless_present = "to", value_parser = clap::value_parser!(u64).range(1..))]
    add: Option<u64>,
    /// How many coupons the event is to have in all, instead of how many to add.
    #[arg(long, value_name = "TOTAL", conflicts_with = "add")]
    to: Option<u64>,
    #[command(flatten)]
    waiting: Waiting,
}

impl Pause {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        let Self { name, waiting } = self;
        let change = |event: &CouponEvent| match event.spec.issuance {
            Issuance::Closed => bail!("{name} is closed: it gives out no coupons any more"),
            Issuance::Auto | Issuance::Paused => Ok(json!({"issuance": "Paused"})),
        };
        let event = patch(cluster, &name, change).await?;
        let is_done = |status: &CouponEventStatus| !holds(status, condition::OPEN);
        waiting.wait(cluster, event, "paused", is_done).await
    }
}

impl Resume {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        let Self { name, waiting } = self;
        let change = |event: &CouponEvent| match event.spec.issuance {
            Issuance::Closed => bail!("{name} is closed, which is final: it cannot be resumed"),
            Issuance::Auto | Issuance::Paused => Ok(json!({"issuance": "Auto"})),
        };
        let event = patch(cluster, &name, change).await?;
        let is_done = |status: &CouponEventStatus| why(status, condition::OPEN) != reason::PAUSED;
        waiting.wait(cluster, event, "resumed", is_done).await
    }
}

impl Close {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        let Self { name, yes, waiting } = self;
        let event = cluster.event(&name).await?;
        if !yes && event.spec.issuance != Issuance::Closed {
            confirm(&event)?;
        }
        let event = patch(cluster, &name, |_| Ok(json!({"issuance": "Closed"}))).await?;
        let is_done = |status: &CouponEventStatus| why(status, condition::OPEN) == reason::CLOSED;
        waiting.wait(cluster, event, "closed", is_done).await
    }
}

/// Closing is final, so a mere `y` is not enough.
fn confirm(event: &CouponEvent) -> anyhow::Result<()> {
    let name = event.name_any();
    let left = event
        .status
        .as_ref()
        .and_then(|status| status.available)
        .map_or_else(String::new, |left| format!(" {} coupons that nobody has stay unused.", grouped(left)));
    if !console::user_attended() {
        let message = format!("closing {name} is final; say --yes\n");
        bail!(clap::Error::raw(ErrorKind::MissingRequiredArgument, message));
    }
    print!("Closing {name} is final: it cannot be opened again.{left}\nType its name to close it: ");
    std::io::stdout().flush().context("cannot ask")?;
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed).context("cannot read the answer")?;
    ensure!(typed.trim() == name, "not closed");
    Ok(())
}

impl Topup {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        let Self { name, add, to, waiting } = self;
        let change = |event: &CouponEvent| {
            let old = event.spec.total_count;
            let new = to.or_else(|| old.checked_add(add?)).context("that is too many")?;
            ensure!(new > old, "{name} has {} coupons already; a top-up adds to them", grouped(old));
            ensure!(event.spec.issuance != Issuance::Closed, "{name} is closed: it gives out no coupons any more");
            if event.spec.discounts.iter().any(|discount| discount.count.is_some()) {
                bail!("{}", by_count(event, new));
            }
            Ok(json!({"totalCount": new}))
        };
        let event = patch(cluster, &name, change).await?;
        let total = event.spec.total_count;
        let is_done = |status: &CouponEventStatus| {
            holds(status, condition::PRELOADED) && status.loaded.is_some_and(|loaded| loaded >= total)
        };
        waiting.wait(cluster, event, &format!("topped up to {} coupons", grouped(total)), is_done).await
    }
}

/// Where the manifest says how many coupons there are of each discount, only its author knows which to raise.
fn by_count(event: &CouponEvent, new: u64) -> String {
    let name = event.name_any();
    let more = new.saturating_sub(event.spec.total_count);
    let discounts: Vec<String> = event
        .spec
        .discounts
        .iter()
        .map(|discount| format!("{} has {}", discount.discount(), grouped(discount.count.unwrap_or(0))))
        .collect();
    format!(
        "{name} says how many coupons there are of each discount ({}). Raise the count of one or more of them by {} in all, and \
         totalCount to {new}, in one change: kubectl edit ce {name}",
        discounts.join(", "),
        grouped(more)
    )
}

/// Changes the spec as it is now, also when someone else changes it at the same time.
async fn patch(
    cluster: &Cluster,
    name: &str,
    change: impl Fn(&CouponEvent) -> anyhow::Result<Value>,
) -> anyhow::Result<CouponEvent> {
    let mut attempt = 1;
    loop {
        let event = cluster.event(name).await?;
        let patch = json!({"metadata": {"resourceVersion": event.metadata.resource_version}, "spec": change(&event)?});
        match cluster.events().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(event) => return readable(event),
            Err(kube::Error::Api(status)) if status.code == 409 && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(cluster.explain(error, "patch")),
        }
    }
}

impl Waiting {
    /// Waits until the operator has followed, and says what came of it.
    async fn wait(
        self,
        cluster: &Cluster,
        event: CouponEvent,
        done: &str,
        is_done: impl Fn(&CouponEventStatus) -> bool,
    ) -> anyhow::Result<ExitCode> {
        let (name, generation) = (event.name_any(), event.metadata.generation);
        if self.no_wait {
            println!("{name} will be {done} when the operator has followed");
            return Ok(ExitCode::SUCCESS);
        }
        let until = Instant::now() + Duration::from_secs(self.timeout);
        loop {
            let event = cluster.event(&name).await?;
            let status = event.status.clone().unwrap_or_default();
            let is_seen = status.observed_generation >= generation;
            if is_seen && is_done(&status) {
                println!("{name} is {done}");
                println!("{}", view::line(&event));
                return Ok(ExitCode::SUCCESS);
            }
            if Instant::now() >= until {
                let timeout = self.timeout;
                if !is_seen {
                    bail!(
                        "the change of {name} is stored, and no operator has followed it after {timeout} s: look whether one \
                         runs (kubectl couponry check)"
                    );
                }
                let stalled = status.condition(condition::STALLED).filter(|stalled| stalled.status == "True");
                match stalled {
                    Some(stalled) => bail!("{name} is not {done} after {timeout} s: {}", view::plain(&stalled.message)),
                    None => bail!("{name} is not {done} after {timeout} s: {}", view::line(&event)),
                }
            }
            sleep(POLL).await;
        }
    }
}

fn holds(status: &CouponEventStatus, type_: &str) -> bool {
    status.condition(type_).is_some_and(|condition| condition.status == "True")
}

fn why<'a>(status: &'a CouponEventStatus, type_: &str) -> &'a str {
    status.condition(type_).map_or("", |condition| &condition.reason)
}
