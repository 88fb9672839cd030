//! The invariants. They read the state of all processes at once, which no process of the design can do.

use super::{
    SOLD_OUT_TTL,
    shard::{Shard, User},
    simulation::Simulation,
};

impl Simulation {
    /// Each coupon is in exactly one place, and with the user it is recorded for.
    pub(super) fn check(&mut self) -> Result<(), String> {
        let mut places = vec![0_u8; self.database.stock];
        let mut all_empty = true;
        for shard in &self.shards {
            if !shard.is_verified() {
                all_empty = false;
                continue;
            }
            all_empty &= shard.queue.is_empty();
            for &coupon in &shard.queue {
                places[coupon] += 1;
                if let Some(user) = self.database.holder.get(&coupon) {
                    return Err(format!("coupon {coupon} of user {user} is available again"));
                }
            }
            for (user, issuance) in &shard.issued {
                places[issuance.coupon] += 1;
                if self.database.holder.get(&issuance.coupon).is_some_and(|holder| holder != user) {
                    return Err(format!(
                        "coupon {} is issued to user {user} but recorded for another",
                        issuance.coupon
                    ));
                }
            }
            for transfer in shard.in_transit.values() {
                let target = &self.shards[transfer.target];
                if target.is_verified() && !target.has_received(transfer) {
                    all_empty = false;
                    transfer.coupons.iter().for_each(|&coupon| places[coupon] += 1);
                }
            }
            for coupon in self.database.assigned_coupons(shard.id, shard.loaded) {
                places[coupon] += 1;
            }
        }
        if all_empty {
            self.last_all_empty = Some(self.now);
        }
        let all_verified = self.shards.iter().all(Shard::is_verified);
        match places.iter().position(|&places| places > 1 || (places == 0 && all_verified)) {
            Some(coupon) => Err(format!("coupon {coupon} is in {} places", places[coupon])),
            None => Ok(()),
        }
    }

    /// A user receives a response with a coupon.
    pub(super) fn record_response(&mut self, user: User, coupon: usize) -> Result<(), String> {
        // An issuance which can never be recorded is withdrawn (status CANCEL). Nothing else may be.
        let is_rejected = |coupon| self.database.rejected.contains(&(user, coupon));
        if is_rejected(coupon) {
            return Ok(());
        }
        match self.responses.get(&user) {
            Some(&earlier) if earlier != coupon && !is_rejected(earlier) => {
                Err(format!("user {user} received coupon {earlier}, and later {coupon}"))
            }
            _ => {
                self.responses.insert(user, coupon);
                Ok(())
            }
        }
    }

    /// A user receives the response `SOLD_OUT`.
    pub(super) fn record_sold_out(&mut self, user: User) -> Result<(), String> {
        self.tally.sold_out += 1;
        match self.last_all_empty {
            Some(at) if at + SOLD_OUT_TTL >= self.now => Ok(()),
            _ => Err(format!("user {user} received SOLD_OUT, but coupons were available")),
        }
    }

    /// At the end of a run, all coupons and all responses are recorded.
    pub(super) fn check_end(&self) -> Result<(), String> {
        let (recorded, stock) = (self.database.holder.len(), self.database.stock);
        if recorded != stock {
            return Err(format!("{recorded} of {stock} coupons are recorded"));
        }
        for (user, coupon) in &self.responses {
            let is_recorded = self.database.recorded.get(user).is_some_and(|record| record.coupon == *coupon);
            if !is_recorded && !self.database.rejected.contains(&(*user, *coupon)) {
                return Err(format!("user {user} received coupon {coupon}, which is not recorded"));
            }
        }
        Ok(())
    }
}
