//! Executes the commands of docs/operate/disaster-recovery.md after the losses that they repair, and the commands of
//! Kafka in docs/operate/runbook.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use couponry_kafka::KafkaSettings;
use couponry_testbed::{kafka::shell_functions, programs, shared};
use jiff::Timestamp;

use crate::{
    redis_installation::{Installation, Received, request_until_received},
    support::wait_until,
};

const PAGE: &str = include_str!("../../../docs/operate/disaster-recovery.md");
const RUNBOOK: &str = include_str!("../../../docs/operate/runbook.md");

/// The names of all blocks of the page that a test of this file executes.
const EXECUTED: [&str; 8] = ["compare", "dead-letters", "plan", "repair", "replay", "reset", "start", "stop"];

/// The blocks of commands that follow a line such as `<!-- executed: repair -->`, by this name.
fn blocks() -> BTreeMap<&'static str, &'static str> {
    let mut parts = PAGE.split("<!-- executed: ").skip(1);
    let block = |part: &'static str| {
        let (name, rest) = part.split_once(" -->\n").expect("the marker ends");
        let commands = rest.trim_start().strip_prefix("```sh\n").expect("commands follow the marker");
        (name, commands.split_once("\n```").expect("the block ends").0)
    };
    parts.by_ref().map(block).collect()
}

/// The commands of Kafka in the runbook.
fn kafka_commands() -> Vec<String> {
    let codes = RUNBOOK.split('`').filter(|code| code.starts_with("kafka-") && code.contains(".sh $B"));
    codes.map(|code| code.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn every_block_of_the_page_is_executed() {
    assert_eq!(blocks().into_keys().collect::<Vec<_>>(), EXECUTED);
    let commands = PAGE.matches("```sh\n").count();
    assert_eq!(commands, EXECUTED.len(), "every block of commands has a marker");
}

/// The shell of an administrator of this installation. There are no pods, so `kubectl couponry` runs the command of the
/// operator directly.
struct Shell<'a> {
    installation: &'a Installation,
    /// From when on the installation has data.
    backup_time: String,
}

impl<'a> Shell<'a> {
    fn new(installation: &'a Installation) -> Self {
        let backup_time = Timestamp::now() - jiff::SignedDuration::from_mins(1);
        Self { installation, backup_time: backup_time.strftime("%Y-%m-%dT%H:%M:%S.000").to_string() }
    }

    /// Executes a block of the page and returns its output, after it has ended with this exit code.
    fn run(&self, block: &str, code: i32) -> Result<String> {
        let commands = *blocks().get(block).with_context(|| format!("the page has no block {block}"))?;
        let text = self.execute(commands, code)?;
        println!("{block}:\n{text}");
        Ok(text)
    }

    /// Executes these commands and returns their output, after they have ended with this exit code.
    fn execute(&self, commands: &str, code: i32) -> Result<String> {
        let world = &self.installation.world;
        let (_, kubectl) = programs::kubernetes().context("kubectl is missing")?;
        // The topic is that of the test.
        let commands = commands.replace("coupon-issued", &world.topic);
        let installation = world.test_database.sql("SELECT id FROM installation")?;
        let group = format!("{}-{}", world.topic, installation.trim());
        let script = format!(
            "set -euo pipefail\n{}kubectl() {{\n  if [ \"$1\" = couponry ]; then shift; '{}' \"$@\"; else '{}' \"$@\"; \
             fi\n}}\n{commands}\n",
            shell_functions()?,
            shared::program("couponry-operator").display(),
            kubectl.display(),
        );
        let output = Command::new("bash")
            .args(["-c", &script])
            .envs(world.pod_environment())
            .env("N", world.namespace())
            .env("NAME", "event")
            .env("B", format!("--bootstrap-server {}", world.brokers))
            .env("GROUP", group)
            .env("BACKUP_TIME", &self.backup_time)
            .output()?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        ensure!(output.status.code() == Some(code), "{commands}\n{text}");
        Ok(text)
    }
}

async fn serve(installation: &Installation, users: std::ops::Range<u32>) -> Result<Received> {
    let mut received = Received::new();
    for user in users {
        received.entry(user).or_default().insert(request_until_received(&installation.ports(), user).await?);
    }
    Ok(received)
}

/// Fails unless Postgres and Redis have exactly the coupons that the users have received.
async fn check(installation: &Installation, mut received: Received) -> Result<()> {
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 100).await
}

