//! Who asks, in which order, and who asks more than once. All of it follows from a seed.

use couponry_domain::UserId;
use rand::rngs::ChaCha20Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// A crowd of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// How many.
    pub users: u32,
    /// What their names begin with; a number follows.
    pub prefix: String,
    /// Decides the order, and who asks more than once.
    pub seed: u64,
    /// How many percent of the users ask twice.
    pub twice_percent: u32,
    /// How many percent of the users ask three times.
    pub thrice_percent: u32,
}

impl Default for Crowd {
    fn default() -> Self {
        Self { users: 120_000, prefix: "user-".into(), seed: 0, twice_percent: 10, thrice_percent: 5 }
    }
}

/// One user asking one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The number of the user, from 0.
    pub user: u32,
    /// Whether it is the user's first, second or third time.
    pub time: u8,
}

impl Crowd {
    /// The name of the user with this number.
    ///
    /// # Panics
    /// If the prefix is not the beginning of a user's name.
    #[must_use]
    pub fn name(&self, user: u32) -> UserId {
        format!("{}{user}", self.prefix).parse().expect("the prefix begins a user's name")
    }

    /// Everybody's asks in the order in which they are sent.
    ///
    /// Half of the repeated ones directly follow the one before, so that both are under way at the same time; the
    /// others come anywhere later.
    #[must_use]
    pub fn asks(&self) -> Vec<Ask> {
        let mut rng = ChaCha20Rng::seed_from_u64(self.seed);
        let mut order: Vec<u32> = (0..self.users).collect();
        order.shuffle(&mut rng);
        let of_users = |percent: u32| u64::from(self.users) * u64::from(percent.min(100)) / 100;
        let thrice = of_users(self.thrice_percent);
        let more_than_once = thrice + of_users(self.twice_percent);

        // Each ask with its place: the users stand at whole numbers.
        let mut places = Vec::with_capacity(order.len() + order.len() / 4);
        let end = f64::from(self.users);
        for (at, user) in (0_u32..).zip(order) {
            // The numbers of the users say nothing about their place, so the first numbers are as good as any.
            let times = 1 + u8::from(u64::from(user) < more_than_once) + u8::from(u64::from(user) < thrice);
            let mut place = f64::from(at);
            for time in 1..=times {
                places.push((place, Ask { user, time }));
                place = if rng.random() { place + 1e-6 } else { rng.random_range(place..=end.max(place)) };
            }
        }
        places.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        places.into_iter().map(|(_, ask)| ask).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_seed_decides_everything() {
        let crowd = |seed| Crowd { users: 500, seed, ..Crowd::default() }.asks();
        assert_eq!(crowd(1), crowd(1));
        assert_ne!(crowd(1), crowd(2));
    }

    #[test]
    fn everybody_asks_some_twice_some_three_times_and_in_turn() {
        let mut times: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let asks = Crowd { users: 1000, ..Crowd::default() }.asks();
        for ask in &asks {
            times.entry(ask.user).or_default().push(ask.time);
        }
        assert_eq!(times.len(), 1000);
        let count = |wanted: &[u8]| times.values().filter(|times| *times == wanted).count();
        assert_eq!([count(&[1]), count(&[1, 2]), count(&[1, 2, 3])], [850, 100, 50]);
        let adjacent = asks.windows(2).filter(|pair| pair[0].user == pair[1].user).count();
        assert!((50..150).contains(&adjacent), "{adjacent} of 200 repetitions follow at once");
    }

    #[test]
    fn nobody_is_a_crowd_too() {
        assert!(Crowd { users: 0, ..Crowd::default() }.asks().is_empty());
    }
}
