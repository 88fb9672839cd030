//! `cargo xtask chaos --record`: records the metrics of a normal event and of faults, for the tests of the alerts.
//!
//! Each case is an event with a load, and one fault that lasts longer than the alerts need. The recording ends with the
//! fault.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use couponry_testbed::database::psql;
use couponry_testbed::toxiproxy::Toxic;
use couponry_testbed::{ports, redis};
use jiff::Timestamp;

use super::event::{Event, Events};
use super::fault::{Component, Fault, Kind};
use super::installation::{CONSUMERS, ISSUERS, Installation, OPERATORS, REDEEMERS};
use super::links::REDIS;
use super::load::{Load, Shops, Workload, change_topic};
use super::recorder::Recorder;
use crate::cargo;
use crate::programs::{CONSUMER, ISSUER, OPERATOR, REDEEMER};

/// The directory of the recordings, and the file with the alerts.
const RECORDINGS: &str = "tools/xtask/tests/recordings";
const RULES: &str = "charts/couponry/templates/monitoring/prometheusrule.yaml";

/// Requests per second.
const RATE: u64 = 20;
/// How long metrics are recorded before the fault.
const BASELINE: Duration = Duration::from_secs(20);
/// More connections than an issuer accepts in the case `connections-exhausted`.
const CONNECTIONS: usize = 30;
/// Rejects each status that the operator writes.
const REJECT_STATUS: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: reject-status}
spec:
  matchConstraints:
    resourceRules:
      - {apiGroups: [couponry.dev], apiVersions: ['*'], operations: [UPDATE], resources: [couponevents/status]}
  validations: [{expression: 'false'}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: reject-status}
spec: {policyName: reject-status, validationActions: [Deny]}
";
/// The key is an example of RFC 7517.
const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"1","use":"sig",
"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

