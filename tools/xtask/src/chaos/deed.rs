//! How a fault begins and how it is healed.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use couponry_testbed::{Redis, Running, redis};

use super::event::Event;
use super::fault::{Fault, Kind, Part};
use super::stage::{CONSUMERS, Member, Stage};

/// Where the files of Redis are kept that it is rolled back to.
const BACKUP: &str = "backup";
/// How long another number of consumers stays.
const RESCALE: Duration = Duration::from_secs(4);
/// How long Redis may take to notice that it cannot save.
const MISCONF: Duration = Duration::from_mins(1);

impl Fault {
    /// Makes it happen, lets it last, and heals it. How many programs ended by themselves meanwhile.
    pub(super) fn strike(&self, stage: &mut Stage, event: &mut Event) -> Result<u64> {
        self.begin(stage, event).with_context(|| format!("cannot begin {self}"))?;
        let mut ended = if self.kind == Kind::Rescale { self.rescale(stage)? } else { 0 };
        ended += stage.pass(self.lasts, |_| Ok(self.kind == Kind::Rescale))?;
        self.heal(stage, event).with_context(|| format!("cannot heal {self}"))?;
        Ok(ended)
    }

    pub(super) fn begin(&self, stage: &mut Stage, event: &mut Event) -> Result<()> {
        let servers = &stage.servers;
        match self.kind {
            Kind::Kill(Part::Redis) => servers.redis.kill9(),
            Kind::Kill(Part::Kafka) => servers.kafka.kill9(),
            Kind::Kill(Part::Postgres) => servers.postgres.kill9(),
            Kind::Kill(_) => {
                let member = self.member(stage);
                member.is_away = true;
                member.node.process.kill9()
            }
            Kind::Immediate => servers.postgres.stop_immediately(),
            Kind::Freeze(Part::Redis) => servers.redis.pause(),
            Kind::Freeze(Part::Kafka) => servers.kafka.pause(),
            Kind::Freeze(Part::Postgres) => servers.postgres.pause(),
            Kind::Freeze(_) => running(self.member(stage)).pause(),
            Kind::Spoil(toxic) => stage.links.spoil(self.link, toxic),
            Kind::Crash(Part::Operator) => {
                // What is to be done makes steps.
                restart_operators(stage, &self.failpoints())?;
                event.top_up(&stage.servers.kubernetes)
            }
            Kind::Crash(_) => {
                let points = self.failpoints();
                self.member(stage).restart_with_failpoints(&points)
            }
            Kind::CrashPreload => restart_operators(stage, &self.failpoints()),
            Kind::Misconf => fail_to_save(&servers.redis),
            Kind::NoReplicas => set(&servers.redis, "min-replicas-to-write", "5"),
            Kind::MaxMemory => set(&servers.redis, "maxmemory", "1"),
            Kind::Flush => redis::command(&servers.redis.url(), &["FLUSHALL"]).map(drop),
            Kind::RollBack => servers.redis.back_up(&servers.redis.dir().join(BACKUP)),
            Kind::Clock(ahead) => stage.set_clock(self.which(stage.issuers.len()), ahead),
            Kind::SecondLeader => {
                let second = stage.operator("second leader", false)?;
                stage.operators.push(second);
                Ok(())
            }
            Kind::TopUp => event.top_up(&servers.kubernetes),
            Kind::Pause => event.pause(&servers.kubernetes, true),
            Kind::Rescale => Ok(()),
        }
    }

