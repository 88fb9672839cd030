//! All that takes part in a run, and what happens next.

use std::collections::{BTreeMap, VecDeque};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use super::{
    Flaw, Tally,
    call::{Call, Reply},
    database::{Database, Recording},
    issuer::Batch,
    mover::Mover,
    operator::Operator,
    shard::{Record, Shard, ShardId, Time, User},
};

/// Steps with faults.
const STEPS: u64 = 500;
/// Steps in which a healed event must come to its end.
const PATIENCE: u64 = 20_000;
/// States of a shard that it may go back to.
const HISTORY: usize = 12;

pub(super) struct World {
    pub(super) now: Time,
    pub(super) flaw: Flaw,
    pub(super) shards: Vec<Shard>,
    pub(super) database: Database,
    pub(super) batches: Vec<Batch>,
    pub(super) told: BTreeMap<User, usize>,
    /// When all shards were dry the last time.
    pub(super) last_dry: Option<Time>,
    pub(super) tally: Tally,
    rng: ChaCha8Rng,
    /// What the clock of each shard's machine is ahead.
    offsets: Vec<Time>,
    history: Vec<VecDeque<Shard>>,
    /// Calls that are still to be carried out, though nobody waits for them.
    late: Vec<Call>,
    movers: Vec<Mover>,
    operators: Vec<Operator>,
    has_faults: bool,
    next_server: u64,
    next_entry: u64,
    next_user: User,
}

