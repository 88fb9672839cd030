//! Verifies tokens (JWT, RFC 7519) and keeps their keys up to date.
//!
//! # Guarantees
//! The JWKS is fetched at startup until it is available, then periodically, and immediately when a token names an
//! unknown key, but at most every few seconds. If a fetch fails or the JWKS is invalid, the known keys stay in use.

use std::{sync::Arc, time::Duration};

use axum::http::HeaderMap;
use couponry_runtime::{CancellationToken, Health, error_chain};
use jsonwebtoken::{Validation, errors::ErrorKind};
use serde_json::{Map, Value};
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};

use crate::{
    bearer::{BearerError, bearer_token},
    crypto,
    failure::{Failure, Reason},
    flags::{JwtArgs, JwtArgsError},
    jwks::{Key, KeyLookupError, KeySet},
    jwks_source::JwksSource,
};

/// The dependency that `/readyz` reports while the keys are missing.
pub const JWKS: &str = "jwks";

/// How often a file is read.
const FILE_INTERVAL: Duration = Duration::from_secs(5);
/// Delays after a failed fetch.
const INITIAL_RETRY_DELAY: Duration = Duration::from_millis(500);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);
/// The minimum interval between fetches for tokens with unknown keys, which any client can create. Shorter than the
/// interval of the periodic fetches, otherwise these would limit all others.
const MIN_INTERVAL: Duration = Duration::from_secs(10);
/// How long a request waits for its key.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than any proxy accepts.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Verifies tokens.
pub struct Verifier {
    state: watch::Receiver<State>,
    wake: Arc<Notify>,
    min_interval: Duration,
    user_claim: String,
}

/// The state after a number of fetches.
#[derive(Clone, Default)]
struct State {
    keys: Option<Arc<KeySet>>,
    fetches: u64,
    /// When the last fetch ended, and whether it succeeded.
    last: Option<(Instant, bool)>,
}

/// Fetches the keys periodically.
struct Fetcher {
    source: JwksSource,
    validation: Validation,
    interval: Duration,
    wake: Arc<Notify>,
    state: watch::Sender<State>,
    health: Health,
    /// Called with the numbers of usable and ignored keys after a fetch.
    on_keys: Box<dyn Fn(usize, usize) + Send + Sync>,
}

/// The result of a request for a fetch.
#[derive(Clone, Copy)]
enum Refresh {
    /// The keys were fetched after the request.
    Fetched,
    /// They were fetched shortly before. They may be fetched again after this time.
    Limited(Duration),
}

