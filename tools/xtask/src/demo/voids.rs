//! Voids of the demo: coupons that their users try to get and to use afterwards.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use couponry_testbed::progress::Step;
use serde_json::Value;

use super::event;
use crate::cargo;
use crate::programs::{Addresses, OPERATOR};
use crate::void_command::VoidCommand;

/// The first coupons that users received: the shops use them.
const FIRST: usize = 10;
/// Coupons of the users with the lowest numbers. They request a coupon once more.
pub(super) const USERS: u32 = 10;

/// Voids coupons that users have received. `responses` is the history of the users, `history` that of the voids.
pub(super) fn void_some(addresses: Addresses, responses: &Path, history: &Path) -> Result<()> {
    let text = fs::read_to_string(responses).with_context(|| format!("cannot read {}", responses.display()))?;
    let coupons = issued(&text)?;
    let of_users = (0..USERS).filter_map(|number| {
        let user = format!("user-{number}");
        coupons.iter().find(|(holder, _)| *holder == user)
    });
    let mut voided: Vec<&str> = coupons.iter().take(FIRST).chain(of_users).map(|(_, coupon)| &**coupon).collect();
    voided.sort_unstable();
    voided.dedup();
    let step = Step::start(format!("voiding {} coupons", voided.len()));
    let command = VoidCommand {
        program: cargo::built("release")?.join(OPERATOR),
        addresses,
        args: &[],
        event: event::NAME.to_owned(),
        failpoints: "",
        log: history.with_extension("log"),
    };
    let mut file = File::create(history).with_context(|| format!("cannot create {}", history.display()))?;
    voided.iter().try_for_each(|coupon| command.void(coupon, &mut file))?;
    step.done_with(&format!("{} coupons are voided", voided.len()));
    Ok(())
}

/// The users and their coupons, in the order of the responses.
fn issued(history: &str) -> Result<Vec<(String, String)>> {
    let (mut users, mut coupons) = (HashMap::new(), Vec::new());
    for line in history.lines() {
        let entry: Value = serde_json::from_str(line).context("invalid history of the users")?;
        let id = entry["id"].as_u64();
        if let Some(user) = entry["user"].as_str() {
            users.insert(id, user.to_owned());
        } else if let (Some(user), Some(coupon)) =
            (users.remove(&id), entry["outcome"]["answered"]["couponKey"].as_str())
        {
            coupons.push((user, coupon.to_owned()));
        }
    }
    Ok(coupons)
}

#[cfg(test)]
mod tests {
    use super::issued;

    #[test]
    fn issued_coupons_are_those_of_the_responses() {
        let history = r#"{"id":0,"user":"a"}
{"id":1,"user":"b"}
{"id":1,"finished":2,"outcome":{"answered":{"success":true,"couponKey":"B"}}}
{"id":0,"finished":3,"outcome":{"answered":{"success":false,"couponKey":null}}}
"#;
        assert_eq!(issued(history).unwrap(), [("b".to_owned(), "B".to_owned())]);
        assert!(issued("{").is_err());
    }
}
