//! Reads the uses of coupons: the rows from Postgres, without our adapter, the records of the topic, and the view of a
//! redeemer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use couponry_domain::{EventName, Uuid};
use couponry_kafka::KafkaError;
use couponry_settings::{ExposeSecret as _, KafkaSettings, PostgresSettings};
use futures::future;
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};
use tokio::time::{Instant, sleep, timeout};

use crate::checker::{UseMessage, UseRow};
use crate::connection::{Connection, Target};

const CONNECTIONS: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Waits until all uses of the event are sent to Kafka, or the timeout has passed.
pub async fn wait_sent(settings: &PostgresSettings, uid: Uuid, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    let mut connection =
        PgConnection::connect(settings.url.expose_secret()).await.context("cannot connect to Postgres")?;
    loop {
        let unsent: i64 = sqlx::query_scalar("SELECT count(*) FROM coupon_use_outbox WHERE event_uid = $1")
            .bind(uid)
            .fetch_one(&mut connection)
            .await
            .context("cannot read the outbox of uses")?;
        if unsent == 0 || Instant::now() >= deadline {
            return Ok(());
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The messages of the topic of uses that are about the event, and those that are about no event.
pub async fn messages(settings: &KafkaSettings, uid: Uuid) -> Result<Vec<UseMessage>> {
    let messages = match couponry_kafka::read_all(settings).await {
        // No coupon was used.
        Err(KafkaError::TopicNotFound(_)) => Vec::new(),
        other => other.context("cannot read the topic of uses")?,
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let uid = uid.to_string();
    let messages = messages.iter().map(|message| UseMessage {
        partition: message.partition,
        key: message.key.as_deref().map(text),
        version: message.version().map(text),
        body: serde_json::from_slice(&message.payload).unwrap_or_default(),
    });
    Ok(messages.filter(|message| message.body["eventUid"].as_str().is_none_or(|of| of == uid)).collect())
}

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
