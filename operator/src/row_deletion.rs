//! Prepares the deletion of the rows of an event: by its finalizer, or later by [`crate::pending_deletions`].

use couponry_domain::{EventName, Uuid};
use couponry_postgres::DatabaseError;

use crate::context::Context;

/// Starts the purge of the event, after which no issuance is recorded and no coupon used any more. Returns how many
/// uses of its coupons wait to be sent to Kafka. They cannot be sent without their rows, so a caller should wait for
/// them before [`couponry_postgres::Database::delete_event`].
pub(crate) async fn start_purge(context: &Context, uid: Uuid, name: &EventName) -> Result<u64, DatabaseError> {
    let exists = context.database.start_purge(uid, name).await?;
    if exists && context.are_uses_sent { context.database.unsent_uses(uid).await } else { Ok(0) }
}

/// In words, for a status or an error.
pub(crate) fn describe_unsent(uses: u64) -> String {
    format!("uses of its coupons that the redeemers have not sent to Kafka yet: {uses}")
}
