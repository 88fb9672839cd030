//! Injection and removal of each kind of fault.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use couponry_testbed::database::{OpenTransaction, psql};
use couponry_testbed::{Redis, Running, ports, redis};

use super::event::{Event, Events, SECOND_NAMESPACE};
use super::fault::{Component, Fault, Kind};
use super::installation::{CONSUMERS, Installation, Instance, PARTITIONS};
use super::load::{Load, Workload, change_topic};
use super::redis_keys;

/// Directory of the Redis backup which a rollback restores.
const BACKUP: &str = "backup";
/// Number of partitions that are added at once.
const ADDED_PARTITIONS: u32 = 3;
/// Number of issuances that Postgres loses.
const LOST_ROWS: u32 = 50;
/// Number of events that are created at once, and of coupons of each.
const NEW_EVENTS: usize = 4;
const NEW_EVENT_COUPONS: u64 = 40;
/// Number of coupons of the event whose stock is discarded.
const SCHEDULED_COUPONS: u64 = 100;
/// What a backup or an export reads in one transaction.
const READ_EVERYTHING: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
    SELECT count(*) FROM coupon; SELECT count(*) FROM issuance; SELECT count(*) FROM coupon_event";
/// How long a number of consumers stays.
const RESCALE_INTERVAL: Duration = Duration::from_secs(4);
/// Maximum time until a failed save is visible in Redis.
const MISCONF_TIMEOUT: Duration = Duration::from_mins(1);

impl Fault {
    /// Injects the fault, waits for its duration, and removes it. Returns how many programs had to be restarted
    /// meanwhile.
    pub(super) fn run(&self, installation: &mut Installation, events: &mut Events) -> Result<u64> {
        self.inject(installation, events).with_context(|| format!("cannot inject {self}"))?;
        let mut restarts = match self.kind {
            Kind::Rescale => self.rescale(installation)?,
            Kind::NewEvents => self.serve_new_events(installation, events)?,
            _ => 0,
        };
        restarts += installation.supervise(self.duration, |_| Ok(self.kind == Kind::Rescale))?;
        self.remove(installation, events).with_context(|| format!("cannot remove {self}"))?;
        Ok(restarts)
    }

