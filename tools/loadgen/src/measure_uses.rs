//! The command `loadgen measure-uses`: redeems coupons of an event, each once, as fast as possible.
//!
//! The control inserts the same rows into another table, without reading anything before.

use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use couponry_domain::EventName;
use couponry_domain::redemption::{Change, Order};
use couponry_loadgen::connection::{Connection, Target};
use couponry_output::Stdout;
use couponry_postgres::{Database, UseOutcome, UseRequest};
use couponry_settings::{ExposeSecret as _, PostgresSettings};
use serde_json::json;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::types::Uuid;
use tokio::task::LocalSet;

/// As many as a redeemer has.
const POSTGRES_CONNECTIONS: u32 = 8;
const ORDER: &str = "order-1";
/// As long as that of the adapter.
const HASH: [u8; 32] = [7; 32];
const COUPONS: &str = "SELECT event_uid, user_id, code FROM issuance
    WHERE event_uid = (SELECT uid FROM coupon_event WHERE name = $1 AND resource_deleted_at IS NULL)
    ORDER BY code OFFSET $2 LIMIT $3";
const INSERT: &str = "INSERT INTO control_use (event_uid, code, seq, kind, order_ref, request_id, request_hash, at)
    VALUES ($1, $2, 1, 'REDEEMED', $3, $4, $5, clock_timestamp()) ON CONFLICT DO NOTHING";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the event.
    #[arg(long)]
    event: EventName,
    /// What is measured.
    #[arg(long)]
    mode: Mode,
    /// Redeemer, as http://host:port.
    #[arg(long, value_name = "URL", required_if_eq("mode", "http"))]
    target: Option<Target>,
    /// Number of coupons.
    #[arg(long)]
    coupons: usize,
    /// Number of coupons before the first one.
    #[arg(long, default_value_t = 0)]
    skip: i64,
    /// Number of requests in progress.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[command(flatten)]
    postgres: PostgresSettings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Redeem over HTTP.
    Http,
    /// Redeem without HTTP, as the redeemer does.
    Direct,
    /// Insert the same rows into the table `control_use`.
    Insert,
}

/// A coupon of the event.
type Coupon = (Uuid, String, String);

/// What redeems a coupon.
enum Client {
    Http(Connection),
    Direct(Database),
    Insert(PgPool),
}

pub(crate) async fn measure(args: Args) -> Result<ExitCode> {
    let pool = PgPoolOptions::new().max_connections(POSTGRES_CONNECTIONS);
    let pool = pool.connect(args.postgres.url.expose_secret()).await.context("cannot connect to Postgres")?;
    let coupons: Vec<Coupon> = sqlx::query_as(COUPONS)
        .bind(args.event.as_str())
        .bind(args.skip)
        .bind(i64::try_from(args.coupons)?)
        .fetch_all(&pool)
        .await
        .context("cannot read the issuances")?;
    ensure!(coupons.len() == args.coupons, "only {} of {} coupons are recorded", coupons.len(), args.coupons);
    let database = Database::open(&args.postgres)?;
    let (args, coupons, next) = (Rc::new(args), Rc::new(coupons), Rc::new(Cell::new(0)));
    let local = LocalSet::new();
    let start = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..args.connections.max(1) {
        let mut client = match (args.mode, &args.target) {
            (Mode::Http, Some(target)) => Client::Http(Connection::new(target.clone())),
            (Mode::Insert, _) => Client::Insert(pool.clone()),
            _ => Client::Direct(database.clone()),
        };
        let (args, coupons, next) = (args.clone(), coupons.clone(), next.clone());
        tasks.push(local.spawn_local(async move {
            while let Some(coupon) = coupons.get(next.replace(next.get() + 1)) {
                client.redeem(&args.event, coupon).await?;
            }
            anyhow::Ok(())
        }));
    }
    local
        .run_until(async {
            for task in tasks {
                task.await.context("a task failed")??;
            }
            anyhow::Ok(())
        })
        .await?;
    let per_second = u32::try_from(coupons.len()).map(f64::from)? / start.elapsed().as_secs_f64();
    writeln!(Stdout, "{}", json!({"perSecond": per_second}))?;
    Ok(ExitCode::SUCCESS)
}

impl Client {
    /// Redeems a coupon for the first time.
    async fn redeem(&mut self, event: &EventName, (uid, user, code): &Coupon) -> Result<()> {
        match self {
            Self::Http(connection) => {
                let body = json!({"eventId": event.as_str(), "couponKey": code, "userId": user, "orderId": ORDER});
                let key = format!("idempotency-key: {code}\r\n");
                let request = connection.target().request("POST", "/redemptions/redeem", &key, &body.to_string());
                let response = connection.exchange(&request).await.map_err(|error| anyhow!("{error:?}"))?;
                ensure!(response.status == 200, "{code}: {}", String::from_utf8_lossy(response.body));
            }
            Self::Direct(database) => {
                let request = UseRequest {
                    event: event.clone(),
                    coupon: code.parse()?,
                    user: user.parse()?,
                    order: Order { id: ORDER.parse()?, amount: None },
                    change: Change::Redeem,
                    id: code.parse()?,
                    hash: HASH,
                    actor: None,
                };
                let outcome = database.use_coupon(&request).await?;
                ensure!(matches!(outcome, UseOutcome::Changed { .. }), "{code}: {outcome:?}");
            }
            Self::Insert(pool) => {
                let insert = sqlx::query(INSERT).bind(uid).bind(code).bind(ORDER).bind(code).bind(HASH.as_slice());
                let inserted = insert.execute(&*pool).await?;
                ensure!(inserted.rows_affected() == 1, "{code} was inserted before");
            }
        }
        Ok(())
    }
}
