//! The programs and files which are built or downloaded into the cache.

use anyhow::Result;

use super::go::{CONTOUR, COREDNS, GATEWAY_API, HELM, METRICS_SERVER, PROMETHEUS_OPERATOR, PROMTOOL, TOXIPROXY};
use super::npm::{AXE, TYPESCRIPT};
use super::{envoy, kafka, kubernetes, pause, schemathesis};

/// A program or a set of files in the cache.
pub(super) struct Artifact {
    pub(super) is_present: fn() -> bool,
    pub(super) create: fn() -> Result<()>,
    pub(super) needs_go: bool,
}

const fn artifact(is_present: fn() -> bool, create: fn() -> Result<()>) -> Artifact {
    Artifact { is_present, create, needs_go: false }
}

const fn from_go(is_present: fn() -> bool, create: fn() -> Result<()>) -> Artifact {
    Artifact { is_present, create, needs_go: true }
}

/// Required by tests and the demo.
pub(super) const ARTIFACTS: [Artifact; 10] = [
    artifact(|| kafka::jars().is_some(), kafka::download),
    artifact(|| schemathesis::find().is_some(), schemathesis::download),
    artifact(|| AXE.find().is_some(), || AXE.download()),
    artifact(|| TYPESCRIPT.find().is_some(), || TYPESCRIPT.download()),
    from_go(|| kubernetes::find().is_some(), kubernetes::build),
    from_go(|| HELM.find().is_some(), || HELM.build()),
    from_go(|| PROMETHEUS_OPERATOR.find().is_some(), || PROMETHEUS_OPERATOR.download()),
    from_go(|| GATEWAY_API.find().is_some(), || GATEWAY_API.download()),
    from_go(|| PROMTOOL.find().is_some(), || PROMTOOL.build()),
    from_go(|| TOXIPROXY.find().is_some(), || TOXIPROXY.build()),
];

/// Required by a cluster in addition.
pub(super) const CLUSTER_ARTIFACTS: [Artifact; 6] = [
    artifact(|| envoy::find().is_some(), envoy::download),
    artifact(|| pause::find().is_some(), pause::build),
    from_go(kubernetes::node_is_built, kubernetes::build_node),
    from_go(|| COREDNS.find().is_some(), || COREDNS.build()),
    from_go(|| CONTOUR.find().is_some(), || CONTOUR.build()),
    from_go(|| METRICS_SERVER.find().is_some(), || METRICS_SERVER.build()),
];

/// Whether go is no longer needed, because everything which it builds is present.
pub(super) fn go_is_done(artifacts: &[Artifact]) -> bool {
    artifacts.iter().filter(|artifact| artifact.needs_go).all(|artifact| (artifact.is_present)())
}
