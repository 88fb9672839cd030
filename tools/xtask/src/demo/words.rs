//! How to go on by hand.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Demo, event};

/// Prints the addresses, and lines to paste into another terminal.
pub(super) fn go_on_by_hand(demo: &Demo) -> Result<()> {
    let Demo { programs, servers, .. } = demo;
    let (_, kubectl) = couponry_testbed::programs::kubernetes().context("kubectl is gone")?;
    let issuers = programs.issuers();
    let issuer = issuers.first().context("no issuer runs")?;
    let name = event::NAME;
    println!("Everything stays up until Ctrl-C. In another terminal:\n");
    println!("  export KUBECONFIG={}", servers.kubernetes.kubeconfig().display());
    println!("  export PATH={}:$PATH", kubectl.parent().unwrap_or(Path::new("")).display());
    println!("  kubectl get ce");
    println!("  kubectl describe ce {name}");
    println!("  curl -s {issuer}/coupons/{name}");
    println!("  curl -s {issuer}/coupons/{name}/users/user-1");
    println!(
        "  curl -s {issuer}/coupons/issue -H 'content-type: application/json' -d '{{\"userId\":\"user-1\",\"eventId\":\"{name}\"}}'"
    );
    println!("  redis-cli -u {} hlen 'couponIssued:{{{name}}}'", servers.redis.url());
    println!("  psql {} -c 'select * from coupon_status limit 5'\n", servers.postgres.url());
    for (number, address) in issuers.iter().enumerate() {
        println!("  issuer {}   {address}   (what it answers to: {address}/openapi.json)", number + 1);
    }
    println!("  Kafka      {}", servers.kafka.brokers());
    for (name, address) in programs.monitors() {
        println!("  metrics    {address}/metrics   ({name})");
    }
    println!();
    Ok(())
}
