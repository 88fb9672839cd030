//! The read-only commands [`audit`], [`export`] and [`check`]. They read the same environment variables as `run`, so
//! they need no flags in the operator's pod.

mod args;
pub(crate) mod audit;
pub(crate) mod check;
mod check_kubernetes;
mod check_result;
mod check_stores;
mod crd;
pub(crate) mod exit_code;
pub(crate) mod export;
mod format;
mod release_pods;
