//! Servers do not outlive the process which started them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use couponry_testbed::{Postgres, Redis};

/// Set for the process of this program which is the parent of the servers.
const PARENT: &str = "TESTBED_TEST_PARENT";

#[test]
fn servers_of_killed_parent_end() {
    if std::env::var_os(PARENT).is_some() {
        return run_parent();
    }
    let (mut parent, servers) = start_parent("servers_of_killed_parent_end");
    assert_eq!(servers.len(), 2);
    assert!(servers.iter().all(|&pid| is_running(pid)), "{servers:?}");
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_until("the servers have ended", || servers.iter().all(|&pid| !is_running(pid)));
}

#[test]
fn dropped_server_is_stopped_and_its_files_are_removed() {
    let redis = Redis::start().unwrap();
    let pid = redis.process().pid().unwrap();
    let log = redis.process().log_path().unwrap().to_owned();
    assert!(is_running(pid) && log.exists());
    drop(redis);
    assert!(!is_running(pid) && !log.parent().unwrap().exists());
}

/// Starts servers on a thread which ends at once, prints their process ids, and waits for SIGKILL.
fn run_parent() {
    let servers = std::thread::spawn(|| (Redis::start().unwrap(), Postgres::start().unwrap())).join().unwrap();
    println!("SERVERS {} {}", servers.0.process().pid().unwrap(), servers.1.process().pid().unwrap());
    loop {
        std::thread::park();
    }
}

fn start_parent(test: &str) -> (Child, Vec<u32>) {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(PARENT, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let pids = lines
        .map_while(Result::ok)
        .find_map(|line| {
            let (_, pids) = line.split_once("SERVERS ")?;
            Some(pids.split(' ').map(|pid| pid.parse().unwrap()).collect())
        })
        .expect("the parent starts its servers");
    (parent, pids)
}

/// A zombie counts as ended.
fn is_running(pid: u32) -> bool {
    let path = format!("/proc/{pid}/stat");
    Path::new(&path).exists()
        && std::fs::read_to_string(path).is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" Z"))
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
