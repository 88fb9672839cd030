//! Who finds out what a shard that forgot must hold (ADR 0015, for some shards of many). It may end after any step, and two may
//! work at once: the number of the attempt, which Postgres counts, says who was overtaken.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Flaw,
    call::{Call, Reply},
    database::comes_back,
    shard::{ShardId, Words},
    world::World,
};

#[derive(Default)]
pub(super) struct Operator(Option<Recovery>);

struct Recovery {
    attempt: u64,
    /// The shards that are not known to be whole, and the Redis that each is.
    lost: BTreeMap<ShardId, u64>,
    words: BTreeMap<ShardId, Words>,
    stage: Stage,
}

enum Stage {
    /// Where the attempt is made known to the shards: what an earlier one sends has no effect any more.
    Begin(usize),
    /// Until the outboxes are empty.
    Drain,
    /// Until the consumers are as far.
    Arrive {
        end: usize,
    },
    Seal,
    Freeze,
    Commit,
    /// The next steps are for each shard in turn; this many are done.
    Resolve(usize),
    Thaw(usize),
    Restore(usize),
    Adopt(usize),
}

impl Operator {
    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    pub(super) fn step(&mut self, world: &mut World) {
        let Some(mut recovery) = self.0.take() else {
            self.0 = Recovery::begin(world);
            return;
        };
        // Who was overtaken, or has no answer, begins again.
        if recovery.step(world) == Some(true) {
            self.0 = Some(recovery);
        }
    }
}

impl Recovery {
    fn begin(world: &mut World) -> Option<Self> {
        let lost: BTreeMap<_, _> =
            world.shards.iter().filter(|shard| !shard.is_whole()).map(|shard| (shard.id, shard.server)).collect();
        if lost.is_empty() {
            return None;
        }
        world.database.attempt += 1;
        Some(Self { attempt: world.database.attempt, lost, words: BTreeMap::new(), stage: Stage::Begin(0) })
    }

    /// None, or false: to be begun again, or done.
    fn step(&mut self, world: &mut World) -> Option<bool> {
        let is_same = self.lost.iter().all(|(&shard, &server)| world.shards[shard].server == server);
        if !is_same || world.database.attempt != self.attempt {
            return None;
        }
        let whole: Vec<ShardId> = (0..world.shards.len()).filter(|shard| !self.lost.contains_key(shard)).collect();
        let lost: Vec<(ShardId, u64)> = self.lost.iter().map(|(&shard, &server)| (shard, server)).collect();
        match self.stage {
            Stage::Begin(done) => {
                self.stage = match lost.get(done) {
                    None => Stage::Drain,
                    Some(&(shard, server)) => {
                        said_yes(world.call(Call::Begin { shard, server, token: self.attempt }).as_ref())?;
                        // What Redis says was given, and Postgres does not know, was promised.
                        world.resend(shard);
                        Stage::Begin(done + 1)
                    }
                }
            }
            Stage::Drain => {
                if self.lost.keys().all(|&shard| world.shards[shard].outbox.is_empty()) {
                    // The settle time is longer than an issuer waits before it gives an answer up.
                    let users: BTreeSet<ShardId> = self.lost.keys().copied().collect();
                    world.expire_answers(&users);
                    self.stage = Stage::Arrive { end: world.database.topic.len() };
                }
            }
            Stage::Arrive { end } => {
                if world.database.offset >= end {
                    self.stage = Stage::Seal;
                }
            }
            Stage::Seal => {
                for &(shard, _) in &lost {
                    let now = world.clock(shard) + 1;
                    world.database.sealed.insert(shard, now);
                }
                self.stage = Stage::Freeze;
            }
            Stage::Freeze => match whole.get(self.words.len()) {
                None => self.stage = Stage::Commit,
                Some(&shard) => {
                    let Some(Reply::Words(Some(words))) = world.call(Call::Freeze(shard, self.attempt)) else {
                        return None;
                    };
                    self.words.insert(shard, words);
                }
            },
            Stage::Commit => {
                world.database.note_owners(&self.words, &self.lost);
                self.stage = Stage::Resolve(0);
            }
            Stage::Resolve(done) => {
                self.stage = match whole.get(done) {
                    None => Stage::Thaw(0),
                    Some(&shard) => {
                        let pending = self.words[&shard].pending.iter();
                        let verdicts = pending.map(|t| (t.clone(), comes_back(t, &self.words))).collect();
                        said_yes(world.call(Call::Resolve { shard, epoch: self.attempt, verdicts }).as_ref())?;
                        Stage::Resolve(done + 1)
                    }
                }
            }
            Stage::Thaw(done) => {
                self.stage = match whole.get(done) {
                    None => Stage::Restore(0),
                    Some(&shard) => {
                        said_yes(world.call(Call::Thaw(shard, self.attempt)).as_ref())?;
                        Stage::Thaw(done + 1)
                    }
                }
            }
            Stage::Restore(done) => {
                self.stage = match lost.get(done) {
                    None => Stage::Adopt(0),
                    Some(&(shard, server)) => {
                        let anew = world.database.restored(shard, world.flaw == Flaw::ByDealAlone);
                        said_yes(world.call(Call::Restore { shard, server, token: self.attempt, anew }).as_ref())?;
                        Stage::Restore(done + 1)
                    }
                }
            }
            Stage::Adopt(done) => {
                let Some(&(shard, server)) = lost.get(done) else { return Some(false) };
                let since = world.database.sealed[&shard];
                said_yes(world.call(Call::Adopt { shard, server, token: self.attempt, since }).as_ref())?;
                self.stage = Stage::Adopt(done + 1);
            }
        }
        Some(true)
    }
}

fn said_yes(reply: Option<&Reply>) -> Option<()> {
    matches!(reply, Some(Reply::Done(true))).then_some(())
}
