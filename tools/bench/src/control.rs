//! The control: what an endpoint costs that does nothing.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::{Json, Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::post};
use serde::Deserialize;
use tokio::net::TcpListener;

/// As long as the answer of an issuer that gives a coupon.
const ANSWER: &str = concat!(
    r#"{"success":true,"reason":null,"couponKey":"BENCH-7GK2M9QXW4TB","message":"The coupon is yours.","#,
    r#""discountType":"PERCENT","discountAmount":10}"#
);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IssueRequest {
    user_id: String,
    event_id: String,
}

/// Serves until it is killed.
pub(crate) async fn serve(listen: SocketAddr) -> Result<()> {
    let router = Router::new().route("/coupons/issue", post(answer)).route("/readyz", axum::routing::get(|| async {}));
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    axum::serve(listener, router).await.context("cannot serve")
}

async fn answer(Json(IssueRequest { user_id, event_id }): Json<IssueRequest>) -> impl IntoResponse {
    // What was parsed is used, so that no compiler leaves the parsing out.
    std::hint::black_box((user_id, event_id));
    ([(CONTENT_TYPE, "application/json")], ANSWER)
}