    pub(super) fn inject(&self, installation: &mut Installation, events: &mut Events) -> Result<()> {
        let servers = &installation.servers;
        match self.kind {
            Kind::Kill(Component::Redis) => servers.redis.kill9(),
            Kind::Kill(Component::Kafka) => servers.kafka.kill9(),
            Kind::Kill(Component::Postgres) => servers.postgres.kill9(),
            Kind::Kill(_) => {
                let instance = self.instance(installation);
                instance.is_stopped = true;
                instance.node.process.kill9()
            }
            Kind::Immediate => servers.postgres.stop_immediately(),
            Kind::Freeze(Component::Redis) => servers.redis.pause(),
            Kind::Freeze(Component::Kafka) => servers.kafka.pause(),
            Kind::Freeze(Component::Postgres) => servers.postgres.pause(),
            Kind::Freeze(_) => process(self.instance(installation)).pause(),
            Kind::Network(toxic) => installation.links.inject(self.link, toxic),
            Kind::Crash(Component::Operator) => {
                // The top-up gives the operators steps to execute.
                restart_operators(installation, &self.failpoints())?;
                events.main.top_up(&installation.servers.kubernetes)
            }
            Kind::Crash(_) => {
                let points = self.failpoints();
                self.instance(installation).restart_with_failpoints(&points)
            }
            Kind::CrashPreload => restart_operators(installation, &self.failpoints()),
            Kind::Misconf => fail_to_save(&servers.redis),
            Kind::NoReplicas => set(&servers.redis, "min-replicas-to-write", "5"),
            Kind::MaxMemory => set(&servers.redis, "maxmemory", "1"),
            Kind::Flush => redis::command(&servers.redis.url(), &["FLUSHALL"]).map(drop),
            Kind::RollBack => servers.redis.back_up(&servers.redis.dir().join(BACKUP)),
            Kind::Clock(_, ahead) => self.set_clock(installation, ahead),
            Kind::SecondLeader => {
                let second = installation.operator("second leader", false)?;
                installation.operators.push(second);
                Ok(())
            }
            Kind::SecondInstallation => {
                events.main.apply_to_second_namespace(&servers.kubernetes)?;
                let second = installation.operator_in(SECOND_NAMESPACE, "second installation", true)?;
                installation.operators.push(second);
                Ok(())
            }
            Kind::TopUp => events.main.top_up(&servers.kubernetes),
            Kind::Pause => events.main.pause(&servers.kubernetes, true),
            Kind::Rescale => Ok(()),
            Kind::RedisClock(ahead) => installation.links.redis_clock.set(1000 * ahead),
            Kind::RedisClockAndFlush(ahead) => {
                installation.links.redis_clock.set(1000 * ahead)?;
                redis::command(&servers.redis.url(), &["FLUSHALL"]).map(drop)
            }
            Kind::AclChange => set_permission(&servers.redis, '-', self.denied_command()),
            Kind::RedisBackup => {
                set(&servers.redis, "repl-diskless-sync-delay", "0")?;
                servers.redis.dump(&installation.dir.join("backup.rdb"))
            }
            Kind::Replica => {
                set(&servers.redis, "repl-diskless-sync-delay", "0")?;
                installation.replica = Some(servers.redis.start_replica()?);
                Ok(())
            }
            Kind::RedisSwitched => {
                set(&servers.redis, "repl-diskless-sync-delay", "0")?;
                let replica = servers.redis.start_replica()?;
                replica.promote()?;
                installation.links.switch_redis(replica.port())?;
                installation.replica = Some(replica);
                Ok(())
            }
            Kind::WrongType => redis_keys::replace(&servers.redis.url(), &events.main, redis_keys::kind(self.which)),
            Kind::Undecodable => redis_keys::add_undecodable(&servers.redis.url(), &events.main),
            Kind::CommitsRefused => change_topic(installation, &["reject-commits"]),
            Kind::TopicRecreated => {
                installation.wait_verified(&events.main)?;
                change_topic(installation, &["delete"])
            }
            Kind::PartitionsAdded => {
                installation.partitions += ADDED_PARTITIONS;
                change_topic(installation, &["set-partitions", &installation.partitions.to_string()])
            }
            Kind::RowLock => {
                hold(installation, &format!("SELECT FROM coupon_event WHERE name = '{}' FOR UPDATE", events.main.name))
            }
            Kind::TableLock => hold(installation, "LOCK TABLE issuance"),
            Kind::LongReader => {
                events.schedule(&servers.kubernetes, SCHEDULED_COUPONS)?;
                let scheduled = events.scheduled.as_mut().context("no event is scheduled")?;
                installation.wait_loaded(scheduled)?;
                hold(installation, READ_EVERYTHING)?;
                scheduled.shrink(&installation.servers.kubernetes)
            }
            Kind::RowsLost => {
                installation.wait_verified(&events.main)?;
                // A sold-out event would be reconciled after minutes only.
                events.main.top_up(&installation.servers.kubernetes)?;
                installation.wait_loaded(&events.main)?;
                lose_rows(installation, &events.main)
            }
            Kind::NewEvents => events.create(&servers.kubernetes, NEW_EVENTS, NEW_EVENT_COUPONS),
            Kind::ClusterNode => installation.redis_of(&events.main)?.kill9(),
        }
    }

