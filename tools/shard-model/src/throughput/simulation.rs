//! Processes the events of the model in order of time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use super::{Measurements, Scenario, cost};

/// Nanoseconds.
type Time = u64;

const MILLISECOND: Time = 1_000_000;
/// Network latency between an issuer and Redis, one way. Assumed: two machines in one zone.
const NETWORK_DELAY: Time = 150_000;
/// `--max-batch` of the issuer.
const MAX_BATCH: usize = 512;
/// Delay before an issuer retries at an empty shard.
const RETRY_DELAY: Time = 2 * MILLISECOND;
/// Pause of the mover while no shard is low.
const MOVER_INTERVAL: Time = 5 * MILLISECOND;
/// How long a shard may return `SOLD_OUT` after all shards were seen empty.
const SOLD_OUT_TTL: Time = 1000 * MILLISECOND;
/// Maximum number of coupons in one transfer.
const MAX_TRANSFER: usize = 1000;

#[derive(Clone, Copy)]
struct Request {
    arrived: Time,
    has_waited: bool,
}

#[derive(Default)]
struct Connection {
    waiting: VecDeque<Request>,
    is_busy: bool,
}

#[derive(Default, Clone)]
struct Shard {
    stock: usize,
    /// When Redis will have executed all calls sent so far.
    free_at: Time,
    busy: Time,
    arrivals: u64,
    sold_out_until: Time,
    has_waiting_users: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    /// The response to a call on this connection.
    Response {
        connection: usize,
    },
    /// Requests whose shard was empty are sent again.
    Retry {
        connection: usize,
        users: Vec<(Time, bool)>,
    },
    Observe,
    PlanTransfers {
        observed: Vec<(usize, u64, bool)>,
    },
    Receive {
        source: usize,
        target: usize,
        coupons: usize,
    },
}

/// Runs the model.
#[must_use]
pub fn simulate(scenario: &Scenario, seed: u64) -> Measurements {
    Model::new(scenario, seed).run()
}

struct Model<'a> {
    scenario: &'a Scenario,
    rng: ChaCha8Rng,
    now: Time,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    sequence: u64,
    /// One for each issuer and shard.
    connections: Vec<Connection>,
    shards: Vec<Shard>,
    arrived: usize,
    answered: usize,
    in_transit: usize,
    /// The arrival counts of the previous observation, if all shards were empty in it.
    empty_before: Option<Vec<u64>>,
    first_empty: Option<Time>,
    all_issued_at: Option<Time>,
    sold_out_known_at: Option<Time>,
    /// Calls, requests in them, and CPU time of Redis, until all coupons were issued.
    calls: usize,
    users: usize,
    busy: Time,
    issued: Vec<Time>,
    sold_out: Vec<Time>,
    measurements: Measurements,
}

