//! The command `loadgen textbook`: first-come coupons in the usual way, to measure Couponry against it.
//!
//! For each request, the issuer calls a script for one user in Redis, sends one record to Kafka, and responds. For each
//! record, the consumer inserts one row into Postgres and commits the offset.
//!
//! The stock of an event is the list `textbook:EVENT:stock` of items `CODE:TYPE:AMOUNT`.
//!
//! # Caveats
//! A coupon is issued but never recorded if the issuer ends before its record is delivered.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Subcommand;
use couponry_output::Stderr;
use rdkafka::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError, Script};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::net::TcpListener;

use crate::control::IssueRequest;

const SCRIPT: &str = include_str!("textbook.lua");
/// The default of 500 ms can expire on a busy machine.
const REDIS_TIMEOUT: Duration = Duration::from_secs(10);

const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS textbook_issuance \
    (event text, user_id text, code text, PRIMARY KEY (event, user_id), UNIQUE (event, code))";
const INSERT: &str = "INSERT INTO textbook_issuance (event, user_id, code) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Issue coupons over HTTP.
    Issuer {
        /// Address to listen on.
        #[arg(long, value_name = "ADDRESS")]
        listen: SocketAddr,
        /// Redis, as redis://host:port.
        #[arg(long, value_name = "URL")]
        redis_url: String,
        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Record issued coupons in Postgres.
    Consumer {
        /// Postgres, as postgres://user@host:port/database.
        #[arg(long, value_name = "URL")]
        postgres_url: String,
        #[command(flatten)]
        kafka: KafkaArgs,
    },
}

#[derive(clap::Args)]
struct KafkaArgs {
    /// Addresses of Kafka brokers.
    #[arg(long, value_name = "HOST:PORT,...")]
    kafka_brokers: String,
    /// Name of the topic, which must exist.
    #[arg(long)]
    topic: String,
}

pub(crate) async fn run(Args { role }: Args) -> Result<ExitCode> {
    match role {
        Role::Issuer { listen, redis_url, kafka } => serve(listen, redis_url, kafka).await?,
        Role::Consumer { postgres_url, kafka } => consume(&postgres_url, &kafka).await?,
    }
    Ok(ExitCode::SUCCESS)
}

struct Issuer {
    redis: ConnectionManager,
    script: Script,
    producer: FutureProducer,
    topic: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IssueResponse {
    success: bool,
    reason: Option<String>,
    coupon_key: Option<String>,
    message: &'static str,
    discount_type: Option<String>,
    discount_amount: Option<u32>,
}

/// An issued coupon in Kafka.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    event_id: String,
    user_id: String,
    coupon_key: String,
}

async fn serve(listen: SocketAddr, redis_url: String, kafka: KafkaArgs) -> Result<()> {
    let client = Client::open(redis_url).context("the URL of Redis is invalid")?;
    let config = ConnectionManagerConfig::new().set_response_timeout(Some(REDIS_TIMEOUT));
    let redis = ConnectionManager::new_with_config(client, config).await.context("cannot connect to Redis")?;
    let producer = ClientConfig::new()
        .set("bootstrap.servers", kafka.kafka_brokers)
        .set("acks", "all")
        .create()
        .context("cannot create the producer")?;
    let issuer = Arc::new(Issuer { redis, script: Script::new(SCRIPT), producer, topic: kafka.topic });
    let router = Router::new().route("/coupons/issue", post(issue)).route("/readyz", get(|| async {}));
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    axum::serve(listener, router.with_state(issuer)).await.context("cannot serve requests")
}

async fn issue(
    State(issuer): State<Arc<Issuer>>,
    Json(IssueRequest { user_id, event_id }): Json<IssueRequest>,
) -> Result<Json<IssueResponse>, (StatusCode, String)> {
    let reply = issuer.call_script(&event_id, &user_id).await;
    let reply = reply.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let response = IssueResponse::from(reply.as_str());
    if let Some(coupon_key) = response.coupon_key.clone() {
        // The response does not wait for the delivery.
        tokio::spawn(issuer.send(Record { event_id, user_id, coupon_key }));
    }
    Ok(Json(response))
}

impl Issuer {
    async fn call_script(&self, event: &str, user: &str) -> Result<String, RedisError> {
        let mut call = self.script.key(format!("textbook:{event}:holders"));
        call.key(format!("textbook:{event}:stock")).arg(user);
        call.invoke_async(&mut self.redis.clone()).await
    }

    async fn send(self: Arc<Self>, record: Record) {
        let payload = serde_json::to_string(&record).unwrap_or_default();
        let message = FutureRecord::to(&self.topic).key(&record.event_id).payload(&payload);
        if let Err((error, _)) = self.producer.send(message, Timeout::Never).await {
            writeln!(Stderr, "loadgen: cannot deliver a record: {error}");
        }
    }
}

impl From<&str> for IssueResponse {
    /// From the reply of the script.
    fn from(reply: &str) -> Self {
        if let [code, kind, amount] = reply.split(':').collect::<Vec<_>>()[..] {
            Self {
                success: true,
                reason: None,
                coupon_key: Some(code.to_owned()),
                message: "The coupon is yours.",
                discount_type: Some(kind.to_owned()),
                discount_amount: amount.parse().ok(),
            }
        } else {
            let (reason, message) = (Some(reply.to_owned()), "No coupon was issued.");
            Self { success: false, reason, coupon_key: None, message, discount_type: None, discount_amount: None }
        }
    }
}

async fn consume(postgres_url: &str, kafka: &KafkaArgs) -> Result<()> {
    let database = PgPool::connect(postgres_url).await.context("cannot connect to Postgres")?;
    sqlx::query(CREATE_TABLE).execute(&database).await.context("cannot create the table")?;
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.kafka_brokers)
        .set("group.id", &kafka.topic)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .create()
        .context("cannot create the consumer")?;
    consumer.subscribe(&[&kafka.topic]).context("cannot subscribe to the topic")?;
    loop {
        let message = match consumer.recv().await {
            Ok(message) => message,
            Err(error) => {
                writeln!(Stderr, "loadgen: cannot receive a record: {error}");
                continue;
            }
        };
        let Record { event_id, user_id, coupon_key } =
            serde_json::from_slice(message.payload().unwrap_or_default()).context("a record is not valid JSON")?;
        let insert = sqlx::query(INSERT).bind(event_id).bind(user_id).bind(coupon_key);
        insert.execute(&database).await.context("cannot insert a row")?;
        consumer.commit_message(&message, CommitMode::Async).context("cannot commit the offset")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_has_coupon_or_reason() {
        let json = |reply| serde_json::to_string(&IssueResponse::from(reply)).unwrap();
        assert_eq!(
            json("BENCH-7GK2M9QXW4TB:PERCENT:10"),
            concat!(
                r#"{"success":true,"reason":null,"couponKey":"BENCH-7GK2M9QXW4TB","message":"The coupon is yours.","#,
                r#""discountType":"PERCENT","discountAmount":10}"#
            )
        );
        assert_eq!(
            json("SOLD_OUT"),
            concat!(
                r#"{"success":false,"reason":"SOLD_OUT","couponKey":null,"message":"No coupon was issued.","#,
                r#""discountType":null,"discountAmount":null}"#
            )
        );
    }
}
