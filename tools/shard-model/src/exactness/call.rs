//! Calls to a shard. Each may be carried out late, twice, or without its caller ever hearing of it.

use super::{
    Flaw,
    shard::{Coupon, Glance, Issued, Restored, Shard, ShardId, Time, Transfer, User, Words},
};

#[derive(Clone, Debug)]
pub(super) enum Call {
    Issue(ShardId, Vec<User>),
    Confirm(ShardId, u64),
    Settle { shard: ShardId, user: User, coupon: Coupon, is_recorded: bool },
    Load { shard: ShardId, first: usize, coupons: Vec<Coupon> },
    Look(ShardId),
    Mark { shard: ShardId, server: u64, until: Time },
    Give { giver: ShardId, taker: ShardId, epoch: u64, count: usize },
    Take(Transfer),
    Forget(Transfer),
    Begin { shard: ShardId, server: u64, token: u64 },
    Freeze(ShardId, u64),
    Resolve { shard: ShardId, epoch: u64, verdicts: Vec<(Transfer, bool)> },
    Thaw(ShardId, u64),
    Restore { shard: ShardId, server: u64, token: u64, anew: Restored },
    Adopt { shard: ShardId, server: u64, token: u64, since: Time },
}

pub(super) enum Reply {
    Issued(Option<Issued>),
    Look(Option<Glance>),
    Given(Option<Transfer>),
    Words(Option<Words>),
    Done(bool),
}

impl Call {
    pub(super) fn shard(&self) -> ShardId {
        match self {
            Self::Issue(shard, _)
            | Self::Confirm(shard, _)
            | Self::Settle { shard, .. }
            | Self::Load { shard, .. }
            | Self::Look(shard)
            | Self::Mark { shard, .. }
            | Self::Give { giver: shard, .. }
            | Self::Begin { shard, .. }
            | Self::Freeze(shard, _)
            | Self::Resolve { shard, .. }
            | Self::Thaw(shard, _)
            | Self::Restore { shard, .. }
            | Self::Adopt { shard, .. } => *shard,
            Self::Take(transfer) => transfer.taker,
            Self::Forget(transfer) => transfer.giver,
        }
    }

    pub(super) fn execute(&self, shard: &mut Shard, now: Time, next_entry: &mut u64, flaw: Flaw) -> Reply {
        match self {
            Self::Issue(_, users) => return Reply::Issued(shard.issue(users, now, next_entry)),
            Self::Look(_) => return Reply::Look(shard.look(now)),
            Self::Give { taker, epoch, count, .. } => return Reply::Given(shard.give(*taker, *epoch, *count)),
            Self::Freeze(_, epoch) => return Reply::Words(shard.freeze(*epoch)),
            Self::Begin { server, token, .. } => return Reply::Done(shard.begin(*server, *token)),
            Self::Take(transfer) => return Reply::Done(shard.take(transfer, flaw)),
            Self::Resolve { epoch, verdicts, .. } => return Reply::Done(shard.resolve(*epoch, verdicts)),
            Self::Thaw(_, epoch) => return Reply::Done(shard.thaw(*epoch)),
            Self::Restore { server, token, anew, .. } => {
                return Reply::Done(shard.restore(*server, *token, anew));
            }
            Self::Adopt { server, token, since, .. } => return Reply::Done(shard.adopt(*server, *token, *since)),
            Self::Confirm(_, entry) => drop(shard.outbox.remove(entry)),
            Self::Settle { user, coupon, is_recorded, .. } => shard.settle(*user, *coupon, *is_recorded),
            Self::Load { first, coupons, .. } => shard.load(*first, coupons),
            Self::Mark { server, until, .. } => shard.mark(*server, *until),
            Self::Forget(Transfer { taker, epoch, number, .. }) => shard.forget(*taker, *epoch, *number),
        }
        Reply::Done(true)
    }
}
