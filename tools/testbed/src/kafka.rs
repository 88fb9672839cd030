//! A Kafka broker of one's own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process::{Launch, Process, log_in, output, signals};
use crate::scratch::Scratch;
use crate::{ports, programs};

/// One node that is broker and controller. Topics are never made by merely naming them.
#[derive(Debug)]
pub struct Kafka {
    process: Process,
    port: u16,
    _scratch: Scratch,
}

signals!(Kafka);

impl Kafka {
    /// Starts it and waits until it serves clients.
    pub fn start() -> Result<Self> {
        let java = programs::need(programs::java(), "java")?;
        let jars = programs::need(programs::kafka_jars(), "Kafka")?;
        ports::retry(|| {
            let scratch = Scratch::new("kafka")?;
            let (port, controller) = (ports::free()?, ports::free()?);
            let config = write_config(scratch.path(), port, controller)?;
            format(&java, &jars, scratch.path(), &config)?;
            let launch = jvm(&java, &jars, "kafka", log_in(scratch.path(), "kafka")?)
                .dir(scratch.path())
                .args(["kafka.Kafka".as_ref(), config.as_os_str()]);
            let kafka = Self { process: Process::start(launch)?, port, _scratch: scratch };
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
        self.process
            .wait_ready(|| self.process.log_since_start().contains("Kafka Server started") && ports::accepts(self.port))
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn write_config(dir: &Path, port: u16, controller: u16) -> Result<PathBuf> {
    let path = dir.join("server.properties");
    let text = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=CLIENTS://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=CLIENTS://127.0.0.1:{port}
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
",
        data = dir.join("data").display()
    );
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// A cluster needs an id before its first start.
fn format(java: &Path, jars: &Path, dir: &Path, config: &Path) -> Result<()> {
    let openssl = programs::need(programs::openssl(), "openssl")?;
    // Kafka's ids are 16 bytes in the alphabet of URLs.
    let id = output(&openssl, &["rand", "-base64", "16"], None)?;
    let id = id.trim().trim_end_matches('=').replace('+', "-").replace('/', "_");
    // An id that begins with a dash would be taken for an option.
    let id = id.replacen('-', "A", usize::from(id.starts_with('-')));
    let launch = jvm(java, jars, "Kafka's storage tool", log_in(dir, "format")?)
        .args(["kafka.tools.StorageTool", "format", "-t", &id, "-c"])
        .args([config.as_os_str()]);
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