impl<'a> Model<'a> {
    fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let Scenario { shards, issuers, stock, .. } = *scenario;
        let initial = |shard| stock / shards + usize::from(shard < stock % shards);
        let mut model = Self {
            scenario,
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            connections: (0..shards * issuers).map(|_| Connection::default()).collect(),
            shards: (0..shards).map(|shard| Shard { stock: initial(shard), ..Shard::default() }).collect(),
            arrived: 0,
            answered: 0,
            in_transit: 0,
            empty_before: None,
            first_empty: None,
            all_issued_at: None,
            sold_out_known_at: None,
            calls: 0,
            users: 0,
            busy: 0,
            issued: Vec::new(),
            sold_out: Vec::new(),
            measurements: Measurements::default(),
        };
        model.schedule(0, Event::Arrival);
        model.schedule(0, Event::Observe);
        model
    }

    fn schedule(&mut self, time: Time, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    fn run(mut self) -> Measurements {
        while self.answered < self.scenario.requests {
            let Some(Reverse((now, _, event))) = self.events.pop() else { break };
            self.now = now;
            match event {
                Event::Arrival => self.arrive(),
                Event::Response { connection } => {
                    self.connections[connection].is_busy = false;
                    self.send(connection);
                }
                Event::Retry { connection, users } => {
                    let users = users.into_iter().map(|(arrived, has_waited)| Request { arrived, has_waited });
                    self.connections[connection].waiting.extend(users);
                    self.send(connection);
                }
                Event::Observe => self.observe(),
                Event::PlanTransfers { observed } => self.plan_transfers(&observed),
                Event::Receive { source, target, coupons } => self.receive(source, target, coupons),
            }
        }
        self.summarize()
    }

    fn arrive(&mut self) {
        self.arrived += 1;
        if self.arrived < self.scenario.requests {
            let gap = -(1.0 - self.rng.random::<f64>()).ln() / self.scenario.rate * 1e9;
            self.schedule(self.now + nanoseconds(gap), Event::Arrival);
        }
        let mut connection = self.rng.random_range(0..self.connections.len());
        if self.rng.random::<f64>() < self.scenario.hot_share {
            connection -= connection % self.scenario.shards;
        }
        self.connections[connection].waiting.push_back(Request { arrived: self.now, has_waited: false });
        self.send(connection);
    }

    /// Sends the waiting requests, unless a call is in progress.
    fn send(&mut self, connection: usize) {
        if self.connections[connection].is_busy || self.connections[connection].waiting.is_empty() {
            return;
        }
        let batch = self.connections[connection].waiting.len().min(MAX_BATCH);
        let users: Vec<Request> = self.connections[connection].waiting.drain(..batch).collect();
        self.connections[connection].is_busy = true;
        let shard = connection % self.scenario.shards;
        let issued = users.len().min(self.shards[shard].stock);
        let (started, done) = self.occupy(shard, cost::call(issued, users.len() - issued));
        if self.all_issued_at.is_none() {
            self.calls += 1;
            self.users += users.len();
        }
        let state = &mut self.shards[shard];
        state.stock -= issued;
        let may_return_sold_out = started < state.sold_out_until || self.scenario.shards == 1;
        if issued < users.len() && !may_return_sold_out {
            state.has_waiting_users = true;
            self.first_empty.get_or_insert(started);
        }
        let response = done + NETWORK_DELAY;
        let mut retried = Vec::new();
        for (i, user) in users.into_iter().enumerate() {
            if i < issued {
                self.issued.push(response - user.arrived);
                self.measurements.issued_after_wait += usize::from(user.has_waited);
            } else if may_return_sold_out {
                self.sold_out.push(response - user.arrived);
                self.measurements.sold_out_after_wait += usize::from(user.has_waited);
            } else {
                retried.push((user.arrived, true));
                continue;
            }
            self.answered += 1;
        }
        if self.all_issued_at.is_none() && self.in_transit == 0 && self.shards.iter().all(|shard| shard.stock == 0) {
            self.all_issued_at = Some(started);
            self.busy = self.shards.iter().map(|shard| shard.busy).sum();
        }
        self.schedule(response, Event::Response { connection });
        if !retried.is_empty() {
            self.schedule(response + RETRY_DELAY, Event::Retry { connection, users: retried });
        }
    }

    /// Start and end of a call to Redis that is sent now.
    fn occupy(&mut self, shard: usize, micros: f64) -> (Time, Time) {
        let (work, now) = (nanoseconds(micros * 1e3), self.now);
        let state = &mut self.shards[shard];
        let started = state.free_at.max(now + NETWORK_DELAY);
        state.free_at = started + work;
        state.busy += work;
        (started, started + work)
    }

    fn observe(&mut self) {
        let mut all = self.now;
        for shard in 0..self.scenario.shards {
            let (_, done) = self.occupy(shard, cost::OBSERVE);
            all = all.max(done + NETWORK_DELAY);
        }
        let observed = self.shards.iter().map(|shard| (shard.stock, shard.arrivals, shard.has_waiting_users)).collect();
        self.schedule(all, Event::PlanTransfers { observed });
    }

    fn plan_transfers(&mut self, observed: &[(usize, u64, bool)]) {
        let mut stocks: Vec<usize> = observed.iter().map(|(stock, ..)| *stock).collect();
        let (mut last, mut transfers) = (self.now, Vec::new());
        let mean = stocks.iter().sum::<usize>() / stocks.len();
        for (target, (stock, _, has_waiting_users)) in observed.iter().enumerate() {
            let is_low = *stock < self.scenario.low_water_mark && mean > self.scenario.low_water_mark;
            let mut wanted = if *has_waiting_users && *stock == 0 { mean.max(1) } else { mean - stock.min(&mean) };
            if !(is_low || (*has_waiting_users && *stock == 0)) {
                continue;
            }
            for (source, has) in stocks.iter_mut().enumerate() {
                let excess = has.saturating_sub(mean).min(wanted).min(MAX_TRANSFER);
                // The observation may be some milliseconds old.
                let coupons = excess.min(self.shards[source].stock);
                if source == target || coupons == 0 {
                    continue;
                }
                (*has, wanted) = (*has - coupons, wanted - coupons);
                self.shards[source].stock -= coupons;
                transfers.push((source, target, coupons));
            }
        }
        for (source, target, coupons) in transfers {
            let (_, done) = self.occupy(source, cost::transfer(coupons));
            self.in_transit += 1;
            last = last.max(done);
            self.schedule(done + NETWORK_DELAY, Event::Receive { source, target, coupons });
        }
        if last > self.now {
            // The next observation takes place when these transfers have about arrived.
            self.empty_before = None;
            return self.schedule(last + 3 * NETWORK_DELAY, Event::Observe);
        }
        let arrivals: Vec<u64> = observed.iter().map(|(_, arrivals, _)| *arrivals).collect();
        if observed.iter().any(|(stock, ..)| *stock > 0) || self.in_transit > 0 {
            self.empty_before = None;
            let is_urgent = observed.iter().any(|(_, _, has_waiting_users)| *has_waiting_users);
            return self.schedule(self.now + if is_urgent { 0 } else { MOVER_INTERVAL }, Event::Observe);
        }
        if self.empty_before.as_ref() != Some(&arrivals) {
            self.empty_before = Some(arrivals);
            return self.schedule(self.now, Event::Observe);
        }
        self.empty_before = None;
        self.sold_out_known_at.get_or_insert(self.now);
        for shard in 0..self.scenario.shards {
            let (started, _) = self.occupy(shard, cost::OBSERVE);
            self.shards[shard].sold_out_until = started + SOLD_OUT_TTL;
        }
        self.schedule(self.now + SOLD_OUT_TTL / 4, Event::Observe);
    }

    fn receive(&mut self, source: usize, target: usize, coupons: usize) {
        self.occupy(target, cost::transfer(coupons));
        self.occupy(source, cost::OBSERVE);
        let state = &mut self.shards[target];
        state.stock += coupons;
        state.arrivals += 1;
        state.has_waiting_users = false;
        self.in_transit -= 1;
        self.measurements.transfers += 1;
        self.measurements.coupons_moved += coupons;
    }

    fn summarize(mut self) -> Measurements {
        let until = self.all_issued_at.unwrap_or(self.now).max(1);
        let milliseconds = |time: Option<&Time>| time.map_or(0.0, |time| microseconds(*time) / 1e3);
        self.issued.sort_unstable();
        self.sold_out.sort_unstable();
        let percentile = |times: &[Time], percent: usize| milliseconds(times.get(times.len() * percent / 100));
        let sold_out_delay = self.first_empty.zip(self.sold_out_known_at).map(|(from, to)| to.saturating_sub(from));
        Measurements {
            mean_batch: cost::float(self.users) / cost::float(self.calls.max(1)),
            utilisation: microseconds(self.busy) / microseconds(until) / cost::float(self.scenario.shards),
            issued_p50: percentile(&self.issued, 50),
            issued_p99: percentile(&self.issued, 99),
            sold_out_p50: percentile(&self.sold_out, 50),
            sold_out_p99: percentile(&self.sold_out, 99),
            sold_out: self.sold_out.len(),
            sold_out_delay: milliseconds(sold_out_delay.as_ref()),
            unissued: self.shards.iter().map(|shard| shard.stock).sum(),
            ..self.measurements
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
