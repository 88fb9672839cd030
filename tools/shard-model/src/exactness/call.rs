//! Calls to a shard. The simulation may execute a call late or twice, or lose its reply.

use super::{
    Flaw,
    shard::{Coupon, FrozenState, IssueResult, Observation, RestoredState, Shard, ShardId, Time, Transfer, User},
};

#[derive(Clone, Debug)]
pub(super) enum Call {
    Issue(ShardId, Vec<User>),
    Confirm(ShardId, u64),
    Settle { shard: ShardId, user: User, coupon: Coupon, is_recorded: bool },
    Load { shard: ShardId, first: usize, coupons: Vec<Coupon> },
    Observe(ShardId),
    AllowSoldOut { shard: ShardId, replication_id: u64, until: Time },
    Send { source: ShardId, target: ShardId, epoch: u64, count: usize },
    Receive(Transfer),
    DeleteTransit(Transfer),
    BeginRecovery { shard: ShardId, replication_id: u64, recovery_id: u64 },
    Freeze(ShardId, u64),
    Resolve { shard: ShardId, epoch: u64, resolutions: Vec<(Transfer, bool)> },
    Unfreeze(ShardId, u64),
    Restore { shard: ShardId, replication_id: u64, recovery_id: u64, state: RestoredState },
    MarkVerified { shard: ShardId, replication_id: u64, recovery_id: u64, min_issued_at: Time },
}

pub(super) enum Reply {
    Issued(Option<IssueResult>),
    Observed(Option<Observation>),
    Sent(Option<Transfer>),
    Frozen(Option<FrozenState>),
    Done(bool),
}

impl Call {
    pub(super) fn shard(&self) -> ShardId {
        match self {
            Self::Issue(shard, _)
            | Self::Confirm(shard, _)
            | Self::Settle { shard, .. }
            | Self::Load { shard, .. }
            | Self::Observe(shard)
            | Self::AllowSoldOut { shard, .. }
            | Self::Send { source: shard, .. }
            | Self::BeginRecovery { shard, .. }
            | Self::Freeze(shard, _)
            | Self::Resolve { shard, .. }
            | Self::Unfreeze(shard, _)
            | Self::Restore { shard, .. }
            | Self::MarkVerified { shard, .. } => *shard,
            Self::Receive(transfer) => transfer.target,
            Self::DeleteTransit(transfer) => transfer.source,
        }
    }

    pub(super) fn execute(&self, shard: &mut Shard, now: Time, next_entry: &mut u64, flaw: Flaw) -> Reply {
        match self {
            Self::Issue(_, users) => return Reply::Issued(shard.issue(users, now, next_entry)),
            Self::Observe(_) => return Reply::Observed(shard.observe(now)),
            Self::Send { target, epoch, count, .. } => return Reply::Sent(shard.send(*target, *epoch, *count)),
            Self::Freeze(_, epoch) => return Reply::Frozen(shard.freeze(*epoch)),
            Self::BeginRecovery { replication_id, recovery_id, .. } => {
                return Reply::Done(shard.begin_recovery(*replication_id, *recovery_id));
            }
            Self::Receive(transfer) => return Reply::Done(shard.receive(transfer, flaw)),
            Self::Resolve { epoch, resolutions, .. } => return Reply::Done(shard.resolve(*epoch, resolutions)),
            Self::Unfreeze(_, epoch) => return Reply::Done(shard.unfreeze(*epoch)),
            Self::Restore { replication_id, recovery_id, state, .. } => {
                return Reply::Done(shard.restore(*replication_id, *recovery_id, state));
            }
            Self::MarkVerified { replication_id, recovery_id, min_issued_at, .. } => {
                return Reply::Done(shard.mark_verified(*replication_id, *recovery_id, *min_issued_at));
            }
            Self::Confirm(_, entry) => drop(shard.outbox.remove(entry)),
            Self::Settle { user, coupon, is_recorded, .. } => shard.settle(*user, *coupon, *is_recorded),
            Self::Load { first, coupons, .. } => shard.load(*first, coupons),
            Self::AllowSoldOut { replication_id, until, .. } => shard.allow_sold_out(*replication_id, *until),
            Self::DeleteTransit(Transfer { target, epoch, number, .. }) => {
                shard.delete_transit(*target, *epoch, *number);
            }
        }
        Reply::Done(true)
    }
}
