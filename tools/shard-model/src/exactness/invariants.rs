//! What must hold at any time. Nothing here is known to any process of the design.

use super::{LEASE, shard::User, world::World};

impl World {
    /// Each coupon is in one place, and with the user who is recorded to have it.
    pub(super) fn check(&mut self) -> Result<(), String> {
        let mut places = vec![0_u8; self.database.stock];
        let mut is_dry = true;
        for shard in &self.shards {
            if !shard.is_whole() {
                is_dry = false;
                continue;
            }
            is_dry &= shard.queue.is_empty();
            for &coupon in &shard.queue {
                places[coupon] += 1;
                if let Some(user) = self.database.holder.get(&coupon) {
                    return Err(format!("coupon {coupon} of user {user} is to be given again"));
                }
            }
            for (user, holding) in &shard.issued {
                places[holding.coupon] += 1;
                if self.database.holder.get(&holding.coupon).is_some_and(|holder| holder != user) {
                    return Err(format!("coupon {} is with user {user} and recorded for another", holding.coupon));
                }
            }
            for transfer in shard.pending.values() {
                let taker = &self.shards[transfer.taker];
                if taker.is_whole() && !taker.has_taken(transfer) {
                    is_dry = false;
                    transfer.coupons.iter().for_each(|&coupon| places[coupon] += 1);
                }
            }
            for coupon in self.database.dealt(shard.id, shard.loaded) {
                places[coupon] += 1;
            }
        }
        if is_dry {
            self.last_dry = Some(self.now);
        }
        let all_are_whole = self.shards.iter().all(super::shard::Shard::is_whole);
        match places.iter().position(|&places| places > 1 || (places == 0 && all_are_whole)) {
            Some(coupon) => Err(format!("coupon {coupon} is in {} places", places[coupon])),
            None => Ok(()),
        }
    }

    /// A user is told of a coupon.
    pub(super) fn told(&mut self, user: User, coupon: usize) -> Result<(), String> {
        // What can never be recorded is taken back (CANCEL): the one thing that is.
        let is_void = |coupon| self.database.refused.contains(&(user, coupon));
        if is_void(coupon) {
            return Ok(());
        }
        match self.told.get(&user) {
            Some(&earlier) if earlier != coupon && !is_void(earlier) => {
                Err(format!("user {user} was told of coupon {earlier}, and then of {coupon}"))
            }
            _ => {
                self.told.insert(user, coupon);
                Ok(())
            }
        }
    }

    /// A user is told that nothing is left.
    pub(super) fn told_sold_out(&mut self, user: User) -> Result<(), String> {
        self.tally.sold_out += 1;
        match self.last_dry {
            Some(dry) if dry + LEASE >= self.now => Ok(()),
            _ => Err(format!("user {user} was told SOLD_OUT, but some shard had a coupon all the time")),
        }
    }

    /// Everything is healed, and nobody wants a coupon any more.
    pub(super) fn check_end(&self) -> Result<(), String> {
        let (recorded, stock) = (self.database.holder.len(), self.database.stock);
        if recorded != stock {
            return Err(format!("{recorded} of {stock} coupons are recorded"));
        }
        for (user, coupon) in &self.told {
            let is_recorded = self.database.recorded.get(user).is_some_and(|record| record.coupon == *coupon);
            if !is_recorded && !self.database.refused.contains(&(*user, *coupon)) {
                return Err(format!("user {user} was told of coupon {coupon}, which is not recorded"));
            }
        }
        Ok(())
    }
}
