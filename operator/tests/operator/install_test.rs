//! `couponry-operator install-test`, which `helm test` runs.

use anyhow::{Context as _, Result};
use couponry_testbed::ports;

use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn install_test_with_all_programs_passes_and_cleans_up() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let issuer = format!("127.0.0.1:{}", ports::free()?);
    let _issuer = world.program("couponry-issuer")?.args(["--listen", &issuer]).start()?;
    let consumer = world.program("couponry-consumer")?;
    let _consumer = consumer.args(["--postgres-url", &world.test_database.url()]).start()?;

    let url = format!("http://{issuer}");
    for round in ["first run", "second run"] {
        let output = world.install_test(&url).await.context(round)?;
        assert!(
            output.contains("coupon recorded in Postgres") && output.contains("event deleted"),
            "{round}: {output}"
        );
        assert_eq!(world.events.get_opt("couponry-install-test").await?.map(drop), None, "{round}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn install_test_with_existing_event_fails_and_keeps_it() -> Result<()> {
    let world = World::shared().await?;
    world.apply(
        "couponry-install-test",
        "{policyName: p, totalCount: 1, discounts: [{type: Amount, value: 1, count: 1}]}",
    )?;
    let output = world.install_test("http://127.0.0.1:1").await.unwrap_err().to_string();
    assert!(output.contains("the event couponry-install-test exists and was not created by this command"), "{output}");
    assert!(world.events.get_opt("couponry-install-test").await?.is_some());
    Ok(())
}
