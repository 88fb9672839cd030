//! The threads that serve requests: a runtime of their own, so that the calls to Redis and Kafka, and the monitoring
//! endpoint, do not wait behind thousands of requests.

use std::{net::TcpListener as StdListener, time::Duration};

use anyhow::{Context as _, anyhow};
use couponry_runtime::{Health, http::HttpServer};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
    time,
};

use crate::routes::Routes;

/// The name in the readiness.
pub(crate) const REQUEST_THREADS: &str = "request threads";
/// Pause between checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Within this time, a thread must begin a task.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// After as many failed checks in a row the issuer is not ready. One may fail because the process was frozen.
const NOT_READY_AFTER: u32 = 2;
/// After as many failed checks in a row, more than a minute, the issuer ends, and Kubernetes starts it again.
const END_AFTER: u32 = 10;
/// Longer than the HTTP server waits for the requests in progress.
const FINISH_TIMEOUT: Duration = Duration::from_secs(25);

/// The threads, with the HTTP server.
pub(crate) struct RequestThreads {
    /// None after the end.
    runtime: Option<Runtime>,
    server: JoinHandle<anyhow::Result<()>>,
}

impl RequestThreads {
    /// Serves `routes`.
    pub(crate) fn start(
        threads: u16,
        listener: StdListener,
        server: HttpServer,
        routes: Routes,
    ) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.into())
            .thread_name("requests")
            .enable_all()
            .build()
            .context("cannot start the threads that serve requests")?;
        let server = runtime.spawn(async {
            // Here, so that connections are accepted although the main thread is busy.
            let listener = TcpListener::from_std(listener).context("cannot serve on the port of --listen")?;
            server.run(listener, routes).await;
            Ok(())
        });
        Ok(Self { runtime: Some(runtime), server })
    }

    /// Updates the readiness, until the server fails or the threads are blocked for more than a minute. One that is not
    /// blocked is enough.
    pub(crate) async fn failure(&mut self, health: &Health) -> anyhow::Error {
        let runtime = self.runtime.as_ref().map(Runtime::handle);
        tokio::select! {
            ended = &mut self.server => match ended.context("the HTTP server panicked") {
                Ok(Ok(())) => anyhow!("the HTTP server has ended"),
                Ok(Err(error)) | Err(error) => error,
            },
            () = watch(runtime, health) => anyhow!("the threads that serve requests are blocked"),
        }
    }

    /// Waits for the requests in progress. The server must have been stopped.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        if let Ok(ended) = time::timeout(FINISH_TIMEOUT, &mut self.server).await {
            return ended.context("the HTTP server panicked")?;
        }
        tracing::warn!(timeout = ?FINISH_TIMEOUT, "requests are aborted, the threads that serve them are blocked");
        Ok(())
    }
}

impl Drop for RequestThreads {
    fn drop(&mut self) {
        // Dropping the runtime would wait for its threads, which is not possible here.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn watch(runtime: Option<&Handle>, health: &Health) {
    let mut failed_checks = 0;
    while let Some(runtime) = runtime
        && failed_checks < END_AFTER
    {
        if time::timeout(CHECK_TIMEOUT, runtime.spawn(async {})).await.is_ok() {
            failed_checks = 0;
            health.set(REQUEST_THREADS, Ok::<_, &str>(()));
        } else {
            failed_checks += 1;
            if failed_checks >= NOT_READY_AFTER {
                health.set(REQUEST_THREADS, Err("no thread that serves requests begins a task"));
            }
        }
        time::sleep(CHECK_INTERVAL).await;
    }
}
