//! The state that the routes share, and what several of them need.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderName, header::CACHE_CONTROL},
};
use couponry_domain::{
    DiscountType, EventName, OrderId, UserId,
    code::CouponCode,
    redemption::{CouponState, RedeemableCoupon},
};
use couponry_runtime::Problem;
use serde::Serialize;
use tokio::time::{self, Instant};
use utoipa::ToSchema;

use crate::{
    authentication::Authenticator,
    metrics::Metrics,
    problems::{no_response, timestamp, unknown_outcome},
    redemptions::Redemptions,
};

/// The state that the routes share.
pub(crate) struct App {
    pub(crate) redemptions: Redemptions,
    pub(crate) authenticator: Authenticator,
    pub(crate) metrics: Metrics,
    pub(crate) body_timeout: Duration,
    pub(crate) response_timeout: Duration,
}

impl App {
    /// Executes a request whose body is complete, and counts its response.
    pub(super) async fn respond<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, Problem>>,
    ) -> Result<Uncached<T>, Problem> {
        let start = Instant::now();
        let response = time::timeout(self.response_timeout, request).await.unwrap_or_else(|_| {
            tracing::warn!(operation, timeout = ?self.response_timeout, "request timed out");
            Err(if ["validate", "get"].contains(&operation) { no_response() } else { unknown_outcome() })
        });
        let code = response.as_ref().err().map_or(200, Problem::status);
        self.metrics.count_response(operation, code, start.elapsed());
        response.map(|body| ([(CACHE_CONTROL, "no-store")], Json(body)))
    }
}

/// A response about one coupon, which no cache may store.
pub(super) type Uncached<T> = ([(HeaderName, &'static str); 1], Json<T>);

/// The type of a discount.
#[derive(Serialize, ToSchema)]
#[schema(as = DiscountType)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum DiscountTypeName {
    Percent,
    Amount,
}

impl From<DiscountType> for DiscountTypeName {
    fn from(kind: DiscountType) -> Self {
        match kind {
            DiscountType::Percent => Self::Percent,
            DiscountType::Amount => Self::Amount,
        }
    }
}

/// The terms of a coupon.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Terms {
    /// The type of the discount.
    discount_type: DiscountTypeName,
    /// The discount: percent, or minor units.
    #[schema(example = 10)]
    discount_value: u32,
    /// The maximum amount off an order, in minor units. Null: unlimited.
    #[schema(example = 5000)]
    max_discount: Option<u64>,
    /// The minimum amount of an order, in minor units. Null: any order.
    #[schema(example = 2000)]
    minimum_order_amount: Option<u64>,
    /// The currency of all amounts (ISO 4217). Null: the manifest does not specify it.
    #[schema(example = "EUR")]
    currency: Option<String>,
    /// From when on the coupon can no longer be used (RFC 3339 in UTC, with milliseconds). Null: unlimited.
    #[schema(format = DateTime, example = "2026-12-31T23:00:00.000Z")]
    valid_until: Option<String>,
}

impl Terms {
    pub(super) fn of(coupon: RedeemableCoupon) -> Self {
        let RedeemableCoupon { issued, valid_until, conditions, currency } = coupon;
        Self {
            discount_type: issued.discount.kind.into(),
            discount_value: issued.discount.value,
            max_discount: conditions.max_discount,
            minimum_order_amount: conditions.minimum_order_amount,
            currency: currency.map(|currency| currency.as_str().to_owned()),
            valid_until: valid_until.map(timestamp),
        }
    }
}

/// The state of a coupon.
#[derive(Serialize, ToSchema)]
#[schema(as = CouponState)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum StateName {
    /// Its user can use it.
    Issued,
    /// An order has reserved it.
    Reserved,
    /// It was redeemed.
    Redeemed,
    /// An administrator has voided it.
    Voided,
    /// Its validity is over.
    Expired,
}

/// The name of the state, and when a reservation ends.
pub(super) fn state(state: &CouponState) -> (StateName, Option<String>) {
    match state {
        CouponState::Issued => (StateName::Issued, None),
        CouponState::Reserved { until, .. } => (StateName::Reserved, Some(timestamp(*until))),
        CouponState::Redeemed => (StateName::Redeemed, None),
        CouponState::Voided => (StateName::Voided, None),
        CouponState::Expired => (StateName::Expired, None),
    }
}

pub(super) fn parse_event(text: String) -> Result<EventName, Problem> {
    text.try_into().map_err(invalid)
}

pub(super) fn parse_user(text: String) -> Result<UserId, Problem> {
    text.try_into().map_err(invalid)
}

pub(super) fn parse_order(text: String) -> Result<OrderId, Problem> {
    text.try_into().map_err(invalid)
}

pub(super) fn parse_coupon(text: &str) -> Result<CouponCode, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("couponKey: {error}")))
}

fn invalid(error: couponry_domain::names::InvalidId) -> Problem {
    Problem::invalid(error.to_string())
}
