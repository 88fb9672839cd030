//! The programs on which the servers run: their locations and their installation.
//!
//! `PostgreSQL`, Redis, etcd, a JDK and Maven are Debian packages; kube-apiserver and kubectl are built from Go
//! modules; Kafka is downloaded with Maven, Schemathesis from PyPI, and axe-core and TypeScript from npm. A
//! [`Cluster`](crate::Cluster) requires more programs of all these kinds. Built and downloaded programs are cached by
//! version in `${XDG_CACHE_HOME:-~/.cache}/couponry`.

mod artifacts;
pub(crate) mod cache;
pub(crate) mod command;
mod debian;
pub(crate) mod envoy;
pub(crate) mod go;
mod install;
pub(crate) mod kafka;
pub(crate) mod kubernetes;
pub(crate) mod locate;
mod npm;
pub(crate) mod pause;
mod required;
mod schemathesis;

pub use crate::path::on_path;
pub use cache::cache;
pub use go::{
    CONTOUR, COREDNS, GATEWAY_API, GoFiles, GoProgram, HELM, METRICS_SERVER, PROMETHEUS_OPERATOR, PROMTOOL, TOXIPROXY,
};
pub use install::{install, install_cluster, install_images};
pub use kafka::VERSION as KAFKA_VERSION;
pub use kubernetes::{VERSION as KUBERNETES_VERSION, find as kubernetes};
pub use locate::{chromedriver, chromium, etcd, faketime, postgres_bin, redis_server, require};
pub use npm::{AXE, NpmPackage, TYPESCRIPT};
pub use schemathesis::find as schemathesis;
