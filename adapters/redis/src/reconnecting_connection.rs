//! The connection to one Redis, or to the nodes of a Redis Cluster. It reconnects automatically.
//!
//! # Guarantees
//! A call to a single Redis uses a connection that was established at most [`MAX_CONNECTION_AGE`] ago. After a failover
//! that redirects the address to another Redis, the previous one thus receives no calls after this time, even if it
//! does not detect that it was replaced and keeps its connections. With [`RESPONSE_TIMEOUT`], it returns nothing after
//! [`MAX_REDIRECTION_DELAY`].
//!
//! # Assumptions
//! New connections to the address lead to the master. In a cluster, the nodes themselves fence a replaced master.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use couponry_settings::{ExposeSecret as _, RedisSettings, SettingsError};
use futures::future::join_all;
use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, Pipeline, RedisError, RedisFuture,
    RedisResult, ServerErrorKind, TlsCertificates, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
    cluster::{ClusterClient, ClusterConfig},
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo, SingleNodeRoutingInfo},
};

use crate::error::{RedisStoreError, is_about_one_node};

/// The age of a connection after which it is renewed in the background.
const RENEWAL_AGE: Duration = Duration::from_secs(1);
/// The age of a connection after which calls wait for a new one.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(2);
/// How long after the redirection of its address a replaced Redis may still respond to calls.
pub const MAX_REDIRECTION_DELAY: Duration = Duration::from_secs(4);
/// How long a response may take. After that, the outcome is unknown: Redis may still run the script.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a call to a cluster may take, with all redirections and retries.
const CLUSTER_RESPONSE_TIMEOUT: Duration = Duration::from_secs(4);
/// Bounds of the delay before a call to a cluster is retried, in milliseconds.
const CLUSTER_RETRY_DELAY: std::ops::Range<u64> = 50..500;
/// A connection is replaced at most this often, so that a Redis that rejects every call is not flooded with
/// connections.
const MIN_CONNECTION_AGE: Duration = Duration::from_secs(1);

/// Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub(crate) struct ReconnectingConnection(Arc<Inner>);

struct Inner {
    mode: ConnectMode,
    address: Arc<str>,
    current: Mutex<Current>,
    /// Locked while the connection is renewed. Contains the last failure.
    renewal: tokio::sync::Mutex<Option<(Instant, RedisError)>>,
}

/// How to connect.
enum ConnectMode {
    SingleNode(Box<Client>),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
struct Current {
    generation: u64,
    connected_at: Instant,
    connection: Connection,
}

impl Current {
    fn new(generation: u64, connection: Connection) -> Self {
        Self { generation, connected_at: Instant::now(), connection }
    }
}

#[derive(Clone)]
enum Connection {
    SingleNode(ConnectionManager),
    Cluster(ClusterConnection),
}

impl Connection {
    async fn req_packed_command(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::SingleNode(single_node) => single_node.req_packed_command(command).await,
            Self::Cluster(cluster) => cluster.req_packed_command(command).await,
        }
    }
}

