//! Kinds of faults, and random faults.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use couponry_testbed::toxiproxy::Toxic;

use super::links::{LINKS, Link};
use super::rng::Rng;

/// A process of the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Component {
    Issuer,
    Consumer,
    Operator,
    Redeemer,
    Redis,
    Kafka,
    Postgres,
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// SIGKILL; restarted after the fault.
    Kill(Component),
    /// `pg_ctl stop -m immediate`; restarted after the fault.
    Immediate,
    /// SIGSTOP; SIGCONT after the fault.
    Freeze(Component),
    Network(Toxic),
    /// A program crashes repeatedly at one of its failpoints.
    Crash(Component),
    /// All operators crash repeatedly during the preload.
    CrashPreload,
    /// A save fails, so Redis rejects writes with MISCONF.
    Misconf,
    /// Redis requires replicas, and rejects writes with NOREPLICAS.
    NoReplicas,
    /// Redis is out of memory, and rejects writes with OOM.
    MaxMemory,
    /// FLUSHALL.
    Flush,
    /// Redis crashes, and restarts with the data from the beginning of the fault.
    RollBack,
    /// The number of consumers changes every few seconds.
    Rescale,
    /// The clock of an issuer or a redeemer is set ahead by these seconds.
    Clock(Component, i64),
    /// Another operator runs without leader election.
    SecondLeader,
    /// The operator of another namespace uses the same stores, for an event of the same name.
    SecondInstallation,
    /// The manifest is changed to more coupons.
    TopUp,
    /// The manifest is changed to Paused, and back after the fault.
    Pause,
    /// The clock of Redis is set ahead by these seconds.
    RedisClock(i64),
    /// The clock of Redis is set ahead by these seconds, then FLUSHALL.
    RedisClockAndFlush(i64),
    /// The Redis user of the programs loses the permission for a command.
    AclChange,
    /// `redis-cli --rdb`, which is attached like a replica for a moment.
    RedisBackup,
    /// A replica of Redis is attached, and removed after the fault.
    Replica,
    /// The address of Redis leads to a promoted replica, and back after the fault, as with Sentinel.
    RedisSwitched,
    /// A key of the event is replaced by one of another type.
    WrongType,
    /// The keys of the event have values that cannot be decoded.
    Undecodable,
    /// Kafka rejects offset commits.
    CommitsRefused,
    /// The topic is deleted, and created again after the fault.
    TopicRecreated,
    /// Partitions are added to the topic.
    PartitionsAdded,
    /// Another session of Postgres has locked the row of the event.
    RowLock,
    /// Another session of Postgres has locked the table of issuances.
    TableLock,
    /// Another session of Postgres has read all coupons in an open transaction, while the operator discards a stock.
    LongReader,
    /// Postgres loses the newest issuances, as in a failover to a lagging replica.
    RowsLost,
    /// Several events are created at once, and users send requests to each of them.
    NewEvents,
    /// SIGKILL of the node of a Redis Cluster that has the event; restarted after the fault.
    ClusterNode,
}

