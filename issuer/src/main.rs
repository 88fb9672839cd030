//! The issuer program.

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    let config = couponry_issuer::Config::parse();
    config.runtime()?.block_on(couponry_issuer::run(config))
}
