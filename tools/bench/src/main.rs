//! What `cargo xtask bench` measures with: a client that costs little, and the endpoint that issuers are compared with.

mod client;
mod control;
mod load;
mod sample;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::runtime::Builder;

/// What `cargo xtask bench` measures with.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
enum Command {
    /// Ask issuers for coupons, and print what came back and how long it took, as JSON.
    Load(load::Args),
    /// Serve an endpoint that parses the same request and answers with a constant.
    Control {
        /// Where to listen.
        #[arg(long, value_name = "ADDRESS")]
        listen: SocketAddr,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Load(args) => {
            // One thread: the load must not take both cores of a small machine from what is measured.
            let runtime = Builder::new_current_thread().enable_all().build().context("cannot start")?;
            let sample = runtime.block_on(load::run(args))?;
            println!("{}", serde_json::to_string(&sample)?);
            Ok(())
        }
        Command::Control { listen } => {
            let runtime = Builder::new_multi_thread().enable_all().build().context("cannot start")?;
            runtime.block_on(control::serve(listen))
        }
    }
}
