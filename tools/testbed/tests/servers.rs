//! Each server starts, is killed, comes back with what it had, and can be paused.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use couponry_testbed::kubernetes::User;
use couponry_testbed::{Kafka, Kubernetes, Postgres, Redis, programs};

/// Sends one inline command and returns the first line of the answer, or None when there is none in time.
fn redis(redis: &Redis, command: &str, patience: Duration) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port())).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut answer = [0; 256];
    let length = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).lines().next()?.to_owned())
}

fn psql(postgres: &Postgres, sql: &str) -> String {
    let psql = programs::postgres_bin().unwrap().join("psql");
    let output = Command::new(psql).args([&postgres.url(), "-Atqc", sql]).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn redis_comes_back_with_its_data_after_kill_9() {
    let server = Redis::start().unwrap();
    for n in 1..=100 {
        assert_eq!(redis(&server, "INCR counter", PATIENCE).unwrap(), format!(":{n}"));
    }
    server.kill9().unwrap();
    assert!(!couponry_testbed::ports::accepts(server.port()));
    server.restart().unwrap();
    assert_eq!(redis(&server, "INCR counter", PATIENCE).unwrap(), ":101");
}

#[test]
fn a_paused_redis_answers_nothing_until_it_is_resumed() {
    let server = Redis::start_with(&["--appendfsync", "everysec"]).unwrap();
    server.pause().unwrap();
    assert_eq!(redis(&server, "PING", Duration::from_millis(300)), None);
    server.resume().unwrap();
    assert_eq!(redis(&server, "PING", PATIENCE).unwrap(), "+PONG");
}

#[test]
fn postgres_comes_back_with_its_data_after_kill_9() {
    let server = Postgres::start().unwrap();
    psql(&server, "create table t as select * from generate_series(1, 1000) as n");
    server.kill9().unwrap();
    server.restart().unwrap();
    assert_eq!(psql(&server, "select count(*) from t"), "1000");
    server.stop().unwrap();
    server.restart().unwrap();
    assert_eq!(psql(&server, "select count(*) from t"), "1000");
}

#[test]
fn kafka_serves_clients_again_after_kill_9() {
    let server = Kafka::start().unwrap();
    assert!(server.brokers().starts_with("127.0.0.1:"));
    server.kill9().unwrap();
    assert!(!couponry_testbed::ports::accepts(server.port()));
    server.restart().unwrap();
    assert!(couponry_testbed::ports::accepts(server.port()));
}

#[test]
fn the_api_server_knows_its_users_and_keeps_its_objects() {
    let clerk = User { token: "clerk-token", name: "clerk", groups: &["clerks"] };
    let server = Kubernetes::start_with(&[clerk]).unwrap();
    server.kubectl(&["create", "configmap", "note", "--from-literal=kept=yes"]).unwrap();

    let refused = server.kubectl(&["--user=", "--token=clerk-token", "get", "configmap", "note"]).unwrap_err();
    assert!(refused.to_string().contains("\"clerk\" cannot get resource"), "{refused:#}");

    server.kill9().unwrap();
    server.restart().unwrap();
    let kept = server.kubectl(&["get", "configmap", "note", "-o", "jsonpath={.data.kept}"]).unwrap();
    assert_eq!(kept, "yes");
}
