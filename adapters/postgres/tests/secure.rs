//! Postgres with TLS and authentication.

use std::error::Error as _;

use couponry_postgres::Database;
use couponry_settings::{CaCertificates, PostgresSettings};
use couponry_testbed::{CertificateAuthority, Database as TestDatabase, Postgres};

fn ca_certificates(authority: &CertificateAuthority) -> CaCertificates {
    CaCertificates::read(authority.path().to_str().unwrap()).unwrap()
}

/// The cause of a failed ping.
async fn ping_error(settings: PostgresSettings) -> String {
    let error = Database::open(&settings).unwrap().ping().await.unwrap_err();
    let error = error.source().expect("a failed ping has a cause").to_string();
    assert!(!error.contains("s3cret"), "{error}");
    error
}

#[tokio::test]
async fn documented_user_over_tls_succeeds_and_weaker_settings_return_errors() {
    let (authority, other) = (CertificateAuthority::new().unwrap(), CertificateAuthority::new().unwrap());
    let server = Postgres::start_tls(&authority).unwrap();
    let admin = TestDatabase::create_on(&server.url()).unwrap();
    let documented = include_str!("../../../docs/operate/backends.md");
    let documented = documented.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    for statement in documented.replace("PASSWORD 'PASSWORD'", "PASSWORD 's3cret'").split_terminator(";\n") {
        admin.sql(statement).unwrap();
    }

    let good = PostgresSettings {
        password: Some("s3cret".into()),
        ca_certificates: Some(ca_certificates(&authority)),
        ..PostgresSettings::at(&format!(
            "postgres://couponry:other@localhost:{}/couponry?sslmode=disable",
            server.port()
        ))
    };
    let database = Database::open(&good).unwrap();
    database.migrate().await.unwrap();
    assert!(database.is_migrated().await.unwrap());
    let tls =
        admin.sql("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'couponry'");
    assert_eq!(tls.unwrap(), "t");

    let error = ping_error(PostgresSettings { password: Some("s3cret2".into()), ..good.clone() }).await;
    assert!(error.contains("password authentication failed"), "{error}");
    let error = ping_error(PostgresSettings { ca_certificates: Some(ca_certificates(&other)), ..good.clone() }).await;
    assert!(error.contains("invalid peer certificate"), "{error}");
    let at = |mode: &str| format!("postgres://couponry@localhost:{}/couponry?sslmode={mode}", server.port());
    let without =
        |mode: &str| PostgresSettings { url: at(mode).as_str().into(), ca_certificates: None, ..good.clone() };
    let error = ping_error(without("verify-full")).await;
    assert!(error.contains("UnknownIssuer"), "{error}");
    let error = ping_error(without("disable")).await;
    assert!(error.contains("no encryption"), "{error}");
    Database::open(&without("prefer")).unwrap().ping().await.unwrap();

    let plain = Postgres::start().unwrap();
    let error = ping_error(PostgresSettings { url: plain.url().as_str().into(), ..good }).await;
    assert!(error.contains("TLS"), "{error}");
}
