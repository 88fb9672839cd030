//! Events whose codes are imported.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use couponry_testbed::shared;

use crate::support::{World, is_true, message, reason};

fn spec(total: u64) -> String {
    format!(
        "{{policyName: p, totalCount: {total}, code: {{source: Imported}}, discounts: [\
         {{type: Percent, value: 10, allocationPercentage: 70}}, \
         {{type: Amount, value: 5000, allocationPercentage: 30}}]}}"
    )
}

/// A file with the codes of `percent` + `amount` coupons, which are numbered from `first`.
fn file(first: u64, percent: u64, amount: u64) -> String {
    let code = |number: u64| format!("OWN-{:016X}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let line =
        |number| format!("{},{}\n", code(number), if number < first + percent { "PERCENT:10" } else { "AMOUNT:5000" });
    format!("code,discount\n{}", (first..first + percent + amount).map(line).collect::<String>())
}

impl World {
    fn import_command(&self, event: &str) -> Command {
        let mut command = Command::new(shared::program("couponry-operator"));
        command.args(["import", event]).envs(self.pod_environment());
        command
    }

    /// Runs `couponry-operator import` with this file.
    fn import(&self, event: &str, file: &str) -> Result<Output> {
        let mut child =
            self.import_command(event).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // The command may end before it has read the file.
        let _ = child.stdin.take().context("no standard input")?.write_all(file.as_bytes());
        Ok(child.wait_with_output()?)
    }

    /// Imports a file, which must be accepted.
    fn import_accepted(&self, event: &str, file: &str) -> Result<String> {
        let output = self.import(event, file)?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Imports a file, which must be refused.
    fn import_refused(&self, event: &str, file: &str) -> Result<String> {
        let output = self.import(event, file)?;
        ensure!(output.status.code() == Some(1), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_with_imported_codes_waits_for_them_and_issues_them() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply("event", &spec(10))?;
    let waiting = world.wait("event", "waiting", |status| reason(status, "Preloaded") == "AwaitingCodes").await?;
    assert_eq!(
        message(&waiting, "Preloaded"),
        "10 codes have to be imported (7 of PERCENT:10, 3 of AMOUNT:5000). Run `kubectl couponry import event FILE`."
    );
    assert!(!is_true(&waiting, "Ready") && !is_true(&waiting, "Stalled"));

    let refused = world.import_refused("event", &file(0, 6, 4))?;
    assert_eq!(
        refused,
        "the file has 6 codes of PERCENT:10, but the event needs 7\n\
         the file has 4 codes of AMOUNT:5000, but the event needs 3\n\
         REFUSED: nothing was imported\n"
    );
    let invalid = world.import_refused("event", &file(0, 7, 3).replace("OWN-0000", "own-0000"))?;
    assert!(invalid.starts_with("line 2: a coupon code is 1 to 64 capital letters"), "{invalid}");
    let accepted = world.import_accepted("event", &file(0, 7, 3))?;
    assert!(accepted.starts_with("OK: 10 codes imported, SHA-256 of the file "), "{accepted}");

    let open = world.wait("event", "open", |status| is_true(status, "Open") && is_true(status, "Ready")).await?;
    let imported = open.imported.context("the status has no import")?;
    ensure!(imported.count == 10 && accepted.contains(&imported.sha256), "{imported:?} {accepted}");
    assert_eq!(world.issue("event", 0..20).await?, 10);
    world.record_all("event").await?;
    let uid = world.uid("event").await?;
    let coupons = world.coupons_in_postgres(uid).await?;
    ensure!(coupons.iter().all(|coupon| file(0, 7, 3).contains(&format!("{},{}\n", coupon.code, coupon.discount))));
    let audit = world.run_command(&["audit", "event"], &[])?;
    ensure!(audit.status.success(), "{audit:?}");

    // The sender may not have received the result.
    let repeated = world.import_accepted("event", &file(0, 7, 3))?;
    assert_eq!(repeated, "the codes of this file were imported already\n");
    let full = world.import_refused("event", &file(100, 7, 3))?;
    assert!(full.starts_with("the event event has all of its 10 codes: raise totalCount to add codes\n"), "{full}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn top_up_of_an_open_event_waits_for_more_codes() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply("event", &spec(10))?;
    world.wait("event", "waiting", |status| reason(status, "Preloaded") == "AwaitingCodes").await?;
    world.import_accepted("event", &file(0, 7, 3))?;
    world.wait("event", "open", |status| is_true(status, "Open") && is_true(status, "Ready")).await?;

    world.apply("event", &spec(20))?;
    let waiting = world.wait("event", "waiting", |status| reason(status, "Preloaded") == "AwaitingCodes").await?;
    assert!(is_true(&waiting, "Open") && message(&waiting, "Ready").starts_with("10 codes have to be imported"));
    assert_eq!(world.issue("event", 0..5).await?, 5);
    let in_stock = world.import_refused("event", &file(3, 7, 3))?;
    assert!(in_stock.starts_with("line 2: the event has this code already\n"), "{in_stock}");
    world.import_accepted("event", &file(10, 7, 3))?;
    world.wait("event", "loaded", |status| is_true(status, "Ready") && status.loaded == Some(20)).await?;
    assert_eq!(world.issue("event", 5..30).await?, 15);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_codes_survive_a_loss_of_redis_and_a_change_before_the_start() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let scheduled = |total| spec(total).replace("totalCount", "startTime: '2100-01-01T00:00:00Z', totalCount");
    world.apply("event", &scheduled(10))?;
    world.wait("event", "waiting", |status| reason(status, "Preloaded") == "AwaitingCodes").await?;
    world.import_accepted("event", &file(0, 7, 3))?;
    world.wait_ready("event").await?;

    // More coupons: the imported codes stay.
    world.apply("event", &scheduled(20))?;
    world.wait("event", "waiting", |status| reason(status, "Preloaded") == "AwaitingCodes").await?;
    world.import_accepted("event", &file(10, 7, 3))?;
    world.wait("event", "loaded", |status| is_true(status, "Ready") && status.loaded == Some(20)).await?;

    // Fewer coupons: it is unknown which ones, so all of them are discarded.
    world.apply("event", &scheduled(10))?;
    let waiting = world.wait("event", "waiting", |status| reason(status, "Preloaded") == "AwaitingCodes").await?;
    assert!(message(&waiting, "Preloaded").starts_with("10 codes have to be imported"));
    world.import_accepted("event", &file(50, 7, 3))?;
    world.wait("event", "loaded", |status| is_true(status, "Ready") && status.loaded == Some(10)).await?;

    world.redis(&["DEL", &world.key("couponMeta", "event"), &world.key("couponQueue", "event")])?;
    world.wait("event", "loaded", |status| is_true(status, "Ready") && status.loaded == Some(10)).await?;
    world.apply("event", &spec(10))?;
    world.wait("event", "open", |status| is_true(status, "Open") && is_true(status, "Ready")).await?;
    assert_eq!(world.issue("event", 0..20).await?, 10);
    world.delete("event")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn guessable_codes_are_reported() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply(
        "event",
        "{policyName: p, totalCount: 50, code: {source: Imported}, discounts: [{type: Amount, value: 1, count: 50}]}",
    )?;
    world
        .apply_open("generated", "{policyName: p, totalCount: 1, discounts: [{type: Amount, value: 1, count: 1}]}")
        .await?;
    world.wait("event", "waiting", |status| reason(status, "Preloaded") == "AwaitingCodes").await?;
    let codes: Vec<String> = (0..50).map(|number| format!("SUMMER-{number:08}")).collect();
    let accepted = world.import_accepted("event", &format!("code\n{}\n", codes.join("\n")))?;
    assert!(accepted.starts_with("WARN  the codes can be guessed: they are short or consecutive"), "{accepted}");
    let open = world.wait("event", "open", |status| is_true(status, "Open") && is_true(status, "Ready")).await?;
    ensure!(message(&open, "Ready").contains("The imported codes can be guessed"), "{}", message(&open, "Ready"));

    let generated = world.import("generated", "code\nAAAA\n")?;
    ensure!(generated.status.code() == Some(2), "{generated:?}");
    let error = String::from_utf8(generated.stderr)?;
    ensure!(error.contains("the codes of the event generated are generated"), "{error}");
    Ok(())
}

/// As if the manifest had been changed under a CRD without the rule: the stored codes were imported.
#[tokio::test(flavor = "multi_thread")]
async fn event_whose_codes_were_imported_generates_none() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let spec = |total| spec(total).replace("code: {source: Imported}, ", "");
    world.apply_open("event", &spec(10)).await?;
    let uid = world.uid("event").await?;
    world.test_database.sql(&format!(
        "INSERT INTO code_import (event_uid, first_ordinal, count, sha256, guess_bits)
         VALUES ('{uid}', 0, 10, decode(repeat('00', 32), 'hex'), 60)"
    ))?;
    world.apply("event", &spec(20))?;
    let blocked = world.wait("event", "blocked", |status| reason(status, "Stalled") == "ChangeNotPossible").await?;
    assert_eq!(
        message(&blocked, "Stalled"),
        "The codes of the event are imported, so their source cannot change. Restore code.source Imported, or delete and \
         recreate the event."
    );
    assert_eq!(world.issue("event", 0..20).await?, 10, "issuing continues");
    assert_eq!(world.coupons_in_postgres(uid).await?.len(), 10);
    Ok(())
}

/// Imports this file, and returns the duration and the peak memory of the command in KiB. It must show its progress.
async fn measure_import(world: &World, event: &str, path: &Path, count: u64) -> Result<(Duration, u64)> {
    let started = Instant::now();
    let mut child = world.import_command(event).stdin(File::open(path)?).stderr(Stdio::piped()).spawn()?;
    let mut stderr = child.stderr.take().context("no standard error")?;
    let shown = std::thread::spawn(move || io::read_to_string(&mut stderr));
    let mut peak = String::new();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let memory = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        peak = memory.lines().find(|line| line.starts_with("VmHWM")).map_or(peak, str::to_owned);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let duration = started.elapsed();
    let shown = shown.join().map_err(|_| anyhow!("the reader panicked"))??;
    println!("{shown}{event}: {count} codes in {duration:?}, {peak}");
    ensure!(status.success(), "{status}");
    let lines = shown.lines().filter(|line| line.ends_with("codes received")).count();
    ensure!(lines as u64 == count / 1_000_000, "{lines} lines of progress");
    Ok((duration, peak.split_whitespace().nth(1).context("no peak memory")?.parse()?))
}

/// The variable COUNT sets another number of codes.
#[tokio::test(flavor = "multi_thread")]
async fn import_of_many_codes_needs_constant_memory() -> Result<()> {
    let count: u64 = std::env::var("COUNT").map_or(Ok(1_000_000), |count| count.parse())?;
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let spec = "code: {source: Imported}, discounts: [{type: Amount, value: 1, allocationPercentage: 100}]";
    for event in ["plain", "compressed"] {
        world.apply(event, &format!("{{policyName: p, totalCount: {count}, {spec}}}"))?;
    }
    let path = std::env::temp_dir().join(format!("couponry-codes-{}", std::process::id()));
    let mut file = BufWriter::new(File::create(&path)?);
    writeln!(file, "code")?;
    for number in 0..count {
        writeln!(file, "OWN-{:016X}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15))?;
    }
    file.into_inner()?.sync_all()?;
    let compressed = path.with_extension("gz");
    let zipped = Command::new("gzip").arg("-1c").arg(&path).stdout(File::create(&compressed)?).status()?;
    ensure!(zipped.success(), "{zipped}");

    let started = Instant::now();
    world.test_database.sql(&format!(
        "CREATE TABLE plain_copy (code text COLLATE \"C\"); COPY plain_copy FROM '{}' (FORMAT csv, HEADER);
         CREATE UNIQUE INDEX ON plain_copy (code)",
        path.display()
    ))?;
    let baseline = started.elapsed();
    println!("COPY of the file and a unique index: {baseline:?}");
    let mut results = Vec::new();
    for (event, path) in [("plain", &path), ("compressed", &compressed)] {
        world.wait(event, "waiting", |status| reason(status, "Preloaded") == "AwaitingCodes").await?;
        results.push((event, measure_import(&world, event, path, count).await));
        fs::remove_file(path)?;
    }
    for (event, result) in results {
        let (duration, kilobytes) = result?;
        println!("{event}: {:.1} times the COPY", duration.as_secs_f64() / baseline.as_secs_f64());
        ensure!(kilobytes < 80 << 10, "{event}: {kilobytes} KiB");
    }
    Ok(())
}
