//! Checks of Postgres, Redis and Kafka.

use std::time::Duration;

use couponry_audit::Stores;
use couponry_kafka::{KafkaError, KafkaSettings, LagClient, TopicSettings};
use couponry_postgres::{SchemaVersion, ServerSettings};
use couponry_runtime::error_chain;

use crate::{
    commands::{check_result::CheckResult, format::group_digits},
    durable_condition::{DurabilityReport, assess},
    server_requirements::{Unsuitable, postgres_problem, redis_problem},
};

const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of the check of the database's settings.
const SETTINGS: &str = "database";

/// Working consumers reduce the lag within this time.
const LAG_INTERVAL: Duration = Duration::from_secs(3);

pub(super) async fn check_postgres(stores: &Stores) -> Vec<CheckResult> {
    const POSTGRES: &str = "Postgres";
    const SCHEMA: &str = "schema";
    if let Err(error) = stores.database.ping().await {
        let advice = "check --postgres-url with its password and certificate, and that Postgres is running";
        return vec![CheckResult::fail(POSTGRES, error_chain(&error), advice)];
    }
    let schema = match stores.database.schema_version().await {
        Ok(SchemaVersion { applied, known, missing: 1.. }) => {
            let found = format!("version {applied}, but this operator requires {known}");
            CheckResult::fail(SCHEMA, found, "restart the operator, or run `couponry-operator migrate`")
        }
        Ok(SchemaVersion { applied, known, .. }) if applied > known => {
            CheckResult::ok(SCHEMA, format!("version {applied}, newer than this operator ({known}) and compatible"))
        }
        Ok(SchemaVersion { applied, .. }) => CheckResult::ok(SCHEMA, format!("version {applied}, up to date")),
        Err(error) => CheckResult::fail(SCHEMA, error_chain(&error), ""),
    };
    let settings = match stores.database.server_settings().await {
        Ok(settings) => check_postgres_settings(&settings),
        Err(error) => CheckResult::fail(SETTINGS, error_chain(&error), ""),
    };
    vec![CheckResult::ok(POSTGRES, "reachable"), schema, settings]
}

/// The settings that the sessions of Couponry cannot change.
fn check_postgres_settings(settings: &ServerSettings) -> CheckResult {
    let ServerSettings { encoding, version, unsafe_settings, .. } = settings;
    let found = format!("PostgreSQL {version}, encoding {encoding}");
    if let Some(Unsuitable { found, advice }) = postgres_problem(settings) {
        CheckResult::fail(SETTINGS, found, advice)
    } else if !unsafe_settings.is_empty() {
        let advice = "a crash of Postgres may lose recorded issuances: set them to on";
        CheckResult::warn(SETTINGS, format!("{found}, {}", unsafe_settings.join(", ")), advice)
    } else {
        CheckResult::ok(SETTINGS, found)
    }
}

pub(super) async fn check_redis(stores: &Stores) -> Vec<CheckResult> {
    const REDIS: &str = "Redis";
    const WRITES: &str = "writes";
    const DURABILITY: &str = "durability";
    if let Err(error) = stores.redis_store.ping().await {
        let advice = "check --redis-url with its user, password and certificate, and that Redis is running";
        return vec![CheckResult::fail(REDIS, error_chain(&error), advice)];
    }
    match stores.redis_store.server_versions().await.map(|versions| redis_problem(&versions)) {
        Ok(None) => {}
        Ok(Some(Unsuitable { found, advice })) => return vec![CheckResult::fail(REDIS, found, advice)],
        Err(error) => return vec![CheckResult::fail(REDIS, error_chain(&error), "")],
    }
    let writes = match stores.redis_store.check_writes().await {
        Ok(()) => CheckResult::ok(WRITES, "accepted"),
        Err(error) => {
            let advice = "issuers return 503; if the memory is full, raise maxmemory, otherwise correct what it names";
            CheckResult::fail(WRITES, error_chain(&error), advice)
        }
    };
    let durability = match stores.redis_store.masters().await {
        Ok(masters) => {
            let DurabilityReport { status, message, .. } = assess(&masters);
            match status {
                "True" => CheckResult::ok(DURABILITY, message),
                _ => CheckResult::warn(DURABILITY, "a crash of Redis may lose issued coupons", message),
            }
        }
        Err(error) => CheckResult::fail(DURABILITY, error_chain(&error), ""),
    };
    vec![CheckResult::ok(REDIS, "reachable"), writes, durability]
}

