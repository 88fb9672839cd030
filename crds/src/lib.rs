//! The `CouponEvent` custom resource: its type ([`spec`], [`status`]), the rules that the API server holds its manifests
//! to ([`rules`]), and what it means in the terms of [`domain`] ([`meaning`]).
//!
//! `crds/couponevents.couponry.dev.yaml` is generated from this crate by `cargo xtask codegen`.

pub mod meaning;
pub mod rules;
pub mod spec;
pub mod status;

pub use meaning::InvalidSpec;
pub use spec::{
    Acknowledge, CodeSpec, CouponEvent, CouponEventSpec, DeletionPolicy, DiscountKind, DiscountSpec, Issuance,
    ScalingSpec,
};
pub use status::{BalanceStatus, CouponEventStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

/// Where the generated definition is kept, from the root of the repository.
pub const DEFINITION_FILE: &str = "crds/couponevents.couponry.dev.yaml";

/// The definition of the `CouponEvent` resource, as it is installed into a cluster.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    CouponEvent::crd()
}

/// The text of [`DEFINITION_FILE`].
///
/// # Panics
/// Never: a definition is plain YAML.
#[must_use]
pub fn definition_yaml() -> String {
    let yaml = serde_yaml::to_string(&definition()).expect("a definition is plain YAML");
    format!("# Generated from the crate `crds` by `cargo xtask codegen`: change it there.\n{yaml}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_in_the_repository_is_the_one_of_this_crate() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/couponevents.couponry.dev.yaml");
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == definition_yaml(), "{DEFINITION_FILE} has drifted: run `cargo xtask codegen`");
    }
}
