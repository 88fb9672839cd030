//! What can go wrong, and for how long.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use couponry_testbed::toxiproxy::Toxic;

use super::dice::Dice;
use super::links::{LINKS, Link};

/// A process of the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Issuer,
    Consumer,
    Operator,
    Redis,
    Kafka,
    Postgres,
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// kill -9, and started again after the fault's time.
    Kill(Part),
    /// `pg_ctl stop -m immediate`, and started again after the fault's time.
    Immediate,
    /// SIGSTOP, and SIGCONT after the fault's time.
    Freeze(Part),
    Spoil(Toxic),
    /// A program ends, again and again, at one of its failpoints.
    Crash(Part),
    /// All operators do, while the event is made and loaded.
    CrashPreload,
    /// A background save that fails: Redis refuses every write with MISCONF.
    Misconf,
    /// No replica is there, and one is demanded: NOREPLICAS.
    NoReplicas,
    /// OOM.
    MaxMemory,
    /// FLUSHALL.
    Flush,
    /// A crash after which Redis comes back as it was when the fault began.
    RollBack,
    /// Between two and five consumers, with every few seconds another number.
    Rescale,
    /// An issuer's clock is set by so many seconds.
    Clock(i64),
    /// A third operator, without leader election, beside the one that leads.
    SecondLeader,
    /// More coupons, by the manifest.
    TopUp,
    /// The manifest says Paused, and Auto after the fault's time.
    Pause,
}

/// Every kind, by its name on the command line.
pub(super) const KINDS: [(&str, Kind); 33] = [
    ("kill-issuer", Kind::Kill(Part::Issuer)),
    ("kill-consumer", Kind::Kill(Part::Consumer)),
    ("kill-operator", Kind::Kill(Part::Operator)),
    ("kill-redis", Kind::Kill(Part::Redis)),
    ("kill-kafka", Kind::Kill(Part::Kafka)),
    ("kill-postgres", Kind::Kill(Part::Postgres)),
    ("immediate-postgres", Kind::Immediate),
    ("freeze-issuer", Kind::Freeze(Part::Issuer)),
    ("freeze-consumer", Kind::Freeze(Part::Consumer)),
    ("freeze-operator", Kind::Freeze(Part::Operator)),
    ("freeze-redis", Kind::Freeze(Part::Redis)),
    ("freeze-kafka", Kind::Freeze(Part::Kafka)),
    ("freeze-postgres", Kind::Freeze(Part::Postgres)),
    ("cut-link", Kind::Spoil(Toxic::Cut)),
    ("delay-link", Kind::Spoil(Toxic::Delayed(Duration::from_millis(1500)))),
    ("half-open-link", Kind::Spoil(Toxic::HalfOpen)),
    ("unanswered-link", Kind::Spoil(Toxic::Unanswered)),
    ("slow-link", Kind::Spoil(Toxic::Slow(3))),
    ("crash-issuer", Kind::Crash(Part::Issuer)),
    ("crash-consumer", Kind::Crash(Part::Consumer)),
    ("crash-operator", Kind::Crash(Part::Operator)),
    ("crash-preload", Kind::CrashPreload),
    ("redis-misconf", Kind::Misconf),
    ("redis-no-replicas", Kind::NoReplicas),
    ("redis-max-memory", Kind::MaxMemory),
    ("redis-flushed", Kind::Flush),
    ("redis-rolled-back", Kind::RollBack),
    ("rescale-consumers", Kind::Rescale),
    ("clock-ahead", Kind::Clock(7200)),
    ("clock-back", Kind::Clock(-7200)),
    ("second-leader", Kind::SecondLeader),
    ("top-up", Kind::TopUp),
    ("pause", Kind::Pause),
];

impl Kind {
    pub(super) fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("unknown", |(name, _)| name)
    }
}

impl Kind {
    /// Whether Redis forgets what it had answered: users may then be told of a coupon only when Kafka has it.
    pub(super) fn loses_data(self) -> bool {
        matches!(self, Self::Flush | Self::RollBack)
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = KINDS.iter().find(|(name, _)| *name == text);
        found.map(|(_, kind)| *kind).context("no such fault: `cargo xtask chaos --list` tells them all")
    }
}

/// One fault of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// How long all is well before it.
    pub(super) after: Duration,
    /// How long it lasts.
    pub(super) lasts: Duration,
    /// Which of several it hits.
    pub(super) which: u64,
    /// Which link, when it is one of those.
    pub(super) link: Link,
}

/// What `FAILPOINTS` says for each of the places where these programs may end.
fn crash_points(part: Part) -> &'static [&'static str] {
    match part {
        Part::Issuer => &["issuer.after-lua=5%return", "issuer.before-outbox-deletion=5%return"],
        Part::Consumer => &[
            "database.before-record-commit=20%return",
            "consumer.after-record=20%return",
            "consumer.before-offsets=20%return",
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
    /// The value of `FAILPOINTS` for this fault.
    pub(super) fn failpoints(&self) -> String {
        match self.kind {
            Kind::CrashPreload => crash_points(Part::Operator).join(";"),
            Kind::Crash(part) => {
                let points = crash_points(part);
                points[usize::try_from(self.which % points.len() as u64).unwrap_or(0)].to_owned()
            }
            _ => String::new(),
        }
    }

    /// Draws the times and the place of a fault. A brief one is for tests.
    pub(super) fn draw(kind: Kind, brief: bool, dice: &mut Dice) -> Self {
        let after = if brief { dice.seconds(0, 1) } else { dice.seconds(1, 4) };
        let lasts = match (kind, brief) {
            (_, true) => dice.seconds(2, 3),
            // Longer than a producer goes on trying, and as long as a consumer's session lasts.
            (Kind::Freeze(Part::Kafka), false) => Duration::from_secs(45),
            (Kind::Kill(_) | Kind::Immediate | Kind::TopUp, false) => dice.seconds(0, 6),
            (Kind::Rescale, false) => dice.seconds(10, 20),
            (_, false) => dice.seconds(2, 20),
        };
        Self { kind, after, lasts, which: dice.any(), link: *dice.pick(&LINKS) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1} s", self.kind.name(), self.lasts.as_secs_f64())?;
        if let Kind::Spoil(_) = self.kind {
            write!(f, ", from {} to {}", self.link.0, self.link.1)?;
        } else if let Kind::Crash(_) = self.kind {
            write!(f, ", {}", self.failpoints())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for (name, kind) in KINDS {
            assert_eq!((name.parse::<Kind>().unwrap(), kind.name()), (kind, name));
        }
        assert!("kill".parse::<Kind>().is_err());
    }

    #[test]
    fn a_fault_follows_from_the_seed() {
        let draw = |seed| Fault::draw(Kind::Kill(Part::Redis), false, &mut Dice::new(seed));
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }
}
