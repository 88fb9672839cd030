//! A flame graph of one event: where each program and server spends its CPU time.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use couponry_testbed::process::{Launch, OnStop};
use couponry_testbed::progress::Step;
use couponry_testbed::{Process, process, programs};
use inferno::collapse::{Collapse, perf};
use inferno::flamegraph;

use super::installation::Installation;
use super::options::Options;

/// Samples per second of each core. Each has a copy of the stack, from which `perf` finds the callers.
const FREQUENCY: &str = "199";
const CALL_GRAPH: &str = "dwarf,16384";
/// Few enough for a file of some ten megabytes.
const COUPONS: u64 = 100_000;

/// The program that records samples.
pub(super) fn profiler() -> Result<PathBuf> {
    programs::on_path("perf")
        .context("`perf` is not installed, which --flame-graph needs: `apt-get install linux-perf`")
}

/// Samples all processes while an event is sold and recorded, and writes the graph to `file`.
pub(super) fn write(installation: &Installation, options: &Options, profiler: &Path, file: &Path) -> Result<()> {
    let step = Step::start(format!("flame graph of {COUPONS} coupons"));
    let samples = file.with_extension("perf-data");
    let name = samples.to_str().with_context(|| format!("{} is not valid UTF-8", file.display()))?;
    let event = installation.open(COUPONS, "Redis")?;

    let record = ["record", "--all-cpus", "--freq", FREQUENCY, "--call-graph", CALL_GRAPH, "--output", name];
    let recorder = Launch::new("perf", profiler, file.with_extension("perf-log")).args(record);
    let recorder = Process::start(recorder.on_stop(OnStop::Interrupt))?;
    recorder.wait_ready(|| samples.exists())?;
    installation.issue_all(&event, COUPONS, options.connections)?;
    installation.wait_until_recorded()?;
    recorder.stop()?;
    installation.close(&event)?;

    // Without the functions that the compiler has inlined: finding them would take minutes.
    let stacks = process::output(profiler, &["script", "--no-inline", "--input", name], None)?;
    let (mut folded, mut graph) = (Vec::new(), Vec::new());
    perf::Folder::from(perf::Options::default()).collapse(stacks.as_bytes(), &mut folded)?;
    let mut settings = flamegraph::Options::default();
    settings.title = format!("CPU time of {COUPONS} coupons, of all programs and servers");
    flamegraph::from_reader(&mut settings, folded.as_slice(), &mut graph)?;
    std::fs::write(file, graph).with_context(|| format!("cannot write {}", file.display()))?;
    std::fs::remove_file(&samples).with_context(|| format!("cannot remove {}", samples.display()))?;
    step.done();
    println!("flame graph: {}", file.display());
    Ok(())
}
