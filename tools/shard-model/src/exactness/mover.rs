//! Who moves stock to shards that are dry, and finds out that nothing is left. It may end after any step; another one goes on
//! from what the shards say.

use super::{
    Flaw, LEASE,
    call::{Call, Reply},
    shard::{Glance, Transfer},
};

#[derive(Default)]
pub(super) struct Mover {
    /// What is to be done, the last one first.
    tasks: Vec<Task>,
    glances: Vec<Option<Glance>>,
    /// The glances of the round before, when all shards were dry in it.
    before: Option<Vec<Glance>>,
}

enum Task {
    Give { giver: usize, taker: usize, epoch: u64, count: usize },
    Take(Transfer),
    Forget(Transfer),
    Mark { shard: usize, server: u64, until: u64 },
}

impl Mover {
    /// The next call.
    pub(super) fn next(&self) -> Call {
        match self.tasks.last() {
            None => Call::Look(self.glances.len()),
            Some(Task::Give { giver, taker, epoch, count }) => {
                Call::Give { giver: *giver, taker: *taker, epoch: *epoch, count: *count }
            }
            Some(Task::Take(transfer)) => Call::Take(transfer.clone()),
            Some(Task::Forget(transfer)) => Call::Forget(transfer.clone()),
            Some(Task::Mark { shard, server, until }) => Call::Mark { shard: *shard, server: *server, until: *until },
        }
    }

    /// Goes on with the answer to it.
    pub(super) fn hear(&mut self, reply: Reply, shards: usize, flaw: Flaw) {
        match (self.tasks.pop(), reply) {
            (None, Reply::Look(glance)) => {
                self.glances.push(glance);
                if self.glances.len() == shards {
                    self.decide(flaw);
                }
            }
            (Some(Task::Give { .. }), Reply::Given(Some(transfer))) => {
                let (take, forget) = (Task::Take(transfer.clone()), Task::Forget(transfer));
                self.tasks.extend(if flaw == Flaw::ForgetFirst { [take, forget] } else { [forget, take] });
            }
            // Not taken: so it must not be forgotten either.
            (Some(Task::Take(_)), Reply::Done(false)) if flaw != Flaw::ForgetFirst => drop(self.tasks.pop()),
            _ => {}
        }
    }

    fn decide(&mut self, flaw: Flaw) {
        let glances = std::mem::take(&mut self.glances);
        let before = self.before.take();
        let pending: Vec<&Transfer> = glances.iter().flatten().flat_map(|glance| &glance.pending).collect();
        for &transfer in &pending {
            self.tasks.extend([Task::Forget(transfer.clone()), Task::Take(transfer.clone())]);
        }
        let mut queued: Vec<usize> = glances.iter().map(|glance| glance.as_ref().map_or(0, |g| g.queued)).collect();
        let mean = queued.iter().sum::<usize>() / queued.len();
        for (taker, glance) in glances.iter().enumerate() {
            let is_thirsty = glance.as_ref().is_some_and(|glance| glance.is_wanted && glance.queued == 0);
            if !is_thirsty || pending.iter().any(|transfer| transfer.taker == taker) {
                continue;
            }
            // From those that have more than the mean, down to it, until the taker has as much, and one coupon at least. So nothing
            // goes back and forth while nobody asks.
            let mut wants = mean.max(1);
            for (giver, has) in queued.iter_mut().enumerate() {
                let Some(Some(Glance { epoch, .. })) = glances.get(giver) else { continue };
                let count = has.saturating_sub(mean).min(wants);
                if count > 0 && giver != taker {
                    self.tasks.push(Task::Give { giver, taker, epoch: *epoch, count });
                    (*has, wants) = (*has - count, wants - count);
                }
            }
        }
        // A shard that is not known to be whole may hold anything.
        let Some(now) = glances.into_iter().collect::<Option<Vec<Glance>>>() else { return };
        if !self.tasks.is_empty() || now.iter().any(|glance| glance.queued > 0) {
            return;
        }
        match before {
            // Nothing came in between: so there was an instant at which all of them were dry.
            Some(before) if is_same(&before, &now) => self.mark(&before, flaw),
            _ if flaw == Flaw::OneLook => self.mark(&now, flaw),
            _ => self.before = Some(now),
        }
    }

    fn mark(&mut self, glances: &[Glance], flaw: Flaw) {
        let lease = if flaw == Flaw::LastingMark { u64::MAX / 2 } else { LEASE };
        self.tasks.extend(glances.iter().enumerate().map(|(shard, glance)| Task::Mark {
            shard,
            server: glance.server,
            // From before the look, by the shard's own clock: a mark that comes late is worth less, and then nothing.
            until: glance.now + lease,
        }));
    }
}

fn is_same(before: &[Glance], now: &[Glance]) -> bool {
    before.iter().zip(now).all(|(b, n)| (b.server, b.epoch, b.arrivals) == (n.server, n.epoch, n.arrivals))
}