    pub(super) fn heal(&self, stage: &mut Stage, event: &mut Event) -> Result<()> {
        let servers = &stage.servers;
        match self.kind {
            Kind::Kill(Part::Redis) => servers.redis.restart(),
            Kind::Kill(Part::Kafka) => servers.kafka.restart(),
            Kind::Kill(Part::Postgres) | Kind::Immediate => servers.postgres.restart(),
            Kind::Kill(_) => {
                self.member(stage).is_away = false;
                stage.revive().map(drop)
            }
            Kind::Freeze(Part::Redis) => servers.redis.resume(),
            Kind::Freeze(Part::Kafka) => servers.kafka.resume(),
            Kind::Freeze(Part::Postgres) => servers.postgres.resume(),
            Kind::Freeze(_) => running(self.member(stage)).resume(),
            Kind::Spoil(_) => stage.links.heal(),
            Kind::Crash(Part::Operator) | Kind::CrashPreload => restart_operators(stage, ""),
            Kind::Crash(_) => self.member(stage).restart_with_failpoints(""),
            Kind::Misconf => {
                set(&servers.redis, "save", "")?;
                fs::remove_dir(servers.redis.dir().join(DUMP)).context("cannot remove the obstacle")
            }
            Kind::NoReplicas => set(&servers.redis, "min-replicas-to-write", "0"),
            Kind::MaxMemory => set(&servers.redis, "maxmemory", "0"),
            Kind::RollBack => {
                let backup = servers.redis.dir().join(BACKUP);
                servers.redis.roll_back(&backup)?;
                fs::remove_dir_all(&backup).context("cannot remove the backup")
            }
            Kind::Clock(_) => stage.set_clock(self.which(stage.issuers.len()), 0),
            Kind::SecondLeader => {
                stage.operators.pop();
                Ok(())
            }
            Kind::Pause => event.pause(&servers.kubernetes, false),
            Kind::Flush | Kind::TopUp | Kind::Rescale => Ok(()),
        }
    }

    /// Two to five consumers, some ending in order and some by kill -9; and at the end as many as at the beginning.
    fn rescale(&self, stage: &mut Stage) -> Result<u64> {
        let begun = Instant::now();
        let mut ended = 0;
        for turn in 0.. {
            let number = if turn % 2 == 0 { 5 } else { 2 };
            while stage.consumers.len() < number {
                let consumer = stage.consumer(stage.consumers.len() + 1)?;
                stage.consumers.push(consumer);
            }
            for gone in stage.consumers.drain(number..) {
                let process = &gone.node.process;
                if self.which.is_multiple_of(2) { process.stop()? } else { process.kill9()? }
            }
            ended += stage.pass(RESCALE.min(self.lasts / 2), |_| Ok(false))?;
            if begun.elapsed() >= self.lasts {
                break;
            }
        }
        stage.consumers.truncate(CONSUMERS);
        while stage.consumers.len() < CONSUMERS {
            let consumer = stage.consumer(stage.consumers.len() + 1)?;
            stage.consumers.push(consumer);
        }
        Ok(ended)
    }

    fn which(&self, of: usize) -> usize {
        usize::try_from(self.which % of.max(1) as u64).unwrap_or(0)
    }

    fn member<'a>(&self, stage: &'a mut Stage) -> &'a mut Member {
        let members = match self.kind {
            Kind::Kill(Part::Consumer) | Kind::Freeze(Part::Consumer) | Kind::Crash(Part::Consumer) => {
                &mut stage.consumers
            }
            Kind::Kill(Part::Operator) | Kind::Freeze(Part::Operator) => &mut stage.operators,
            _ => &mut stage.issuers,
        };
        let which = self.which(members.len());
        &mut members[which]
    }
}

fn restart_operators(stage: &mut Stage, failpoints: &str) -> Result<()> {
    stage.operators.iter_mut().try_for_each(|operator| operator.restart_with_failpoints(failpoints))
}

fn running(member: &Member) -> &Running {
    &member.node.process
}

fn set(server: &Redis, setting: &str, value: &str) -> Result<()> {
    redis::command(&server.url(), &["CONFIG", "SET", setting, value]).map(drop)
}

/// The name of the file that Redis saves to, as nothing else was said.
const DUMP: &str = "dump.rdb";

/// Puts a directory where Redis wants to put its file, and has it save.
fn fail_to_save(server: &Redis) -> Result<()> {
    let obstacle = server.dir().join(DUMP);
    fs::create_dir(&obstacle).with_context(|| format!("cannot make {}", obstacle.display()))?;
    set(server, "save", "3600 1000000")?;
    redis::command(&server.url(), &["BGSAVE"])?;
    let deadline = Instant::now() + MISCONF;
    while !redis::command(&server.url(), &["INFO", "persistence"])?.contains("rdb_last_bgsave_status:err") {
        ensure!(Instant::now() < deadline, "Redis does not notice that it cannot save");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
