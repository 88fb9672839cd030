//! The command `loadgen control`.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::TcpListener;

/// Has the length of a response with a coupon.
const RESPONSE: &str = concat!(
    r#"{"success":true,"hasCoupon":true,"reason":null,"couponKey":"BENCH-7GK2M9QXW4TB","#,
    r#""message":"The coupon is yours.","discountType":"PERCENT","discountAmount":10}"#
);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IssueRequest {
    pub(crate) user_id: String,
    pub(crate) event_id: String,
}

pub(crate) async fn serve(Args { listen }: Args) -> Result<ExitCode> {
    let router = Router::new().route("/coupons/issue", post(response)).route("/readyz", get(|| async {}));
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    axum::serve(listener, router).await.context("cannot serve requests")?;
    Ok(ExitCode::SUCCESS)
}

async fn response(Json(IssueRequest { user_id, event_id }): Json<IssueRequest>) -> impl IntoResponse {
    // Keeps the compiler from removing the parsing.
    std::hint::black_box((user_id, event_id));
    ([(CONTENT_TYPE, "application/json")], RESPONSE)
}