/// All kinds, with their names on the command line.
pub(super) const KINDS: [(&str, Kind); 58] = [
    ("kill-issuer", Kind::Kill(Component::Issuer)),
    ("kill-consumer", Kind::Kill(Component::Consumer)),
    ("kill-operator", Kind::Kill(Component::Operator)),
    ("kill-redeemer", Kind::Kill(Component::Redeemer)),
    ("kill-redis", Kind::Kill(Component::Redis)),
    ("kill-kafka", Kind::Kill(Component::Kafka)),
    ("kill-postgres", Kind::Kill(Component::Postgres)),
    ("immediate-postgres", Kind::Immediate),
    ("freeze-issuer", Kind::Freeze(Component::Issuer)),
    ("freeze-consumer", Kind::Freeze(Component::Consumer)),
    ("freeze-operator", Kind::Freeze(Component::Operator)),
    ("freeze-redeemer", Kind::Freeze(Component::Redeemer)),
    ("freeze-redis", Kind::Freeze(Component::Redis)),
    ("freeze-kafka", Kind::Freeze(Component::Kafka)),
    ("freeze-postgres", Kind::Freeze(Component::Postgres)),
    ("cut-link", Kind::Network(Toxic::Cut)),
    ("delay-link", Kind::Network(Toxic::Delayed(Duration::from_millis(1500)))),
    ("half-open-link", Kind::Network(Toxic::HalfOpen)),
    ("unanswered-link", Kind::Network(Toxic::Unanswered)),
    ("slow-link", Kind::Network(Toxic::Slow(3))),
    ("crash-issuer", Kind::Crash(Component::Issuer)),
    ("crash-consumer", Kind::Crash(Component::Consumer)),
    ("crash-operator", Kind::Crash(Component::Operator)),
    ("crash-redeemer", Kind::Crash(Component::Redeemer)),
    ("crash-preload", Kind::CrashPreload),
    ("redis-misconf", Kind::Misconf),
    ("redis-no-replicas", Kind::NoReplicas),
    ("redis-max-memory", Kind::MaxMemory),
    ("redis-flushed", Kind::Flush),
    ("redis-rolled-back", Kind::RollBack),
    ("rescale-consumers", Kind::Rescale),
    ("clock-ahead", Kind::Clock(Component::Issuer, 7200)),
    ("clock-back", Kind::Clock(Component::Issuer, -7200)),
    ("redeemer-clock-ahead", Kind::Clock(Component::Redeemer, 7200)),
    ("redeemer-clock-back", Kind::Clock(Component::Redeemer, -7200)),
    ("second-leader", Kind::SecondLeader),
    ("second-installation", Kind::SecondInstallation),
    ("top-up", Kind::TopUp),
    ("pause", Kind::Pause),
    ("redis-clock-ahead", Kind::RedisClock(3600)),
    ("redis-clock-back", Kind::RedisClock(-3600)),
    ("redis-clock-ahead-flushed", Kind::RedisClockAndFlush(3600)),
    ("redis-clock-back-flushed", Kind::RedisClockAndFlush(-3600)),
    ("redis-acl", Kind::AclChange),
    ("redis-backup", Kind::RedisBackup),
    ("redis-replica", Kind::Replica),
    ("redis-switched", Kind::RedisSwitched),
    ("redis-wrong-type", Kind::WrongType),
    ("redis-undecodable", Kind::Undecodable),
    ("commits-refused", Kind::CommitsRefused),
    ("topic-recreated", Kind::TopicRecreated),
    ("partitions-added", Kind::PartitionsAdded),
    ("row-lock", Kind::RowLock),
    ("table-lock", Kind::TableLock),
    ("long-reader", Kind::LongReader),
    ("rows-lost", Kind::RowsLost),
    ("new-events", Kind::NewEvents),
    ("cluster-node", Kind::ClusterNode),
];

impl Kind {
    pub(super) fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("unknown", |(name, _)| name)
    }

    /// Whether it can be injected: some faults are about a Redis without a cluster, or about its proxy.
    pub(super) fn is_possible(self, on_cluster: bool) -> bool {
        match self {
            Self::ClusterNode => on_cluster,
            Self::Kill(Component::Redis)
            | Self::Freeze(Component::Redis)
            | Self::Network(_)
            | Self::Misconf
            | Self::NoReplicas
            | Self::MaxMemory
            | Self::Flush
            | Self::RollBack
            | Self::RedisClock(_)
            | Self::RedisClockAndFlush(_)
            | Self::AclChange
            | Self::RedisBackup
            | Self::Replica
            | Self::RedisSwitched
            | Self::WrongType
            | Self::Undecodable => !on_cluster,
            _ => true,
        }
    }

    /// Whether Redis loses answered issuances. The event must then have `acknowledge: Kafka`.
    pub(super) fn is_loss_of_redis(self) -> bool {
        matches!(self, Self::Flush | Self::RollBack | Self::RedisClockAndFlush(_) | Self::RedisSwitched)
    }

    /// Whether Kafka or Postgres lose what they have confirmed. The operator restores it from Redis when issuing slows
    /// down, so no loss of Redis may follow in the same round.
    pub(super) fn is_loss_behind_redis(self) -> bool {
        matches!(self, Self::TopicRecreated | Self::RowsLost)
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = KINDS.iter().find(|(name, _)| *name == text);
        found.map(|(_, kind)| *kind).context("unknown kind of fault; `cargo xtask chaos --list` lists all")
    }
}

