//! The users of a run, the order of their requests, and repeated requests. All of it follows from a seed.

use couponry_domain::UserId;
use rand::rngs::ChaCha20Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// The users of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Number of users.
    pub users: u32,
    /// A user's name is this prefix and a number.
    pub prefix: String,
    /// Determines the order of requests, and which users repeat theirs.
    pub seed: u64,
    /// Percentage of users with two requests.
    pub twice_percent: u32,
    /// Percentage of users with three requests.
    pub thrice_percent: u32,
}

impl Default for Workload {
    fn default() -> Self {
        Self { users: 120_000, prefix: "user-".into(), seed: 0, twice_percent: 10, thrice_percent: 5 }
    }
}

/// A request of a user. It may take several attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRequest {
    /// The number of the user, from 0.
    pub user: u32,
    /// The number of this request of the user, from 1.
    pub number: u8,
}

impl Workload {
    /// The name of a user.
    ///
    /// # Panics
    /// If the prefix is not valid in a user id.
    #[must_use]
    pub fn user_name(&self, user: u32) -> UserId {
        format!("{}{user}", self.prefix).parse().expect("the prefix is valid in a user id")
    }

    /// All requests in order.
    ///
    /// Half of the repeated requests directly follow the previous one of the same user, so that both are in progress
    /// at the same time; the others are at a random later place.
    #[must_use]
    pub fn requests(&self) -> Vec<UserRequest> {
        let mut rng = ChaCha20Rng::seed_from_u64(self.seed);
        let mut order: Vec<u32> = (0..self.users).collect();
        order.shuffle(&mut rng);
        let of_users = |percent: u32| u64::from(self.users) * u64::from(percent.min(100)) / 100;
        let thrice = of_users(self.thrice_percent);
        let more_than_once = thrice + of_users(self.twice_percent);

        // The sort key of a user's first request is the user's place in the order.
        let mut keyed = Vec::with_capacity(order.len() + order.len() / 4);
        let end = f64::from(self.users);
        for (place, user) in (0_u32..).zip(order) {
            let count = 1 + u8::from(u64::from(user) < more_than_once) + u8::from(u64::from(user) < thrice);
            let mut key = f64::from(place);
            for number in 1..=count {
                keyed.push((key, UserRequest { user, number }));
                key = if rng.random() { key + 1e-6 } else { rng.random_range(key..=end.max(key)) };
            }
        }
        keyed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        keyed.into_iter().map(|(_, request)| request).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn requests_with_same_seed_are_identical() {
        let requests = |seed| Workload { users: 500, seed, ..Workload::default() }.requests();
        assert_eq!(requests(1), requests(1));
        assert_ne!(requests(1), requests(2));
    }

    #[test]
    fn requests_have_configured_repetitions_in_order() {
        let mut numbers: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let requests = Workload { users: 1000, ..Workload::default() }.requests();
        for request in &requests {
            numbers.entry(request.user).or_default().push(request.number);
        }
        assert_eq!(numbers.len(), 1000);
        let count = |wanted: &[u8]| numbers.values().filter(|numbers| *numbers == wanted).count();
        assert_eq!([count(&[1]), count(&[1, 2]), count(&[1, 2, 3])], [850, 100, 50]);
        let adjacent = requests.windows(2).filter(|pair| pair[0].user == pair[1].user).count();
        assert!((50..150).contains(&adjacent), "{adjacent} of 200 repetitions follow directly");
    }

    #[test]
    fn requests_of_no_users_are_empty() {
        assert!(Workload { users: 0, ..Workload::default() }.requests().is_empty());
    }
}
