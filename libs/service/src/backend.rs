//! The flags that say where the servers are: the same in every program.

use crate::secret::Secret;

/// Where Redis is.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisArgs {
    /// Address of Redis: `redis://[user:password@]host[:port][/database]`. `@PATH` reads it from a file.
    #[arg(long, env, value_name = "URL", value_parser = Secret::parse, hide_env_values = true)]
    pub redis_url: Secret,
    /// Put before every key, so that several installations can share a Redis.
    #[arg(long, env, default_value = "", value_name = "PREFIX")]
    pub redis_key_prefix: String,
}

/// Where Postgres is.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Postgres")]
pub struct PostgresArgs {
    /// Address of Postgres: `postgres://user[:password]@host[:port]/database`. `@PATH` reads it from a file.
    #[arg(long, env, value_name = "URL", value_parser = Secret::parse, hide_env_values = true)]
    pub postgres_url: Secret,
}

/// Where Kafka is.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaArgs {
    /// Kafka's bootstrap servers: host:port, several separated by commas.
    #[arg(long, env, value_name = "HOST:PORT,...")]
    pub kafka_brokers: String,
    /// The topic of the issued records. What can never be recorded goes to `<TOPIC>.dlq`.
    #[arg(long, env, default_value = "coupon-issued", value_name = "TOPIC")]
    pub kafka_topic: String,
}
