//! `POST /coupons/issue`

use std::sync::Arc;

#[cfg(any(test, fuzzing))]
use axum::http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use axum::{Json, body::Body, extract::State, http::Request};
use couponry_redis::{Holding, Outcome};
use serde::{Deserialize, Serialize};
use tokio::time::{self, Instant};
use utoipa::ToSchema;

use super::{App, body, event_id, unknown_event, unverified};
use crate::{batcher::Answer, problem::Problem};

/// Who wants a coupon of which event.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct IssueRequest {
    /// The user: 1 to 256 bytes of UTF-8, without control characters, and without white space at its ends. Can be left out when
    /// a trusted header or a token names the user.
    #[schema(value_type = String, required = false, example = "u1")]
    user_id: Option<String>,
    /// The event: the name of its `CouponEvent`.
    #[schema(example = "summer")]
    event_id: String,
}

/// What the user is told.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct IssueAnswer {
    /// Whether this request gave the user a coupon.
    success: bool,
    /// Why it did not.
    reason: Option<Reason>,
    /// The coupon that the user has: the new one, or with DUPLICATE the one from before.
    #[schema(example = "SUMMER-7GK2M9QXW4TB")]
    coupon_key: Option<String>,
    /// The same in words.
    message: &'static str,
    /// What kind of discount the coupon gives: PERCENT or AMOUNT.
    #[schema(example = "PERCENT")]
    discount_type: Option<&'static str>,
    /// How much: percent points, or units of currency.
    #[schema(example = 10)]
    discount_amount: Option<u32>,
}

/// Why a user got no new coupon.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Reason {
    Duplicate,
    SoldOut,
    NotStarted,
    Ended,
    Paused,
}

impl TryFrom<Outcome> for IssueAnswer {
    type Error = Problem;

    fn try_from(outcome: Outcome) -> Result<Self, Problem> {
        let (reason, message, holding) = match outcome {
            Outcome::Issued(holding) => (None, "The coupon is yours.", Some(holding)),
            Outcome::Duplicate(holding) => {
                (Some(Reason::Duplicate), "You already have a coupon of this event.", Some(holding))
            }
            Outcome::SoldOut => (Some(Reason::SoldOut), "All coupons of this event are gone.", None),
            Outcome::NotStarted => (Some(Reason::NotStarted), "The event has not started yet.", None),
            Outcome::Ended => (Some(Reason::Ended), "The event is over.", None),
            Outcome::Paused => (Some(Reason::Paused), "The event is paused. Try again later.", None),
            Outcome::Unverified => return Err(unverified()),
        };
        let (coupon_key, discount) =
            holding.map(|Holding { coupon, discount, .. }| (coupon.to_string(), discount)).unzip();
        Ok(Self {
            success: reason.is_none(),
            reason,
            coupon_key,
            message,
            discount_type: discount.map(|discount| discount.kind.as_str()),
            discount_amount: discount.map(|discount| discount.value),
        })
    }
}

/// Ask for a coupon.
///
/// Asking again is always safe: a user has at most one coupon of an event, and is told of it again.
#[utoipa::path(
    post,
    path = "/coupons/issue",
    request_body = IssueRequest,
    responses(
        (status = 200, description = "What the user is told, also when there is no coupon for them", body = IssueAnswer),
        (status = 400, description = "The request cannot be read", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is signed in", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such event", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests of this user or address: nothing was done", body = Problem,
            content_type = "application/problem+json", headers(("Retry-After" = u32, description = "Seconds to wait"))),
        (status = 503, description = "The outcome is not known yet: ask again", body = Problem, content_type = "application/problem+json",
            headers(("Retry-After" = u32, description = "Seconds to wait"))),
    )
)]
pub(super) async fn issue(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Json<IssueAnswer>, Problem> {
    let (parts, body) = request.into_parts();
    let IssueRequest { user_id, event_id: event } = body::json(&parts.headers, body, app.body_timeout).await?;
    let user = app.identity.user(&parts.headers, user_id).await?;
    app.limits.user(&user)?;
    let event = event_id(event)?;

    let start = Instant::now();
    let answer =
        time::timeout(app.answer_timeout, app.batchers.ask(&event, user)).await.unwrap_or(Answer::UnknownOutcome);
    app.metrics.request_seconds.observe(start.elapsed().as_secs_f64());
    app.metrics.count(&answer);
    match answer {
        Answer::Told(outcome) => outcome.try_into().map(Json),
        Answer::UnknownEvent => Err(unknown_event(&event)),
        Answer::UnknownOutcome => {
            Err(Problem::unavailable("it is not known yet whether you have a coupon; ask again to learn it"))
        }
        Answer::Overloaded => Err(Problem::unavailable("too many people are asking right now; ask again")),
    }
}

/// Reads a body as the route does: for the fuzzer.
///
/// # Panics
/// Outside of a runtime of tokio's.
#[cfg(any(test, fuzzing))]
pub async fn read_issue_request(
    body: Vec<u8>,
) -> Result<(Option<couponry_domain::UserId>, couponry_domain::EventName), Problem> {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let IssueRequest { user_id, event_id: event } =
        body::json(&headers, Body::from(body), std::time::Duration::MAX).await?;
    let user = user_id
        .map(couponry_domain::UserId::try_from)
        .transpose()
        .map_err(|error| Problem::invalid(error.to_string()))?;
    Ok((user, event_id(event)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_contract() {
        let holding = Holding {
            coupon: "SUMMER-7GK2M9QXW4TB".parse().unwrap(),
            discount: couponry_domain::Discount { kind: couponry_domain::DiscountType::Percent, value: 10 },
            issued_at: 1,
            status: couponry_redis::Status::Pending,
        };
        let json = |outcome: Outcome| serde_json::to_string(&IssueAnswer::try_from(outcome).unwrap()).unwrap();
        assert_eq!(
            json(Outcome::Issued(holding.clone())),
            concat!(
                r#"{"success":true,"reason":null,"couponKey":"SUMMER-7GK2M9QXW4TB","message":"The coupon is yours.","#,
                r#""discountType":"PERCENT","discountAmount":10}"#
            )
        );
        assert!(
            json(Outcome::Duplicate(holding)).contains(r#""success":false,"reason":"DUPLICATE","couponKey":"SUMMER-"#)
        );
        assert!(json(Outcome::SoldOut).contains(r#""reason":"SOLD_OUT","couponKey":null"#));
        let refused = IssueAnswer::try_from(Outcome::Unverified).err().unwrap();
        assert_eq!(refused.status(), 503, "nobody is told no by a Redis that may have forgotten them");
        assert!(json(Outcome::NotStarted).contains(r#""reason":"NOT_STARTED""#));
    }

    #[tokio::test]
    async fn nothing_breaks_on_the_seeds_of_the_fuzzer() {
        for seed in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/request")).unwrap() {
            let _ = read_issue_request(std::fs::read(seed.unwrap().path()).unwrap()).await;
        }
        let (user, event) = read_issue_request(br#"{"userId":"u1","eventId":"summer"}"#.to_vec()).await.unwrap();
        assert_eq!((user.unwrap().as_str(), event.as_str()), ("u1", "summer"));
    }
}
