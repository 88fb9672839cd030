//! `docs/benchmarks.md`: what a run writes into it, between two marks. What is around them people write.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use couponry_testbed::programs;

use super::table::Table;
use super::{Options, plot};
use crate::cargo;

const PAGE: &str = "docs/benchmarks.md";
const PLOTS: &str = "docs/benchmarks";
const BEGIN: &str = "<!-- what `cargo xtask bench` writes begins here -->\n";
const END: &str = "<!-- what `cargo xtask bench` writes ends here -->\n";

/// Writes the table, the plots and what they were measured on.
pub(super) fn write(table: &Table, options: &Options) -> Result<()> {
    let path = cargo::root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
    let (before, after) =
        around(&page).with_context(|| format!("{PAGE} has not the two marks of `cargo xtask bench`"))?;
    let plots = cargo::root().join(PLOTS);
    fs::create_dir_all(&plots).with_context(|| format!("cannot make {PLOTS}"))?;
    let load = "requests due in a second";
    let words = |title, x, y| plot::Words { title, x, y };
    plot::linear(
        &plots.join("throughput.svg"),
        &words("Throughput against load", load, "answers a second"),
        &table.throughput,
    )?;
    plot::logarithmic(
        &plots.join("latency.svg"),
        &words("Latency against load", load, "milliseconds"),
        &table.latency,
    )?;
    let stock = words("From apply to open, against the stock", "coupons", "seconds");
    plot::double_logarithmic(&plots.join("preload.svg"), &stock, &table.preload)?;

    let machine = machine();
    let Options { rounds, coupons, connections, .. } = options;
    let measured = format!(
        "Measured with `cargo xtask bench --rounds {rounds} --coupons {coupons} --connections {connections}`, on {machine}.\n\n{table}\n\
         ![Throughput against load](benchmarks/throughput.svg)\n\n![Latency against load](benchmarks/latency.svg)\n\n\
         ![Seconds from apply to open, against the stock](benchmarks/preload.svg)\n"
    );
    fs::write(&path, format!("{before}{BEGIN}\n{measured}\n{END}{after}"))
        .with_context(|| format!("cannot write {PAGE}"))?;
    println!("written to {PAGE}");
    Ok(())
}

/// What is before and after the marks.
fn around(page: &str) -> Option<(&str, &str)> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some((before, after))
}

/// The machine and the versions, as far as they tell.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(':').nth(1))
        .unwrap_or("an unknown processor");
    let memory = read("/proc/meminfo");
    let kib =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let first_line = |program: &std::path::Path, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok()?;
        String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
    };
    let redis = programs::redis_server().and_then(|program| first_line(&program, &["--version"]));
    let redis = redis.and_then(|line| {
        line.split_whitespace().find(|word| word.starts_with("v=")).map(|word| format!("Redis {}", &word[2..]))
    });
    let postgres = programs::postgres_bin().and_then(|bin| first_line(&bin.join("postgres"), &["--version"]));
    let rustc = first_line(std::path::Path::new("rustc"), &["--version"]);
    let kernel = Some(format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()));
    let kafka = Some(format!("Kafka {}", programs::KAFKA_VERSION));
    let versions: Vec<_> = [kernel, rustc, redis, postgres, kafka].into_iter().flatten().collect();
    format!(
        "{cores} cores ({}), {} GiB of memory; {}. Everything runs on these cores: the load, the issuer, Redis, Kafka, the consumer and \
         PostgreSQL",
        model.trim(),
        kib.unwrap_or_default() / (1024 * 1024),
        versions.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_place_for_what_is_measured() {
        let page = fs::read_to_string(cargo::root().join(PAGE)).unwrap();
        assert!(around(&page).is_some());
        assert_eq!(around(&format!("a{BEGIN}b{END}c")), Some(("a", "c")));
        assert_eq!(around("a"), None);
    }
}
