//! Authentication of the callers: the servers of a shop.

use axum::http::HeaderMap;
use clap::{Args, ValueEnum};
use couponry_domain::EventName;
use couponry_runtime::Problem;

#[derive(Debug, Args)]
#[command(next_help_heading = "Authentication")]
pub(crate) struct AuthenticationArgs {
    /// How callers are authenticated.
    #[arg(long, env, value_enum, value_name = "METHOD")]
    auth: Method,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Method {
    /// Not at all: everyone who reaches the port can redeem coupons. For trials.
    None,
}

impl AuthenticationArgs {
    /// Creates the authenticator.
    pub(crate) fn authenticator(&self) -> Authenticator {
        match self.auth {
            Method::None => {
                tracing::warn!("callers are not authenticated: every client that reaches the port can redeem coupons");
                Authenticator::None
            }
        }
    }
}

/// Authenticates and authorizes callers.
pub(crate) enum Authenticator {
    None,
}

impl Authenticator {
    /// Returns the name of the caller, who must be allowed to redeem coupons of this event. None: callers are not
    /// authenticated.
    #[expect(clippy::unused_async, reason = "other methods call a server")]
    pub(crate) async fn authorize(&self, _headers: &HeaderMap, _event: &EventName) -> Result<Option<String>, Problem> {
        match self {
            Self::None => Ok(None),
        }
    }
}
