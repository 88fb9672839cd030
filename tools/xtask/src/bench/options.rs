//! The options of `cargo xtask bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Number of repetitions of each comparison.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rounds: u32,

    /// Number of coupons of an event.
    #[arg(long, default_value_t = 40_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1000..=1_000_000))]
    pub(super) coupons: u64,

    /// Number of connections, unless a measurement sets its own.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) connections: u32,

    /// Run only this part, without updating `docs/benchmarks.md`. Repeatable. `many-events` runs only if it is named.
    #[arg(long = "only", value_name = "PART")]
    pub(super) parts: Vec<Part>,

    /// Also write a flame graph (SVG) of one event, of all programs and servers. Needs `perf`.
    #[arg(long, value_name = "FILE")]
    pub(super) flame_graph: Option<PathBuf>,
}

impl Options {
    pub(super) fn includes(&self, part: Part) -> bool {
        // It takes as long as all others.
        if self.parts.is_empty() { part != Part::ManyEvents } else { self.parts.contains(&part) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    Cost,
    Issuing,
    Textbook,
    Opening,
    Latency,
    Overload,
    Browsers,
    Issuers,
    Preload,
    Recording,
    Redemptions,
    ManyEvents,
}