    pub(super) fn remove(&self, installation: &mut Installation, events: &mut Events) -> Result<()> {
        let servers = &installation.servers;
        match self.kind {
            Kind::Kill(Component::Redis) => servers.redis.restart(),
            Kind::Kill(Component::Kafka) => servers.kafka.restart(),
            Kind::Kill(Component::Postgres) | Kind::Immediate => servers.postgres.restart(),
            Kind::Kill(_) => {
                self.instance(installation).is_stopped = false;
                installation.restart_exited().map(drop)
            }
            Kind::Freeze(Component::Redis) => servers.redis.resume(),
            Kind::Freeze(Component::Kafka) => servers.kafka.resume(),
            Kind::Freeze(Component::Postgres) => servers.postgres.resume(),
            Kind::Freeze(_) => process(self.instance(installation)).resume(),
            Kind::Network(_) => installation.links.reset(),
            Kind::Crash(Component::Operator) | Kind::CrashPreload => restart_operators(installation, ""),
            Kind::Crash(_) => self.instance(installation).restart_with_failpoints(""),
            Kind::Misconf => {
                set(&servers.redis, "save", "")?;
                fs::remove_dir(servers.redis.dir().join(DUMP))
                    .context("cannot remove the directory in place of the file")
            }
            Kind::NoReplicas => set(&servers.redis, "min-replicas-to-write", "0"),
            Kind::MaxMemory => set(&servers.redis, "maxmemory", "0"),
            Kind::RollBack => {
                let backup = servers.redis.dir().join(BACKUP);
                servers.redis.roll_back(&backup)?;
                fs::remove_dir_all(&backup).context("cannot remove the backup")
            }
            Kind::Clock(..) => self.set_clock(installation, 0),
            Kind::SecondLeader => {
                installation.operators.pop();
                Ok(())
            }
            Kind::SecondInstallation => {
                installation.operators.pop();
                events.main.delete_from_second_namespace(&installation.servers.kubernetes)
            }
            Kind::Pause => events.main.pause(&servers.kubernetes, false),
            Kind::RedisClock(_) | Kind::RedisClockAndFlush(_) => installation.links.redis_clock.set(0),
            Kind::AclChange => set_permission(&servers.redis, '+', self.denied_command()),
            Kind::Replica => {
                installation.replica = None;
                Ok(())
            }
            Kind::RedisSwitched => {
                let replica = installation.replica.take().context("no replica was promoted")?;
                servers.redis.follow(&replica)?;
                servers.redis.promote()?;
                installation.links.switch_redis(servers.redis.port())
            }
            Kind::WrongType => redis_keys::restore(&servers.redis.url(), &events.main, redis_keys::kind(self.which)),
            Kind::Undecodable => redis_keys::remove_undecodable(&servers.redis.url(), &events.main),
            Kind::CommitsRefused => change_topic(installation, &["accept-commits"]),
            Kind::TopicRecreated => {
                installation.partitions = PARTITIONS;
                change_topic(installation, &["create", &PARTITIONS.to_string()])
            }
            Kind::RowLock | Kind::TableLock => {
                installation.transaction = None;
                Ok(())
            }
            Kind::LongReader => {
                installation.transaction = None;
                let scheduled = events.scheduled.take().context("no event is scheduled")?;
                installation.wait_loaded(&scheduled)?;
                scheduled.delete(&installation.servers.kubernetes)
            }
            Kind::ClusterNode => {
                let cluster = installation.cluster.as_ref().context("Redis is not a cluster")?;
                cluster.nodes().iter().filter(|node| !ports::accepts(node.port())).try_for_each(Redis::restart)?;
                cluster.wait()
            }
            Kind::Flush
            | Kind::TopUp
            | Kind::Rescale
            | Kind::RedisBackup
            | Kind::PartitionsAdded
            | Kind::RowsLost
            | Kind::NewEvents => Ok(()),
        }
    }

    /// Changes between five and two consumers, stopped gracefully or by SIGKILL, and restores the original number.
    pub(super) fn rescale(&self, installation: &mut Installation) -> Result<u64> {
        let start = Instant::now();
        let mut restarts = 0;
        for change in 0.. {
            let number = if change % 2 == 0 { 5 } else { 2 };
            while installation.consumers.len() < number {
                let consumer = installation.consumer(installation.consumers.len() + 1)?;
                installation.consumers.push(consumer);
            }
            for removed in installation.consumers.drain(number..) {
                let process = &removed.node.process;
                if self.which.is_multiple_of(2) { process.stop()? } else { process.kill9()? }
            }
            restarts += installation.supervise(RESCALE_INTERVAL.min(self.duration / 2), |_| Ok(false))?;
            if start.elapsed() >= self.duration {
                break;
            }
        }
        installation.consumers.truncate(CONSUMERS);
        while installation.consumers.len() < CONSUMERS {
            let consumer = installation.consumer(installation.consumers.len() + 1)?;
            installation.consumers.push(consumer);
        }
        Ok(restarts)
    }

