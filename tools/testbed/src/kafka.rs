//! A dedicated Kafka broker.

use std::fs::{self, File};
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::certificate_authority::CertificateAuthority;
use crate::ports;
use crate::process::{Launch, Process, log_in, signals};
use crate::programs::kafka::jars;
use crate::programs::locate::{java, require};
use crate::scratch::Scratch;

/// One node which is broker and controller. Automatic creation of topics is disabled.
#[derive(Debug)]
pub struct Kafka {
    process: Process,
    host: Ipv4Addr,
    port: u16,
    _scratch: Scratch,
}

signals!(Kafka);

/// A listener of a Kafka behind a proxy.
#[derive(Debug, Clone, Copy)]
pub struct ProxiedListener {
    /// The port of the proxy, which Kafka advertises.
    pub proxy: u16,
    /// The port on which Kafka listens for the proxy.
    pub listen: u16,
}

/// A Kafka with authentication.
#[derive(Debug)]
pub struct SecureKafka {
    kafka: Kafka,
    login: u16,
    mutual: u16,
}

impl SecureKafka {
    /// The listener without TLS and authentication.
    #[must_use]
    pub fn plaintext(&self) -> String {
        self.kafka.brokers()
    }

    /// The listener with TLS and SASL.
    #[must_use]
    pub fn login(&self) -> String {
        format!("127.0.0.1:{}", self.login)
    }

    /// The listener with TLS and client certificates.
    #[must_use]
    pub fn mutual(&self) -> String {
        format!("127.0.0.1:{}", self.mutual)
    }
}

/// A Kafka with an authorizer.
#[derive(Debug)]
pub struct AuthorizingKafka {
    kafka: Kafka,
    login: u16,
}

impl AuthorizingKafka {
    /// The listener without authentication.
    #[must_use]
    pub fn plaintext(&self) -> String {
        self.kafka.brokers()
    }

    /// The listener with SASL PLAIN.
    #[must_use]
    pub fn login(&self) -> String {
        format!("127.0.0.1:{}", self.login)
    }
}