/// A fault of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// Time without faults before it.
    pub(super) after: Duration,
    /// Its duration.
    pub(super) duration: Duration,
    /// Selects one of several processes.
    pub(super) which: u64,
    /// The link, for faults of the network.
    pub(super) link: Link,
}

/// Commands of the scripts whose permission is removed.
const DENIED_COMMANDS: [&str; 5] = ["xadd", "hset", "ltrim", "xdel", "lrange"];

/// The failpoints at which these programs can crash.
fn crash_points(component: Component) -> &'static [&'static str] {
    match component {
        Component::Issuer => &["issuer.after-lua=5%return", "issuer.before-outbox-deletion=5%return"],
        Component::Consumer => &[
            "database.before-record-commit=20%return",
            "consumer.after-record=20%return",
            "consumer.before-offsets=20%return",
        ],
        Component::Redeemer => &[
            "database.before-coupon-use=2%return",
            "database.after-coupon-use=2%return",
            "database.before-sent-uses-are-deleted=50%return",
        ],
        _ => &[
            "operator.before-step=30%return",
            "operator.after-step=30%return",
            "operator.after-chunk=30%return",
            "database.before-preload-commit=50%return",
        ],
    }
}

impl Fault {
    /// The value of the variable `FAILPOINTS`.
    pub(super) fn failpoints(&self) -> String {
        match self.kind {
            Kind::CrashPreload => crash_points(Component::Operator).join(";"),
            Kind::Crash(component) => {
                let points = crash_points(component);
                points[self.which(points.len())].to_owned()
            }
            _ => String::new(),
        }
    }

    /// The command whose permission [`Kind::AclChange`] removes.
    pub(super) fn denied_command(&self) -> &'static str {
        DENIED_COMMANDS[self.which(DENIED_COMMANDS.len())]
    }

    /// The index of one of several things.
    pub(super) fn which(&self, of: usize) -> usize {
        usize::try_from(self.which % of.max(1) as u64).unwrap_or(0)
    }

    /// A random fault of this kind. Tests use brief ones.
    pub(super) fn draw(kind: Kind, is_brief: bool, rng: &mut Rng) -> Self {
        let after = if is_brief { rng.seconds(0, 1) } else { rng.seconds(1, 4) };
        let duration = match (kind, is_brief) {
            // The fault itself takes longer.
            (Kind::NewEvents | Kind::RedisBackup | Kind::PartitionsAdded | Kind::LongReader, true) => rng.seconds(1, 1),
            (_, true) => rng.seconds(2, 3),
            // Longer than the delivery timeout of the producer, and as long as the session timeout of a consumer.
            (Kind::Freeze(Component::Kafka), false) => Duration::from_secs(45),
            (Kind::Kill(_) | Kind::Immediate | Kind::TopUp | Kind::NewEvents, false) => rng.seconds(0, 6),
            (Kind::Rescale, false) => rng.seconds(10, 20),
            (_, false) => rng.seconds(2, 20),
        };
        Self { kind, after, duration, which: rng.next(), link: *rng.pick(&LINKS) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1} s", self.kind.name(), self.duration.as_secs_f64())?;
        if let Kind::Network(_) = self.kind {
            write!(f, ", from {} to {}", self.link.0, self.link.1)?;
        } else if let Kind::Crash(_) = self.kind {
            write!(f, ", {}", self.failpoints())?;
        } else if self.kind == Kind::AclChange {
            write!(f, ", {}", self.denied_command())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_is_parsed_from_its_name() {
        for (name, kind) in KINDS {
            assert_eq!((name.parse::<Kind>().unwrap(), kind.name()), (kind, name));
        }
        assert!("kill".parse::<Kind>().is_err());
    }

    #[test]
    fn faults_with_same_seed_are_identical() {
        let draw = |seed| Fault::draw(Kind::Kill(Component::Redis), false, &mut Rng::new(seed));
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }
}
