//! Voids of coupons while shops use them. Some runs of the command crash after the void in Postgres; the operator must
//! then apply it to Redis.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::event::Event;
use super::installation::Installation;
use super::load;
use crate::programs::OPERATOR;
use crate::void_command::VoidCommand;

/// Time between the end of a void and the next one.
const PAUSE: Duration = Duration::from_millis(300);
const FAILPOINTS: &str = "operator.before-void-in-redis=10%return";

/// The thread that voids coupons.
#[derive(Debug)]
pub(super) struct Voids {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Voids {
    /// Voids coupons that shops use.
    pub(super) fn start(installation: &Installation, event: &Event) -> Result<Self> {
        let history = load::voids(&installation.dir, event);
        let mut file = File::create(&history).with_context(|| format!("cannot create {}", history.display()))?;
        let mut used = UsedCoupons::new(load::redemptions(&installation.dir, event));
        let command = VoidCommand {
            program: installation.program(OPERATOR),
            addresses: installation.addresses(OPERATOR),
            args: installation.redis_args(),
            event: event.name.clone(),
            failpoints: FAILPOINTS,
            log: installation.dir.join(format!("{}.void-log", event.name)),
        };
        let stop = Arc::<AtomicBool>::default();
        let is_stopped = stop.clone();
        let thread = thread::spawn(move || {
            for number in 0.. {
                if is_stopped.load(Ordering::Relaxed) {
                    break;
                }
                used.read()?;
                if let Some(coupon) = used.take(number) {
                    command.void(&coupon, &mut file)?;
                }
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        Ok(Self { stop, thread })
    }

    /// Waits for the last void.
    pub(super) fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread of the voids panicked"))?
    }
}

/// The coupons in the history of the shops, which is being written.
struct UsedCoupons {
    path: PathBuf,
    /// How many bytes were read.
    read: u64,
    /// The coupon of the last request. Most likely, it is redeemed at the same time.
    latest: Option<String>,
    /// Coupons that were reserved, and not redeemed yet; some of them will never be.
    reserved: Vec<String>,
}

impl UsedCoupons {
    fn new(path: PathBuf) -> Self {
        Self { path, read: 0, latest: None, reserved: Vec::new() }
    }

    /// The coupon that the void with this number is about.
    fn take(&mut self, number: usize) -> Option<String> {
        if number.is_multiple_of(4) {
            return self.latest.take();
        }
        let count = self.reserved.len();
        (count > 0).then(|| self.reserved.swap_remove(number.wrapping_mul(7919) % count))
    }

    /// Reads what was written since the previous call.
    fn read(&mut self) -> Result<()> {
        let Ok(mut file) = File::open(&self.path) else { return Ok(()) };
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(self.read)).and_then(|_| file.read_to_end(&mut bytes));
        read.with_context(|| format!("cannot read {}", self.path.display()))?;
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        self.read += bytes.len() as u64;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let entry: Value = serde_json::from_slice(line).context("invalid history of the shops")?;
            let (call, response) = (&entry["call"], &entry["outcome"]["decided"]["body"]);
            if let Some(coupon) = call["coupon"].as_str() {
                self.latest = Some(coupon.to_owned());
            }
            if response["state"] == "RESERVED" {
                self.reserved.extend(response["couponKey"].as_str().map(str::to_owned));
            } else if response["state"] == "REDEEMED" {
                self.reserved.retain(|reserved| response["couponKey"] != **reserved);
            }
        }
        Ok(())
    }
}
