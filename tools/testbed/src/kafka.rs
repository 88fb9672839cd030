//! A Kafka broker of one's own.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process::{Launch, Process, log_in, output, signals};
use crate::scratch::Scratch;
use crate::{Authority, ports, programs};

/// One node that is broker and controller. Topics are never made by merely naming them.
#[derive(Debug)]
pub struct Kafka {
    process: Process,
    host: Ipv4Addr,
    port: u16,
    _scratch: Scratch,
}

signals!(Kafka);

/// A way to a Kafka that leads through a proxy.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    /// Where the proxy listens.
    pub proxy: u16,
    /// Where Kafka listens for the proxy.
    pub listen: u16,
}

/// A Kafka whose users log in.
#[derive(Debug)]
pub struct SecureKafka {
    kafka: Kafka,
    login: u16,
    mutual: u16,
}

impl SecureKafka {
    /// The listener without TLS, as of any [`Kafka`].
    #[must_use]
    pub fn plaintext(&self) -> String {
        self.kafka.brokers()
    }

    /// The listener with TLS and a login.
    #[must_use]
    pub fn login(&self) -> String {
        format!("127.0.0.1:{}", self.login)
    }

    /// The listener with TLS that asks for a certificate.
    #[must_use]
    pub fn mutual(&self) -> String {
        format!("127.0.0.1:{}", self.mutual)
    }
}

impl Kafka {
    /// Starts it and waits until it serves clients.
    pub fn start() -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST)
    }

    /// Starts it for clients who reach it at this address of the machine, and at no other.
    pub fn start_on(host: Ipv4Addr) -> Result<Self> {
        Self::start_with(host, "", &[], &[])
    }

    /// Starts one that compiles its code as well as it can, as for a long life. The others begin sooner, and cost more.
    pub fn start_for_long() -> Result<Self> {
        Self::start_with(Ipv4Addr::LOCALHOST, "", &[], &["-XX:TieredStopAtLevel=4", "-Xmx1g"])
    }

    /// Starts it for clients who reach it through proxies as well: for each proxy's port, Kafka listens on another port, and
    /// tells whoever comes there to go on through that proxy.
    pub fn start_behind(doors: &[Door]) -> Result<Self> {
        let join = |of: fn(&Door) -> String| doors.iter().map(of).collect::<String>();
        let settings = format!(
            "listeners=CLIENTS://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}}{}
advertised.listeners=CLIENTS://127.0.0.1:{{port}}{}
listener.security.protocol.map=CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT{}
",
            join(|Door { proxy, listen }| format!(",PROXY{proxy}://127.0.0.1:{listen}")),
            join(|Door { proxy, .. }| format!(",PROXY{proxy}://127.0.0.1:{proxy}")),
            join(|Door { proxy, .. }| format!(",PROXY{proxy}:PLAINTEXT")),
        );
        Self::start_with(Ipv4Addr::LOCALHOST, &settings, &[], &[])
    }

    /// Starts it with two further listeners: one with TLS and a login (SCRAM-SHA-512 or PLAIN), one with TLS that asks clients
    /// for a certificate.
    pub fn start_secure(authority: &Authority, user: &str, password: &str) -> Result<SecureKafka> {
        let certificate = authority.certify("kafka")?;
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

    /// Further settings win.
    fn start_with(host: Ipv4Addr, settings: &str, format_args: &[&str], jvm_args: &[&str]) -> Result<Self> {
        let java = programs::need(programs::java(), "java")?;
        let jars = programs::need(programs::kafka_jars(), "Kafka")?;
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

    /// Starts it again on the same port and data, and waits until it serves clients.
    pub fn restart(&self) -> Result<()> {
        self.process.start_again()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        // The port alone is not enough: it accepts before the broker has read its logs.
        let started = || self.process.log_since_start().contains("Kafka Server started");
        self.process.wait_ready(|| started() && ports::accepts_at((self.host, self.port)))
    }

    /// `HOST:PORT`, with 127.0.0.1 unless it was started on another address.
    #[must_use]
    pub fn brokers(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
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
# A first consumer need not wait for fifty partitions, nor for a second consumer.
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

/// A cluster needs an id before its first start.
fn format(java: &Path, jars: &Path, dir: &Path, config: &Path, further: &[&str]) -> Result<()> {
    let openssl = programs::need(programs::openssl(), "openssl")?;
    // Kafka's ids are 16 bytes in the alphabet of URLs.
    let id = output(&openssl, &["rand", "-base64", "16"], None)?;
    let id = id.trim().trim_end_matches('=').replace('+', "-").replace('/', "_");
    // An id that begins with a dash would be taken for an option.
    let id = id.replacen('-', "A", usize::from(id.starts_with('-')));
    let launch = jvm(java, jars, "Kafka's storage tool", log_in(dir, "format")?)
        .args(["kafka.tools.StorageTool", "format", "-t", &id, "-c"])
        .args([config.as_os_str()])
        .args(further.iter().copied());
    let tool = Process::start(launch)?;
    let status = tool.wait()?;
    ensure!(status.success(), "Kafka's storage tool ended with {status}; it printed:\n{}", tool.log_tail());
    Ok(())
}

fn jvm(java: &Path, jars: &Path, name: &str, log: PathBuf) -> Launch {
    // Small and quick to start: a test waits for it.
    Launch::new(name, java, log)
        .args(["-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
        .args(["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"])
        .args(["-cp".as_ref(), jars.join("*").as_os_str()])
}