    /// Waits until the new events are open, and serves users of each.
    fn serve_new_events(&self, installation: &mut Installation, events: &Events) -> Result<u64> {
        let new = &events.created[events.created.len() - NEW_EVENTS..];
        let mut restarts = 0;
        for event in new {
            restarts += installation.wait_loaded(event)?;
        }
        let workload = Workload { users: NEW_EVENT_COUPONS, rate: NEW_EVENT_COUPONS, seed: self.which };
        let loads = new.iter().map(|event| Load::start(installation, event, &workload)).collect::<Result<Vec<_>>>()?;
        loads.iter().try_for_each(|load| load.finish(installation))?;
        Ok(restarts)
    }

    fn instance<'a>(&self, installation: &'a mut Installation) -> &'a mut Instance {
        let instances = match self.kind {
            Kind::Kill(Component::Consumer) | Kind::Freeze(Component::Consumer) | Kind::Crash(Component::Consumer) => {
                &mut installation.consumers
            }
            Kind::Kill(Component::Operator) | Kind::Freeze(Component::Operator) => &mut installation.operators,
            Kind::Kill(Component::Redeemer)
            | Kind::Freeze(Component::Redeemer)
            | Kind::Crash(Component::Redeemer)
            | Kind::Clock(Component::Redeemer, _) => &mut installation.redeemers,
            _ => &mut installation.issuers,
        };
        let which = self.which(instances.len());
        &mut instances[which]
    }

    fn set_clock(&self, installation: &mut Installation, ahead: i64) -> Result<()> {
        let name = self.instance(installation).node.name.clone();
        installation.set_clock(&name, ahead)
    }
}

fn restart_operators(installation: &mut Installation, failpoints: &str) -> Result<()> {
    installation.operators.iter_mut().try_for_each(|operator| operator.restart_with_failpoints(failpoints))
}

fn process(instance: &Instance) -> &Running {
    &instance.node.process
}

/// Adds or removes the permission for a command.
fn set_permission(server: &Redis, sign: char, command: &str) -> Result<()> {
    redis::command(&server.url(), &["ACL", "SETUSER", "default", &format!("{sign}{command}")]).map(drop)
}

fn hold(installation: &mut Installation, statements: &str) -> Result<()> {
    installation.transaction = Some(OpenTransaction::begin(&installation.servers.postgres.url(), statements)?);
    Ok(())
}

/// Without those of used coupons: a use is newer than its issuance, so it would be lost as well.
fn lose_rows(installation: &Installation, event: &Event) -> Result<()> {
    let sql = format!(
        "WITH event AS (SELECT uid FROM coupon_event WHERE name = '{}' AND NOT is_purging)
         DELETE FROM issuance WHERE (event_uid, user_id) IN (
             SELECT event_uid, user_id FROM issuance JOIN event ON event_uid = uid
             WHERE NOT EXISTS (
                 SELECT FROM coupon_use used WHERE used.event_uid = issuance.event_uid AND used.code = issuance.code
             )
             ORDER BY recorded_at DESC LIMIT {LOST_ROWS}
         )",
        event.name
    );
    psql(&installation.servers.postgres.url(), &sql).map(drop)
}

fn set(server: &Redis, setting: &str, value: &str) -> Result<()> {
    redis::command(&server.url(), &["CONFIG", "SET", setting, value]).map(drop)
}

/// Default name of the file that Redis saves to.
const DUMP: &str = "dump.rdb";

/// Makes the next save fail: a directory has the name of the file.
fn fail_to_save(server: &Redis) -> Result<()> {
    let directory = server.dir().join(DUMP);
    // Left when this Redis was a replica.
    if directory.is_file() {
        fs::remove_file(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    set(server, "save", "3600 1000000")?;
    redis::command(&server.url(), &["BGSAVE"])?;
    let deadline = Instant::now() + MISCONF_TIMEOUT;
    while !redis::command(&server.url(), &["INFO", "persistence"])?.contains("rdb_last_bgsave_status:err") {
        ensure!(Instant::now() < deadline, "timeout: the save of Redis did not fail");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
