//! A Redis with TLS and ACL users.

use couponry_redis::{RedisSettings, RedisStore};
use couponry_testbed::{CertificateAuthority, Redis, ports, redis::command};

use crate::{permissions, support::chain};

fn ca_certificates(authority: &CertificateAuthority) -> couponry_settings::CaCertificates {
    couponry_settings::CaCertificates::read(authority.path().to_str().unwrap()).unwrap()
}

async fn rejected(settings: RedisSettings) -> String {
    let error = chain(&RedisStore::open(&settings).unwrap().ping().await.unwrap_err());
    assert!(!error.contains("s3cret"), "{error}");
    error
}

#[tokio::test]
async fn connection_requires_valid_ca_and_acl_user() {
    let (authority, other_authority) = (CertificateAuthority::new().unwrap(), CertificateAuthority::new().unwrap());
    let certificate = authority.issue("redis").unwrap();
    let (port, ca) = (ports::free().unwrap(), authority.path());
    let [cert, key, ca] = [&certificate.certificate, &certificate.key, &ca].map(|path| path.to_str().unwrap());
    let port = port.to_string();
    let server = Redis::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        cert,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        ca,
        "--tls-auth-clients",
        "no",
    ])
    .unwrap();
    let mut rule = vec!["ACL".to_owned(), "SETUSER".to_owned()];
    rule.extend(permissions::acl_rule("s3cret", "shop:coupon*"));
    command(&server.url(), &rule.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();

    let good = RedisSettings {
        username: Some("couponry".into()),
        // The settings take precedence over the URL.
        password: Some("s3cret".into()),
        ca_certificates: Some(ca_certificates(&authority)),
        ..RedisSettings::at(&format!("rediss://other:password@localhost:{port}"), "shop:")
    };
    let redis_store = RedisStore::open(&good).unwrap();
    permissions::run_event(&redis_store, "summer").await;
    assert_eq!(redis_store.masters().await.unwrap().len(), 1);

    let other_keys = RedisStore::open(&RedisSettings { key_prefix: "other:".into(), ..good.clone() }).unwrap();
    let error = chain(&other_keys.ping().await.unwrap_err());
    assert!(error.contains("no permissions"), "{error}");

    let wrong_password = RedisSettings { password: Some("s3cret2".into()), ..good.clone() };
    let corrected_later = RedisStore::open(&wrong_password).unwrap();
    let error = chain(&corrected_later.ping().await.unwrap_err());
    assert!(error.contains("check --redis-username and --redis-password") && !error.contains("s3cret"), "{error}");
    let error =
        rejected(RedisSettings { ca_certificates: Some(ca_certificates(&other_authority)), ..good.clone() }).await;
    assert!(error.contains("--redis-ca-file"), "{error}");
    let error = rejected(RedisSettings { ca_certificates: None, ..good.clone() }).await;
    assert!(error.contains("UnknownIssuer"), "{error}");
    let plain = RedisSettings::at(&format!("redis://127.0.0.1:{port}"), "");
    assert!(rejected(plain).await.contains("Redis may require TLS"));
    let error =
        rejected(RedisSettings { url: format!("rediss://127.0.0.1:{}", server.port()).as_str().into(), ..good }).await;
    assert!(error.contains("may not use TLS at this address"), "{error}");

    // After the password is corrected in Redis, the same connection succeeds.
    command(&server.url(), &["ACL", "SETUSER", "couponry", ">s3cret2"]).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while let Err(error) = corrected_later.ping().await {
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn contradicting_settings_are_rejected_without_connecting() {
    let open_error =
        |settings: RedisSettings| RedisStore::open(&settings).err().map(|error| error.to_string()).unwrap();
    let cluster = |url: &str| RedisSettings { cluster: true, ..RedisSettings::at(url, "") };
    assert!(open_error(cluster("redis://a,rediss://b")).contains("must all begin with rediss://"));
    assert!(open_error(cluster("redis://a/3")).contains("has only one"));
    assert!(open_error(RedisSettings::at("http://a:pass@word", "")).contains("not of the form"));
}

/// How many connections Redis has ever accepted, including the one of this call.
fn connections(server: &Redis) -> u32 {
    let info = command(&server.url(), &["INFO", "stats"]).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn denied_command_keeps_the_connection() {
    let server = Redis::start().unwrap();
    let rule = ["ACL", "SETUSER", "couponry", "on", ">s3cret", "~*", "+@all", "-config"];
    command(&server.url(), &rule).unwrap();
    let settings = RedisSettings {
        username: Some("couponry".into()),
        password: Some("s3cret".into()),
        ..RedisSettings::at(&server.url(), "")
    };
    let redis_store = RedisStore::open(&settings).unwrap();
    redis_store.ping().await.unwrap();
    // A younger connection is never replaced.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let (before, begun_at) = (connections(&server), std::time::Instant::now());
    for _ in 0..3 {
        let found = redis_store.masters().await.unwrap();
        assert!(found[0].is_master && found[0].settings.is_none(), "{found:?}");
    }
    redis_store.ping().await.unwrap();
    // The connection is renewed every second.
    let renewed = u32::try_from(begun_at.elapsed().as_secs()).unwrap() + 1;
    assert!(
        connections(&server) <= before + 1 + renewed,
        "only the connection of the INFO call and renewed ones are new"
    );
}

/// A master that was demoted to a replica rejects writes on existing connections.
#[tokio::test]
async fn connection_to_demoted_master_is_replaced() {
    let (server, master) = (Redis::start().unwrap(), Redis::start().unwrap());
    let redis_store = RedisStore::connect(&server.url(), "").unwrap();
    permissions::run_event(&redis_store, "summer").await;
    let connections = || connections(&server);
    command(&server.url(), &["REPLICAOF", "127.0.0.1", &master.port().to_string()]).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let before = connections();
    let uid = couponry_domain::Uuid::new_v4();
    let error = chain(&redis_store.prepare(&"autumn".parse().unwrap(), uid, 0).await.unwrap_err());
    assert!(error.to_lowercase().contains("read only"), "{error}");
    redis_store.ping().await.unwrap();
    // The connection of the INFO call, and the new one.
    assert!(connections() >= before + 2);
    command(&server.url(), &["REPLICAOF", "NO", "ONE"]).unwrap();
    permissions::run_event(&redis_store, "winter").await;
}