impl ReconnectingConnection {
    /// Connects with the first call.
    pub(crate) fn new(settings: &RedisSettings) -> Result<Self, RedisStoreError> {
        settings.check()?;
        // Fails if the process has installed a provider already, which is harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: settings.ca_certificates.as_ref().map(|ca| ca.pem().as_bytes().to_vec()),
        };
        let urls = settings.url.expose_secret().split(|c| settings.cluster && c == ',');
        let nodes = urls.map(|url| node(url.trim(), settings)).collect::<Result<Vec<_>, _>>()?;
        // Not the URLs, which may contain a password.
        let address = nodes.iter().map(|node| node.addr().to_string()).collect::<Vec<_>>().join(",").into();
        let mode = if settings.cluster {
            cluster(nodes, settings, certificates)?
        } else {
            single_node(nodes, settings, certificates)?
        };
        let current = Current::new(0, mode.connect().map_err(RedisStoreError::url)?);
        Ok(Self(Arc::new(Inner {
            mode,
            address,
            current: Mutex::new(current),
            renewal: tokio::sync::Mutex::default(),
        })))
    }

    /// Hosts and ports.
    pub(crate) fn address(&self) -> Arc<str> {
        self.0.address.clone()
    }

    /// Returns why the cluster cannot be reached: the errors of the shared connection do not contain the reason.
    pub(crate) async fn diagnose(&self) -> Option<RedisError> {
        let ConnectMode::Cluster(client) = &self.0.mode else { return None };
        client.get_async_connection().await.err()
    }

    /// Sends a command to the Redis, or to each master of the cluster, and returns the response of each. A node that
    /// does not respond does not hide the others.
    pub(crate) async fn query_masters(&self, command: &Cmd) -> Vec<RedisResult<Value>> {
        let cluster = match self.current().connection {
            Connection::SingleNode(_) => return vec![self.clone().req_packed_command(command).await],
            Connection::Cluster(cluster) => cluster,
        };
        // From the first that responds.
        let any = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, Some(ResponsePolicy::OneSucceeded)));
        let slots = cluster.clone().route_command(redis::cmd("CLUSTER").arg("SLOTS").clone(), any).await;
        let masters = match slots.and_then(Value::extract_error) {
            Ok(slots) => masters(&slots),
            Err(error) => return vec![Err(error)],
        };
        let responses = masters.into_iter().map(|(host, port)| {
            let (mut cluster, address) = (cluster.clone(), SingleNodeRoutingInfo::ByAddress { host, port });
            async move {
                let response = cluster.route_command(command.clone(), RoutingInfo::SingleNode(address)).await;
                response.and_then(Value::extract_error)
            }
        });
        join_all(responses).await
    }

    fn current(&self) -> Current {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns a connection that is fresh enough for a call: it is renewed before it is too old.
    async fn fresh_connection(&self) -> RedisResult<Current> {
        let current = self.current();
        let age = current.connected_at.elapsed();
        if age < RENEWAL_AGE || matches!(current.connection, Connection::Cluster(_)) {
            return Ok(current);
        }
        if age < MAX_CONNECTION_AGE {
            let connection = self.clone();
            tokio::spawn(async move {
                // If it fails, a call repeats it as soon as the connection is too old.
                if let Ok(mut last_failure) = connection.0.renewal.try_lock() {
                    let _ = connection.renew(&mut last_failure).await;
                }
            });
            return Ok(current);
        }
        let called_at = Instant::now();
        let mut last_failure = self.0.renewal.lock().await;
        let current = self.current();
        match &*last_failure {
            _ if current.connected_at.elapsed() < MAX_CONNECTION_AGE => Ok(current),
            // Calls that have waited for the same renewal share its failure, instead of waiting for one after another.
            Some((failed_at, error)) if *failed_at >= called_at => Err(error.clone()),
            _ => self.renew(&mut last_failure).await,
        }
    }

    /// Replaces the connection by a new one after it has responded. Calls that are in flight complete on the old one.
    async fn renew(&self, last_failure: &mut Option<(Instant, RedisError)>) -> RedisResult<Current> {
        let renewed = self.connect().await;
        if let Err(error) = &renewed {
            *last_failure = Some((Instant::now(), error.clone()));
        }
        renewed
    }

    async fn connect(&self) -> RedisResult<Current> {
        let begun_at = Instant::now();
        let connection = self.0.mode.connect()?;
        let mut probe = connection.clone();
        let response = tokio::time::timeout(CONNECTION_TIMEOUT, probe.req_packed_command(&redis::cmd("PING"))).await;
        let response = response.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        match response.and_then(Value::extract_error) {
            // The user may lack the permission, but Redis has responded.
            Err(error) if error.kind() != ErrorKind::Server(ServerErrorKind::NoPerm) => Err(error),
            _ => {
                let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
                *current = Current { generation: current.generation + 1, connected_at: begun_at, connection };
                Ok(current.clone())
            }
        }
    }

    /// Replaces the connection if it would not recover from this error by itself.
    fn handle_error(&self, generation: u64, error: &RedisError) {
        use ServerErrorKind::{NoPerm, NoScript, ResponseError};

        let is_cluster = matches!(self.0.mode, ConnectMode::Cluster(_));
        let must_reconnect = match error.kind() {
            // A new connection would first connect to all nodes, also to those that do not respond, and delay the calls
            // to the others. The driver follows the changes of a cluster itself.
            _ if is_cluster && is_about_one_node(error) => false,
            // The driver replaces a lost connection, but not one that only stopped responding.
            ErrorKind::Io => error.is_timeout(),
            // Errors of the command, not of the connection: a new connection would return the same.
            ErrorKind::ClusterConnectionNotFound | ErrorKind::Server(NoScript | NoPerm | ResponseError) => false,
            ErrorKind::Extension if error.code() == Some("WRONGTYPE") => false,
            // READONLY: the peer is not a master any more. A failed AUTH: the driver would return the same error for
            // ever. Others may come from the handshake, whose error the driver keeps as well.
            _ => true,
        };
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = current.generation == generation && current.connected_at.elapsed() >= MIN_CONNECTION_AGE;
        if must_reconnect && is_current {
            // Calls that are in flight on the old connection complete there.
            if let Ok(connection) = self.0.mode.connect() {
                *current = Current::new(generation + 1, connection);
            }
        }
    }
}

