//! The `CouponEvent` custom resource: its types ([`spec`], [`status`]), the validation rules of its CRD ([`rules`])
//! and its conversion into the types of [`couponry_domain`] ([`conversions`]).
//!
//! `cargo xtask codegen` generates `crds/couponevents.couponry.dev.yaml` from this crate.

pub mod conversions;
pub mod rules;
pub mod spec;
pub mod status;

pub use conversions::{CONTINUES, HOLD, InvalidSpec, REPLACES, stored_identity};
pub use spec::{
    AdmissionSpec, CodeSource, CodeSpec, CouponEvent, CouponEventSpec, DeletionPolicy, DiscountSpec, DropSpec,
    IssuingMode, ScalingSpec, ValiditySpec,
};
pub use status::{BalanceStatus, CouponEventStatus, ImportStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

/// Path of the generated CRD, relative to the root of the repository.
pub const CRD_FILE: &str = "crds/couponevents.couponry.dev.yaml";

/// The CRD of `CouponEvent`.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    CouponEvent::crd()
}

/// The content of [`CRD_FILE`].
///
/// # Panics
/// Never: a CRD is plain YAML.
#[must_use]
pub fn crd_yaml() -> String {
    let yaml = serde_yaml::to_string(&crd()).expect("a CRD is plain YAML");
    format!("# Generated from the crate `couponry-crds` by `cargo xtask codegen`; do not edit.\n{yaml}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crd_file_matches_this_crate() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/couponevents.couponry.dev.yaml");
        let file = std::fs::read_to_string(path).unwrap_or_default();
        assert!(file == crd_yaml(), "{CRD_FILE} is outdated: run `cargo xtask codegen`");
    }
}
