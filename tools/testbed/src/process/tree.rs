//! A process and its descendants.

use std::fs;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

/// The child and its descendants, parents first.
pub(super) fn family(child: &Child) -> Vec<Pid> {
    let processes: Vec<(i32, i32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let parent = stat(pid)?.1;
            Some((pid, parent))
        })
        .collect();
    let mut family = vec![Pid::from_child(child)];
    let mut next = 0;
    while let Some(parent) = family.get(next).map(|pid| pid.as_raw_nonzero().get()) {
        family.extend(processes.iter().filter(|p| p.1 == parent).filter_map(|p| Pid::from_raw(p.0)));
        next += 1;
    }
    family
}

pub(super) fn is_alive(pid: Pid) -> bool {
    stat(pid.as_raw_nonzero().get()).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// State letter and parent of a process.
fn stat(pid: i32) -> Option<(char, i32)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program is in parentheses, and may contain parentheses.
    let mut fields = line.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

pub(super) fn send(pid: Pid, signal: Signal) {
    // An error means that the process has ended.
    let _ = kill_process(pid, signal);
}
