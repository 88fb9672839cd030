//! Exit codes of the commands for administrators.

use std::process::ExitCode;

use couponry_output::{CLOSED, Stderr, StdoutError};
use couponry_runtime::telemetry::TelemetryArgs;

/// The result is inconclusive.
pub(super) const FAILED_OR_INCONCLUSIVE: u8 = 2;

/// Runs a command. If it fails, prints the error and returns [`FAILED_OR_INCONCLUSIVE`], or [`CLOSED`] without a
/// message.
pub(crate) async fn exit_code(
    telemetry: &TelemetryArgs,
    command: impl Future<Output = anyhow::Result<ExitCode>>,
) -> ExitCode {
    let run = async {
        // No warnings about slow queries, since reading a complete event takes long, nor from the Kafka client, whose
        // errors are in the output.
        let log = format!("sqlx::query=error,couponry_kafka=warn,{}", telemetry.log);
        let _telemetry = TelemetryArgs { log, ..telemetry.clone() }.init("couponry-operator")?;
        command.await
    };
    run.await.unwrap_or_else(|error| {
        if matches!(error.downcast_ref(), Some(StdoutError::Closed)) {
            return ExitCode::from(CLOSED);
        }
        writeln!(Stderr, "Error: {error:#}");
        ExitCode::from(FAILED_OR_INCONCLUSIVE)
    })
}
