//! `couponry-operator repair EVENT`: records again what Postgres has lost, and restores what Redis has lost.
//!
//! It consists of an audit, the repair, and another audit. The running operator repairs by itself what it notices; this
//! command also repairs what only a comparison of every coupon shows, and what only the topic still has.
//!
//! # Guarantees
//! - Without `--yes` nothing is changed.
//! - The operator and the consumers may run. What Redis holds is recorded only if user and coupon are free in Postgres,
//!   and if no recovery of Redis has started meanwhile.
//! - What only the topic has is recorded while Redis issues nothing: by the operator, during a recovery of Redis that
//!   this command requests, or here if Redis issues nothing anyway.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;
use couponry_audit::{Remedy, Report, Stores};
use couponry_domain::Uuid;
use couponry_output::{Stderr, Stdout, StdoutError};
use couponry_postgres::StoredEvent;
use couponry_redis::{FencedWrite, RedisEvent};
use couponry_runtime::telemetry::TelemetryArgs;
use tokio::time::{Instant, sleep};

use crate::{
    commands::{
        args::{EventArgs, StoreArgs},
        exit_code::FAILED_OR_INCONCLUSIVE,
        format::group_digits,
    },
    reconcile::{
        stranded_issuances::{Delivery, StrandedOutcome, record_stranded_issuances},
        topic_records::record_issuances_from_topic,
    },
};

/// Pause between two reads of Redis while the operator restores it.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Repair {
    #[command(flatten)]
    event: EventArgs,
    /// Carry out the repair. Default: only print what has to be repaired.
    #[arg(long)]
    yes: bool,
    /// Restore Redis from Postgres in any case. This also resolves conflicts: Postgres decides to which user a coupon
    /// belongs, and the other users can receive another one.
    #[arg(long)]
    restore_redis: bool,
    /// How long to wait for issued coupons that are not recorded in Postgres yet.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    wait_seconds: u64,
    /// How long to wait until the operator has restored Redis.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout_seconds: u64,
    #[command(flatten)]
    stores: StoreArgs,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
}

