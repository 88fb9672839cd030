//! The commands with which a user can continue after the demo.

use std::path::Path;

use anyhow::{Context, Result};

use super::event;
use super::programs::Programs;
use crate::cargo;
use crate::servers::Servers;

/// Prints the addresses, and commands for another terminal.
pub(super) fn print(programs: &Programs, servers: &Servers) -> Result<()> {
    let (_, kubectl) = couponry_testbed::programs::kubernetes().context("kubectl is not installed")?;
    let issuers = programs.issuers();
    let issuer = issuers.first().context("no issuer is running")?;
    let redeemers = programs.redeemers();
    let redeemer = redeemers.first().context("no redeemer is running")?;
    let name = event::NAME;
    println!("All programs run until Ctrl-C. In another terminal:\n");
    println!("  export KUBECONFIG={}", servers.kubernetes.kubeconfig().display());
    let plugin = cargo::built("release")?;
    println!("  export PATH={}:{}:$PATH", kubectl.parent().unwrap_or(Path::new("")).display(), plugin.display());
    println!("  kubectl couponry dashboard        # opens a page about the event in the browser");
    println!("  kubectl get ce");
    println!("  kubectl describe ce {name}");
    println!("  curl -s {issuer}/coupons/{name}");
    println!("  xdg-open {issuer}/coupons/{name}/page");
    println!("  curl -s {issuer}/coupons/{name}/users/user-1");
    println!(
        "  curl -s {issuer}/coupons/issue -H 'content-type: application/json' -d '{{\"userId\":\"user-1\",\"eventId\":\"{name}\"}}'"
    );
    println!(
        "  curl -s {redeemer}/redemptions/redeem -H 'content-type: application/json' -H 'idempotency-key: 1' \\\n    \
         -d '{{\"eventId\":\"{name}\",\"couponKey\":\"...\",\"userId\":\"user-1\",\"orderId\":\"order-1\"}}'"
    );
    println!("  redis-cli -u {} hlen 'couponIssued:{{{name}}}'", servers.redis.url());
    println!("  psql {} -c 'select * from coupon_status limit 5'\n", servers.postgres.url());
    for (number, address) in issuers.iter().enumerate() {
        println!("  issuer {}   {address}   (OpenAPI document: {address}/openapi.json)", number + 1);
    }
    println!("  redeemer   {redeemer}   (OpenAPI document: {redeemer}/openapi.json)");
    println!("  Kafka      {}", servers.kafka.brokers());
    for (name, address) in programs.monitors() {
        println!("  metrics    {address}/metrics   ({name})");
    }
    println!();
    Ok(())
}
