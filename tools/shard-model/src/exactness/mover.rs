//! The mover transfers stock to empty shards and allows `SOLD_OUT` when all shards are empty. It may stop after any
//! step; another one continues from the transit records.

use super::{
    Flaw, SOLD_OUT_TTL,
    call::{Call, Reply},
    shard::{Observation, Transfer},
};

#[derive(Default)]
pub(super) struct Mover {
    /// Pending tasks; the last one is next.
    tasks: Vec<Task>,
    observations: Vec<Option<Observation>>,
    /// The observations of the previous round, if all shards were empty in it.
    before: Option<Vec<Observation>>,
}

enum Task {
    Send { source: usize, target: usize, epoch: u64, count: usize },
    Receive(Transfer),
    DeleteTransit(Transfer),
    AllowSoldOut { shard: usize, replication_id: u64, until: u64 },
}

impl Mover {
    /// The next call.
    pub(super) fn next(&self) -> Call {
        match self.tasks.last() {
            None => Call::Observe(self.observations.len()),
            Some(Task::Send { source, target, epoch, count }) => {
                Call::Send { source: *source, target: *target, epoch: *epoch, count: *count }
            }
            Some(Task::Receive(transfer)) => Call::Receive(transfer.clone()),
            Some(Task::DeleteTransit(transfer)) => Call::DeleteTransit(transfer.clone()),
            Some(Task::AllowSoldOut { shard, replication_id, until }) => {
                Call::AllowSoldOut { shard: *shard, replication_id: *replication_id, until: *until }
            }
        }
    }

    /// Handles the reply to the call of [`Self::next`].
    pub(super) fn handle_reply(&mut self, reply: Reply, shards: usize, flaw: Flaw) {
        match (self.tasks.pop(), reply) {
            (None, Reply::Observed(observation)) => {
                self.observations.push(observation);
                if self.observations.len() == shards {
                    self.decide(flaw);
                }
            }
            (Some(Task::Send { .. }), Reply::Sent(Some(transfer))) => {
                let (receive, delete_transit) = (Task::Receive(transfer.clone()), Task::DeleteTransit(transfer));
                self.tasks.extend(if flaw == Flaw::DeleteTransitFirst {
                    [receive, delete_transit]
                } else {
                    [delete_transit, receive]
                });
            }
            // The coupons were not received, so the transit record must stay.
            (Some(Task::Receive(_)), Reply::Done(false)) if flaw != Flaw::DeleteTransitFirst => drop(self.tasks.pop()),
            _ => {}
        }
    }

    fn decide(&mut self, flaw: Flaw) {
        let observations = std::mem::take(&mut self.observations);
        let before = self.before.take();
        let in_transit: Vec<&Transfer> =
            observations.iter().flatten().flat_map(|observation| &observation.in_transit).collect();
        for &transfer in &in_transit {
            self.tasks.extend([Task::DeleteTransit(transfer.clone()), Task::Receive(transfer.clone())]);
        }
        let mut queued: Vec<usize> =
            observations.iter().map(|observation| observation.as_ref().map_or(0, |o| o.queued)).collect();
        let mean = queued.iter().sum::<usize>() / queued.len();
        for (target, observation) in observations.iter().enumerate() {
            let needs_stock = observation
                .as_ref()
                .is_some_and(|observation| observation.has_waiting_users && observation.queued == 0);
            if !needs_stock || in_transit.iter().any(|transfer| transfer.target == target) {
                continue;
            }
            // Coupons come from shards above the mean, down to the mean, until the target reaches it; at least one
            // coupon. So nothing moves back and forth while no users wait.
            let mut wanted = mean.max(1);
            for (source, has) in queued.iter_mut().enumerate() {
                let Some(Some(Observation { epoch, .. })) = observations.get(source) else { continue };
                let count = has.saturating_sub(mean).min(wanted);
                if count > 0 && source != target {
                    self.tasks.push(Task::Send { source, target, epoch: *epoch, count });
                    (*has, wanted) = (*has - count, wanted - count);
                }
            }
        }
        // An unverified shard may hold any coupons.
        let Some(now) = observations.into_iter().collect::<Option<Vec<Observation>>>() else { return };
        if !self.tasks.is_empty() || now.iter().any(|observation| observation.queued > 0) {
            return;
        }
        match before {
            // No stock arrived between the rounds, so there was an instant at which all shards were empty.
            Some(before) if is_same(&before, &now) => self.allow_sold_out(&before, flaw),
            _ if flaw == Flaw::SingleObservation => self.allow_sold_out(&now, flaw),
            _ => self.before = Some(now),
        }
    }

    fn allow_sold_out(&mut self, observations: &[Observation], flaw: Flaw) {
        let ttl = if flaw == Flaw::NoSoldOutExpiry { u64::MAX / 2 } else { SOLD_OUT_TTL };
        self.tasks.extend(observations.iter().enumerate().map(|(shard, observation)| Task::AllowSoldOut {
            shard,
            replication_id: observation.replication_id,
            // The time is from before the observation, by the shard's own clock: a late call allows less time, or
            // none.
            until: observation.now + ttl,
        }));
    }
}

fn is_same(before: &[Observation], now: &[Observation]) -> bool {
    before
        .iter()
        .zip(now)
        .all(|(b, n)| (b.replication_id, b.epoch, b.arrivals) == (n.replication_id, n.epoch, n.arrivals))
}
