//! `couponry-operator check`: checks the health of the installation.

use std::process::ExitCode;

use clap::Args;
use couponry_output::Stdout;
use couponry_runtime::telemetry::TelemetryArgs;

use crate::{
    commands::{
        args::{OutputFormat, StoreArgs},
        check_installation::check_installation,
        check_kubernetes::check_kubernetes,
        check_result::{Severity, table},
        check_stores::{check_kafka, check_postgres, check_redis},
    },
    kafka_topics::TopicArgs,
};

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Output format.
    #[arg(long, short, value_enum, default_value = "text", value_name = "FORMAT")]
    output: OutputFormat,
    /// Namespace of the events. Default: the namespace of the service account or of the kubeconfig.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The pod that this command runs in. If set, all pods of its release are checked.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod: Option<String>,
    #[command(flatten)]
    stores: StoreArgs,
    #[command(flatten)]
    topics: TopicArgs,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
}

impl Check {
    pub(crate) fn validate(&self) -> Result<(), String> {
        self.topics.validate()
    }

    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let stores = self.stores.stores()?;
        let topics = self.topics.settings();
        let (postgres, redis, installation, kafka, kubernetes) = tokio::join!(
            check_postgres(&stores),
            check_redis(&stores),
            check_installation(&stores, self.namespace.as_deref()),
            check_kafka(&stores, &topics),
            check_kubernetes(self.namespace.as_deref(), self.pod.as_deref()),
        );
        let results = [postgres, redis, installation, kafka, kubernetes].concat();
        match self.output {
            OutputFormat::Text => write!(Stdout, "{}", table(&results))?,
            OutputFormat::Json => writeln!(Stdout, "{}", serde_json::to_string_pretty(&results)?)?,
        }
        let has_failed = results.iter().any(|result| result.severity == Severity::Fail);
        Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
