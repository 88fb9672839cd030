//! `couponry-operator verify`, which `helm test` runs, with all three programs.

use anyhow::{Context as _, Result};
use couponry_testbed::ports;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn one_coupon_goes_the_whole_way_and_leaves_nothing() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    let issuer = format!("127.0.0.1:{}", ports::free()?);
    let _issuer = stage.companion("couponry-issuer")?.args(["--listen", &issuer]).start()?;
    let group = stage.companion("couponry-consumer")?;
    let _consumer = group.args(["--postgres-url", &stage.test_database.url()]).start()?;

    let url = format!("http://{issuer}");
    for round in ["first", "again, as if nothing had been"] {
        let told = stage.verify(&url).await.context(round)?;
        assert!(
            told.contains("coupon recorded in Postgres") && told.contains("event deleted"),
            "{round}: {told}"
        );
        assert_eq!(stage.events.get_opt("couponry-verify").await?.map(drop), None, "{round}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_named_and_what_was_there_stays() -> Result<()> {
    let stage = Stage::new().await?;
    stage
        .apply("couponry-verify", "{policyName: p, totalCount: 1, discounts: [{type: Amount, value: 1, count: 1}]}")?;
    let told = stage.verify("http://127.0.0.1:1").await.unwrap_err().to_string();
    assert!(told.contains("the event couponry-verify exists and was not created by this command"), "{told}");
    assert!(stage.events.get_opt("couponry-verify").await?.is_some());
    Ok(())
}
