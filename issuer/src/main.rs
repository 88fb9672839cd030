//! The program.

use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    issuer::run(issuer::Config::parse()).await
}
