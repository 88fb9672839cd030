//! The connection to one Redis, or to the nodes of a cluster. It comes back by itself.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use couponry_settings::{RedisSettings, SettingsError};
use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, Pipeline, RedisError, RedisFuture,
    RedisResult, ServerErrorKind, TlsCertificates, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
    cluster::{ClusterClient, ClusterConfig},
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo},
};

use crate::StockError;

/// How long an answer may take. After that the outcome is unknown: Redis may still run the script.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
const LONGEST_RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// How long a call to a cluster may take, with all redirections and repetitions.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(4);
/// Bounds of the pause before a call to a cluster is repeated.
const CLUSTER_PAUSE: std::ops::Range<u64> = 50..500;
/// A connection is not given up more often than this, so that a Redis that refuses everything is not flooded with new ones.
const LEAST_AGE: Duration = Duration::from_secs(1);

/// Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub(crate) struct Link(Arc<Inner>);

struct Inner {
    way: Way,
    address: Arc<str>,
    current: Mutex<Current>,
}

/// How to connect.
enum Way {
    One(Box<Client>),
    Cluster(Box<ClusterClient>),
}

struct Current {
    generation: u64,
    since: Instant,
    connection: Connection,
}

#[derive(Clone)]
enum Connection {
    One(ConnectionManager),
    Cluster(ClusterConnection),
}

impl Link {
    /// Connects with the first call.
    pub(crate) fn new(settings: &RedisSettings) -> Result<Self, StockError> {
        settings.check()?;
        // Nobody else need have chosen: the process has one provider, and it is this one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: settings.authorities.as_ref().map(|authorities| authorities.pem().as_bytes().to_vec()),
        };
        let urls = settings.url.reveal().split(|c| settings.cluster && c == ',');
        let nodes = urls.map(|url| node(url.trim(), settings)).collect::<Result<Vec<_>, _>>()?;
        // Not the URLs, in which a password may be.
        let address = nodes.iter().map(|node| node.addr().to_string()).collect::<Vec<_>>().join(",").into();
        let way = if settings.cluster {
            cluster(nodes, settings, certificates)?
        } else {
            one(nodes, settings, certificates)?
        };
        let current =
            Current { generation: 0, since: Instant::now(), connection: way.connect().map_err(StockError::Url)? };
        Ok(Self(Arc::new(Inner { way, address, current: Mutex::new(current) })))
    }

    /// Hosts and ports.
    pub(crate) fn address(&self) -> Arc<str> {
        self.0.address.clone()
    }

    /// Why there is no connection to a cluster: its client itself only says that there is none.
    pub(crate) async fn diagnosis(&self) -> Option<RedisError> {
        let Way::Cluster(client) = &self.0.way else { return None };
        client.get_async_connection().await.err()
    }

    /// Asks the Redis, or each node of the cluster that has slots, and returns each one's answer.
    pub(crate) async fn ask_each(&self, command: &Cmd) -> RedisResult<Vec<Value>> {
        match self.current().1 {
            Connection::One(_) => Ok(vec![self.clone().req_packed_command(command).await?]),
            Connection::Cluster(mut cluster) => {
                let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                match cluster.route_command(command.clone(), all).await? {
                    Value::Map(answers) => Ok(answers.into_iter().map(|(_, answer)| answer).collect()),
                    other => Ok(vec![other]),
                }
            }
        }
    }

    fn current(&self) -> (u64, Connection) {
        let current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        (current.generation, current.connection.clone())
    }

    /// Gives up the connection if it would not get over this error by itself.
    fn note(&self, generation: u64, error: &RedisError) {
        let is_over = match error.kind() {
            // A connection that was lost is replaced by its owner, but not one that just does not answer.
            ErrorKind::Io => error.is_timeout(),
            // About what was asked, not about the connection: what this user may not do, or this Redis does not know, is the same
            // on a new one.
            ErrorKind::ClusterConnectionNotFound
            | ErrorKind::Server(ServerErrorKind::NoScript | ServerErrorKind::NoPerm | ServerErrorKind::ResponseError) => {
                false
            }
            // READONLY: the other end is a master no more. AUTH refused: that answer would be given for ever. Others may come
            // from the beginning of a connection, where they would be kept as well.
            _ => true,
        };
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        if is_over && current.generation == generation && current.since.elapsed() >= LEAST_AGE {
            // What is under way on the old connection goes on there.
            if let Ok(connection) = self.0.way.connect() {
                *current = Current { generation: generation + 1, since: Instant::now(), connection };
            }
        }
    }
}

