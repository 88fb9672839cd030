//! Runs the load generator against a stub issuer which keeps its coupons in memory and can inject faults.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::post};
use couponry_domain::DiscountType::Percent;
use couponry_domain::{Discount, IssuedCoupon, Release, Window};
use couponry_loadgen::checker::{self, CheckInput, KafkaData, PostgresData, RedisData};
use couponry_loadgen::connection::Target;
use couponry_loadgen::driver::{Load, collect_history};
use couponry_loadgen::history::Attempt;
use couponry_loadgen::outcome::Outcome;
use couponry_loadgen::workload::Workload;
use couponry_redis::{IssuedEntry, IssuedStatus};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const PERCENT_10: Discount = Discount { kind: Percent, value: 10 };

/// The fault to inject, by the number of the request.
type Failure = fn(u64) -> Option<Fault>;

enum Fault {
    /// 503 before a coupon is issued.
    BusyBefore,
    /// 503 after the coupon was issued.
    BusyAfter,
    /// The connection breaks after the coupon was issued.
    Panic,
    /// No response after the coupon was issued.
    Hang,
}

#[derive(Default)]
struct Event {
    total: usize,
    issued: HashMap<String, usize>,
    /// When all users are admitted.
    admitted_at: Option<Timestamp>,
    users: HashSet<String>,
}

#[derive(Clone)]
struct Issuer {
    event: Arc<Mutex<Event>>,
    requests: Arc<Mutex<u64>>,
    failure: Failure,
}

