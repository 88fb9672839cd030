//! SIGINT during `cargo xtask test` stops all servers and removes their files.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

/// A substitute for Cargo: it builds nothing, and its tests do not end.
const FAKE_CARGO: &str = "#!/bin/sh
case \"$*\" in
  build*|*--no-run*) ;;
  *) echo tests are running; exec sleep 600;;
esac
";

#[test]
fn interrupted_test_run_stops_servers_and_removes_their_files() {
    let scratch = couponry_testbed::scratch::Scratch::new("interrupt").unwrap();
    let cargo = scratch.path().join("cargo");
    fs::write(&cargo, FAKE_CARGO).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();

    let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("test")
        .env("CARGO", &cargo)
        .env_remove("COUPONRY_KEEP_SCRATCH")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(xtask.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "tests are running"), "the servers did not start");
    // The temporary directory of a server is its working directory or an argument; its name has the process id of
    // xtask.
    let mark = format!("-{}-", xtask.id());
    assert!(running(&mark).len() >= 5, "{:?}", running(&mark));

    let interrupted = Command::new("kill").args(["-INT", &xtask.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    assert_eq!(xtask.wait().unwrap().code(), Some(130));
    assert_eq!(running(&mark), Vec::<String>::new());
    assert_eq!(directories(&mark), Vec::<String>::new());
}

/// Command line and working directory of the processes which use a temporary directory with this mark.
fn running(mark: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let described = processes.filter_map(|process| {
        let command = fs::read(process.path().join("cmdline")).ok()?;
        let dir = fs::read_link(process.path().join("cwd")).ok()?;
        Some(format!("{}in {}", String::from_utf8_lossy(&command).replace('\0', " "), dir.display()))
    });
    described.filter(|line| line.contains("couponry-scratch-") && line.contains(mark)).collect()
}

fn directories(mark: &str) -> Vec<String> {
    let entries = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("couponry-scratch-") && name.contains(mark)).collect()
}