impl Way {
    fn connect(&self) -> RedisResult<Connection> {
        match self {
            Self::One(client) => {
                let config = ConnectionManagerConfig::new()
                    .set_response_timeout(Some(RESPONSE_TIMEOUT))
                    .set_connection_timeout(Some(CONNECTION_TIMEOUT))
                    .set_max_delay(LONGEST_RECONNECT_DELAY);
                ConnectionManager::new_lazy_with_config(Client::clone(client), config).map(Connection::One)
            }
            Self::Cluster(client) => {
                let config = ClusterConfig::new()
                    .set_connection_timeout(CONNECTION_TIMEOUT)
                    .set_response_timeout(RESPONSE_TIMEOUT);
                Ok(Connection::Cluster(client.get_pending_async_connection_with_config(config)))
            }
        }
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let (generation, connection) = self.current();
            let result = match connection {
                Connection::One(mut one) => one.req_packed_command(command).await,
                Connection::Cluster(mut cluster) => cluster.req_packed_command(command).await,
            };
            // An answer that is an error becomes one only further up.
            let result = result.and_then(Value::extract_error);
            result.inspect_err(|error| self.note(generation, error))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let (generation, connection) = self.current();
            let result = match connection {
                Connection::One(mut one) => one.req_packed_commands(commands, offset, count).await,
                Connection::Cluster(mut cluster) => cluster.req_packed_commands(commands, offset, count).await,
            };
            result.inspect_err(|error| self.note(generation, error))
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

fn one(
    mut nodes: Vec<ConnectionInfo>,
    settings: &RedisSettings,
    certificates: TlsCertificates,
) -> Result<Way, StockError> {
    let info = nodes.swap_remove(0);
    let client = if settings.is_tls() { Client::build_with_tls(info, certificates) } else { Client::open(info) };
    Ok(Way::One(Box::new(client.map_err(StockError::Url)?)))
}

fn cluster(
    nodes: Vec<ConnectionInfo>,
    settings: &RedisSettings,
    certificates: TlsCertificates,
) -> Result<Way, StockError> {
    if nodes.iter().any(|node| node.redis_settings().db() != 0) {
        return Err(SettingsError::new("--redis-url names a database, but a Redis Cluster has only one").into());
    }
    let mut client = ClusterClient::builder(nodes)
        .overall_response_timeout(Some(CLUSTER_TIMEOUT))
        .min_retry_wait(CLUSTER_PAUSE.start)
        .max_retry_wait(CLUSTER_PAUSE.end);
    if settings.is_tls() {
        client = client.certs(certificates);
    }
    Ok(Way::Cluster(Box::new(client.build().map_err(StockError::Url)?)))
}

/// One address, with the name and the password that go before those in it.
fn node(url: &str, settings: &RedisSettings) -> Result<ConnectionInfo, StockError> {
    let info = url.into_connection_info().map_err(StockError::Url)?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) != settings.is_tls() {
        return Err(SettingsError::new("the addresses in --redis-url must all begin with rediss://, or none").into());
    }
    let mut login = info.redis_settings().clone();
    if let Some(username) = &settings.username {
        login = login.set_username(username.reveal());
    }
    if let Some(password) = &settings.password {
        login = login.set_password(password.reveal());
    }
    Ok(info.set_redis_settings(login))
}
