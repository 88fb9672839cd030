//! The data which the checker of redemptions compares.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::checkout::history::UseAttempt;
use crate::checkout::void_history::{VoidAttempt, VoidOutcome};

/// A row of the table `coupon_use`. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UseRow {
    /// The coupon.
    pub coupon: String,
    /// Its place in the history of the coupon.
    pub seq: i32,
    /// RESERVED, REDEEMED, RELEASED or VOIDED.
    pub kind: String,
    /// The order.
    pub order: Option<String>,
    /// When the reservation ends.
    pub until: Option<i64>,
    /// The idempotency key of the request.
    pub key: Option<String>,
    /// When it was decided.
    pub at: i64,
}

/// A message of the topic `coupon-used`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UseMessage {
    /// Its partition.
    pub partition: i32,
    /// Its key.
    pub key: Option<String>,
    /// The value of the version header.
    pub version: Option<String>,
    /// Its value. Null: not JSON.
    pub body: Value,
}

/// How much the clocks of the load generator, of the voids and of Postgres may differ, in microseconds.
pub(super) const CLOCK_TOLERANCE: i64 = 1_000_000;

/// All data which is compared.
#[derive(Clone, Debug, Default)]
pub struct RedemptionInput {
    /// All attempts of the event.
    pub attempts: Vec<UseAttempt>,
    /// All rows of the event: coupon by coupon, each history in its order.
    pub rows: Vec<UseRow>,
    /// The response of a redeemer about each coupon: its state and history.
    pub views: BTreeMap<String, Value>,
    /// All voids of the event.
    pub voids: Vec<VoidAttempt>,
    /// From when on coupons can no longer be used, in the responses to their users (milliseconds since the Unix epoch).
    pub valid_until: BTreeMap<String, i64>,
    /// The messages of the topic that are about the event, in order within each partition.
    pub messages: Vec<UseMessage>,
}

/// The attempts at one request, in the order in which they were sent.
pub(super) struct Call<'a> {
    pub(super) attempts: Vec<&'a UseAttempt>,
}

impl<'a> Call<'a> {
    /// When the first attempt was sent.
    pub(super) fn invoked(&self) -> i64 {
        self.attempts.iter().map(|attempt| attempt.invoked).min().unwrap_or(i64::MAX)
    }

    /// When the first response had arrived that confirms the change.
    pub(super) fn confirmed(&self) -> Option<i64> {
        self.attempts.iter().filter(|attempt| attempt.changed().is_some()).map(|attempt| attempt.finished).min()
    }

    /// The responses that confirm the change.
    pub(super) fn changed(&self) -> impl Iterator<Item = (&'a UseAttempt, &'a Value)> {
        self.attempts.iter().filter_map(|attempt| Some((*attempt, attempt.changed()?)))
    }

    /// Whether the request may have changed the coupon.
    pub(super) fn may_have_changed(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.refused().is_none())
    }
}

/// The requests by idempotency key, and the histories by coupon.
pub(super) struct Calls<'a> {
    pub(super) by_key: BTreeMap<&'a str, Call<'a>>,
    histories: BTreeMap<&'a str, Vec<&'a UseRow>>,
    voids: BTreeMap<&'a str, Vec<&'a VoidAttempt>>,
}

impl<'a> Calls<'a> {
    pub(super) fn new(input: &'a RedemptionInput) -> Self {
        let mut by_key = BTreeMap::<_, Call<'a>>::new();
        for attempt in &input.attempts {
            by_key.entry(&*attempt.call.key).or_insert_with(|| Call { attempts: Vec::new() }).attempts.push(attempt);
        }
        for call in by_key.values_mut() {
            call.attempts.sort_by_key(|attempt| attempt.invoked);
        }
        let mut histories = BTreeMap::<_, Vec<_>>::new();
        for row in &input.rows {
            histories.entry(&*row.coupon).or_default().push(row);
        }
        let mut voids = BTreeMap::<_, Vec<_>>::new();
        for void in &input.voids {
            voids.entry(&*void.coupon).or_default().push(void);
        }
        Self { by_key, histories, voids }
    }

    /// The history of a coupon.
    pub(super) fn history(&self, coupon: &str) -> &[&'a UseRow] {
        self.histories.get(coupon).map_or(&[], Vec::as_slice)
    }

    /// The request of a row.
    pub(super) fn of_row(&self, row: &UseRow) -> Option<&Call<'a>> {
        self.by_key.get(row.key.as_deref()?)
    }

    /// The voids of a coupon.
    pub(super) fn voids(&self, coupon: &str) -> &[&'a VoidAttempt] {
        self.voids.get(coupon).map_or(&[], Vec::as_slice)
    }

    /// When the change of a row was confirmed.
    fn confirmed(&self, row: &UseRow) -> Option<i64> {
        if row.kind == "VOIDED" {
            let confirmed = self.voids(&row.coupon).iter().filter(|void| void.outcome == VoidOutcome::Voided);
            return confirmed.map(|void| void.finished + CLOCK_TOLERANCE).min();
        }
        self.of_row(row).and_then(Call::confirmed)
    }

    /// When the change of a row was requested.
    fn invoked(&self, row: &UseRow) -> Option<i64> {
        if row.kind == "VOIDED" {
            let may_have_changed = self.voids(&row.coupon).iter().filter(|void| void.may_have_changed());
            return may_have_changed.map(|void| void.invoked - CLOCK_TOLERANCE).min();
        }
        self.of_row(row).map(Call::invoked)
    }

    /// The rows that can have been the last one of the coupon when the attempt was decided. None: no row.
    pub(super) fn possible_last_rows(&self, attempt: &UseAttempt) -> impl Iterator<Item = Option<&'a UseRow>> {
        let history = self.history(&attempt.call.coupon);
        let has_begun = |row: &UseRow| self.invoked(row).is_none_or(|invoked| invoked < attempt.finished);
        let at_least = history
            .iter()
            .rposition(|row| self.confirmed(row).is_some_and(|confirmed| confirmed < attempt.invoked))
            .map_or(0, |last| last + 1);
        let at_most = history.iter().take_while(|row| has_begun(row)).count();
        (at_least..=at_most).map(|count| count.checked_sub(1).map(|last| history[last]))
    }
}
