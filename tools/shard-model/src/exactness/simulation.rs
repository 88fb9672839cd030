//! All processes of a run, and the choice of the next action.

use std::collections::{BTreeMap, VecDeque};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use super::{
    Flaw, Tally,
    call::{Call, Reply},
    database::{Database, RecordResult},
    mover::Mover,
    operator::Operator,
    shard::{Record, Shard, ShardId, Time, User},
};

/// Steps with faults.
const STEPS: u64 = 500;
/// The step by which the event must be sold out and recorded.
const MAX_STEPS: u64 = 20_000;
/// How many earlier states of a shard are kept to roll back to.
const HISTORY: usize = 12;

/// A batch that was executed by its shard.
pub(super) struct Batch {
    pub(super) shard: ShardId,
    pub(super) records: Vec<Record>,
    pub(super) entry: Option<u64>,
    pub(super) is_sent: bool,
    /// Whether its users have not timed out.
    pub(super) is_awaited: bool,
}

pub(super) struct Simulation {
    pub(super) now: Time,
    pub(super) flaw: Flaw,
    pub(super) shards: Vec<Shard>,
    pub(super) database: Database,
    pub(super) batches: Vec<Batch>,
    pub(super) responses: BTreeMap<User, usize>,
    /// The last step at which all shards were empty.
    pub(super) last_all_empty: Option<Time>,
    pub(super) tally: Tally,
    rng: ChaCha8Rng,
    /// Clock offset of each shard.
    offsets: Vec<Time>,
    history: Vec<VecDeque<Shard>>,
    /// Calls to be executed later, after their caller has timed out.
    late: Vec<Call>,
    movers: Vec<Mover>,
    pub(super) operators: Vec<Operator>,
    has_faults: bool,
    next_replication_id: u64,
    next_entry: u64,
    next_user: User,
}

/// Runs one event.
///
/// # Errors
/// The violated invariant and the step.
pub fn run(seed: u64, flaw: Flaw) -> Result<Tally, String> {
    Simulation::new(seed, flaw).run().map_err(|error| format!("seed {seed}: {error}"))
}