#[derive(Debug, Clone, Copy)]
enum Case {
    /// A scheduled event that is paused, topped up, sold out and ended.
    NormalEvent,
    Fault(Kind),
    /// No pod of this program exists.
    Gone(&'static str),
    /// Redis restarts while Postgres is down, so it cannot be verified.
    RedisUnverified,
    /// The server of the JWKS is down.
    JwksDown,
    /// All connections of an issuer are in use.
    ConnectionsExhausted,
    /// Postgres is down while an event that starts soon is created.
    EventNotReady,
    /// A message that is not a record.
    GarbageRecord,
    /// A record of another installation.
    ForeignRecord,
    /// Redis has lost an available coupon.
    CouponLost,
    /// Postgres does not have the table of the stock.
    StockMissing,
    /// The API server rejects the status of events.
    StatusRejected,
    /// The redeemers require tokens, and the shops have none.
    CallersRejected,
}

/// Name, fault, and its duration in seconds.
const CASES: [(&str, Case, u64); 24] = [
    ("normal-event", Case::NormalEvent, 0),
    ("issuers-gone", Case::Gone(ISSUER), 75),
    ("consumers-gone", Case::Gone(CONSUMER), 165),
    ("operators-gone", Case::Gone(OPERATOR), 105),
    ("issuer-down", Case::Fault(Kind::Kill(Component::Issuer)), 165),
    ("redis-down", Case::Fault(Kind::Kill(Component::Redis)), 105),
    ("redis-unverified", Case::RedisUnverified, 120),
    ("redis-out-of-memory", Case::Fault(Kind::MaxMemory), 75),
    ("redis-slow", Case::Fault(Kind::Network(Toxic::Delayed(Duration::from_millis(1500)))), 120),
    ("kafka-down", Case::Fault(Kind::Kill(Component::Kafka)), 165),
    ("postgres-down", Case::Fault(Kind::Kill(Component::Postgres)), 165),
    ("commits-refused", Case::Fault(Kind::CommitsRefused), 75),
    ("jwks-down", Case::JwksDown, 75),
    ("connections-exhausted", Case::ConnectionsExhausted, 75),
    ("event-not-ready", Case::EventNotReady, 105),
    ("garbage-record", Case::GarbageRecord, 45),
    ("foreign-record", Case::ForeignRecord, 45),
    ("coupon-lost", Case::CouponLost, 105),
    ("stock-missing", Case::StockMissing, 75),
    ("status-rejected", Case::StatusRejected, 390),
    ("redeemers-gone", Case::Gone(REDEEMER), 75),
    ("redemptions-failing", Case::Fault(Kind::Kill(Component::Postgres)), 75),
    ("uses-unsent", Case::Fault(Kind::Kill(Component::Kafka)), 105),
    ("callers-rejected", Case::CallersRejected, 75),
];

/// Records these cases, or all.
pub(super) fn record(installation: &mut Installation, names: &[String]) -> Result<()> {
    for name in names {
        ensure!(CASES.iter().any(|(case, ..)| case == name), "unknown case: {name}");
    }
    for (name, case, seconds) in CASES.iter().filter(|(name, ..)| names.is_empty() || names.iter().any(|n| n == name)) {
        println!("recording {name}");
        case.record(name, Duration::from_secs(*seconds), installation)
            .with_context(|| format!("cannot record {name}"))?;
    }
    Ok(())
}

/// Kept until the fault is removed.
#[derive(Default)]
struct Held {
    connections: Vec<TcpStream>,
    coupon: Option<String>,
    event: Option<Event>,
}

impl Case {
    fn record(self, name: &str, duration: Duration, installation: &mut Installation) -> Result<()> {
        let acknowledge = if name == "kafka-down" { "Kafka" } else { "Redis" };
        let mut held = Held::default();
        installation.restart_exited()?;
        let recording = if let Self::NormalEvent = self {
            let recorder = Recorder::start(installation.targets.clone());
            sell(name, installation)?;
            recorder.finish()?
        } else {
            let users = RATE * (2 * (BASELINE + duration).as_secs() + 120);
            let mut events = Events::new(Event::new(name.to_owned(), users, acknowledge));
            events.main.apply(&installation.servers.kubernetes)?;
            installation.wait_loaded(&events.main)?;
            let load = Load::start(installation, &events.main, &Workload { users, rate: RATE, seed: 1 })?;
            self.prepare(installation)?;
            // They are killed at the end of the case: not every fault ends before they give up.
            let _shops = Shops::start(installation, &events.main, 1)?;
            let recorder = Recorder::start(installation.targets.clone());
            installation.supervise(BASELINE, |_| Ok(false))?;
            self.inject(installation, &mut events, &mut held)?;
            installation.supervise(duration, |_| Ok(false))?;
            let recording = recorder.finish()?;
            self.remove(installation, &mut events, held)?;
            installation.wait_ready()?;
            installation.wait_loaded(&events.main)?;
            installation.wait_verified(&events.main)?;
            load.finish(installation)?;
            events.main.delete(&installation.servers.kubernetes)?;
            recording
        };
        let rules = cargo::root().join(RULES);
        let rules = fs::read_to_string(&rules).with_context(|| format!("cannot read {}", rules.display()))?;
        let header = format!("# Recorded by `cargo xtask chaos --record {name}`; do not edit.\n");
        let file: PathBuf = cargo::root().join(RECORDINGS).join(format!("{name}.yaml"));
        fs::create_dir_all(cargo::root().join(RECORDINGS)).context("cannot create the directory of the recordings")?;
        fs::write(&file, header + &recording.to_yaml(|metric| rules.contains(metric)))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn fault(self) -> Option<Fault> {
        let kind = match self {
            Self::Fault(kind) => kind,
            Self::RedisUnverified | Self::EventNotReady => Kind::Kill(Component::Postgres),
            _ => return None,
        };
        Some(Fault { kind, after: Duration::ZERO, duration: Duration::ZERO, which: 0, link: (ISSUER, REDIS) })
    }

    /// Starts what the fault affects.
    fn prepare(self, installation: &mut Installation) -> Result<()> {
        if let Self::CallersRejected = self {
            return replace_redeemers(installation, &["--auth", "service-account"]);
        }
        let port = ports::free()?.to_string();
        let issuer = match self {
            Self::ConnectionsExhausted => installation.issuer(ISSUERS + 1, &["--max-connections", "20"])?,
            Self::JwksDown => {
                let url = format!("http://127.0.0.1:{port}/");
                let args = ["--user-identity", "jwt", "--jwt-jwks-url", &url, "--jwt-refresh-seconds", "10"];
                installation.issuer(ISSUERS + 1, &args)?
            }
            _ => return Ok(()),
        };
        if let Self::JwksDown = self {
            serve_once(&port)?;
        }
        issuer.node.wait_ready()?;
        installation.issuers.push(issuer);
        installation.restart_exited().map(drop)
    }

    fn inject(self, installation: &mut Installation, events: &mut Events, held: &mut Held) -> Result<()> {
        if let Some(fault) = self.fault() {
            fault.inject(installation, events)?;
        }
        let name = events.main.name.clone();
        let redis_url = installation.servers.redis.url();
        match self {
            Self::NormalEvent | Self::Fault(_) | Self::JwksDown | Self::CallersRejected => {}
            Self::Gone(program) => {
                let instances = match program {
                    ISSUER => &mut installation.issuers,
                    CONSUMER => &mut installation.consumers,
                    REDEEMER => &mut installation.redeemers,
                    _ => &mut installation.operators,
                };
                instances.drain(..).try_for_each(|instance| instance.node.process.stop())?;
            }
            Self::RedisUnverified => {
                installation.servers.redis.kill9()?;
                installation.servers.redis.restart()?;
            }
            Self::ConnectionsExhausted => {
                let port = installation.issuers.last().and_then(|issuer| issuer.node.listen);
                let port = port.context("the issuer has no port")?;
                for _ in 0..CONNECTIONS {
                    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
                    write!(connection, "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
                    held.connections.push(connection);
                }
            }
            Self::EventNotReady => {
                let start = Timestamp::now() + Duration::from_mins(10);
                let event = Event::new(format!("{name}-soon"), 100, "Redis").starting_at(start);
                event.apply(&installation.servers.kubernetes)?;
                held.event = Some(event);
            }
            Self::GarbageRecord => change_topic(installation, &["send-garbage"])?,
            Self::ForeignRecord => {
                let other = "00000000-0000-4000-8000-000000000000";
                change_topic(installation, &["send-garbage", "--installation", other])?;
            }
            Self::CouponLost => {
                held.coupon = Some(redis::command(&redis_url, &["RPOP", &format!("couponQueue:{{{name}}}")])?);
            }
            Self::StockMissing => rename_stock(installation, &name, ("coupon_", "moved_"))?,
            Self::StatusRejected => {
                installation.servers.kubernetes.kubectl_with(&["apply", "-f", "-"], REJECT_STATUS)?;
            }
        }
        Ok(())
    }

    fn remove(self, installation: &mut Installation, events: &mut Events, held: Held) -> Result<()> {
        if let Some(fault) = self.fault() {
            fault.remove(installation, events)?;
        }
        let Held { connections, coupon, event } = held;
        drop(connections);
        let name = events.main.name.clone();
        match self {
            Self::Gone(_) => {
                for number in installation.operators.len() + 1..=OPERATORS {
                    let operator = installation.operator(&format!("operator {number}"), true)?;
                    installation.operators.push(operator);
                }
                for number in installation.issuers.len() + 1..=ISSUERS {
                    let issuer = installation.issuer(number, &[])?;
                    installation.issuers.push(issuer);
                }
                for number in installation.consumers.len() + 1..=CONSUMERS {
                    let consumer = installation.consumer(number)?;
                    installation.consumers.push(consumer);
                }
                for number in installation.redeemers.len() + 1..=REDEEMERS {
                    let redeemer = installation.redeemer(number, &[])?;
                    installation.redeemers.push(redeemer);
                }
            }
            Self::CallersRejected => replace_redeemers(installation, &[])?,
            Self::JwksDown | Self::ConnectionsExhausted => installation.issuers.truncate(ISSUERS),
            Self::CouponLost => {
                let coupon =
                    coupon.as_deref().and_then(|reply| reply.lines().nth(1)).context("no coupon was removed")?;
                let key = format!("couponQueue:{{{name}}}");
                redis::command(&installation.servers.redis.url(), &["RPUSH", &key, coupon])?;
            }
            Self::StockMissing => rename_stock(installation, &name, ("moved_", "coupon_"))?,
            Self::StatusRejected => {
                let delete = ["delete", "--wait=false", "-f", "-"];
                installation.servers.kubernetes.kubectl_with(&delete, REJECT_STATUS)?;
            }
            Self::EventNotReady => {
                if let Some(event) = event {
                    event.delete(&installation.servers.kubernetes)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// An event from its schedule to its end.
fn sell(name: &str, installation: &mut Installation) -> Result<()> {
    const COUPONS: u64 = 2000;
    let mut event =
        Event::new(name.to_owned(), COUPONS, "Redis").starting_at(Timestamp::now() + Duration::from_mins(1));
    event.apply(&installation.servers.kubernetes)?;
    installation.wait_loaded(&event)?;
    installation.supervise(Duration::from_secs(65), |_| Ok(false))?;
    let load = Load::start(installation, &event, &Workload { users: 3 * COUPONS, rate: 100, seed: 1 })?;
    let shops = Shops::start(installation, &event, 1)?;
    installation.supervise(Duration::from_secs(30), |_| Ok(false))?;
    event.pause(&installation.servers.kubernetes, true)?;
    installation.supervise(Duration::from_secs(5), |_| Ok(false))?;
    event.pause(&installation.servers.kubernetes, false)?;
    event.top_up(&installation.servers.kubernetes)?;
    load.finish(installation)?;
    installation.supervise(Duration::from_secs(30), |_| Ok(false))?;
    shops.finish(installation)?;
    event.delete(&installation.servers.kubernetes)?;
    installation.supervise(Duration::from_mins(1), |_| Ok(false)).map(drop)
}

/// Replaces all redeemers by some with these arguments.
fn replace_redeemers(installation: &mut Installation, args: &[&str]) -> Result<()> {
    installation.redeemers.clear();
    for number in 1..=REDEEMERS {
        let redeemer = installation.redeemer(number, args)?;
        redeemer.node.wait_ready()?;
        installation.redeemers.push(redeemer);
    }
    installation.restart_exited().map(drop)
}

/// Serves one request for the JWKS in the background, and none afterwards.
fn serve_once(port: &str) -> Result<()> {
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).context("cannot serve the JWKS")?;
    std::thread::spawn(move || {
        if let Ok((mut connection, _)) = listener.accept() {
            let length = JWKS.len();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
            // A connection that is closed before its request was read is reset. An issuer that receives no keys does
            // not become ready, which fails the preparation.
            let _ = connection.read(&mut [0; 4096]);
            let _ = write!(connection, "{head}Content-Length: {length}\r\n\r\n{JWKS}");
        }
    });
    Ok(())
}

/// Renames the table with the stock of the event.
fn rename_stock(installation: &Installation, event: &str, (from, to): (&str, &str)) -> Result<()> {
    let url = installation.servers.postgres.url();
    let sql = format!("SELECT replace(uid::text, '-', '') FROM coupon_event WHERE name = '{event}' AND NOT is_purging");
    let uid = psql(&url, &sql)?;
    let uid = uid.trim();
    psql(&url, &format!("ALTER TABLE {from}{uid} RENAME TO {to}{uid}")).map(drop)
}
