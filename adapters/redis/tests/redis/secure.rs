//! A Redis with TLS and users.

use couponry_redis::{RedisSettings, Stock};
use couponry_testbed::{CertificateAuthority, Redis, ports, redis::command};

use crate::story;

fn ca_certificates(authority: &CertificateAuthority) -> couponry_settings::CaCertificates {
    couponry_settings::CaCertificates::read(authority.path().to_str().unwrap()).unwrap()
}

async fn refused(settings: RedisSettings) -> String {
    let error = Stock::open(&settings).unwrap().ping().await.unwrap_err().to_string();
    assert!(!error.contains("s3cret"), "{error}");
    error
}

#[tokio::test]
async fn tls_and_an_acl_user_are_enough_and_nothing_less_is() {
    let (authority, stranger) = (CertificateAuthority::new().unwrap(), CertificateAuthority::new().unwrap());
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
    rule.extend(story::acl_rule("s3cret", "shop:coupon*"));
    command(&server.url(), &rule.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();

    let good = RedisSettings {
        username: Some("couponry".into()),
        // Those of the flags win.
        password: Some("s3cret".into()),
        ca_certificates: Some(ca_certificates(&authority)),
        ..RedisSettings::at(&format!("rediss://nobody:nothing@localhost:{port}"), "shop:")
    };
    let stock = Stock::open(&good).unwrap();
    story::tell(&stock, "summer").await;
    assert_eq!(stock.durability().await.unwrap().len(), 1);

    let other_keys = Stock::open(&RedisSettings { key_prefix: "other:".into(), ..good.clone() }).unwrap();
    let error = other_keys.ping().await.unwrap_err().to_string();
    assert!(error.contains("no permissions"), "{error}");

    let wrong_password = RedisSettings { password: Some("s3cret2".into()), ..good.clone() };
    let late = Stock::open(&wrong_password).unwrap();
    let error = late.ping().await.unwrap_err().to_string();
    assert!(error.contains("check --redis-username and --redis-password") && !error.contains("s3cret"), "{error}");
    let error = refused(RedisSettings { ca_certificates: Some(ca_certificates(&stranger)), ..good.clone() }).await;
    assert!(error.contains("--redis-ca-file"), "{error}");
    let error = refused(RedisSettings { ca_certificates: None, ..good.clone() }).await;
    assert!(error.contains("UnknownIssuer"), "{error}");
    let plain = RedisSettings::at(&format!("redis://127.0.0.1:{port}"), "");
    assert!(refused(plain).await.contains("Redis may want TLS"));
    let error =
        refused(RedisSettings { url: format!("rediss://127.0.0.1:{}", server.port()).as_str().into(), ..good }).await;
    assert!(error.contains("may not speak TLS at this address"), "{error}");

    // A password that becomes right later gets through without a restart of ours.
    command(&server.url(), &["ACL", "SETUSER", "couponry", ">s3cret2"]).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while let Err(error) = late.ping().await {
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn what_does_not_fit_together_is_told_at_once() {
    let stock = |settings: RedisSettings| Stock::open(&settings).err().map(|error| error.to_string()).unwrap();
    let cluster = |url: &str| RedisSettings { cluster: true, ..RedisSettings::at(url, "") };
    assert!(stock(cluster("redis://a,rediss://b")).contains("must all begin with rediss://"));
    assert!(stock(cluster("redis://a/3")).contains("has only one"));
    assert!(stock(RedisSettings::at("http://a:pass@word", "")).contains("not of the form"));
}

/// How many connections it has ever taken, with the one that asks.
fn connections(server: &Redis) -> u32 {
    let info = command(&server.url(), &["INFO", "stats"]).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn what_a_user_may_not_ask_costs_no_connection() {
    let server = Redis::start().unwrap();
    let rule = ["ACL", "SETUSER", "couponry", "on", ">s3cret", "~*", "+@all", "-config"];
    command(&server.url(), &rule).unwrap();
    let settings = RedisSettings {
        username: Some("couponry".into()),
        password: Some("s3cret".into()),
        ..RedisSettings::at(&server.url(), "")
    };
    let stock = Stock::open(&settings).unwrap();
    stock.ping().await.unwrap();
    // A younger connection would be kept whatever happens.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let before = connections(&server);
    for _ in 0..3 {
        let found = stock.durability().await.unwrap();
        assert!(found[0].is_master && found[0].settings.is_none(), "{found:?}");
    }
    stock.ping().await.unwrap();
    assert_eq!(connections(&server), before + 1, "only our question was new");
}

/// A master that another node has replaced refuses writes on connections that are as good as ever.
#[tokio::test]
async fn a_connection_to_a_former_master_is_given_up() {
    let (server, master) = (Redis::start().unwrap(), Redis::start().unwrap());
    let stock = Stock::connect(&server.url(), "").unwrap();
    story::tell(&stock, "summer").await;
    let connections = || connections(&server);
    command(&server.url(), &["REPLICAOF", "127.0.0.1", &master.port().to_string()]).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let before = connections();
    let error =
        stock.prepare(&"autumn".parse().unwrap(), couponry_domain::Uuid::new_v4(), 0).await.unwrap_err().to_string();
    assert!(error.to_lowercase().contains("read only"), "{error}");
    stock.ping().await.unwrap();
    // One is our question, the other the new connection.
    assert!(connections() >= before + 2);
    command(&server.url(), &["REPLICAOF", "NO", "ONE"]).unwrap();
    story::tell(&stock, "winter").await;
}