impl Verifier {
    /// Starts fetching the keys. Until they are available, `health` reports [`JWKS`] as missing. `on_keys` is called
    /// with the numbers of usable and ignored keys after each fetch.
    pub fn start(
        args: JwtArgs,
        health: &Health,
        on_keys: impl Fn(usize, usize) + Send + Sync + 'static,
        stop: CancellationToken,
    ) -> Result<Self, JwtArgsError> {
        crypto::install();
        let mut validation =
            Validation { validate_nbf: true, leeway: args.jwt_leeway_seconds.into(), ..Validation::default() };
        let mut required = vec!["exp"];
        if let Some(issuer) = &args.jwt_issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if !args.jwt_audience.is_empty() {
            validation.set_audience(&args.jwt_audience);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        let (source, interval, min_interval) = match (args.jwt_jwks_url, args.jwt_jwks_file) {
            (Some(url), None) => {
                let interval = Duration::from_secs(args.jwt_refresh_seconds.into());
                (JwksSource::url(&url, args.jwt_ca_file.as_ref())?, interval, MIN_INTERVAL.min(interval / 2))
            }
            (None, Some(file)) => (JwksSource::File(file), FILE_INTERVAL, FILE_INTERVAL / 5),
            _ => return Err(JwtArgsError::KeySource),
        };
        let wake = Arc::new(Notify::new());
        let (sender, state) = watch::channel(State::default());
        let (wake_fetcher, health) = (wake.clone(), health.clone());
        let on_keys = Box::new(on_keys);
        let fetcher = Fetcher { source, validation, interval, wake: wake_fetcher, state: sender, health, on_keys };
        tokio::spawn(async move { stop.run_until_cancelled(fetcher.run()).await });
        Ok(Self { state, wake, min_interval, user_claim: args.jwt_user_claim })
    }

    /// Verifies the bearer token and returns its user.
    pub async fn verify(&self, headers: &HeaderMap) -> Result<String, Failure> {
        let token = bearer_token(headers).map_err(no_token)?;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(malformed());
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| malformed())?;
        if header.crit.is_some() {
            // A critical extension must be rejected by a verifier that does not support it.
            return Err(malformed());
        }
        let refresh = match self.keys()?.find(&header) {
            Ok(keys) => return self.decode(token, &keys),
            Err(KeyLookupError::Unknown) => self.refresh().await?,
            Err(KeyLookupError::Algorithm) => {
                return Err(Failure::new(Reason::Algorithm, "the algorithm of the token is not supported by its key"));
            }
            Err(KeyLookupError::Ambiguous) => {
                return Err(Failure::new(
                    Reason::UnknownKey,
                    "the token has no key id (kid), and several keys are possible",
                ));
            }
        };
        let keys = self.keys()?;
        match (keys.find(&header), refresh) {
            (Ok(keys), _) => self.decode(token, &keys),
            (Err(KeyLookupError::Algorithm), _) => {
                Err(Failure::new(Reason::Algorithm, "the algorithm of the token is not supported by its key"))
            }
            // A key that was published since the last fetch is unknown as well: its tokens are valid.
            (Err(_), Refresh::Limited(wait)) => Err(Failure::refresh_limited(wait)),
            (Err(_), Refresh::Fetched) => {
                Err(Failure::new(Reason::UnknownKey, "the key of the token (kid) is unknown"))
            }
        }
    }

    fn keys(&self) -> Result<Arc<KeySet>, Failure> {
        self.state.borrow().keys.clone().ok_or_else(jwks_unavailable)
    }

    /// Requests a fetch, unless one has just ended. In both cases, the keys may have changed since this request looked
    /// up its own.
    async fn refresh(&self) -> Result<Refresh, Failure> {
        let mut state = self.state.clone();
        let fetches = {
            let current = state.borrow_and_update();
            match current.last {
                Some((at, succeeded)) if at.elapsed() < self.min_interval => {
                    let wait = self.min_interval.saturating_sub(at.elapsed());
                    return if succeeded { Ok(Refresh::Limited(wait)) } else { Err(jwks_unavailable()) };
                }
                _ => current.fetches,
            }
        };
        self.wake.notify_one();
        match time::timeout(REFRESH_TIMEOUT, state.wait_for(|state| state.fetches > fetches)).await {
            Ok(Ok(state)) if state.last.is_some_and(|(_, succeeded)| succeeded) => Ok(Refresh::Fetched),
            _ => Err(jwks_unavailable()),
        }
    }

    /// Verifies the signature with one of the keys and returns the user.
    fn decode(&self, token: &str, keys: &[&Key]) -> Result<String, Failure> {
        let mut verified = Err(failure(&ErrorKind::InvalidSignature));
        for Key { decoding, validation, .. } in keys {
            match jsonwebtoken::decode::<Map<String, Value>>(token, decoding, validation) {
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                other => {
                    verified = other.map(|token| (token.claims, validation)).map_err(|error| failure(error.kind()));
                    break;
                }
            }
        }
        let (claims, validation) = verified?;
        // jsonwebtoken treats an audience of another type than a string or an array of strings as absent.
        if validation.aud.is_none() && claims.contains_key("aud") {
            return Err(failure(&ErrorKind::InvalidAudience));
        }
        let name = &self.user_claim;
        match claims.get(name) {
            Some(Value::String(user)) => match couponry_domain::UserId::try_from(user.clone()) {
                Ok(user) => Ok(user.into()),
                Err(error) => Err(Failure::new(
                    Reason::User,
                    format!("the claim `{name}` of the token is not a valid user: {error}"),
                )),
            },
            Some(_) => Err(Failure::new(Reason::User, format!("the claim `{name}` of the token is not a string"))),
            None => Err(Failure::new(Reason::User, format!("the token has no claim `{name}`"))),
        }
    }
}