impl Kafka {
    /// Starts it and waits until it is ready for clients.
    pub fn start() -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST)
    }

    /// Starts it for clients which reach it at this address of the machine only.
    pub fn start_on(host: Ipv4Addr) -> Result<Self> {
        Self::start_with(host, "", &[], &[])
    }

    /// Starts it with all compiler optimizations of the JVM: it starts slower and uses less CPU afterwards.
    pub fn start_optimized() -> Result<Self> {
        Self::start_with(Ipv4Addr::LOCALHOST, "", &[], &["-XX:TieredStopAtLevel=4", "-Xmx1g"])
    }

    /// Starts it with an additional listener for each proxy: it advertises the port of the proxy.
    pub fn start_behind(listeners: &[ProxiedListener]) -> Result<Self> {
        let join = |of: fn(&ProxiedListener) -> String| listeners.iter().map(of).collect::<String>();
        let settings = format!(
            "listeners=CLIENTS://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}}{}
advertised.listeners=CLIENTS://127.0.0.1:{{port}}{}
listener.security.protocol.map=CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT{}
",
            join(|ProxiedListener { proxy, listen }| format!(",PROXY{proxy}://127.0.0.1:{listen}")),
            join(|ProxiedListener { proxy, .. }| format!(",PROXY{proxy}://127.0.0.1:{proxy}")),
            join(|ProxiedListener { proxy, .. }| format!(",PROXY{proxy}:PLAINTEXT")),
        );
        Self::start_with(Ipv4Addr::LOCALHOST, &settings, &[], &[])
    }

    /// Starts it with two additional listeners: one with TLS and SASL (SCRAM-SHA-512 or PLAIN), one with TLS and client
    /// certificates.
    pub fn start_secure(authority: &CertificateAuthority, user: &str, password: &str) -> Result<SecureKafka> {
        let certificate = authority.issue("kafka")?;
        let (login, mutual) = (ports::free()?, ports::free()?);
        let settings = format!(
            "listeners=CLIENTS://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}},LOGIN://127.0.0.1:{login},MUTUAL://127.0.0.1:{mutual}
advertised.listeners=CLIENTS://127.0.0.1:{{port}},LOGIN://127.0.0.1:{login},MUTUAL://127.0.0.1:{mutual}
listener.security.protocol.map=CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_SSL,MUTUAL:SSL
listener.name.login.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
listener.name.login.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.login.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}=\"{password}\";
listener.name.mutual.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={}
ssl.truststore.type=PEM
ssl.truststore.location={}
",
            certificate.both.display(),
            authority.path().display(),
        );
        let scram = format!("SCRAM-SHA-512=[name={user},password={password}]");
        let kafka = Self::start_with(Ipv4Addr::LOCALHOST, &settings, &["--add-scram", &scram], &[])?;
        Ok(SecureKafka { kafka, login, mutual })
    }

    /// Starts it with an authorizer and an additional listener with SASL PLAIN. Users may do only what ACLs allow
    /// ([`crate::kafka_acls`]); clients of the listener without authentication may do everything.
    pub fn start_with_authorizer(users: &[&str], password: &str) -> Result<AuthorizingKafka> {
        let login = ports::free()?;
        let users: Vec<_> = users.iter().map(|user| format!("user_{user}=\"{password}\"")).collect();
        let users = users.join(" ");
        let settings = format!(
            "listeners=CLIENTS://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}},LOGIN://127.0.0.1:{login}
advertised.listeners=CLIENTS://127.0.0.1:{{port}},LOGIN://127.0.0.1:{login}
listener.security.protocol.map=CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT
listener.name.login.sasl.enabled.mechanisms=PLAIN
listener.name.login.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {users};
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
",
        );
        Ok(AuthorizingKafka { kafka: Self::start_with(Ipv4Addr::LOCALHOST, &settings, &[], &[])?, login })
    }

    /// Starts it; additional settings take precedence.
    fn start_with(host: Ipv4Addr, settings: &str, format_args: &[&str], jvm_args: &[&str]) -> Result<Self> {
        let java = require(java(), "java")?;
        let jars = require(jars(), "Kafka")?;
        ports::retry(|| {
            let scratch = Scratch::new("kafka")?;
            let (port, controller) = (ports::free()?, ports::free()?);
            let config = write_config(scratch.path(), (host, port), controller, settings)?;
            format(&java, &jars, scratch.path(), &config, format_args)?;
            let launch = jvm(&java, &jars, "kafka", log_in(scratch.path(), "kafka")?)
                .dir(scratch.path())
                .args(jvm_args.iter().copied())
                .args(["kafka.Kafka".as_ref(), config.as_os_str()]);
            let kafka = Self { process: Process::start(launch)?, host, port, _scratch: scratch };
            kafka.wait()?;
            Ok(kafka)
        })
    }

    /// Restarts it on the same port and data, and waits until it is ready for clients.
    pub fn restart(&self) -> Result<()> {
        self.process.restart()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        // The port accepts connections before the broker has loaded its logs, so the log is checked too.
        let started = || self.process.log_since_start().contains("Kafka Server started");
        self.process.wait_ready(|| started() && ports::accepts_at((self.host, self.port)))
    }

    /// `HOST:PORT`, with 127.0.0.1 unless it was started on another address.
    #[must_use]
    pub fn brokers(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The port on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Functions for bash, `kafka-topics.sh` and so on, which run what Kafka's scripts of these names run.
pub fn shell_functions() -> Result<String> {
    let (java, jars) = (require(java(), "java")?, require(jars(), "Kafka")?);
    let tools = [
        ("kafka-topics.sh", "TopicCommand"),
        ("kafka-consumer-groups.sh", "consumer.group.ConsumerGroupCommand"),
        ("kafka-console-consumer.sh", "consumer.ConsoleConsumer"),
        ("kafka-delete-records.sh", "DeleteRecordsCommand"),
    ];
    let define = |(name, class): (&str, &str)| {
        format!(
            "{name}() {{ '{}' -XX:TieredStopAtLevel=1 -cp '{}/*' org.apache.kafka.tools.{class} \"$@\"; }}\n",
            java.display(),
            jars.display()
        )
    };
    Ok(tools.into_iter().map(define).collect())
}

fn write_config(dir: &Path, (host, port): (Ipv4Addr, u16), controller: u16, further: &str) -> Result<PathBuf> {
    let path = dir.join("server.properties");
    let text = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=CLIENTS://{host}:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=CLIENTS://{host}:{port}
listener.security.protocol.map=CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENTS
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
# One node cannot replicate.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# The first consumer starts without waiting for fifty partitions or for a second consumer.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
{further}",
        further = further.replace("{port}", &port.to_string()).replace("{controller}", &controller.to_string()),
        data = dir.join("data").display()
    );
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Formats the storage directory, which assigns the id of the cluster.
fn format(java: &Path, jars: &Path, dir: &Path, config: &Path, further: &[&str]) -> Result<()> {
    // A cluster id is 16 bytes in the URL-safe alphabet of base64.
    let mut id = [0; 16];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut id)).context("cannot read /dev/urandom")?;
    // With this bit clear the text does not start with a dash, which would mark an option.
    id[0] &= 0x7f;
    let id = URL_SAFE_NO_PAD.encode(id);
    let launch = jvm(java, jars, "Kafka's storage tool", log_in(dir, "format")?)
        .args(["kafka.tools.StorageTool", "format", "-t", &id, "-c"])
        .args([config.as_os_str()])
        .args(further.iter().copied());
    let tool = Process::start(launch)?;
    let status = tool.wait()?;
    ensure!(status.success(), "Kafka's storage tool failed ({status}); its output:\n{}", tool.log_tail());
    Ok(())
}

fn jvm(java: &Path, jars: &Path, name: &str, log: PathBuf) -> Launch {
    // Tests wait for the start, so memory and compilation are limited.
    Launch::new(name, java, log)
        .args(["-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
        .args(["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"])
        .args(["-cp".as_ref(), jars.join("*").as_os_str()])
}
