//! The load generator against a small issuer that answers as the contract says, keeps its stock in memory, and fails on demand.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::post};
use couponry_domain::DiscountType::Percent;
use couponry_domain::{Discount, Window};
use couponry_loadgen::checker::{self, Evidence, Holding, KafkaSide, PostgresSide, RedisSide, Status};
use couponry_loadgen::client::Target;
use couponry_loadgen::crowd::Crowd;
use couponry_loadgen::drive::{Load, gather};
use couponry_loadgen::history::{Attempt, Outcome};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const TEN: Discount = Discount { kind: Percent, value: 10 };

/// How an issuer fails, by the number of the request.
type Failure = fn(u64) -> Option<Fault>;

enum Fault {
    /// 503 before anything happened.
    BusyBefore,
    /// 503 although the coupon was given.
    BusyAfter,
    /// The connection breaks although the coupon was given.
    Panic,
    /// No answer for a long time, although the coupon was given.
    Silence,
}

#[derive(Default)]
struct Event {
    total: usize,
    issued: HashMap<String, usize>,
    bodies: HashSet<String>,
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
    let answer = give(&mut issuer.event.lock().unwrap(), body["userId"].as_str().unwrap());
    match fault {
        Some(Fault::BusyAfter) => busy(),
        Some(Fault::Panic) => panic!("this connection breaks on purpose"),
        Some(Fault::Silence) => {
            tokio::time::sleep(Duration::from_mins(1)).await;
            busy()
        }
        Some(Fault::BusyBefore) | None => Json(answer).into_response(),
    }
}