impl Repair {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let stores = self.stores.stores()?;
        let uid = self.event.uid(&stores.database).await?;
        let before = self.audit(&stores, uid).await?;
        write!(Stdout, "{}", describe(&before))?;
        let is_due = losses(&before) > 0 || self.restore_redis;
        if is_due && !self.yes {
            writeln!(Stdout, "nothing was changed; repeat with --yes to carry out the repair")?;
            return Ok(ExitCode::FAILURE);
        }
        let after = if is_due {
            self.repair(&before, &stores, uid).await?;
            self.audit(&stores, uid).await?
        } else {
            before
        };
        Ok(verdict(&after)?)
    }

    async fn audit(&self, stores: &Stores, uid: Uuid) -> anyhow::Result<Report> {
        Ok(stores.audit(&self.event.event, uid, Duration::from_secs(self.wait_seconds)).await?)
    }

    async fn repair(&self, found: &Report, stores: &Stores, uid: Uuid) -> anyhow::Result<()> {
        const RECOVERING: &str = "a recovery of Redis has started meanwhile: repeat the command when it is complete";
        let Stores { redis_store, database, .. } = stores;
        // Read before Redis, so that a recovery that starts after it prevents the recording.
        let event = database.event(uid).await?.context("the event was deleted from Postgres")?;
        let due = |remedy| found.discrepancies.requiring(remedy) > 0;
        let in_redis = redis_store.observe(&event.name).await?.filter(|in_redis| in_redis.uid == uid);
        if due(Remedy::RecordFromRedis) || due(Remedy::MarkRecorded) || due(Remedy::RecordFromTopic) {
            let repaired = record_stranded_issuances(&event, database, redis_store, Delivery::Direct)
                .await?
                .context(RECOVERING)?;
            print_recorded(repaired, "Redis")?;
        }
        if !due(Remedy::RecordFromTopic) && !due(Remedy::RestoreRedis) && !self.restore_redis {
            return Ok(());
        }
        match in_redis {
            Some(in_redis) if in_redis.is_verified && in_redis.retired.is_none() => {
                self.restore(&event, &in_redis, stores).await
            }
            // It issues nothing, at least until the operator has set another record cutoff.
            in_redis => {
                let repaired =
                    record_issuances_from_topic(&event, database, &stores.kafka).await?.context(RECOVERING)?;
                print_recorded(repaired, "the topic")?;
                if in_redis.is_some_and(|in_redis| in_redis.retired.is_none()) {
                    self.wait_verified(&event, stores).await?;
                }
                Ok(())
            }
        }
    }

    /// Lets the operator record what only the topic has, and restore Redis.
    async fn restore(&self, event: &StoredEvent, in_redis: &RedisEvent, stores: &Stores) -> anyhow::Result<()> {
        let requested = stores.redis_store.request_restore(&event.name, in_redis).await?;
        anyhow::ensure!(requested == FencedWrite::Applied(()), "Redis has changed meanwhile: repeat the command");
        writeln!(Stdout, "issuing is suspended until the operator has restored Redis from Postgres and the topic")?;
        if let Err(error) = self.event.wake_operator().await {
            writeln!(Stderr, "cannot notify the operator, which may begin up to five minutes later: {error:#}");
        }
        self.wait_verified(event, stores).await?;
        writeln!(Stdout, "restored Redis")?;
        Ok(())
    }

    async fn wait_verified(&self, event: &StoredEvent, stores: &Stores) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(self.timeout_seconds);
        loop {
            // An outage of Redis does not end the wait: the operator continues after it as well.
            match stores.redis_store.observe(&event.name).await {
                Ok(Some(in_redis)) if in_redis.is_verified => return Ok(()),
                Err(error) if Instant::now() >= until => return Err(error.into()),
                _ => {}
            }
            anyhow::ensure!(
                Instant::now() < until,
                "the operator has not restored Redis within {} s, and issuing is suspended until then: the condition \
                 Stalled of the event has the reason",
                self.timeout_seconds
            );
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// How many discrepancies the repair removes.
fn losses(report: &Report) -> u64 {
    [Remedy::RecordFromRedis, Remedy::RecordFromTopic, Remedy::MarkRecorded, Remedy::RestoreRedis]
        .map(|remedy| report.discrepancies.requiring(remedy))
        .iter()
        .sum()
}

fn describe(report: &Report) -> String {
    let Report { event, uid, discrepancies, in_flight, .. } = report;
    let conflicts = discrepancies.requiring(Remedy::Conflict);
    let counts = [
        ("record again from Redis", discrepancies.requiring(Remedy::RecordFromRedis)),
        ("record again from the topic", discrepancies.requiring(Remedy::RecordFromTopic)),
        ("mark as recorded in Redis", discrepancies.requiring(Remedy::MarkRecorded)),
        ("restore in Redis", discrepancies.requiring(Remedy::RestoreRedis)),
        ("conflicts", conflicts),
        ("in flight", in_flight.coupons),
    ];
    let examples = discrepancies.examples.iter().filter(|found| found.remedy() == Remedy::Conflict);
    std::iter::once(format!("{event} ({uid})\n"))
        .chain(counts.map(|(name, count)| format!("  {name:<28} {}\n", group_digits(count))))
        .chain(examples.map(|example| format!("  ✗ {example}\n")))
        .collect()
}

fn print_recorded(
    StrandedOutcome { resent: _, recorded, conflicting, undecodable }: StrandedOutcome,
    source: &str,
) -> Result<(), StdoutError> {
    writeln!(Stdout, "recorded {} issuances from {source}", group_digits(recorded))?;
    if conflicting > 0 {
        writeln!(
            Stdout,
            "{} issuances of {source} were not recorded: Postgres has another coupon for the user, or another user for \
             the coupon",
            group_digits(conflicting)
        )?;
    }
    if undecodable > 0 {
        writeln!(Stdout, "{} entries of {source} cannot be decoded, and were not recorded", group_digits(undecodable))?;
    }
    Ok(())
}

fn verdict(report: &Report) -> Result<ExitCode, StdoutError> {
    let conflicts = report.discrepancies.requiring(Remedy::Conflict);
    let left = losses(report) + conflicts;
    if report.unchecked > 0 {
        writeln!(Stdout, "UNCERTAIN: {} coupons were in flight; repeat the command", group_digits(report.unchecked))?;
        Ok(ExitCode::from(FAILED_OR_INCONCLUSIVE))
    } else if left > 0 {
        writeln!(Stdout, "REMAINING: {} discrepancies, {conflicts} of them conflicts", group_digits(left))?;
        Ok(ExitCode::FAILURE)
    } else {
        writeln!(Stdout, "OK: nothing is left to repair")?;
        Ok(ExitCode::SUCCESS)
    }
}
