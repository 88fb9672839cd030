//! The network links from programs to servers, each with a proxy which can inject faults.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use couponry_testbed::kafka::ProxiedListener;
use couponry_testbed::toxiproxy::Toxic;
use couponry_testbed::{Clock, Kafka, Redis, Toxiproxy, ports};

use crate::programs::{Addresses, CONSUMER, ISSUER, OPERATOR, REDEEMER};
use crate::servers::Servers;

/// A kind of program and a server.
pub(super) type Link = (&'static str, &'static str);

pub(super) const REDIS: &str = "redis";
pub(super) const KAFKA: &str = "kafka";
pub(super) const POSTGRES: &str = "postgres";

/// All links. Issuers do not connect to Postgres.
pub(super) const LINKS: [Link; 11] = [
    (ISSUER, REDIS),
    (ISSUER, KAFKA),
    (CONSUMER, REDIS),
    (CONSUMER, KAFKA),
    (CONSUMER, POSTGRES),
    (OPERATOR, REDIS),
    (OPERATOR, KAFKA),
    (OPERATOR, POSTGRES),
    (REDEEMER, REDIS),
    (REDEEMER, KAFKA),
    (REDEEMER, POSTGRES),
];

/// The proxies of all links.
#[derive(Debug)]
pub(super) struct Links {
    proxy: Toxiproxy,
    ports: Vec<(Link, u16)>,
    /// The clock of Redis.
    pub(super) redis_clock: Clock,
}

impl Links {
    /// Starts the servers, and the proxies in front of them.
    pub(super) fn start() -> Result<(Servers, Self)> {
        let ports = LINKS.iter().map(|link| Ok((*link, ports::free()?))).collect::<Result<Vec<_>>>()?;
        let to_kafka = ports.iter().filter(|((_, server), _)| *server == KAFKA);
        let listeners: Vec<(Link, ProxiedListener)> = to_kafka
            .map(|(link, proxy)| Ok((*link, ProxiedListener { proxy: *proxy, listen: ports::free()? })))
            .collect::<Result<_>>()?;
        let proxy = Toxiproxy::start()?;
        let mut clock = None;
        let servers = Servers::start_with(
            || {
                let (redis, of_redis) = Redis::start_with_clock()?;
                clock = Some(of_redis);
                Ok(redis)
            },
            || Kafka::start_behind(&listeners.iter().map(|(_, listener)| *listener).collect::<Vec<_>>()),
        )?;
        for (link, port) in &ports {
            let upstream = match link.1 {
                REDIS => servers.redis.port(),
                POSTGRES => servers.postgres.port(),
                _ => {
                    listeners
                        .iter()
                        .find(|(other, _)| other == link)
                        .context("a link to Kafka has no listener")?
                        .1
                        .listen
                }
            };
            proxy.add_proxy(&name(*link), *port, upstream)?;
        }
        let redis_clock = clock.context("Redis has no clock")?;
        Ok((servers, Self { proxy, ports, redis_clock }))
    }

    /// The addresses for a kind of program.
    pub(super) fn addresses(&self, program: &str, servers: &Servers) -> Addresses {
        let mut addresses = Addresses::from(servers);
        for ((_, server), port) in self.ports.iter().filter(|((of, _), _)| *of == program) {
            match *server {
                REDIS => addresses.redis = format!("redis://127.0.0.1:{port}"),
                POSTGRES => addresses.postgres = format!("postgres://postgres@127.0.0.1:{port}/postgres"),
                _ => addresses.kafka = format!("127.0.0.1:{port}"),
            }
        }
        addresses
    }

    pub(super) fn inject(&self, link: Link, toxic: Toxic) -> Result<()> {
        self.proxy.inject(&name(link), toxic)
    }

    /// Lets the address of Redis lead to another port, and closes all connections.
    pub(super) fn switch_redis(&self, port: u16) -> Result<()> {
        let to_redis = LINKS.iter().filter(|(_, server)| *server == REDIS);
        to_redis.into_iter().try_for_each(|link| self.proxy.redirect(&name(*link), port))
    }

    /// Removes all faults.
    pub(super) fn reset(&self) -> Result<()> {
        // The proxy needs a moment to close half-open connections.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.proxy.reset() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(200)),
            }
        }
    }
}

fn name((program, server): Link) -> String {
    format!("{program}-{server}")
}
