//! A load in the background, and the check after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use couponry_domain::{Discount, EventName, Release};
use couponry_loadgen::checker::{self, CheckInput, Report};
use couponry_loadgen::driver::{Load, collect_history};
use couponry_loadgen::history::Attempt;
use couponry_loadgen::outcome::OutcomeKind;
use couponry_loadgen::progress::Progress;
use couponry_loadgen::workload::Workload;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::installation::{Installation, counts, until};

pub(crate) struct BackgroundLoad {
    /// Number of requests.
    pub(crate) requests: usize,
    progress: Arc<Progress>,
    history: JoinHandle<Vec<Attempt>>,
}

impl BackgroundLoad {
    pub(crate) fn start(runtime: &Runtime, installation: &Installation, event: &EventName, users: u32) -> Self {
        let workload = Workload { users, ..Workload::default() };
        let requests = workload.requests().len();
        let load = Load { connections: 32, ..Load::new(installation.targets.clone(), event.clone(), workload) };
        let progress: Arc<Progress> = Arc::default();
        let history = runtime.spawn({
            let progress = progress.clone();
            async move { collect_history(&load, &progress, &CancellationToken::new()).await }
        });
        Self { requests, progress, history }
    }

    /// Waits until this many coupons were issued.
    pub(crate) fn wait_issued(&self, count: u64) {
        self.wait_attempts(OutcomeKind::Issued, count);
    }

    /// Waits until this many attempts had this outcome.
    pub(crate) fn wait_attempts(&self, outcome: OutcomeKind, count: u64) {
        until("attempts have this outcome", || (self.progress.attempts(outcome) >= count).then_some(()));
    }

    /// Waits until all requests are finished.
    pub(crate) fn finish(self, runtime: &Runtime) -> Vec<Attempt> {
        runtime.block_on(self.history).unwrap()
    }
}

/// What the event should have.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) total: u64,
    pub(crate) by_discount: BTreeMap<Discount, u64>,
}

/// Waits until everything is recorded or the timeout has passed, and runs the checker.
pub(crate) fn check(
    runtime: &Runtime,
    installation: &Installation,
    event: &EventName,
    plan: Plan,
    timeout: Duration,
    history: Vec<Attempt>,
) -> Report {
    let stores = &installation.stores;
    let input = runtime.block_on(async {
        println!("at the end: {}", counts(stores.wait_recorded(event, timeout, |_| ()).await.unwrap()));
        let uid = stores.uid(event).await.unwrap();
        CheckInput {
            total: plan.total,
            expected: plan.by_discount,
            release: Release::default(),
            voids: Vec::new(),
            redis_clock_back: Vec::new(),
            history,
            redis: stores.redis(event).await.unwrap(),
            kafka: stores.kafka(uid).await.unwrap(),
            postgres: stores.postgres(uid).await.unwrap(),
        }
    });
    let report = checker::check(&input);
    println!("{report}");
    report
}
