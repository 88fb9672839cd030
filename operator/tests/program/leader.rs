//! Several operators, of which one works.

use anyhow::{Context as _, Result, ensure};
use couponry_testbed::{Kubernetes, ports, program::Running};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::stage::{Stage, eventually, holds, monitor};

const TOTAL: u64 = 300_000;
const SPEC: &str = "{policyName: p, totalCount: 300000, discounts: [{type: Percent, value: 10, allocationPercentage: 70}, \
     {type: Amount, value: 5000, allocationPercentage: 30}]}";
const SPLIT: [(&str, usize); 2] = [("PERCENT:10", 210_000), ("AMOUNT:5000", 90_000)];
const STORY: [&str; 3] = ["Opened", "PreloadCompleted", "PreloadStarted"];

/// An operator that stands for the lease.
struct Candidate {
    identity: String,
    monitor: u16,
    process: Running,
}

impl Candidate {
    fn start(stage: &Stage, identity: &str) -> Result<Self> {
        let monitor = ports::free()?;
        let process = stage.program(monitor).args(["--leader-elect", "--identity", identity]).start()?;
        Ok(Self { identity: identity.to_owned(), monitor, process })
    }

    async fn leads(&self) -> Result<bool> {
        leads(self.monitor).await
    }

    async fn wait_ready(&self) -> Result<()> {
        eventually("it is ready", async || {
            Ok(monitor(self.monitor, "/readyz").await.is_some_and(|(code, _)| code == 200))
        })
        .await
    }
}

async fn leads(port: u16) -> Result<bool> {
    let metrics = monitor(port, "/metrics").await.unwrap_or_default().1;
    Ok(metrics.lines().any(|line| line == "couponry_operator_is_leader 1"))
}

/// Two operators, the first of which leads. Both are ready.
async fn two(stage: &Stage) -> Result<(Candidate, Candidate)> {
    let first = Candidate::start(stage, "first")?;
    eventually("the first leads", async || first.leads().await).await?;
    let second = Candidate::start(stage, "second")?;
    second.wait_ready().await?;
    ensure!(!second.leads().await?, "both lead");
    Ok((first, second))
}

async fn half_loaded(stage: &Stage) -> Result<()> {
    let event = "event".parse()?;
    eventually("the stock is being loaded", async || {
        Ok(stage.stock.observe(&event).await?.is_some_and(|redis| redis.loaded > 0))
    })
    .await?;
    let loaded = stage.stock.observe(&event).await?.context("no event")?.loaded;
    println!("{loaded} of {TOTAL} coupons are loaded");
    Ok(())
}

async fn lease(client: &Client, namespace: &str) -> Result<LeaseSpec> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    Ok(leases.get("couponry-operator").await?.spec.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_by_takes_over_from_a_leader_that_is_killed() -> Result<()> {
    let stage = Stage::new().await?;
    let (first, second) = two(&stage).await?;
    stage.apply("event", SPEC)?;
    half_loaded(&stage).await?;
    first.process.kill9()?;
    eventually("the second leads", async || second.leads().await).await?;
    stage.wait_ready("event").await?;
    stage.check_whole("event", &SPLIT).await?;
    stage.wait_story("event", &STORY).await?;
    let lease = lease(&stage.events.clone().into_client(), stage.namespace()).await?;
    assert_eq!((lease.holder_identity.as_deref(), lease.lease_transitions), (Some("second"), Some(1)));

    // The first comes back under its name and stands by.
    first.process.restart()?;
    first.wait_ready().await?;
    ensure!(!first.leads().await? && second.leads().await?, "the lease has changed hands");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_end_gives_the_lease_up() -> Result<()> {
    let stage = Stage::new().await?;
    let (first, second) = two(&stage).await?;
    stage.apply("event", SPEC)?;
    half_loaded(&stage).await?;
    first.process.stop()?;
    let left = lease(&stage.events.clone().into_client(), stage.namespace()).await?;
    let holder = left.holder_identity.unwrap_or_default();
    ensure!(holder != first.identity, "it is still the holder after its end");
    ensure!(first.process.log().contains("lease released"), "{}", first.process.log());
    eventually("the second leads", async || second.leads().await).await?;
    stage.wait_ready("event").await?;
    stage.check_whole("event", &SPLIT).await?;
    stage.wait_story("event", &STORY).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_frozen_for_long_stands_by_and_doubles_nothing() -> Result<()> {
    let stage = Stage::new().await?;
    let (first, second) = two(&stage).await?;
    stage.apply("event", SPEC)?;
    half_loaded(&stage).await?;
    first.process.pause()?;
    eventually("the second leads", async || second.leads().await).await?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    assert_eq!(stage.ask("event", 0..100).await?, 100);
    first.process.resume()?;
    eventually("the first has noticed", async || Ok(first.process.log().contains("lease lost, entering standby")))
        .await?;
    ensure!(!first.leads().await? && second.leads().await?, "two lead");
    ensure!(first.process.process().exited()?.is_none(), "it has ended");
    stage.wait_ready("event").await?;
    stage.check_whole("event", &SPLIT).await?;
    stage.wait_story("event", &STORY).await?;

    // And back again.
    second.process.stop()?;
    eventually("the first leads again", async || first.leads().await).await?;
    stage.apply("event", &SPEC.replace("policyName: p", "policyName: p, issuance: Paused"))?;
    stage.wait("event", "paused", |status| crate::stage::reason(status, "Open") == "Paused").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_cannot_renew_stops_and_goes_on_when_it_can() -> Result<()> {
    let kubernetes = Kubernetes::start()?;
    kubernetes.kubectl_with(&["apply", "--server-side", "-f", "-"], &couponry_crds::crd_yaml())?;
    kubernetes.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/couponevents.couponry.dev"])?;
    let stage = Stage::new().await?;
    kubernetes.kubectl(&["create", "namespace", stage.namespace()])?;
    let port = ports::free()?;
    let operator =
        stage.program_on(kubernetes.kubeconfig(), port).args(["--leader-elect", "--identity", "only"]).start()?;
    eventually("it leads", async || leads(port).await).await?;
    kubernetes.pause()?;
    eventually("it has stopped", async || Ok(!leads(port).await?)).await?;
    kubernetes.resume()?;
    eventually("it leads again", async || leads(port).await).await?;
    ensure!(operator.process().exited()?.is_none(), "it has ended");

    let config = Kubeconfig::read_from(kubernetes.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let lease = lease(&Client::try_from(config)?, stage.namespace()).await?;
    assert_eq!((lease.holder_identity.as_deref(), lease.lease_transitions), (Some("only"), Some(0)));
    Ok(())
}
