//! The events of the model, in the order of their time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use super::{Findings, Setting, cost};

/// Nanoseconds.
type Time = u64;

const MILLISECOND: Time = 1_000_000;
/// From an issuer to Redis, or back. Assumed: two machines of one zone.
const WAY: Time = 150_000;
/// `--max-batch` of the issuer.
const MAX_BATCH: usize = 512;
/// How long an issuer waits before it asks a dry shard again.
const RETRY: Time = 2 * MILLISECOND;
/// How long the mover rests while no shard is low.
const REST: Time = 5 * MILLISECOND;
/// For how long a shard may say `SOLD_OUT` once it was found.
const LEASE: Time = 1000 * MILLISECOND;
/// The most coupons in one transfer.
const MAX_TRANSFER: usize = 1000;

#[derive(Clone, Copy)]
struct User {
    came: Time,
    was_held_back: bool,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<User>,
    is_busy: bool,
}

#[derive(Default, Clone)]
struct Shard {
    stock: usize,
    /// When Redis is through with all calls that it was sent.
    free_at: Time,
    busy: Time,
    arrivals: u64,
    sold_out_until: Time,
    is_wanted: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    /// The answer to a call of this line.
    Answer {
        line: usize,
    },
    /// Users who found their shard dry ask again.
    Again {
        line: usize,
        users: Vec<(Time, bool)>,
    },
    Look,
    Decide {
        seen: Vec<(usize, u64, bool)>,
    },
    Take {
        giver: usize,
        taker: usize,
        coupons: usize,
    },
}

/// Runs the model.
#[must_use]
pub fn simulate(setting: &Setting, seed: u64) -> Findings {
    Model::new(setting, seed).run()
}

struct Model<'a> {
    setting: &'a Setting,
    rng: ChaCha8Rng,
    now: Time,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    sequence: u64,
    /// One for each issuer and shard.
    lines: Vec<Line>,
    shards: Vec<Shard>,
    asked: usize,
    answered: usize,
    under_way: usize,
    /// What all shards said in the last look, when all were dry.
    dry_before: Option<Vec<u64>>,
    first_dry: Option<Time>,
    used_up: Option<Time>,
    proven: Option<Time>,
    /// Calls, and users in them, while there were coupons; and how long Redis worked.
    calls: usize,
    users: usize,
    busy: Time,
    given: Vec<Time>,
    refused: Vec<Time>,
    findings: Findings,
}

impl<'a> Model<'a> {
    fn new(setting: &'a Setting, seed: u64) -> Self {
        let Setting { shards, issuers, stock, .. } = *setting;
        let dealt = |shard| stock / shards + usize::from(shard < stock % shards);
        let mut model = Self {
            setting,
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            lines: (0..shards * issuers).map(|_| Line::default()).collect(),
            shards: (0..shards).map(|shard| Shard { stock: dealt(shard), ..Shard::default() }).collect(),
            asked: 0,
            answered: 0,
            under_way: 0,
            dry_before: None,
            first_dry: None,
            used_up: None,
            proven: None,
            calls: 0,
            users: 0,
            busy: 0,
            given: Vec::new(),
            refused: Vec::new(),
            findings: Findings::default(),
        };
        model.at(0, Event::Arrival);
        model.at(0, Event::Look);
        model
    }