pub(super) async fn check_kafka(stores: &Stores, settings: &TopicSettings) -> Vec<CheckResult> {
    const KAFKA: &str = "Kafka";
    const TOPICS: &str = "topics";
    let (mismatches, missing) = match couponry_kafka::topics::inspect(&stores.kafka, settings).await {
        Ok(found) => found,
        Err(error) => {
            let advice = "check --kafka-brokers, the protocol and the credentials, and that the brokers are running";
            return vec![CheckResult::fail(KAFKA, error_chain(&error), advice)];
        }
    };
    let mut results = vec![CheckResult::ok(KAFKA, "reachable")];
    for topic in &missing {
        let advice = "the operator creates it when it starts; see its log";
        results.push(CheckResult::fail(TOPICS, format!("the topic {topic} does not exist"), advice));
    }
    for mismatch in &mismatches {
        let advice = "change the topic, or the --kafka- flags of the operator; existing topics are never changed";
        results.push(CheckResult::warn(TOPICS, mismatch.to_string(), advice));
    }
    if results.len() == 1 {
        let (topic, dead_letters) = (&stores.kafka.topic, stores.kafka.dead_letter_topic());
        let used = settings.used_topic.as_ref().map_or_else(String::new, |used| format!(", {used}"));
        results.push(CheckResult::ok(TOPICS, format!("{topic}, {dead_letters}{used} match the settings")));
    }
    if missing.is_empty() {
        let failed = |about: &'static str| move |error: KafkaError| CheckResult::fail(about, error_chain(&error), "");
        results.push(match stores.consumer_group().await {
            Ok(group) => check_consumers(stores, &group).await.unwrap_or_else(failed("consumers")),
            Err(error) => CheckResult::fail("consumers", error_chain(&error), ""),
        });
        results.push(check_dead_letters(stores).await.unwrap_or_else(failed("dead letters")));
    }
    results
}

async fn check_consumers(stores: &Stores, group: &str) -> Result<CheckResult, KafkaError> {
    const CONSUMERS: &str = "consumers";
    let lag = LagClient::new(&stores.kafka, group)?;
    let before = lag.measure(KAFKA_TIMEOUT).await?;
    if before == 0 {
        return Ok(CheckResult::ok(
            CONSUMERS,
            format!("lag 0 of the group {group}: all records of the topic are processed"),
        ));
    }
    tokio::time::sleep(LAG_INTERVAL).await;
    let after = lag.measure(KAFKA_TIMEOUT).await?;
    let found = format!("lag {}; {} s before: {}", group_digits(after), LAG_INTERVAL.as_secs(), group_digits(before));
    Ok(if after < before {
        CheckResult::ok(CONSUMERS, found)
    } else {
        CheckResult::warn(
            CONSUMERS,
            found,
            format!("check that consumers of the group {group} are running, and their logs"),
        )
    })
}

async fn check_dead_letters(stores: &Stores) -> Result<CheckResult, KafkaError> {
    const DEAD_LETTERS: &str = "dead letters";
    let topic = stores.kafka.dead_letter_topic();
    let settings = KafkaSettings { topic: topic.clone(), ..stores.kafka.clone() };
    // This group has no members and no offsets, so its lag is the number of dead letters. Requires Describe.
    Ok(match LagClient::new(&settings, "couponry-check")?.measure(KAFKA_TIMEOUT).await? {
        0 => CheckResult::ok(DEAD_LETTERS, "none"),
        count => {
            let advice = "some issued coupons could not be recorded; `couponry-operator audit EVENT` lists them";
            CheckResult::warn(DEAD_LETTERS, format!("{} in {topic}", group_digits(count)), advice)
        }
    })
}
