//! The JavaScript client.

use std::process::Stdio;

use couponry_testbed::{path::on_path, programs::require};
use tokio::process::Command;

use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn javascript_client_passes_its_tests_with_a_real_issuer() {
    let world = World::shared().await.open(100).await;
    let issuer = world.ready_issuer(&["--rate-limit-per-user", "1", "--rate-limit-per-user-burst", "2"]).await;
    let output = Command::new(require(on_path("node"), "node").unwrap())
        .args(["--test", "test/client.test.js"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/js"))
        .env("ISSUER", format!("http://127.0.0.1:{}", issuer.listen))
        .env("EVENT", world.event.as_str())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}");
    assert!(report.contains("# pass 9"), "{report}");
}
