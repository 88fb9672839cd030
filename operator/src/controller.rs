//! Watches the events of one namespace and looks at each when something happens to it.

use std::sync::Arc;

use couponry_crds::CouponEvent;
use couponry_runtime::CancellationToken;
use futures::StreamExt as _;
use kube::{
    Api,
    core::DeserializeGuard,
    runtime::{
        Controller,
        controller::{Action, Config},
        watcher,
    },
};

use crate::{context::Context, reconcile::reconcile};

/// So many events are worked on at once: the preload of one does not keep the others waiting.
const CONCURRENCY: u16 = 4;

/// Runs until the shutdown. A look that is under way then is cut off, which it is made for.
pub(crate) async fn run(
    events: Api<DeserializeGuard<CouponEvent>>,
    context: Arc<Context>,
    shutdown: CancellationToken,
) {
    let controller = Controller::new(events, watcher::Config::default());
    let scaling = context.clone();
    let scaling = scaling.scaling.run(controller.store(), &scaling.metrics);
    let looks = controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .run(reconcile, |_, never, _| -> Action { match *never {} }, context)
        .for_each(async |looked| {
            if let Err(error) = looked {
                // An event that is gone by now, or a watch that broke and is taken up again.
                tracing::debug!(%error, "the controller");
            }
        });
    tokio::select! {
        () = looks => tracing::error!("the watch has ended"),
        () = scaling => {}
        () = shutdown.cancelled() => {}
    }
}
