//! Start, kill, restart and pause of each server.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use couponry_testbed::kubernetes::User;
use couponry_testbed::{Kafka, Kubernetes, Postgres, Redis, programs};

/// Sends one inline command and returns the first line of the reply, or None after the timeout.
fn redis(redis: &Redis, command: &str, timeout: Duration) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port())).unwrap();
    stream.set_read_timeout(Some(timeout)).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut reply = [0; 256];
    let length = stream.read(&mut reply).ok()?;
    Some(String::from_utf8_lossy(&reply[..length]).lines().next()?.to_owned())
}

fn psql(postgres: &Postgres, sql: &str) -> String {
    let psql = programs::postgres_bin().unwrap().join("psql");
    let output = Command::new(psql).args([&postgres.url(), "-Atqc", sql]).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

const TIMEOUT: Duration = Duration::from_mins(1);

#[test]
fn redis_after_sigkill_has_its_data() {
    let server = Redis::start().unwrap();
    for n in 1..=100 {
        assert_eq!(redis(&server, "INCR counter", TIMEOUT).unwrap(), format!(":{n}"));
    }
    server.kill9().unwrap();
    assert!(!couponry_testbed::ports::accepts(server.port()));
    server.restart().unwrap();
    assert_eq!(redis(&server, "INCR counter", TIMEOUT).unwrap(), ":101");
}

#[test]
fn paused_redis_replies_only_after_resume() {
    let server = Redis::start_with(&["--appendfsync", "everysec"]).unwrap();
    server.pause().unwrap();
    assert_eq!(redis(&server, "PING", Duration::from_millis(300)), None);
    server.resume().unwrap();
    assert_eq!(redis(&server, "PING", TIMEOUT).unwrap(), "+PONG");
}

#[test]
fn postgres_after_sigkill_has_its_data() {
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
fn kafka_after_sigkill_accepts_clients() {
    let server = Kafka::start().unwrap();
    assert!(server.brokers().starts_with("127.0.0.1:"));
    server.kill9().unwrap();
    assert!(!couponry_testbed::ports::accepts(server.port()));
    server.restart().unwrap();
    assert!(couponry_testbed::ports::accepts(server.port()));
}

#[test]
fn api_server_authenticates_users_and_keeps_objects_after_sigkill() {
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