impl Fetcher {
    async fn run(self) {
        let mut retry_delay = INITIAL_RETRY_DELAY;
        loop {
            let fetched = self.fetch().await;
            let delay = match fetched {
                Ok(keys) => {
                    self.health.set(JWKS, Ok::<_, String>(()));
                    self.publish(Some(keys));
                    retry_delay = INITIAL_RETRY_DELAY;
                    self.interval
                }
                Err(error) => {
                    tracing::warn!(error, source = %self.source, "cannot refresh the JWKS");
                    if self.state.borrow().keys.is_some() {
                        self.health.degrade(JWKS, error);
                    } else {
                        self.health.set(JWKS, Err(error));
                    }
                    self.publish(None);
                    let delay = retry_delay.min(self.interval);
                    retry_delay = (retry_delay * 2).min(MAX_RETRY_DELAY);
                    delay
                }
            };
            let _ = time::timeout(delay, self.wake.notified()).await;
        }
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let json = self.source.fetch().await.map_err(error_chain)?;
        let with_secrets = matches!(self.source, JwksSource::File(_));
        KeySet::parse(&json, with_secrets, &self.validation).map_err(error_chain)
    }

    /// Publishes the result of a fetch.
    fn publish(&self, keys: Option<KeySet>) {
        self.state.send_modify(|state| {
            state.fetches += 1;
            state.last = Some((Instant::now(), keys.is_some()));
            if let Some(keys) = keys {
                let before = state.keys.as_ref();
                if before.map(|before| before.len()) != Some(keys.len()) {
                    tracing::info!(count = keys.len(), source = %self.source, "loaded the JWKS");
                }
                if before.map_or(&[][..], |before| before.ignored()) != keys.ignored() {
                    for reason in keys.ignored() {
                        tracing::warn!(reason, source = %self.source, "ignored a key of the JWKS");
                    }
                }
                (self.on_keys)(keys.len(), keys.ignored().len());
                state.keys = Some(Arc::new(keys));
            }
        });
    }
}

fn no_token(error: BearerError) -> Failure {
    match error {
        BearerError::Missing | BearerError::NotBearer => {
            Failure::new(Reason::NoToken, "the header `Authorization: Bearer TOKEN` is required")
        }
        BearerError::Repeated => Failure::new(Reason::Malformed, "more than one Authorization header"),
        BearerError::Empty => malformed(),
    }
}

fn malformed() -> Failure {
    Failure::new(Reason::Malformed, "the token is not a JWT with a supported signature algorithm")
}

fn jwks_unavailable() -> Failure {
    Failure::new(Reason::JwksUnavailable, "Tokens cannot be verified at the moment. Retry later.")
}

fn failure(error: &ErrorKind) -> Failure {
    let (reason, detail) = match error {
        ErrorKind::InvalidSignature => (Reason::Signature, "the signature of the token is invalid"),
        ErrorKind::InvalidAlgorithm => (Reason::Algorithm, "the algorithm of the token is not supported by its key"),
        ErrorKind::ExpiredSignature => (Reason::Expired, "the token has expired (exp)"),
        ErrorKind::ImmatureSignature => (Reason::NotYetValid, "the token is not valid yet (nbf)"),
        ErrorKind::InvalidIssuer => (Reason::Issuer, "the issuer of the token is not trusted (iss)"),
        ErrorKind::InvalidAudience => (Reason::Audience, "the token is for another audience (aud)"),
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            return Failure::new(Reason::Claims, format!("the claim `{claim}` of the token is missing or malformed"));
        }
        _ => return malformed(),
    };
    Failure::new(reason, detail)
}
