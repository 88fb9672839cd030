//! Verifies bearer tokens (JWT) with the keys of a JWKS, which is fetched periodically from a URL or a file.

mod bearer;
mod crypto;
mod failure;
mod flags;
mod jwks;
mod jwks_source;
mod verifier;

pub use bearer::{BearerError, bearer_token};
pub use failure::{Failure, Reason};
pub use flags::{JwtArgs, JwtArgsError};
pub use verifier::{JWKS, Verifier};