impl Simulation {
    fn new(seed: u64, flaw: Flaw) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let count = rng.random_range(2..=5);
        Self {
            now: 1,
            flaw,
            shards: (0..count).map(|id| Shard::new(id, 1 + id as u64)).collect(),
            database: Database::new(count, rng.random_range(4..25)),
            batches: Vec::new(),
            responses: BTreeMap::new(),
            last_all_empty: None,
            tally: Tally::default(),
            offsets: (0..count).map(|_| rng.random_range(0..50)).collect(),
            history: vec![VecDeque::new(); count],
            late: Vec::new(),
            movers: vec![Mover::default(), Mover::default()],
            operators: vec![Operator::default(), Operator::default()],
            has_faults: true,
            next_replication_id: 100,
            next_entry: 0,
            next_user: 100_000,
            rng,
        }
    }

    fn run(mut self) -> Result<Tally, String> {
        let hot_shard = self.rng.random_range(0..self.shards.len());
        for _ in 0..STEPS {
            self.step(hot_shard).and_then(|()| self.check()).map_err(|error| format!("step {}: {error}", self.now))?;
        }
        self.has_faults = false;
        let active_shards: Vec<ShardId> =
            (0..self.shards.len()).filter(|&shard| shard == hot_shard || self.rng.random()).collect();
        let sold_out = self.tally.sold_out;
        while !self.is_over() || self.tally.sold_out == sold_out {
            self.step_without_faults(&active_shards)
                .and_then(|()| self.check())
                .map_err(|error| format!("step {}: {error}", self.now))?;
            if self.now > MAX_STEPS {
                return Err(format!("not sold out in time: {} coupons recorded", self.database.holder.len()));
            }
        }
        self.check_end()?;
        self.tally.recorded = self.database.holder.len();
        Ok(self.tally)
    }

    /// One action, with faults. The shard `hot_shard` has more users than the others.
    fn step(&mut self, hot_shard: ShardId) -> Result<(), String> {
        self.now += 1;
        let shard = self.rng.random_range(0..self.shards.len());
        match self.rng.random_range(0..967) {
            0..200 => {
                let shard = if self.rng.random_ratio(2, 3) { hot_shard } else { shard };
                let users = (0..self.rng.random_range(1..4))
                    .map(|_| shard + self.shards.len() * self.rng.random_range(0..30))
                    .collect::<std::collections::BTreeSet<User>>();
                return self.issue(shard, users.into_iter().collect());
            }
            200..350 => return self.advance_some_batch(),
            350..620 => {
                let mover = self.rng.random_range(0..self.movers.len());
                self.step_mover(mover);
            }
            620..720 => return self.consume(),
            720..770 => self.sweep(shard),
            770..870 => {
                let operator = self.rng.random_range(0..self.operators.len());
                self.step_operator(operator);
            }
            870..920 => self.load(shard),
            920..932 => self.deliver_late(),
            932..952 => self.end_process(),
            952..959 => self.database.stock += self.rng.random_range(1..6),
            _ => self.lose_data(shard),
        }
        Ok(())
    }

    /// One action without faults that completes pending work, or a new user of one of the shards `active_shards`.
    fn step_without_faults(&mut self, active_shards: &[ShardId]) -> Result<(), String> {
        self.now += 1;
        let shard = self.rng.random_range(0..self.shards.len());
        match self.rng.random_range(0..12) {
            0 => {
                let shard = active_shards[self.rng.random_range(0..active_shards.len())];
                self.next_user += 1;
                return self.issue(shard, vec![shard + self.shards.len() * self.next_user]);
            }
            1 => return self.advance_some_batch(),
            2..6 => self.step_mover(0),
            6 => return self.consume(),
            7 => self.sweep(shard),
            8 => self.step_operator(0),
            9 => self.load(shard),
            _ => self.deliver_late(),
        }
        Ok(())
    }

    /// All coupons are issued and recorded, and nothing is pending.
    fn is_over(&self) -> bool {
        let is_idle = |shard: &Shard| {
            shard.is_verified()
                && shard.outbox.is_empty()
                && shard.in_transit.is_empty()
                && shard.loaded == self.database.assigned_coupons(shard.id, 0).len()
        };
        self.shards.iter().all(is_idle)
            && self.late.is_empty()
            && self.batches.is_empty()
            && self.database.offset == self.database.topic.len()
            && self.last_all_empty == Some(self.now)
    }

    /// Executes a call, or defers it. `None`: the caller receives no reply.
    pub(super) fn call(&mut self, call: Call) -> Option<Reply> {
        let fate = if self.has_faults { self.rng.random_range(0..100) } else { 99 };
        if fate < 3 {
            self.late.push(call);
            return None;
        }
        let reply = self.execute(&call);
        if fate < 9 {
            self.late.push(call);
        }
        (fate >= 6).then_some(reply)
    }

    fn execute(&mut self, call: &Call) -> Reply {
        let (id, now) = (call.shard(), self.clock(call.shard()));
        let shard = &mut self.shards[id];
        if self.has_faults && !matches!(call, Call::Observe(_)) && self.rng.random() {
            let history = &mut self.history[id];
            history.push_back(shard.clone());
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
        if let Call::Receive(transfer) = call {
            self.tally.transfers += usize::from(shard.is_verified() && !shard.has_received(transfer));
        }
        call.execute(shard, now, &mut self.next_entry, self.flaw)
    }

    pub(super) fn clock(&self, shard: ShardId) -> Time {
        self.now + self.offsets[shard]
    }

    fn issue(&mut self, shard: ShardId, users: Vec<User>) -> Result<(), String> {
        match self.call(Call::Issue(shard, users)) {
            Some(Reply::Issued(Some(result))) => self.handle_issue_result(shard, result),
            _ => Ok(()),
        }
    }

    fn advance_some_batch(&mut self) -> Result<(), String> {
        match self.batches.len() {
            0 => Ok(()),
            batches => {
                let index = self.rng.random_range(0..batches);
                self.advance_batch(index)
            }
        }
    }

    fn step_mover(&mut self, index: usize) {
        let call = self.movers[index].next();
        let (shards, flaw) = (self.shards.len(), self.flaw);
        match self.call(call) {
            Some(reply) => self.movers[index].handle_reply(reply, shards, flaw),
            None => self.movers[index] = Mover::default(),
        }
    }

    /// The consumers read the next record, or repeat an earlier one.
    fn consume(&mut self) -> Result<(), String> {
        let end = self.database.topic.len();
        let is_repeated = self.has_faults && end > 0 && self.rng.random_ratio(1, 8);
        let index = if is_repeated { self.rng.random_range(0..end) } else { self.database.offset };
        let Some(&record) = self.database.topic.get(index) else { return Ok(()) };
        if index == self.database.offset {
            self.database.offset += 1;
        }
        let Record { user, coupon, issued_at: _ } = record;
        let is_rejected = self.has_faults && self.rng.random_ratio(1, 25);
        let is_recorded = match self.database.record(record, is_rejected)? {
            RecordResult::BeforeCutoff => return Ok(()),
            RecordResult::Recorded => true,
            RecordResult::Rejected => false,
        };
        self.tally.returned += usize::from(!is_recorded);
        let shard = user % self.shards.len();
        self.call(Call::Settle { shard, user, coupon, is_recorded });
        Ok(())
    }

    /// An issuer sends a pending outbox entry of another one.
    fn sweep(&mut self, shard: ShardId) {
        if let Some((&entry, records)) = self.shards[shard].outbox.first_key_value() {
            self.database.topic.extend(records);
            self.call(Call::Confirm(shard, entry));
        }
    }

    /// Loads the next assigned coupons.
    fn load(&mut self, shard: ShardId) {
        let first = self.shards[shard].loaded;
        let mut coupons = self.database.assigned_coupons(shard, first);
        coupons.truncate(self.rng.random_range(1..6));
        if !coupons.is_empty() {
            self.call(Call::Load { shard, first, coupons });
        }
    }

    fn deliver_late(&mut self) {
        if !self.late.is_empty() {
            let index = self.rng.random_range(0..self.late.len());
            let call = self.late.swap_remove(index);
            self.execute(&call);
            self.tally.late += 1;
        }
    }

    /// An issuer with its batches, a mover or an operator stops.
    fn end_process(&mut self) {
        match self.rng.random_range(0..4) {
            0 => {
                let keep = self.rng.random_range(0..=self.batches.len());
                self.batches.truncate(keep);
            }
            index @ 1..3 => self.movers[index - 1] = Mover::default(),
            _ => {
                let index = self.rng.random_range(0..self.operators.len());
                self.operators[index] = Operator::default();
            }
        }
    }

    /// Redis restarts without its last writes, or without any data.
    fn lose_data(&mut self, shard: ShardId) {
        self.tally.data_losses += 1;
        self.next_replication_id += 1;
        let history = &mut self.history[shard];
        let back = self.rng.random_range(0..=HISTORY + 2);
        let mut state = match history.len().checked_sub(back) {
            Some(_) if back == 0 => self.shards[shard].clone(),
            Some(kept) => {
                history.truncate(kept + 1);
                history.pop_back().unwrap_or_default()
            }
            None => Shard::default(),
        };
        state.id = shard;
        state.replication_id = self.next_replication_id;
        self.shards[shard] = state;
    }

    /// Adds the issuances which Postgres does not have to the outbox again.
    pub(super) fn resend(&mut self, shard: ShardId) {
        let unverified = &mut self.shards[shard];
        let unrecorded = unverified.issued.iter().filter(|(user, issuance)| {
            !issuance.is_recorded && !self.database.rejected.contains(&(**user, issuance.coupon))
        });
        let records: Vec<Record> = unrecorded
            .map(|(&user, issuance)| Record { user, coupon: issuance.coupon, issued_at: issuance.issued_at })
            .collect();
        if !records.is_empty() {
            self.next_entry += 1;
            unverified.outbox.insert(self.next_entry, records);
        }
    }
}