impl World {
    pub(super) fn new(seed: u64, flaw: Flaw) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let count = rng.random_range(2..=5);
        Self {
            now: 1,
            flaw,
            shards: (0..count).map(|id| Shard::new(id, 1 + id as u64)).collect(),
            database: Database::new(count, rng.random_range(4..25)),
            batches: Vec::new(),
            told: BTreeMap::new(),
            last_dry: None,
            tally: Tally::default(),
            offsets: (0..count).map(|_| rng.random_range(0..50)).collect(),
            history: vec![VecDeque::new(); count],
            late: Vec::new(),
            movers: vec![Mover::default(), Mover::default()],
            operators: vec![Operator::default(), Operator::default()],
            has_faults: true,
            next_server: 100,
            next_entry: 0,
            next_user: 100_000,
            rng,
        }
    }

    pub(super) fn run(mut self) -> Result<Tally, String> {
        let heat = self.rng.random_range(0..self.shards.len());
        for _ in 0..STEPS {
            self.step(heat).and_then(|()| self.check()).map_err(|what| format!("step {}: {what}", self.now))?;
        }
        self.has_faults = false;
        let asks: Vec<ShardId> = (0..self.shards.len()).filter(|&shard| shard == heat || self.rng.random()).collect();
        let told = self.tally.sold_out;
        while !self.is_over() || self.tally.sold_out == told {
            self.heal(&asks).and_then(|()| self.check()).map_err(|what| format!("step {}: {what}", self.now))?;
            if self.now > PATIENCE {
                return Err(format!("the sale does not end: {} recorded", self.database.holder.len()));
            }
        }
        self.check_end()?;
        self.tally.recorded = self.database.holder.len();
        Ok(self.tally)
    }

    /// One thing happens. More users are of the shard `heat` than of the others.
    fn step(&mut self, heat: ShardId) -> Result<(), String> {
        self.now += 1;
        let shard = self.rng.random_range(0..self.shards.len());
        match self.rng.random_range(0..967) {
            0..200 => {
                let shard = if self.rng.random_ratio(2, 3) { heat } else { shard };
                let users = (0..self.rng.random_range(1..4))
                    .map(|_| shard + self.shards.len() * self.rng.random_range(0..30))
                    .collect::<std::collections::BTreeSet<User>>();
                return self.ask(shard, users.into_iter().collect());
            }
            200..350 => return self.proceed(),
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
            _ => self.lose(shard),
        }
        Ok(())
    }

    /// One thing happens that ends what was begun; new users of the shards `asks` come.
    fn heal(&mut self, asks: &[ShardId]) -> Result<(), String> {
        self.now += 1;
        let shard = self.rng.random_range(0..self.shards.len());
        match self.rng.random_range(0..12) {
            0 => {
                let shard = asks[self.rng.random_range(0..asks.len())];
                self.next_user += 1;
                return self.ask(shard, vec![shard + self.shards.len() * self.next_user]);
            }
            1 => return self.proceed(),
            2..6 => self.step_mover(0),
            6 => return self.consume(),
            7 => self.sweep(shard),
            8 => self.step_operator(0),
            9 => self.load(shard),
            _ => self.deliver_late(),
        }
        Ok(())
    }

    /// Everyone who asks hears `SOLD_OUT` by now, and all has arrived.
    fn is_over(&self) -> bool {
        let is_quiet = |shard: &Shard| {
            shard.is_whole()
                && shard.outbox.is_empty()
                && shard.pending.is_empty()
                && shard.loaded == self.database.dealt(shard.id, 0).len()
        };
        self.shards.iter().all(is_quiet)
            && self.late.is_empty()
            && self.batches.is_empty()
            && self.database.offset == self.database.topic.len()
            && self.last_dry == Some(self.now)
    }

    /// Carries out a call, unless it is late. None: the caller hears nothing.
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
        if self.has_faults && !matches!(call, Call::Look(_)) && self.rng.random() {
            let history = &mut self.history[id];
            history.push_back(shard.clone());
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
        if let Call::Take(transfer) = call {
            self.tally.moves += usize::from(shard.is_whole() && !shard.has_taken(transfer));
        }
        call.execute(shard, now, &mut self.next_entry, self.flaw)
    }

    pub(super) fn clock(&self, shard: ShardId) -> Time {
        self.now + self.offsets[shard]
    }

    fn ask(&mut self, shard: ShardId, users: Vec<User>) -> Result<(), String> {
        match self.call(Call::Issue(shard, users)) {
            Some(Reply::Issued(Some(issued))) => self.answered(shard, issued),
            _ => Ok(()),
        }
    }

    fn proceed(&mut self) -> Result<(), String> {
        match self.batches.len() {
            0 => Ok(()),
            batches => {
                let index = self.rng.random_range(0..batches);
                self.go_on(index)
            }
        }
    }

    fn step_mover(&mut self, index: usize) {
        let call = self.movers[index].next();
        let (shards, flaw) = (self.shards.len(), self.flaw);
        match self.call(call) {
            Some(reply) => self.movers[index].hear(reply, shards, flaw),
            None => self.movers[index] = Mover::default(),
        }
    }

    fn step_operator(&mut self, index: usize) {
        let before = self.database.attempt;
        let mut operator = std::mem::take(&mut self.operators[index]);
        operator.step(self);
        self.operators[index] = operator;
        self.tally.recoveries += usize::from(self.database.attempt > before);
    }

    /// The consumers read the next record, or an earlier one again.
    fn consume(&mut self) -> Result<(), String> {
        let end = self.database.topic.len();
        let is_repeated = self.has_faults && end > 0 && self.rng.random_ratio(1, 8);
        let index = if is_repeated { self.rng.random_range(0..end) } else { self.database.offset };
        let Some(&record) = self.database.topic.get(index) else { return Ok(()) };
        if index == self.database.offset {
            self.database.offset += 1;
        }
        let Record { user, coupon, issued_at: _ } = record;
        let is_refused = self.has_faults && self.rng.random_ratio(1, 25);
        let is_recorded = match self.database.record(record, is_refused)? {
            Recording::TooLate => return Ok(()),
            Recording::Recorded => true,
            Recording::Refused => false,
        };
        self.tally.returned += usize::from(!is_recorded);
        let shard = user % self.shards.len();
        self.call(Call::Settle { shard, user, coupon, is_recorded });
        Ok(())
    }

    /// Some issuer sends what another one left.
    fn sweep(&mut self, shard: ShardId) {
        if let Some((&entry, records)) = self.shards[shard].outbox.first_key_value() {
            self.database.topic.extend(records);
            self.call(Call::Confirm(shard, entry));
        }
    }

    /// Loads some of what exists and is not loaded.
    fn load(&mut self, shard: ShardId) {
        let first = self.shards[shard].loaded;
        let mut coupons = self.database.dealt(shard, first);
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

    /// An issuer with its batches, a mover or an operator ends.
    fn end_process(&mut self) {
        match self.rng.random_range(0..4) {
            0 => {
                let keep = self.rng.random_range(0..=self.batches.len());
                self.batches.truncate(keep);
            }
            index @ 1..3 => self.movers[index - 1] = Mover::default(),
            _ => {
                let index = self.rng.random_range(0..self.operators.len());
                self.operators[index].end();
            }
        }
    }

    /// A Redis starts again without its last writes, or with nothing.
    fn lose(&mut self, shard: ShardId) {
        self.tally.forgotten += 1;
        self.next_server += 1;
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
        state.server = self.next_server;
        self.shards[shard] = state;
    }

    /// Puts into the outbox once more what this shard says was given and Postgres does not know.
    pub(super) fn resend(&mut self, shard: ShardId) {
        let lost = &mut self.shards[shard];
        let promised = lost.issued.iter().filter(|(user, holding)| {
            !holding.is_recorded && !self.database.refused.contains(&(**user, holding.coupon))
        });
        let records: Vec<Record> = promised
            .map(|(&user, holding)| Record { user, coupon: holding.coupon, issued_at: holding.issued_at })
            .collect();
        if !records.is_empty() {
            self.next_entry += 1;
            lost.outbox.insert(self.next_entry, records);
        }
    }
}
