//! The parser of the body of `POST /coupons/issue`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    /// Reading the body has a timeout, which requires a runtime.
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

fuzz_target!(|body: &[u8]| {
    let _ = RUNTIME.with(|runtime| runtime.block_on(couponry_issuer::read_issue_request(body.to_vec())));
});
