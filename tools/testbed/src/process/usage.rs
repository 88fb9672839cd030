//! The resource usage of a process and its children, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The resource usage of a process and its children: a server such as PostgreSQL is a group of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user and kernel mode, including running and ended children.
    pub cpu: Duration,
    /// Peak resident memory in bytes, of the process alone.
    pub peak_memory: u64,
}

impl Usage {
    pub(super) fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let invalid = || format!("unexpected format of /proc/{pid}");
        Ok(Self {
            cpu: cpu_of_tree(pid).with_context(invalid)?,
            peak_memory: peak_memory(&read("status")?).with_context(invalid)?,
        })
    }
}

/// The children that run. They belong to the threads that have started them.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of_thread = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    of_thread.flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// None: the process has ended. Its parent then has its CPU time.
fn cpu_of_tree(pid: u32) -> Option<Duration> {
    let own = cpu(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    Some(own + children(pid).into_iter().filter_map(cpu_of_tree).sum::<Duration>())
}

/// Of the process, and of its children that have ended.
fn cpu(stat: &str) -> Option<Duration> {
    // The name of the program is in parentheses, and may contain parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(4).map(|field| field.parse().unwrap_or(0)).sum();
    Some(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).ok()?)
}

fn peak_memory(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_proc() {
        let per_second = rustix::param::clock_ticks_per_second();
        let stat = format!("7 (a ) b) S 1 7 7 0 -1 4 1 0 0 0 {per_second} {per_second} {per_second} 0 20 0 4 0 1 2 3");
        assert_eq!(cpu(&stat), Some(Duration::from_secs(3)));
        assert_eq!(peak_memory("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 4 kB\n"), Some(2048 * 1024));
        let ours = Usage::of(std::process::id()).unwrap();
        assert!(ours.peak_memory > 100_000, "{ours:?}");
    }
}