    fn at(&mut self, time: Time, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    fn run(mut self) -> Findings {
        while self.answered < self.setting.requests {
            let Some(Reverse((now, _, event))) = self.events.pop() else { break };
            self.now = now;
            match event {
                Event::Arrival => self.arrive(),
                Event::Answer { line } => {
                    self.lines[line].is_busy = false;
                    self.send(line);
                }
                Event::Again { line, users } => {
                    let users = users.into_iter().map(|(came, was_held_back)| User { came, was_held_back });
                    self.lines[line].waiting.extend(users);
                    self.send(line);
                }
                Event::Look => self.look(),
                Event::Decide { seen } => self.decide(&seen),
                Event::Take { giver, taker, coupons } => self.take(giver, taker, coupons),
            }
        }
        self.conclude()
    }

    fn arrive(&mut self) {
        self.asked += 1;
        if self.asked < self.setting.requests {
            let gap = -(1.0 - self.rng.random::<f64>()).ln() / self.setting.rate * 1e9;
            self.at(self.now + nanoseconds(gap), Event::Arrival);
        }
        let mut line = self.rng.random_range(0..self.lines.len());
        if self.rng.random::<f64>() < self.setting.heat {
            line -= line % self.setting.shards;
        }
        self.lines[line].waiting.push_back(User { came: self.now, was_held_back: false });
        self.send(line);
    }

    /// Sends who waits, unless a call is under way.
    fn send(&mut self, line: usize) {
        if self.lines[line].is_busy || self.lines[line].waiting.is_empty() {
            return;
        }
        let batch = self.lines[line].waiting.len().min(MAX_BATCH);
        let users: Vec<User> = self.lines[line].waiting.drain(..batch).collect();
        self.lines[line].is_busy = true;
        let shard = line % self.setting.shards;
        let given = users.len().min(self.shards[shard].stock);
        let (begun, done) = self.occupy(shard, cost::call(given, users.len() - given));
        if self.used_up.is_none() {
            self.calls += 1;
            self.users += users.len();
        }
        let state = &mut self.shards[shard];
        state.stock -= given;
        let may_refuse = begun < state.sold_out_until || self.setting.shards == 1;
        if given < users.len() && !may_refuse {
            state.is_wanted = true;
            self.first_dry.get_or_insert(begun);
        }
        let answer = done + WAY;
        let mut again = Vec::new();
        for (i, user) in users.into_iter().enumerate() {
            if i < given {
                self.given.push(answer - user.came);
                self.findings.rescued += usize::from(user.was_held_back);
            } else if may_refuse {
                self.refused.push(answer - user.came);
                self.findings.held_back += usize::from(user.was_held_back);
            } else {
                again.push((user.came, true));
                continue;
            }
            self.answered += 1;
        }
        if self.used_up.is_none() && self.under_way == 0 && self.shards.iter().all(|shard| shard.stock == 0) {
            self.used_up = Some(begun);
            self.busy = self.shards.iter().map(|shard| shard.busy).sum();
        }
        self.at(answer, Event::Answer { line });
        if !again.is_empty() {
            self.at(answer + RETRY, Event::Again { line, users: again });
        }
    }

    /// When Redis begins with a call that is sent now, and when it is through.
    fn occupy(&mut self, shard: usize, micros: f64) -> (Time, Time) {
        let (work, now) = (nanoseconds(micros * 1e3), self.now);
        let state = &mut self.shards[shard];
        let begun = state.free_at.max(now + WAY);
        state.free_at = begun + work;
        state.busy += work;
        (begun, begun + work)
    }

    fn look(&mut self) {
        let mut all = self.now;
        for shard in 0..self.setting.shards {
            let (_, done) = self.occupy(shard, cost::LOOK);
            all = all.max(done + WAY);
        }
        let seen = self.shards.iter().map(|shard| (shard.stock, shard.arrivals, shard.is_wanted)).collect();
        self.at(all, Event::Decide { seen });
    }

    fn decide(&mut self, seen: &[(usize, u64, bool)]) {
        let mut stocks: Vec<usize> = seen.iter().map(|(stock, ..)| *stock).collect();
        let (mut last, mut moves) = (self.now, Vec::new());
        let mean = stocks.iter().sum::<usize>() / stocks.len();
        for (taker, (stock, _, is_wanted)) in seen.iter().enumerate() {
            let is_low = *stock < self.setting.low_water && mean > self.setting.low_water;
            let mut wants = if *is_wanted && *stock == 0 { mean.max(1) } else { mean - stock.min(&mean) };
            if !(is_low || (*is_wanted && *stock == 0)) {
                continue;
            }
            for (giver, has) in stocks.iter_mut().enumerate() {
                let excess = has.saturating_sub(mean).min(wants).min(MAX_TRANSFER);
                // The look is some milliseconds old.
                let coupons = excess.min(self.shards[giver].stock);
                if giver == taker || coupons == 0 {
                    continue;
                }
                (*has, wants) = (*has - coupons, wants - coupons);
                self.shards[giver].stock -= coupons;
                moves.push((giver, taker, coupons));
            }
        }
        for (giver, taker, coupons) in moves {
            let (_, done) = self.occupy(giver, cost::transfer(coupons));
            self.under_way += 1;
            last = last.max(done);
            self.at(done + WAY, Event::Take { giver, taker, coupons });
        }
        if last > self.now {
            // The next look comes when what was sent has arrived, about.
            self.dry_before = None;
            return self.at(last + 3 * WAY, Event::Look);
        }
        let arrivals: Vec<u64> = seen.iter().map(|(_, arrivals, _)| *arrivals).collect();
        if seen.iter().any(|(stock, ..)| *stock > 0) || self.under_way > 0 {
            self.dry_before = None;
            let is_urgent = seen.iter().any(|(_, _, is_wanted)| *is_wanted);
            return self.at(self.now + if is_urgent { 0 } else { REST }, Event::Look);
        }
        if self.dry_before.as_ref() != Some(&arrivals) {
            self.dry_before = Some(arrivals);
            return self.at(self.now, Event::Look);
        }
        self.dry_before = None;
        self.proven.get_or_insert(self.now);
        for shard in 0..self.setting.shards {
            let (begun, _) = self.occupy(shard, cost::LOOK);
            self.shards[shard].sold_out_until = begun + LEASE;
        }
        self.at(self.now + LEASE / 4, Event::Look);
    }

    fn take(&mut self, giver: usize, taker: usize, coupons: usize) {
        self.occupy(taker, cost::transfer(coupons));
        self.occupy(giver, cost::LOOK);
        let state = &mut self.shards[taker];
        state.stock += coupons;
        state.arrivals += 1;
        state.is_wanted = false;
        self.under_way -= 1;
        self.findings.moves += 1;
        self.findings.moved += coupons;
    }

    fn conclude(mut self) -> Findings {
        let until = self.used_up.unwrap_or(self.now).max(1);
        let milliseconds = |time: Option<&Time>| time.map_or(0.0, |time| microseconds(*time) / 1e3);
        self.given.sort_unstable();
        self.refused.sort_unstable();
        let percentile = |times: &[Time], percent: usize| milliseconds(times.get(times.len() * percent / 100));
        let end_game = self.first_dry.zip(self.proven).map(|(from, to)| to.saturating_sub(from));
        Findings {
            batch: cost::real(self.users) / cost::real(self.calls.max(1)),
            utilisation: microseconds(self.busy) / microseconds(until) / cost::real(self.setting.shards),
            given_p50: percentile(&self.given, 50),
            given_p99: percentile(&self.given, 99),
            refused_p50: percentile(&self.refused, 50),
            refused_p99: percentile(&self.refused, 99),
            refused: self.refused.len(),
            end_game: milliseconds(end_game.as_ref()),
            left: self.shards.iter().map(|shard| shard.stock).sum(),
            ..self.findings
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times of a run, far below 2^52")]
fn nanoseconds(nanos: f64) -> Time {
    nanos.max(0.0) as Time
}

#[expect(clippy::cast_precision_loss, reason = "times of a run, far below 2^52")]
fn microseconds(time: Time) -> f64 {
    time as f64 / 1e3
}
