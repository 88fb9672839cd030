//! Reads the uses of coupons: the rows from Postgres, without our adapter, and the view of a redeemer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use couponry_domain::{EventName, Uuid};
use couponry_settings::{ExposeSecret as _, PostgresSettings};
use futures::future;
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};
use tokio::time::timeout;

use crate::checker::UseRow;
use crate::connection::{Connection, Target};

const CONNECTIONS: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(30);

/// All rows of the event: coupon by coupon, each history in its order.
pub async fn rows(settings: &PostgresSettings, uid: Uuid) -> Result<Vec<UseRow>> {
    const SELECT: &str = "SELECT code, seq, kind, order_ref, request_id,
            (extract(epoch FROM until) * 1000)::bigint AS until, (extract(epoch FROM at) * 1000)::bigint AS at
        FROM coupon_use WHERE event_uid = $1 ORDER BY code, seq";
    let mut connection =
        PgConnection::connect(settings.url.expose_secret()).await.context("cannot connect to Postgres")?;
    let rows = sqlx::query(SELECT).bind(uid).fetch_all(&mut connection).await;
    let row = |row: &PgRow| {
        Ok(UseRow {
            coupon: row.try_get("code")?,
            seq: row.try_get("seq")?,
            kind: row.try_get("kind")?,
            order: row.try_get("order_ref")?,
            until: row.try_get("until")?,
            key: row.try_get("request_id")?,
            at: row.try_get("at")?,
        })
    };
    let rows = rows.and_then(|rows| rows.iter().map(row).collect());
    rows.context("cannot read the uses of coupons from Postgres")
}

/// The responses of a redeemer about these coupons.
pub async fn views(target: &Target, event: &EventName, coupons: BTreeSet<&str>) -> Result<BTreeMap<String, Value>> {
    let coupons: Vec<_> = coupons.into_iter().collect();
    let chunks = coupons.chunks(coupons.len().div_ceil(CONNECTIONS).max(1)).map(async |coupons| {
        let mut connection = Connection::new(target.clone());
        let mut views = Vec::new();
        for coupon in coupons {
            views.push(((*coupon).to_owned(), view(&mut connection, event, coupon).await?));
        }
        anyhow::Ok(views)
    });
    Ok(future::try_join_all(chunks).await?.into_iter().flatten().collect())
}

async fn view(connection: &mut Connection, event: &EventName, coupon: &str) -> Result<Value> {
    let request = connection.target().request("GET", &format!("/redemptions/{event}/{coupon}"), "", "");
    let response = timeout(TIMEOUT, connection.exchange(&request)).await.context("the redeemer does not respond")?;
    let response = response.map_err(|error| anyhow!("no response of the redeemer about {coupon}: {error:?}"))?;
    ensure!(response.status < 500, "status {} of the redeemer about {coupon}", response.status);
    serde_json::from_slice(response.body).with_context(|| format!("invalid response of the redeemer about {coupon}"))
}
