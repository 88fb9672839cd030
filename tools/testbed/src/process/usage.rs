//! The resource usage of a process, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The resource usage of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user and kernel mode.
    pub cpu: Duration,
    /// Peak resident memory in bytes.
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
            cpu: cpu(&read("stat")?).with_context(invalid)?,
            peak_memory: peak_memory(&read("status")?).with_context(invalid)?,
        })
    }
}

fn cpu(stat: &str) -> Option<Duration> {
    // The name of the program is in parentheses, and may contain parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
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
        let stat = format!("7 (a ) b) S 1 7 7 0 -1 4 1 0 0 0 {per_second} {per_second} 5 5 20 0 4 0 1 2 3");
        assert_eq!(cpu(&stat), Some(Duration::from_secs(2)));
        assert_eq!(peak_memory("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 4 kB\n"), Some(2048 * 1024));
        let ours = Usage::of(std::process::id()).unwrap();
        assert!(ours.peak_memory > 100_000, "{ours:?}");
    }
}
