//! The steps of an operator which recovers unverified shards. It may stop after any step, and two may work at once:
//! Postgres counts the recoveries, and only the last one may continue.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Flaw,
    call::{Call, Reply},
    database::is_returned,
    operator::{Recovery, Stage},
    shard::ShardId,
    simulation::Simulation,
};

impl Simulation {
    pub(super) fn step_operator(&mut self, index: usize) {
        let before = self.database.recovery_id;
        self.operators[index].0 = match self.operators[index].0.take() {
            None => Recovery::begin(self),
            // A recovery that is stale, or that received no reply, starts again.
            Some(mut recovery) => (recovery.step(self) == Some(true)).then_some(recovery),
        };
        self.tally.recoveries += usize::from(self.database.recovery_id > before);
    }
}

impl Recovery {
    fn begin(simulation: &mut Simulation) -> Option<Self> {
        let unverified: BTreeMap<_, _> = simulation
            .shards
            .iter()
            .filter(|shard| !shard.is_verified())
            .map(|shard| (shard.id, shard.replication_id))
            .collect();
        if unverified.is_empty() {
            return None;
        }
        simulation.database.recovery_id += 1;
        Some(Self {
            id: simulation.database.recovery_id,
            unverified,
            frozen: BTreeMap::new(),
            stage: Stage::BeginRecovery(0),
        })
    }

    /// `None`: start again. `Some(false)`: done.
    fn step(&mut self, simulation: &mut Simulation) -> Option<bool> {
        let recovery_id = self.id;
        let is_same = self
            .unverified
            .iter()
            .all(|(&shard, &replication_id)| simulation.shards[shard].replication_id == replication_id);
        if !is_same || simulation.database.recovery_id != recovery_id {
            return None;
        }
        let verified: Vec<ShardId> =
            (0..simulation.shards.len()).filter(|shard| !self.unverified.contains_key(shard)).collect();
        let unverified: Vec<(ShardId, u64)> =
            self.unverified.iter().map(|(&shard, &replication_id)| (shard, replication_id)).collect();
        match self.stage {
            Stage::BeginRecovery(done) => {
                self.stage = match unverified.get(done) {
                    None => Stage::Drain,
                    Some(&(shard, replication_id)) => {
                        execute(simulation, Call::BeginRecovery { shard, replication_id, recovery_id })?;
                        // Users may have received these coupons, so they are recorded before the restore.
                        simulation.resend(shard);
                        Stage::BeginRecovery(done + 1)
                    }
                }
            }
            Stage::Drain => {
                if self.unverified.keys().all(|&shard| simulation.shards[shard].outbox.is_empty()) {
                    // The recovery grace period is longer than the request timeout of an issuer.
                    let users: BTreeSet<ShardId> = self.unverified.keys().copied().collect();
                    simulation.expire_batches(&users);
                    self.stage = Stage::AwaitConsumers { end: simulation.database.topic.len() };
                }
            }
            Stage::AwaitConsumers { end } => {
                if simulation.database.offset >= end {
                    self.stage = Stage::SetCutoffs;
                }
            }
            Stage::SetCutoffs => {
                for &(shard, _) in &unverified {
                    let now = simulation.clock(shard) + 1;
                    simulation.database.record_cutoffs.insert(shard, now);
                }
                self.stage = Stage::Freeze;
            }
            Stage::Freeze => match verified.get(self.frozen.len()) {
                None => self.stage = Stage::RecordOwners,
                Some(&shard) => {
                    let Some(Reply::Frozen(Some(frozen))) = simulation.call(Call::Freeze(shard, recovery_id)) else {
                        return None;
                    };
                    self.frozen.insert(shard, frozen);
                }
            },
            Stage::RecordOwners => {
                simulation.database.record_owners(&self.frozen, &self.unverified);
                self.stage = Stage::Resolve(0);
            }
            Stage::Resolve(done) => {
                self.stage = match verified.get(done) {
                    None => Stage::Unfreeze(0),
                    Some(&shard) => {
                        let in_transit = self.frozen[&shard].in_transit.iter();
                        let resolutions = in_transit.map(|t| (t.clone(), is_returned(t, &self.frozen))).collect();
                        execute(simulation, Call::Resolve { shard, epoch: recovery_id, resolutions })?;
                        Stage::Resolve(done + 1)
                    }
                }
            }
            Stage::Unfreeze(done) => {
                self.stage = match verified.get(done) {
                    None => Stage::Restore(0),
                    Some(&shard) => {
                        execute(simulation, Call::Unfreeze(shard, recovery_id))?;
                        Stage::Unfreeze(done + 1)
                    }
                }
            }
            Stage::Restore(done) => {
                self.stage = match unverified.get(done) {
                    None => Stage::MarkVerified(0),
                    Some(&(shard, replication_id)) => {
                        let state = simulation.database.restored(shard, simulation.flaw == Flaw::IgnoreMoves);
                        execute(simulation, Call::Restore { shard, replication_id, recovery_id, state })?;
                        Stage::Restore(done + 1)
                    }
                }
            }
            Stage::MarkVerified(done) => {
                let Some(&(shard, replication_id)) = unverified.get(done) else { return Some(false) };
                let min_issued_at = simulation.database.record_cutoffs[&shard];
                execute(simulation, Call::MarkVerified { shard, replication_id, recovery_id, min_issued_at })?;
                self.stage = Stage::MarkVerified(done + 1);
            }
        }
        Some(true)
    }
}

fn execute(simulation: &mut Simulation, call: Call) -> Option<()> {
    matches!(simulation.call(call), Some(Reply::Done(true))).then_some(())
}
