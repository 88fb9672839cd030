//! Commands for administrators. [`audit`], [`export`], [`report`] and [`check`] read the stores; [`import`] adds codes;
//! [`void`] changes one coupon, [`erase_user`] one user; [`repair`], [`replay_dead_letters`], [`purge`] and
//! [`take_over`] change the stores only with `--yes`; [`install_test`] is an end-to-end test. They read the same
//! environment variables as `run`, so they need no flags in the operator's pod.

pub(crate) mod args;
pub(crate) mod audit;
pub(crate) mod check;
mod check_installation;
mod check_kubernetes;
mod check_result;
mod check_stores;
mod code_file;
mod crd;
pub(crate) mod erase_user;
pub(crate) mod exit_code;
pub(crate) mod export;
mod format;
pub(crate) mod import;
pub(crate) mod install_test;
pub(crate) mod purge;
mod release_pods;
pub(crate) mod repair;
pub(crate) mod replay_dead_letters;
pub(crate) mod report;
pub(crate) mod take_over;
pub(crate) mod void;
