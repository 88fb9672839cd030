//! Writes the issued records from Kafka into Postgres.
fn main() {}