fn give(event: &mut Event, user: &str) -> Value {
    event.bodies.insert(user.to_owned());
    let (reason, coupon) = match event.issued.get(user) {
        Some(number) => (Some("DUPLICATE"), Some(*number)),
        None if event.issued.len() == event.total => (Some("SOLD_OUT"), None),
        None => {
            let number = event.issued.len();
            event.issued.insert(user.to_owned(), number);
            (None, Some(number))
        }
    };
    json!({
        "success": reason.is_none(),
        "reason": reason,
        "couponKey": coupon.map(|number| format!("S-{number}")),
        "message": "for people",
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
    let crowd = Crowd { users, seed: 7, ..Crowd::default() };
    Load { connections: 16, ..Load::new(targets, "summer".parse().unwrap(), crowd) }
}

/// What the stores would hold if everything else worked.
fn evidence(event: &Event, history: Vec<Attempt>) -> Evidence {
    let code = |number: usize| format!("S-{number}").parse().unwrap();
    let issuances: Vec<_> = event
        .issued
        .iter()
        .map(|(user, number)| Holding {
            user: user.parse().unwrap(),
            coupon: code(*number),
            discount: TEN,
            issued_at: 5,
        })
        .collect();
    let coupons: Vec<_> = (0..event.total).map(|number| (code(number), TEN)).collect();
    Evidence {
        total: event.total as u64,
        expected: BTreeMap::new(),
        history,
        redis: RedisSide {
            queue: coupons[event.issued.len()..].to_vec(),
            issued: issuances.iter().map(|holding| (holding.clone(), Status::Completed)).collect(),
            outbox: 0,
            window: Window::default(),
        },
        kafka: KafkaSide { records: issuances.clone(), ..KafkaSide::default() },
        postgres: PostgresSide { coupons, issuances },
    }
}

fn fine(_: u64) -> Option<Fault> {
    None
}

#[tokio::test]
async fn everybody_asks_as_often_as_planned_and_the_check_is_green() {
    let (event, targets) = issuers(800, &[fine, fine]).await;
    let load = load(targets, 1000);
    let history = gather(&load, &CancellationToken::new()).await;

    assert_eq!(history.len(), load.crowd.asks().len());
    assert!(history.iter().all(|attempt| attempt.attempt == 1 && matches!(attempt.outcome, Outcome::Ok(_))));
    assert!(history.iter().all(|attempt| attempt.invoked <= attempt.finished));
    assert_eq!(history.iter().map(|attempt| &attempt.target).collect::<HashSet<_>>().len(), 2);
    let event = event.lock().unwrap();
    assert_eq!((event.bodies.len(), event.issued.len()), (1000, 800));
    let report = checker::check(&evidence(&event, history));
    assert!(report.is_good(), "{report}");
}

#[tokio::test]
async fn what_fails_is_repeated_until_it_is_answered() {
    let flaky: Failure = |number| match number % 10 {
        3 => Some(Fault::BusyBefore),
        5 => Some(Fault::BusyAfter),
        7 => Some(Fault::Panic),
        _ if number == 20 => Some(Fault::Silence),
        _ => None,
    };
    let (event, mut targets) = issuers(300, &[flaky, flaky]).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    targets.push(format!("http://{}", nobody.local_addr().unwrap()).parse().unwrap());
    drop(nobody);
    let load = Load { deadline: Duration::from_secs(1), ..load(targets, 400) };
    let history = gather(&load, &CancellationToken::new()).await;

    let count = |wanted: fn(&Outcome) -> bool| history.iter().filter(|attempt| wanted(&attempt.outcome)).count();
    let answered = count(|outcome| matches!(outcome, Outcome::Ok(_)));
    let unknown = count(|outcome| matches!(outcome, Outcome::Unknown(_)));
    let unreachable = count(|outcome| matches!(outcome, Outcome::Refused(problem) if problem.status.is_none()));
    assert_eq!(answered, load.crowd.asks().len(), "every ask got its answer in the end");
    assert!(unknown > 50 && unreachable > 50, "{unknown} unknown, {unreachable} unreachable");
    let silent =
        |attempt: &&Attempt| matches!(&attempt.outcome, Outcome::Unknown(problem) if problem.why.contains("in time"));
    assert!(history.iter().find(silent).is_some());
    let report = checker::check(&evidence(&event.lock().unwrap(), history));
    assert!(report.is_good(), "{report}");
}

#[tokio::test]
async fn a_bad_request_is_not_repeated() {
    let (_, targets) = issuers(10, &[fine]).await;
    let load = Load { event: "winter".parse().unwrap(), ..load(targets, 20) };
    let history = gather(&load, &CancellationToken::new()).await;
    assert_eq!(history.len(), load.crowd.asks().len());
    let refused =
        |attempt: &Attempt| matches!(&attempt.outcome, Outcome::Refused(problem) if problem.status == Some(404));
    assert!(history.iter().all(refused), "{:?}", history[0]);
}

#[tokio::test]
async fn an_ask_without_answer_is_given_up_after_its_tries() {
    let (_, targets) = issuers(10, &[|_| Some(Fault::BusyAfter)]).await;
    let load = Load { max_tries: 3, ..load(targets, 4) };
    let history = gather(&load, &CancellationToken::new()).await;
    assert_eq!(history.len(), 3 * load.crowd.asks().len());
}

#[tokio::test]
async fn a_stopped_load_ends_what_is_under_way_and_begins_nothing() {
    let (_, targets) = issuers(10, &[fine]).await;
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(gather(&load(targets, 100), &stop).await.is_empty());
}

#[tokio::test]
async fn with_a_rate_nobody_asks_before_their_turn() {
    let (_, targets) = issuers(100, &[fine]).await;
    let load = Load { rate: NonZeroU32::new(200), ..load(targets, 40) };
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let history = gather(&load, &CancellationToken::new()).await;
    assert_eq!(history.len(), load.crowd.asks().len());
    let mut times: Vec<_> = history.iter().map(|attempt| u128::try_from(attempt.invoked).unwrap()).collect();
    times.sort_unstable();
    for (turn, time) in (0u128..).zip(times) {
        assert!(time >= start + turn * 5000, "ask {turn} was sent {} us after the start", time - start);
    }
}

#[tokio::test]
async fn a_strict_run_fails_when_a_single_request_does() {
    let flaky: Failure = |number| (number == 7).then_some(Fault::BusyBefore);
    for (failure, arguments, code) in [(flaky, &["--strict"][..], 1), (flaky, &[], 0), (fine, &["--strict"], 0)] {
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
async fn the_program_writes_its_history_and_sums_up() {
    let (event, targets) = issuers(150, &[fine, fine]).await;
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
    for part in
        ["seed 3", "Outcomes of 240 requests", "  issued               150", "p99.9", "Won by 150 users", "PERCENT:10"]
    {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    assert!(text.contains("240 of 240 asks were answered"), "{text}");
    let history = couponry_loadgen::history::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(history.len(), 240);
    let report = checker::check(&evidence(&event.lock().unwrap(), history));
    assert!(report.is_good(), "{report}");
}

#[tokio::test]
async fn the_program_says_when_nobody_answers() {
    let path = std::env::temp_dir().join(format!("loadgen-nobody-{}.jsonl", std::process::id()));
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("--target=http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let run = tokio::process::Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["run", &target, "--event", "summer", "--users", "5", "--max-tries", "2", "--history"])
        .arg(&path)
        .output();
    let output = run.await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("unreachable") && text.contains("0 of 5 asks were answered, 5 got no answer"), "{text}");
}