async fn issue(State(issuer): State<Issuer>, Json(body): Json<Value>) -> Response {
    let number = {
        let mut requests = issuer.requests.lock().unwrap();
        *requests += 1;
        *requests
    };
    let busy = || (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")], "busy").into_response();
    let fault = (issuer.failure)(number);
    if matches!(fault, Some(Fault::BusyBefore)) {
        return busy();
    }
    if body["eventId"] != "summer" {
        return (StatusCode::NOT_FOUND, "unknown event").into_response();
    }
    let response = respond(&mut issuer.event.lock().unwrap(), body["userId"].as_str().unwrap());
    match fault {
        Some(Fault::BusyAfter) => busy(),
        Some(Fault::Panic) => panic!("injected panic"),
        Some(Fault::Hang) => {
            tokio::time::sleep(Duration::from_mins(1)).await;
            busy()
        }
        Some(Fault::BusyBefore) | None => Json(response).into_response(),
    }
}

fn respond(event: &mut Event, user: &str) -> Value {
    event.users.insert(user.to_owned());
    let admitted_at = event.admitted_at.filter(|at| Timestamp::now() < *at);
    let (reason, coupon) = match event.issued.get(user) {
        Some(number) => (Some("DUPLICATE"), Some(*number)),
        None if event.issued.len() == event.total => (Some("SOLD_OUT"), None),
        None if admitted_at.is_some() => (Some("WAIT"), None),
        None => {
            let number = event.issued.len();
            event.issued.insert(user.to_owned(), number);
            (None, Some(number))
        }
    };
    let admitted_at = admitted_at.filter(|_| reason == Some("WAIT")).map(|at| format!("{at:.3}"));
    json!({
        "success": reason.is_none(),
        "reason": reason,
        "admittedAt": admitted_at,
        "couponKey": coupon.map(|number| format!("S-{number}")),
        "message": "text",
        "discountType": coupon.map(|_| "PERCENT"),
        "discountAmount": coupon.map(|_| 10),
    })
}

async fn issuers(total: usize, failures: &[Failure]) -> (Arc<Mutex<Event>>, Vec<Target>) {
    let event = Arc::new(Mutex::new(Event { total, ..Event::default() }));
    let mut targets = Vec::new();
    for failure in failures {
        let issuer = Issuer { event: event.clone(), requests: Arc::default(), failure: *failure };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        targets.push(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let app = Router::new().route("/coupons/issue", post(issue)).with_state(issuer);
        tokio::spawn(async move { axum::serve(listener, app).await });
    }
    (event, targets)
}

fn load(targets: Vec<Target>, users: u32) -> Load {
    let workload = Workload { users, seed: 7, ..Workload::default() };
    Load { connections: 16, ..Load::new(targets, "summer".parse().unwrap(), workload) }
}

/// The data which the stores would have.
fn input(event: &Event, history: Vec<Attempt>) -> CheckInput {
    let code = |number: usize| format!("S-{number}").parse().unwrap();
    let issuances: Vec<_> = event
        .issued
        .iter()
        .map(|(user, number)| IssuedCoupon {
            user_id: user.parse().unwrap(),
            coupon: code(*number),
            discount: PERCENT_10,
            issued_at: 5,
        })
        .collect();
    let coupons: Vec<_> = (0..event.total).map(|number| (code(number), PERCENT_10)).collect();
    CheckInput {
        total: event.total as u64,
        expected: BTreeMap::new(),
        release: Release::default(),
        voids: Vec::new(),
        redis_clock_back: Vec::new(),
        history,
        redis: RedisData {
            queue: coupons[event.issued.len()..].to_vec(),
            issued: issuances
                .iter()
                .map(|issued| IssuedEntry { issued: issued.clone(), status: IssuedStatus::Completed })
                .collect(),
            outbox: 0,
            window: Window::default(),
            release: Release::default(),
            admission_key: None,
            is_verified: true,
        },
        kafka: KafkaData { records: issuances.clone(), ..KafkaData::default() },
        postgres: PostgresData { coupons, issuances, ..PostgresData::default() },
    }
}

fn no_fault(_: u64) -> Option<Fault> {
    None
}

#[tokio::test]
async fn run_without_faults_sends_all_requests_and_passes_check() {
    let (event, targets) = issuers(800, &[no_fault, no_fault]).await;
    let load = load(targets, 1000);
    let history = collect_history(&load, &Arc::default(), &CancellationToken::new()).await;

    assert_eq!(history.len(), load.workload.requests().len());
    assert!(history.iter().all(|attempt| attempt.attempt == 1 && matches!(attempt.outcome, Outcome::Answered(_))));
    assert!(history.iter().all(|attempt| attempt.invoked <= attempt.finished));
    assert_eq!(history.iter().map(|attempt| &attempt.target).collect::<HashSet<_>>().len(), 2);
    let event = event.lock().unwrap();
    assert_eq!((event.users.len(), event.issued.len()), (1000, 800));
    let report = checker::check(&input(&event, history));
    assert!(report.is_ok(), "{report}");
}

#[tokio::test]
async fn failed_attempts_are_retried_until_answered() {
    let flaky: Failure = |number| match number % 10 {
        3 => Some(Fault::BusyBefore),
        5 => Some(Fault::BusyAfter),
        7 => Some(Fault::Panic),
        _ if number == 20 => Some(Fault::Hang),
        _ => None,
    };
    let (event, mut targets) = issuers(300, &[flaky, flaky]).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    targets.push(format!("http://{}", closed.local_addr().unwrap()).parse().unwrap());
    drop(closed);
    let load = Load { timeout: Duration::from_secs(1), ..load(targets, 400) };
    let history = collect_history(&load, &Arc::default(), &CancellationToken::new()).await;

    let count = |wanted: fn(&Outcome) -> bool| history.iter().filter(|attempt| wanted(&attempt.outcome)).count();
    let answered = count(|outcome| matches!(outcome, Outcome::Answered(_)));
    let unknown = count(|outcome| matches!(outcome, Outcome::Unknown(_)));
    let unreachable = count(|outcome| matches!(outcome, Outcome::Rejected(failure) if failure.status.is_none()));
    assert_eq!(answered, load.workload.requests().len(), "not every request was answered");
    assert!(unknown > 50 && unreachable > 50, "{unknown} unknown, {unreachable} unreachable");
    let timed_out = |attempt: &&Attempt| match &attempt.outcome {
        Outcome::Unknown(failure) => failure.message.contains("timeout"),
        Outcome::Answered(_) | Outcome::Rejected(_) => false,
    };
    assert!(history.iter().find(timed_out).is_some());
    let report = checker::check(&input(&event.lock().unwrap(), history));
    assert!(report.is_ok(), "{report}");
}

#[tokio::test]
async fn rejected_request_is_not_retried() {
    let (_, targets) = issuers(10, &[no_fault]).await;
    let load = Load { event: "winter".parse().unwrap(), ..load(targets, 20) };
    let history = collect_history(&load, &Arc::default(), &CancellationToken::new()).await;
    assert_eq!(history.len(), load.workload.requests().len());
    let rejected =
        |attempt: &Attempt| matches!(&attempt.outcome, Outcome::Rejected(failure) if failure.status == Some(404));
    assert!(history.iter().all(rejected), "{:?}", history[0]);
}

#[tokio::test]
async fn unanswered_request_stops_after_max_attempts() {
    let (_, targets) = issuers(10, &[|_| Some(Fault::BusyAfter)]).await;
    let load = Load { max_attempts: 3, ..load(targets, 4) };
    let history = collect_history(&load, &Arc::default(), &CancellationToken::new()).await;
    assert_eq!(history.len(), 3 * load.workload.requests().len());
}

#[tokio::test]
async fn stopped_load_sends_no_request() {
    let (_, targets) = issuers(10, &[no_fault]).await;
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(collect_history(&load(targets, 100), &Arc::default(), &stop).await.is_empty());
}

#[tokio::test]
async fn rate_delays_requests() {
    let (_, targets) = issuers(100, &[no_fault]).await;
    let load = Load { rate: NonZeroU32::new(200), ..load(targets, 40) };
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let history = collect_history(&load, &Arc::default(), &CancellationToken::new()).await;
    assert_eq!(history.len(), load.workload.requests().len());
    let mut times: Vec<_> = history.iter().map(|attempt| u128::try_from(attempt.invoked).unwrap()).collect();
    times.sort_unstable();
    for (index, time) in (0u128..).zip(times) {
        assert!(time >= start + index * 5000, "request {index} was sent {} us after the start", time - start);
    }
}

#[tokio::test]
async fn strict_run_with_unanswered_attempt_exits_1() {
    let flaky: Failure = |number| (number == 7).then_some(Fault::BusyBefore);
    for (failure, arguments, code) in [(flaky, &["--strict"][..], 1), (flaky, &[], 0), (no_fault, &["--strict"], 0)] {
        let (_, targets) = issuers(50, &[failure]).await;
        let run = tokio::process::Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["run", &format!("--target={}", targets[0]), "--event", "summer", "--users", "20"])
            .args(["--rate", "1000", "--history", "/dev/null"])
            .args(arguments)
            .output();
        let output = run.await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn run_writes_history_and_prints_summary() {
    let (event, targets) = issuers(150, &[no_fault, no_fault]).await;
    let path = std::env::temp_dir().join(format!("loadgen-run-{}.jsonl", std::process::id()));
    let run = tokio::process::Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .arg("run")
        .args(targets.iter().map(|target| format!("--target={target}")))
        .args(["--event", "summer", "--users", "200", "--connections", "8", "--seed", "3", "--history"])
        .arg(&path)
        .output();
    let output = run.await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "seed 3",
        "Outcomes of 240 attempts",
        "  issued               150",
        "p99.9",
        "150 users received a coupon",
        "PERCENT:10",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    assert!(text.contains("240 of 240 requests were answered"), "{text}");
    let history = couponry_loadgen::history::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(history.len(), 240);
    let report = checker::check(&input(&event.lock().unwrap(), history));
    assert!(report.is_ok(), "{report}");
}

#[tokio::test]
async fn run_without_responses_exits_1() {
    let path = std::env::temp_dir().join(format!("loadgen-unreachable-{}.jsonl", std::process::id()));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("--target=http://{}", closed.local_addr().unwrap());
    drop(closed);
    let run = tokio::process::Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["run", &target, "--event", "summer", "--users", "5", "--max-attempts", "2", "--history"])
        .arg(&path)
        .output();
    let output = run.await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("unreachable") && text.contains("0 of 5 requests were answered, 5 were not answered"),
        "{text}"
    );
}

#[tokio::test]
async fn waiting_users_send_their_requests_again_when_they_are_admitted() {
    let (event, targets) = issuers(50, &[|_| None]).await;
    let admitted_at = Timestamp::now() + SignedDuration::from_millis(500);
    event.lock().unwrap().admitted_at = Some(admitted_at);
    // More users than connections: waiting users do not block the others.
    let (progress, stop) = (Arc::default(), CancellationToken::new());
    let history = collect_history(&load(targets, 50), &progress, &stop).await;
    assert_eq!(event.lock().unwrap().issued.len(), 50);
    let told: HashSet<_> = history
        .iter()
        .filter(|attempt| attempt.response().is_some_and(|response| response.admitted_at.is_some()))
        .map(|attempt| (&attempt.user, attempt.request))
        .collect();
    assert!(told.len() > 16, "only {} requests had to wait", told.len());
    for attempt in history.iter().filter(|attempt| attempt.attempt > 1) {
        assert!(told.contains(&(&attempt.user, attempt.request)), "{attempt:?}");
        assert!(attempt.invoked >= admitted_at.as_microsecond() / 1000 * 1000, "{attempt:?}");
    }
    let report = checker::check(&input(&event.lock().unwrap(), history));
    println!("{report}");
}
