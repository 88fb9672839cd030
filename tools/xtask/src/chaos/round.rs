//! One round: a new event, a load, faults one after the other, and the check.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use couponry_testbed::Process;
use couponry_testbed::process::Launch;

use super::dice::Dice;
use super::event::Event;
use super::fault::{Fault, Kind};
use super::silence;
use super::stage::Stage;
use super::tally::Tally;
use crate::cargo;

/// How long an event may take to be loaded, whatever happens to the operators.
const PREPARED: Duration = Duration::from_mins(5);
/// How long users go on asking when all is well again.
const CALM: Duration = Duration::from_secs(5);
/// How long the last users may take to get their answers.
const ANSWERED: Duration = Duration::from_mins(2);
/// How long the way of the last coupons may take.
const DRAINED: Duration = Duration::from_mins(4);

/// What a round does.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) number: u64,
    pub(super) faults: Vec<Fault>,
    /// How many asks a second.
    pub(super) rate: u64,
    /// Coupons for so many percent of the users. About half of these get to ask.
    pub(super) stock_percent: u64,
    pub(super) acknowledge: &'static str,
    /// Decides who asks when.
    pub(super) seed: u64,
}

impl Round {
    /// Draws what the faults leave open.
    pub(super) fn draw(number: u64, faults: Vec<Fault>, rate: u64, dice: &mut Dice) -> Self {
        let stock_percent = *dice.pick(&[20, 40, 100]);
        let any = *dice.pick(&["Redis", "Kafka"]);
        let acknowledge = if faults.iter().any(|fault| fault.kind.loses_data()) { "Kafka" } else { any };
        Self { number, faults, rate, stock_percent, acknowledge, seed: dice.any() }
    }

    /// So many users that the last have not asked yet when all is well again, however long a server takes to come back.
    fn users(&self) -> u64 {
        let faults: Duration = self.faults.iter().map(|fault| fault.after + fault.lasts).sum();
        (2 * faults + CALM).as_secs() * self.rate
    }

    /// Plays it, and adds what was seen to the tally. Whether every promise held.
    pub(super) fn play(&self, stage: &mut Stage, dir: &Path, tally: &mut Tally) -> Result<bool> {
        let (begun, users) = (Instant::now(), self.users());
        let total = users * self.stock_percent / 100;
        let name = format!("round-{}", self.number);
        println!("\nround {}: {total} coupons for {users} users, acknowledge {}", self.number, self.acknowledge);
        let mut event = Event::new(name, total, self.acknowledge);
        let (at_first, faults): (Vec<&Fault>, Vec<_>) = self.faults.iter().partition(|f| f.kind == Kind::CrashPreload);
        for fault in &at_first {
            println!("     at first  {}", fault.kind.name());
            fault.begin(stage, &mut event)?;
        }
        event.write(&stage.servers.kubernetes)?;
        let mut ended = stage.wait_open(&event)?;
        for fault in at_first {
            fault.heal(stage, &mut event)?;
            tally.struck(fault);
        }
        println!("  {:>6.1} s  open; {ended} programs had ended by themselves", begun.elapsed().as_secs_f64());
        let load = Load::start(self, stage, &event, users, dir)?;

        let mut strikes = Vec::new();
        for fault in faults {
            ended += stage.pass(fault.after, |_| Ok(false))?;
            println!("  {:>6.1} s  {fault}", begun.elapsed().as_secs_f64());
            strikes.push((jiff::Timestamp::now().as_microsecond(), fault.kind.name()));
            ended += fault.strike(stage, &mut event)?;
            tally.struck(fault);
        }
        stage.wait_ready()?;
        ended += stage.wait_open(&event)?;
        println!("  {:>6.1} s  all is well; {ended} programs had ended by themselves", begun.elapsed().as_secs_f64());
        load.finish(stage)?;

        let silences = silence::after_each(&history(dir, &event), &strikes)?;
        for ((_, kind), silence) in strikes.into_iter().zip(silences) {
            tally.silent(kind, silence);
        }
        let kept = check(stage, &event, dir, tally)?;
        println!("  {:>6.1} s  {}", begun.elapsed().as_secs_f64(), if kept { "every promise held" } else { "BROKEN" });
        if kept {
            event.delete(&stage.servers.kubernetes)?;
        }
        Ok(kept)
    }
}

