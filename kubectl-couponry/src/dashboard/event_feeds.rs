//! Fills the board with the events of the namespace, and with their Kubernetes Events.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event as KubernetesEvent;
use kube::{Api, ResourceExt as _, api::ListParams};

use super::{
    board::{Board, Source},
    event_view,
    object_watch::{Change, Failure, follow},
};
use crate::{cluster::Cluster, view::sanitize};

/// Follows the events until the end of the process.
pub(super) async fn follow_events(cluster: &Cluster, board: &Board) {
    let report = |change| {
        let now = Timestamp::now();
        match change {
            Ok(Change::Listed(events)) => {
                let view = |event| (event_view::name(event), event_view::event(event));
                board.set_events(events.iter().map(view).collect(), now);
            }
            Ok(Change::Applied(event)) => board.set_event(event_view::name(&event), event_view::event(&event), now),
            Ok(Change::Deleted(event)) => board.remove_event(&event_view::name(&event)),
            Ok(Change::None) => {}
            Err(failure) => return board.fail(Source::Events, problem(cluster, failure, None)),
        }
        board.confirm(Source::Events, now);
    };
    follow(cluster.events(), &ListParams::default(), report).await;
}

/// Follows the Kubernetes Events about events until the end of the process.
pub(super) async fn follow_kubernetes_events(cluster: &Cluster, board: &Board) {
    let api: Api<KubernetesEvent> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let view = |event: &KubernetesEvent| {
        let about = event.involved_object.name.clone().unwrap_or_default();
        (event.uid().unwrap_or_default(), (about, event_view::kubernetes_event(event)))
    };
    let report = |change| {
        match change {
            Ok(Change::Listed(events)) => board.set_kubernetes_events(events.iter().map(view).collect()),
            Ok(Change::Applied(event)) => board.set_kubernetes_event(view(&event)),
            Ok(Change::Deleted(event)) => board.remove_kubernetes_event(&event.uid().unwrap_or_default()),
            Ok(Change::None) => {}
            Err(failure) => {
                let problem = problem(cluster, failure, Some(("list Kubernetes Events", "events")));
                return board.fail(Source::KubernetesEvents, problem);
            }
        }
        board.confirm(Source::KubernetesEvents, Timestamp::now());
    };
    let about_events = ListParams::default().fields("involvedObject.kind=CouponEvent");
    follow(api, &about_events, report).await;
}

/// The failure as a sentence. `core` is what is not allowed, and the resource, for objects other than
/// `CouponEvent`.
pub(super) fn problem(cluster: &Cluster, failure: Failure, core: Option<(&str, &str)>) -> String {
    let no_contact = "No contact with the Kubernetes API server".to_owned();
    match (failure, core) {
        (Failure::Request(kube::Error::Api(status)), _) if status.code == 401 => {
            "The API server rejects the credentials, which may have expired. Log in again, and start the dashboard again \
             if it does not continue by itself"
                .to_owned()
        }
        (Failure::Request(kube::Error::Api(status)), Some((what, resource))) if status.code == 403 => {
            forbidden(cluster, what, resource, "list, watch")
        }
        (Failure::Request(kube::Error::Api(status)), Some((what, _))) => {
            format!("Cannot {what}: {}", sanitize(&status.message))
        }
        (Failure::Request(error @ kube::Error::Api(_)), None) => cluster.explain(error, "watch").to_string(),
        _ => no_contact,
    }
}

pub(super) fn forbidden(cluster: &Cluster, what: &str, resource: &str, verbs: &str) -> String {
    format!(
        "Not allowed to {what} in the namespace {}: this requires a Role with the rule {{apiGroups: [\"\"], resources: \
         [{resource}], verbs: [{verbs}]}}",
        cluster.namespace
    )
}
