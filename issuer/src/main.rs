//! The issuer program.

use clap::Parser as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    couponry_issuer::run(couponry_issuer::Config::parse()).await
}
