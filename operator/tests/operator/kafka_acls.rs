//! The ACLs of Kafka that the documentation lists are sufficient: each program runs as a user of its own, on a Kafka
//! with an authorizer.

use anyhow::{Context as _, Result, ensure};
use couponry_domain::{
    Discount, DiscountType, IssuedCoupon, IssuedRecord, Uuid,
    redemption::{Change, Order},
};
use couponry_kafka::{KafkaSettings, Producer};
use couponry_postgres::{SendOutcome, UseOutcome, UseRequest};
use couponry_testbed::{
    Kafka,
    kafka_acls::{self, Acl},
    ports,
    program::Program,
};
use futures::TryStreamExt as _;

use crate::{
    redis_installation::{request_until_received, spec},
    support::{World, is_true, wait_until},
};

const PAGE: &str = include_str!("../../../docs/operate/backends.md");
const PASSWORD: &str = "s3cret";
const USERS: [&str; 4] = ["operator", "issuer", "consumer", "redeemer"];

/// The ACLs in the table of the page, with the names of this installation.
fn documented(world: &World) -> Vec<Acl> {
    let table = PAGE.lines().skip_while(|line| *line != "| resource | operations | program |").skip(2);
    let mut acls = Vec::new();
    for row in table.take_while(|line| line.starts_with('|')) {
        let [resources, operations, program] = row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>()[..]
        else {
            panic!("{row} has other columns");
        };
        let user = USERS.into_iter().find(|user| program.starts_with(user)).expect("the row names a program");
        let (resource, names) = resources.split_once(' ').expect("the row names resources");
        for name in names.split(", ").map(|name| name.trim_matches('`')) {
            let name = match name {
                "couponry-consumer-*" => format!("{}-*", world.topic),
                "coupon-used" => used_topic(world),
                name => name.replace("coupon-issued", &world.topic),
            };
            acls.extend(operations.split(", ").map(|operation| Acl {
                user: user.to_owned(),
                resource: resource.to_owned(),
                name: name.clone(),
                operation: operation.to_owned(),
            }));
        }
    }
    acls
}

fn used_topic(world: &World) -> String {
    format!("{}-used", world.topic)
}

fn login(user: &'static str) -> [(&'static str, &'static str); 4] {
    [
        ("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext"),
        ("KAFKA_SASL_MECHANISM", "PLAIN"),
        ("KAFKA_SASL_USERNAME", user),
        ("KAFKA_SASL_PASSWORD", PASSWORD),
    ]
}

fn log_in(program: Program, user: &'static str) -> Program {
    login(user).into_iter().fold(program, |program, (name, value)| program.env(name, value))
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_kafka_acls_are_sufficient_for_every_program() -> Result<()> {
    let kafka = Kafka::start_with_authorizer(&USERS, PASSWORD)?;
    let mut world = World::shared().await?;
    world.brokers = kafka.login();
    let acls = documented(&world);
    ensure!(USERS.iter().all(|user| acls.iter().any(|acl| acl.user == *user)), "{acls:?}");
    kafka_acls::create(&kafka.plaintext(), &acls)?;

    let used = used_topic(&world);
    let operator = world.operator_program(ports::free()?).args(["--kafka-used-topic", &used]);
    let _operator = log_in(operator, "operator").start()?;
    world.apply_open("event", &spec(10, "Kafka")).await?;
    let port = ports::free()?;
    let issuer = world.program("couponry-issuer")?.args(["--listen", &format!("127.0.0.1:{port}")]);
    let _issuer = log_in(issuer, "issuer").start()?;
    let consumer = world.program("couponry-consumer")?.args(["--postgres-url", &world.test_database.url()]);
    let _consumer = log_in(consumer.args(["--kafka-group", world.namespace()]), "consumer").start()?;
    request_until_received(&[port], 1).await?;
    world.wait("event", "recorded", |status| status.recorded == Some(1) && is_true(status, "Recorded")).await?;

    let redeemer = world.program("couponry-redeemer")?.args(["--kafka-used-topic", &used, "--auth", "none"]);
    let redeemer = redeemer.args(["--listen", &format!("127.0.0.1:{}", ports::free()?)]);
    let _redeemer = log_in(redeemer.args(["--postgres-url", &world.test_database.url()]), "redeemer").start()?;
    let issuances: Vec<_> = world.database.stream_issuances(world.uid("event").await?).try_collect().await?;
    let coupon = &issuances[0].issued;
    let redemption = UseRequest {
        event: "event".parse()?,
        coupon: coupon.coupon.clone(),
        user: coupon.user_id.clone(),
        order: Order { id: "order-1".parse()?, amount: None },
        change: Change::Redeem,
        id: "1".parse()?,
        hash: [0; 32],
        actor: None,
    };
    ensure!(matches!(world.database.use_coupon(&redemption).await?, UseOutcome::Changed { .. }));
    wait_until("the redemption is sent", async || {
        Ok(world.database.send_uses(1, async |_| false).await? == SendOutcome::Empty)
    })
    .await?;
    let sent = couponry_kafka::read_all(&KafkaSettings::at(kafka.plaintext(), &used)).await?;
    ensure!(sent.len() == 1, "{sent:?}");

    let run = |command: &[&str]| {
        let environment = [&login("operator")[..], &[("KAFKA_BROKERS", &world.brokers)]].concat();
        let output = world.run_command(command, &environment)?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        anyhow::Ok((output.status.code().context("killed")?, text))
    };
    let (code, audited) = run(&["audit", "event"])?;
    ensure!(code == 0 && audited.ends_with("OK: Redis, Kafka and Postgres are consistent\n"), "{code}: {audited}");
    let (code, checked) = run(&["check"])?;
    ensure!(code == 0 && checked.contains("OK    consumers     lag 0"), "{code}: {checked}");
    ensure!(checked.contains("OK    dead letters  none"), "{checked}");

    // A record of an event that does not exist becomes a dead letter.
    let record = IssuedRecord {
        event_id: "other".parse()?,
        event_uid: Uuid::from_u128(1),
        issued: IssuedCoupon {
            user_id: "user".parse()?,
            coupon: "OTHER-1".parse()?,
            discount: Discount { kind: DiscountType::Percent, value: 10 },
            issued_at: 1,
        },
        valid_until: None,
    };
    Producer::new(&KafkaSettings::at(kafka.plaintext(), &world.topic))?.send(&record)?.await?;
    wait_until("the dead letter is reported", async || Ok(run(&["check"])?.1.contains("WARN  dead letters  1 in")))
        .await?;
    let (code, audited) = run(&["audit", "event"])?;
    ensure!(code == 0, "{code}: {audited}");
    Ok(())
}