/// Compares what the users were told with what the stores have.
fn check(stage: &mut Stage, event: &Event, dir: &Path, tally: &mut Tally) -> Result<bool> {
    let (history, numbers) = (history(dir, event), dir.join("numbers.json"));
    let log = dir.join(format!("{}.check", event.name));
    let check = loadgen("check", &log)?
        .args(["--event", &event.name, "--total", &event.total.to_string()])
        .args(["--wait", &DRAINED.as_secs().to_string()])
        .args(["--redis-url", &stage.servers.redis.url()])
        .args(["--postgres-url", &stage.servers.postgres.url()])
        .args(["--kafka-brokers", &stage.servers.kafka.brokers()])
        .args(["--history".as_ref(), history.as_os_str(), "--json".as_ref(), numbers.as_os_str()]);
    let check = Process::start(check)?;
    stage.pass(2 * DRAINED, |_| Ok(check.exited()?.is_some()))?;
    let status = check.wait()?;
    if !matches!(status.code(), Some(0 | 1)) {
        bail!("the check could not be made ({status}): {}", check.log_tail());
    }
    let read = fs::read_to_string(&numbers).with_context(|| format!("cannot read {}", numbers.display()))?;
    tally.checked(&serde_json::from_str(&read).context("the check wrote something that is not JSON")?);
    if status.success() {
        fs::remove_file(&history).with_context(|| format!("cannot remove {}", history.display()))?;
    } else {
        println!("{}", check.log().trim_end());
    }
    Ok(status.success())
}

impl Stage {
    /// Waits until the event is loaded as its manifest says, while programs may go on ending. How many did.
    fn wait_open(&mut self, event: &Event) -> Result<u64> {
        let mut open = false;
        let ended = self.pass(PREPARED, |stage| {
            open = event.is_open(&stage.servers.kubernetes)?;
            Ok(open)
        })?;
        ensure!(open, "{} is not open after {PREPARED:?}", event.name);
        Ok(ended)
    }
}

/// Users that ask in the background.
struct Load(Process);

impl Load {
    fn start(round: &Round, stage: &Stage, event: &Event, users: u64, dir: &Path) -> Result<Self> {
        let mut run = loadgen("run", &dir.join(format!("{}.load", event.name)))?
            .args(["--event", &event.name, "--users", &users.to_string(), "--rate", &round.rate.to_string()])
            .args(["--user-prefix", &format!("r{}-", round.number), "--seed", &round.seed.to_string()])
            .args(["--max-pause", "2", "--history"])
            .args([history(dir, event).as_os_str()]);
        for target in stage.issuers.iter().filter_map(|member| member.node.url()) {
            run = run.args(["--target", &target]);
        }
        Process::start(run).map(Self)
    }

    /// Lets users go on for a moment, and waits until those who have asked are answered.
    fn finish(&self, stage: &mut Stage) -> Result<()> {
        stage.pass(CALM, |_| Ok(self.0.exited()?.is_some()))?;
        if self.0.exited()?.is_none() {
            self.0.interrupt()?;
        }
        stage.pass(ANSWERED, |_| Ok(self.0.exited()?.is_some()))?;
        self.0.stop()?;
        let status = self.0.wait()?;
        ensure!(status.code() == Some(0), "the users could not ask ({status}): {}", self.0.log_tail());
        Ok(())
    }
}

fn history(dir: &Path, event: &Event) -> PathBuf {
    dir.join(format!("{}.history", event.name))
}

/// A command of loadgen in the background, with no environment that could lead it to other servers.
fn loadgen(command: &str, log: &Path) -> Result<Launch> {
    let program = cargo::built("debug")?.join("loadgen");
    Ok(Launch::new("loadgen", program, log).clean_env().args([command]))
}
