//! Leader election: one operator holds the lease, the others stand by.

use anyhow::{Context as _, Result, ensure};
use couponry_testbed::{Kubernetes, http, ports, program::Running};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{Api, Client};

use crate::support::{World, client, install_crd, is_true, reason, wait_operator_ready, wait_until};

const TOTAL: u64 = 300_000;
const SPEC: &str = "{policyName: p, totalCount: 300000, discounts: [\
     {type: Percent, value: 10, allocationPercentage: 70}, {type: Amount, value: 5000, allocationPercentage: 30}]}";
const SPLIT: [(&str, usize); 2] = [("PERCENT:10", 210_000), ("AMOUNT:5000", 90_000)];
const KUBE_EVENTS: [&str; 3] = ["Opened", "PreloadCompleted", "PreloadStarted"];

/// An operator with leader election.
struct Candidate {
    identity: String,
    monitor: u16,
    process: Running,
}

impl Candidate {
    fn start(world: &World, identity: &str) -> Result<Self> {
        let monitor = ports::free()?;
        let process = world.operator_program(monitor).args(["--leader-elect", "--identity", identity]).start()?;
        Ok(Self { identity: identity.to_owned(), monitor, process })
    }

    fn is_leader(&self) -> bool {
        is_leader(self.monitor)
    }

    async fn wait_ready(&self) -> Result<()> {
        wait_operator_ready(self.monitor).await
    }
}

fn is_leader(port: u16) -> bool {
    let metrics = http::get(port, "/metrics").unwrap_or_default().1;
    metrics.lines().any(|line| line == "couponry_operator_is_leader 1")
}

/// Two ready operators, of which the first is the leader.
async fn start_two(world: &World) -> Result<(Candidate, Candidate)> {
    let first = Candidate::start(world, "first")?;
    wait_until("the first is leader", async || Ok(first.is_leader())).await?;
    let second = Candidate::start(world, "second")?;
    second.wait_ready().await?;
    ensure!(!second.is_leader(), "two operators are leader");
    Ok((first, second))
}

async fn wait_loading(world: &World) -> Result<()> {
    let event = "event".parse()?;
    wait_until("coupons are being loaded", async || {
        Ok(world.redis_store.observe(&event).await?.is_some_and(|redis| redis.loaded > 0))
    })
    .await?;
    let loaded = world.redis_store.observe(&event).await?.context("no event")?.loaded;
    println!("{loaded} of {TOTAL} coupons are loaded");
    Ok(())
}

async fn lease(client: &Client, namespace: &str) -> Result<LeaseSpec> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    Ok(leases.get("couponry-operator").await?.spec.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_takes_over_from_killed_leader() -> Result<()> {
    let world = World::shared().await?;
    let (first, second) = start_two(&world).await?;
    world.apply("event", SPEC)?;
    wait_loading(&world).await?;
    first.process.kill9()?;
    wait_until("the second is leader", async || Ok(second.is_leader())).await?;
    world.wait_ready("event").await?;
    world.check_generated_stock("event", &SPLIT).await?;
    world.wait_kube_events("event", &KUBE_EVENTS).await?;
    let lease = lease(&world.events.clone().into_client(), world.namespace()).await?;
    assert_eq!((lease.holder_identity.as_deref(), lease.lease_transitions), (Some("second"), Some(1)));

    // The killed operator restarts with its identity and enters standby.
    first.process.restart()?;
    first.wait_ready().await?;
    ensure!(!first.is_leader() && second.is_leader(), "the restarted operator acquired the lease");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_leader_releases_lease() -> Result<()> {
    let world = World::shared().await?;
    let (first, second) = start_two(&world).await?;
    world.apply("event", SPEC)?;
    wait_loading(&world).await?;
    first.process.stop()?;
    let released = lease(&world.events.clone().into_client(), world.namespace()).await?;
    let holder = released.holder_identity.unwrap_or_default();
    ensure!(holder != first.identity, "the stopped operator still holds the lease");
    ensure!(first.process.log().contains("lease released"), "{}", first.process.log());
    wait_until("the second is leader", async || Ok(second.is_leader())).await?;
    world.wait_ready("event").await?;
    world.check_generated_stock("event", &SPLIT).await?;
    world.wait_kube_events("event", &KUBE_EVENTS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_leader_enters_standby_after_resume() -> Result<()> {
    let world = World::shared().await?;
    let (first, second) = start_two(&world).await?;
    world.apply("event", SPEC)?;
    wait_loading(&world).await?;
    first.process.pause()?;
    wait_until("the second is leader", async || Ok(second.is_leader())).await?;
    world.wait("event", "open", |status| is_true(status, "Open")).await?;
    assert_eq!(world.issue("event", 0..100).await?, 100);
    first.process.resume()?;
    wait_until("the first enters standby", async || Ok(first.process.log().contains("lease lost, entering standby")))
        .await?;
    ensure!(!first.is_leader() && second.is_leader(), "two operators are leader");
    ensure!(first.process.process().exited()?.is_none(), "the operator exited");
    world.wait_ready("event").await?;
    world.check_generated_stock("event", &SPLIT).await?;
    world.wait_kube_events("event", &KUBE_EVENTS).await?;

    // The frozen operator can become leader again.
    second.process.stop()?;
    wait_until("the first is leader again", async || Ok(first.is_leader())).await?;
    world.apply("event", &SPEC.replace("policyName: p", "policyName: p, issuance: Paused"))?;
    world.wait("event", "paused", |status| reason(status, "Open") == "Paused").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_without_api_server_stops_until_it_can_renew() -> Result<()> {
    let kubernetes = Kubernetes::start()?;
    install_crd(kubernetes.kubeconfig(), &couponry_crds::crd_yaml())?;
    let world = World::shared().await?;
    kubernetes.kubectl(&["create", "namespace", world.namespace()])?;
    let port = ports::free()?;
    let operator = world
        .operator_program_at(kubernetes.kubeconfig(), port)
        .args(["--leader-elect", "--identity", "only"])
        .start()?;
    wait_until("the operator is leader", async || Ok(is_leader(port))).await?;
    kubernetes.pause()?;
    wait_until("the operator is not leader", async || Ok(!is_leader(port))).await?;
    wait_until("the operator is not ready", async || {
        let is_reported = |(status, body): (u16, String)| {
            status == 503 && body.contains("kubernetes: the API server did not respond within 5s")
        };
        Ok(http::get(port, "/readyz").is_some_and(is_reported))
    })
    .await?;
    kubernetes.resume()?;
    wait_until("the operator is leader again", async || Ok(is_leader(port))).await?;
    wait_operator_ready(port).await?;
    ensure!(operator.process().exited()?.is_none(), "the operator exited");

    let lease = lease(&client(kubernetes.kubeconfig()).await?, world.namespace()).await?;
    assert_eq!((lease.holder_identity.as_deref(), lease.lease_transitions), (Some("only"), Some(0)));
    Ok(())
}