impl ConnectMode {
    fn connect(&self) -> RedisResult<Connection> {
        match self {
            Self::SingleNode(client) => {
                let config = ConnectionManagerConfig::new()
                    .set_response_timeout(Some(RESPONSE_TIMEOUT))
                    .set_connection_timeout(Some(CONNECTION_TIMEOUT))
                    .set_number_of_retries(1);
                ConnectionManager::new_lazy_with_config(Client::clone(client), config).map(Connection::SingleNode)
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

impl ConnectionLike for ReconnectingConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let Current { generation, mut connection, .. } = self.fresh_connection().await?;
            // The driver converts an error response into an error only after this call.
            let result = connection.req_packed_command(command).await.and_then(Value::extract_error);
            result.inspect_err(|error| self.handle_error(generation, error))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let Current { generation, mut connection, .. } = self.fresh_connection().await?;
            let result = match &mut connection {
                Connection::SingleNode(single_node) => single_node.req_packed_commands(commands, offset, count).await,
                Connection::Cluster(cluster) => cluster.req_packed_commands(commands, offset, count).await,
            };
            result.inspect_err(|error| self.handle_error(generation, error))
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

/// The distinct masters in the response to `CLUSTER SLOTS`: ranges of slots, each with its nodes, the master first.
fn masters(slots: &Value) -> BTreeSet<(String, u16)> {
    let Value::Array(ranges) = slots else { return BTreeSet::new() };
    let master = |range: &Value| {
        let Value::Array(range) = range else { return None };
        let Value::Array(master) = range.get(2)? else { return None };
        let (host, port): (String, u16) =
            (redis::from_redis_value_ref(master.first()?).ok()?, redis::from_redis_value_ref(master.get(1)?).ok()?);
        (!host.is_empty()).then_some((host, port))
    };
    ranges.iter().filter_map(master).collect()
}

fn single_node(
    mut nodes: Vec<ConnectionInfo>,
    settings: &RedisSettings,
    certificates: TlsCertificates,
) -> Result<ConnectMode, RedisStoreError> {
    let info = nodes.swap_remove(0);
    let client = if settings.is_tls() { Client::build_with_tls(info, certificates) } else { Client::open(info) };
    Ok(ConnectMode::SingleNode(Box::new(client.map_err(RedisStoreError::url)?)))
}

fn cluster(
    nodes: Vec<ConnectionInfo>,
    settings: &RedisSettings,
    certificates: TlsCertificates,
) -> Result<ConnectMode, RedisStoreError> {
    if nodes.iter().any(|node| node.redis_settings().db() != 0) {
        return Err(SettingsError::new("--redis-url names a database, but a Redis Cluster has only one").into());
    }
    let mut client = ClusterClient::builder(nodes)
        .overall_response_timeout(Some(CLUSTER_RESPONSE_TIMEOUT))
        .min_retry_wait(CLUSTER_RETRY_DELAY.start)
        .max_retry_wait(CLUSTER_RETRY_DELAY.end);
    if settings.is_tls() {
        client = client.certs(certificates);
    }
    Ok(ConnectMode::Cluster(Box::new(client.build().map_err(RedisStoreError::url)?)))
}

/// One address, with the user and the password of the settings, which take precedence over those of the URL.
fn node(url: &str, settings: &RedisSettings) -> Result<ConnectionInfo, RedisStoreError> {
    let info = url.into_connection_info().map_err(RedisStoreError::url)?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) != settings.is_tls() {
        return Err(SettingsError::new("the addresses in --redis-url must all begin with rediss://, or none").into());
    }
    let mut login = info.redis_settings().clone();
    if let Some(username) = &settings.username {
        login = login.set_username(username.expose_secret());
    }
    if let Some(password) = &settings.password {
        login = login.set_password(password.expose_secret());
    }
    Ok(info.set_redis_settings(login))
}