fn lose_rows(installation: &Installation, users: &str) -> Result<()> {
    installation.world.test_database.sql(&format!("DELETE FROM issuance WHERE user_id IN ({users})")).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_lost_by_running_redis_are_restored_from_postgres() -> Result<()> {
    let installation = Installation::start(100, "Redis", None).await?;
    let (world, shell) = (&installation.world, Shell::new(&installation));
    let received = serve(&installation, 0..10).await?;
    installation.wait_recorded().await?;
    shell.run("compare", 0)?;
    world.redis(&["HDEL", &world.key("couponIssued", "event"), "user-1"])?;
    world.remove_available_coupon("event")?;
    let plan = shell.run("plan", 1)?;
    assert!(plan.contains("record again from Redis      0\n"), "{plan}");
    assert!(!plan.contains("restore in Redis             0\n"), "{plan}");
    let repaired = shell.run("repair", 0)?;
    assert!(
        repaired.contains("restored Redis\n") && repaired.ends_with("OK: nothing is left to repair\n"),
        "{repaired}"
    );
    check(&installation, received).await?;
    shell.run("compare", 0).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_lost_by_postgres_are_recorded_from_redis() -> Result<()> {
    let installation = Installation::start(100, "Redis", None).await?;
    let shell = Shell::new(&installation);
    let received = serve(&installation, 0..10).await?;
    installation.wait_recorded().await?;
    // Otherwise it may be faster than the command.
    installation.operator.pause()?;
    lose_rows(&installation, "'user-1', 'user-2'")?;
    let plan = shell.run("plan", 1)?;
    assert!(plan.contains("record again from Redis      2\n"), "{plan}");
    assert!(plan.contains("record again from the topic  0\n"), "{plan}");
    let repaired = shell.run("repair", 0)?;
    assert!(repaired.contains("recorded 2 issuances from Redis\n"), "{repaired}");
    installation.operator.resume()?;
    check(&installation, received).await
}

/// Postgres was restored from an older backup, and Redis was restored from that Postgres before anybody noticed.
#[tokio::test(flavor = "multi_thread")]
async fn issuances_lost_by_postgres_and_redis_are_recorded_from_the_topic() -> Result<()> {
    let installation = Installation::start(100, "Redis", None).await?;
    let (world, shell) = (&installation.world, Shell::new(&installation));
    let mut received = serve(&installation, 0..10).await?;
    installation.wait_recorded().await?;
    lose_rows(&installation, "'user-1', 'user-2', 'user-3'")?;
    world.redis(&["FLUSHALL"])?;
    installation.wait_recovered().await?;
    // Meanwhile user-3 has received the first available coupon, which was that of user-1.
    let coupon = request_until_received(&installation.ports(), 3).await?;
    installation.wait_recorded().await?;
    assert_eq!(received.remove(&1), Some(BTreeSet::from([coupon.clone()])));
    received.insert(3, BTreeSet::from([coupon]));
    let plan = shell.run("plan", 1)?;
    assert!(
        plan.contains("record again from the topic  1\n") && plan.contains("conflicts                    2\n"),
        "{plan}"
    );
    let repaired = shell.run("repair", 1)?;
    for user in ["user-1", "user-3"] {
        assert!(repaired.contains(&format!("is issued to {user} in Kafka")), "{repaired}");
    }
    assert!(repaired.ends_with("REMAINING: 2 discrepancies, 2 of them conflicts\n"), "{repaired}");
    check(&installation, received).await
}

/// Postgres is restored from an older backup, and Redis has lost its data as well.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_restored_with_empty_redis_is_completed_from_the_topic() -> Result<()> {
    let installation = Installation::start(100, "Kafka", None).await?;
    let (world, shell) = (&installation.world, Shell::new(&installation));
    let received = serve(&installation, 0..10).await?;
    installation.wait_recorded().await?;
    for name in ["couponry-operator", "couponry-consumer"] {
        let labels = format!("{{app: {name}}}");
        let template = format!("{{metadata: {{labels: {labels}}}, spec: {{containers: [{{name: c, image: c}}]}}}}");
        let metadata = format!("{{name: {name}, namespace: {}}}", world.namespace());
        let spec = format!("{{replicas: 1, selector: {{matchLabels: {labels}}}, template: {template}}}");
        let manifest = format!("{{apiVersion: apps/v1, kind: Deployment, metadata: {metadata}, spec: {spec}}}");
        shared::kubectl_with(&["create", "-f", "-"], &manifest)?;
    }
    let replicas = || {
        let path = "jsonpath={.items[*].spec.replicas}";
        shared::kubectl(&["get", "deployments", "--namespace", world.namespace(), "-o", path])
    };
    shell.run("stop", 0)?;
    assert_eq!(replicas()?, "0 0");
    installation.operator.stop()?;
    installation.consumer.stop()?;
    lose_rows(&installation, "'user-1', 'user-2', 'user-3'")?;
    world.redis(&["FLUSHALL"])?;
    shell.run("reset", 0)?;
    shell.run("start", 0)?;
    assert_eq!(replicas()?, "2 2");
    installation.operator.restart()?;
    installation.consumer.restart()?;
    check(&installation, received).await?;
    shell.run("compare", 0).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_lost_by_kafka_are_recorded_from_redis() -> Result<()> {
    let installation = Installation::start(100, "Kafka", None).await?;
    let (world, shell) = (&installation.world, Shell::new(&installation));
    installation.consumer.pause()?;
    let received = serve(&installation, 0..10).await?;
    wait_until("Kafka has all records", async || {
        let in_redis = world.redis_store.observe(&"event".parse()?).await?;
        Ok(in_redis.is_some_and(|in_redis| in_redis.outbox == 0))
    })
    .await?;
    let kafka = KafkaSettings::at(&world.brokers, &world.topic);
    couponry_kafka::test_support::delete_topic(&kafka).await?;
    installation.consumer.resume()?;
    shell.run("repair", 0)?;
    check(&installation, received).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_recorded_after_their_cause_is_corrected() -> Result<()> {
    let installation = Installation::start(100, "Redis", None).await?;
    let (world, shell) = (&installation.world, Shell::new(&installation));
    let mut received = serve(&installation, 0..1).await?;
    installation.wait_recorded().await?;
    // Otherwise it sends the records again itself.
    installation.operator.pause()?;
    world.test_database.sql("UPDATE coupon_event SET name = 'other'")?;
    received.extend(serve(&installation, 1..5).await?);
    let kafka = KafkaSettings::at(&world.brokers, format!("{}.dlq", world.topic));
    wait_until("the records are dead letters", async || Ok(couponry_kafka::read_all(&kafka).await?.len() == 4)).await?;
    shell.run("replay", 0)?;
    wait_until("the records are dead letters again", async || Ok(couponry_kafka::read_all(&kafka).await?.len() == 8))
        .await?;

    world.test_database.sql("UPDATE coupon_event SET name = 'event'")?;
    let listed = shell.run("dead-letters", 1)?;
    let expected = "  event  unknown_event  8 dead letters, 4 records of them are not recorded\n";
    assert!(listed.contains(expected), "{listed}");
    assert!(shell.run("replay", 0)?.ends_with("OK: 4 records were sent again\n"));
    installation.wait_recorded().await?;
    assert!(shell.run("replay", 0)?.ends_with("OK: nothing to send\n"));
    assert_eq!(couponry_kafka::read_all(&kafka).await?.len(), 8);
    installation.operator.resume()?;
    check(&installation, received).await?;

    let commands = kafka_commands();
    ensure!(commands.len() >= 5, "{commands:?}");
    let file = std::env::temp_dir().join(format!("{}.json", world.topic));
    let all = format!(r#"{{"version":1,"partitions":[{{"topic":"{}.dlq","partition":0,"offset":-1}}]}}"#, world.topic);
    std::fs::write(&file, all)?;
    for command in commands {
        let output = shell.execute(&command.replace("FILE", &file.display().to_string()), 0)?;
        if command.starts_with("kafka-console-consumer.sh") {
            assert_eq!(output.matches("reason:unknown_event").count(), 8, "{output}");
        }
    }
    std::fs::remove_file(&file)?;
    assert_eq!(couponry_kafka::read_all(&kafka).await?.len(), 0, "the last command has deleted the dead letters");
    Ok(())
}
