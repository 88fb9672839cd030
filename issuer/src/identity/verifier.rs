//! Tokens (JWT, RFC 7519), and the keys that they are checked with.
//!
//! # Guarantees
//! Keys are read at the start until they are there, then regularly; and when a token names one that is not known, at once, but
//! not more often than every few seconds, whoever asks. A set that cannot be had or used changes nothing: the keys stay.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderMap, header};
use couponry_runtime::{CancellationToken, Health};
use jsonwebtoken::{Validation, errors::ErrorKind};
use serde_json::{Map, Value};
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};

use super::{
    JWT_KEYS, crypto,
    flags::{IdentityError, JwtArgs},
    keys::{Key, KeySet, NoKey},
    refusal::{Reason, Refusal},
    source::Source,
};

/// A file is cheap to look at.
const FILE_INTERVAL: Duration = Duration::from_secs(5);
/// The first pause after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Between two readings for tokens with unknown keys: anyone can make such tokens.
const LEAST_INTERVAL: Duration = Duration::from_secs(10);
/// How long a request waits for its key.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longer than any proxy lets through.
const MAX_TOKEN: usize = 16 * 1024;

/// Believes tokens.
pub(super) struct Verifier {
    state: watch::Receiver<State>,
    wake: Arc<Notify>,
    least_interval: Duration,
    user_claim: String,
}

/// What is known after so many readings.
#[derive(Clone, Default)]
struct State {
    keys: Option<Arc<KeySet>>,
    readings: u64,
    /// When the last one ended, and whether it gave keys.
    last: Option<(Instant, bool)>,
}

/// Reads the keys again and again.
struct Reader {
    source: Source,
    validation: Validation,
    interval: Duration,
    wake: Arc<Notify>,
    state: watch::Sender<State>,
    health: Health,
}

impl Verifier {
    /// Begins to read the keys.
    pub(super) fn start(args: JwtArgs, health: &Health, stop: CancellationToken) -> Result<Self, IdentityError> {
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
        let (source, interval, least_interval) = match (args.jwt_jwks_url, args.jwt_jwks_file) {
            (Some(url), None) => {
                let interval = Duration::from_secs(args.jwt_refresh_seconds.into());
                (Source::url(url, args.jwt_ca_file.as_ref())?, interval, LEAST_INTERVAL.min(interval))
            }
            (None, Some(file)) => (Source::File(file), FILE_INTERVAL, FILE_INTERVAL / 5),
            _ => return Err(IdentityError::KeysFrom),
        };
        let wake = Arc::new(Notify::new());
        let (sender, state) = watch::channel(State::default());
        let reader = Reader { source, validation, interval, wake: wake.clone(), state: sender, health: health.clone() };
        tokio::spawn(async move { stop.run_until_cancelled(reader.run()).await });
        Ok(Self { state, wake, least_interval, user_claim: args.jwt_user_claim })
    }

    /// Whom the request's token names.
    pub(super) async fn user(&self, headers: &HeaderMap) -> Result<String, Refusal> {
        let token = bearer(headers)?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| malformed())?;
        if header.crit.is_some() {
            // Whoever wrote this wants it to be refused by those who do not know what it means.
            return Err(malformed());
        }
        let is_new = match self.keys()?.find(&header) {
            Ok(keys) => return self.check(token, &keys),
            Err(NoKey::Unknown) => self.renew().await?,
            Err(NoKey::Algorithm) => {
                return Err(Refusal::new(Reason::Algorithm, "the token's algorithm is not its key's"));
            }
            Err(NoKey::Several) => {
                return Err(Refusal::new(
                    Reason::UnknownKey,
                    "the token does not name its key (kid), and there are several",
                ));
            }
        };
        let keys = self.keys()?;
        match is_new.then(|| keys.find(&header)) {
            Some(Ok(keys)) => self.check(token, &keys),
            Some(Err(NoKey::Algorithm)) => {
                Err(Refusal::new(Reason::Algorithm, "the token's algorithm is not its key's"))
            }
            _ => Err(Refusal::new(Reason::UnknownKey, "the token's key (kid) is not known here")),
        }
    }

    fn keys(&self) -> Result<Arc<KeySet>, Refusal> {
        self.state.borrow().keys.clone().ok_or_else(keys_away)
    }

    /// Has the keys read again, unless that was done just now. Whether they may have changed; fails when nobody can say.
    async fn renew(&self) -> Result<bool, Refusal> {
        let mut state = self.state.clone();
        let readings = {
            let seen = state.borrow_and_update();
            match seen.last {
                Some((at, worked)) if at.elapsed() < self.least_interval => {
                    // Another request may have had them read while this one looked.
                    return if worked { Ok(true) } else { Err(keys_away()) };
                }
                _ => seen.readings,
            }
        };
        self.wake.notify_one();
        match time::timeout(PATIENCE, state.wait_for(|state| state.readings > readings)).await {
            Ok(Ok(state)) if state.last.is_some_and(|(_, worked)| worked) => Ok(true),
            _ => Err(keys_away()),
        }
    }

    /// Whom the token names, if one of the keys has signed it.
    fn check(&self, token: &str, keys: &[&Key]) -> Result<String, Refusal> {
        let mut signed = Err(refusal(&ErrorKind::InvalidSignature));
        for Key { decoding, validation, .. } in keys {
            match jsonwebtoken::decode::<Map<String, Value>>(token, decoding, validation) {
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                other => {
                    signed = other.map(|token| (token.claims, validation)).map_err(|error| refusal(error.kind()));
                    break;
                }
            }
        }
        let (claims, validation) = signed?;
        // Of these, what is neither a text nor a list of them would pass for none.
        if validation.aud.is_none() && claims.contains_key("aud") {
            return Err(refusal(&ErrorKind::InvalidAudience));
        }
        let name = &self.user_claim;
        match claims.get(name) {
            Some(Value::String(user)) => match couponry_domain::UserId::try_from(user.clone()) {
                Ok(user) => Ok(user.into()),
                Err(error) => {
                    Err(Refusal::new(Reason::User, format!("the token's claim `{name}` names no user: {error}")))
                }
            },
            Some(_) => Err(Refusal::new(Reason::User, format!("the token's claim `{name}` is not a text"))),
            None => Err(Refusal::new(Reason::User, format!("the token has no claim `{name}`"))),
        }
    }
}

impl Reader {
    async fn run(self) {
        let mut pause = RETRY.0;
        loop {
            let read = self.read().await;
            let mut worked = true;
            match read {
                Ok(keys) => {
                    self.health.set(JWT_KEYS, Ok::<_, String>(()));
                    self.publish(Some(keys));
                    pause = RETRY.0;
                }
                Err(error) => {
                    worked = false;
                    tracing::warn!(error, from = %self.source, "cannot read the keys of the tokens");
                    if self.state.borrow().keys.is_none() {
                        self.health.set(JWT_KEYS, Err(error));
                    }
                    self.publish(None);
                }
            }
            let next = if worked { self.interval } else { pause.min(self.interval) };
            if !worked {
                pause = (pause * 2).min(RETRY.1);
            }
            let _ = time::timeout(next, self.wake.notified()).await;
        }
    }

    async fn read(&self) -> Result<KeySet, String> {
        let json = self.source.read().await.map_err(|error| error.to_string())?;
        let with_secrets = matches!(self.source, Source::File(_));
        KeySet::read(&json, with_secrets, &self.validation).map_err(|error| error.to_string())
    }

    fn publish(&self, keys: Option<KeySet>) {
        self.state.send_modify(|state| {
            state.readings += 1;
            state.last = Some((Instant::now(), keys.is_some()));
            if let Some(keys) = keys {
                let before = state.keys.as_ref().map(|keys| keys.len());
                if before != Some(keys.len()) {
                    tracing::info!(keys = keys.len(), from = %self.source, "the keys of the tokens are there");
                }
                state.keys = Some(Arc::new(keys));
            }
        });
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let missing = || Refusal::new(Reason::NoToken, "send the header `Authorization: Bearer TOKEN`");
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        return Err(Refusal::new(Reason::Malformed, "more than one header Authorization"));
    }
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    let token = token.trim();
    if token.len() > MAX_TOKEN { Err(malformed()) } else { Ok(token) }
}

fn malformed() -> Refusal {
    Refusal::new(Reason::Malformed, "the token is not a JWT with a signature of a kind that is known here")
}

fn keys_away() -> Refusal {
    Refusal::new(Reason::KeysAway, "tokens cannot be checked at the moment; ask again")
}

fn refusal(error: &ErrorKind) -> Refusal {
    let (reason, detail) = match error {
        ErrorKind::InvalidSignature => (Reason::Signature, "the token's signature is wrong"),
        ErrorKind::InvalidAlgorithm => (Reason::Algorithm, "the token's algorithm is not its key's"),
        ErrorKind::ExpiredSignature => (Reason::Expired, "the token has expired (exp)"),
        ErrorKind::ImmatureSignature => (Reason::NotYetValid, "the token is not valid yet (nbf)"),
        ErrorKind::InvalidIssuer => (Reason::Issuer, "the token is not from the issuer that is trusted here (iss)"),
        ErrorKind::InvalidAudience => (Reason::Audience, "the token is not for this service (aud)"),
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            return Refusal::new(
                Reason::Claims,
                format!("the token's claim `{claim}` is missing or has no proper form"),
            );
        }
        _ => return malformed(),
    };
    Refusal::new(reason, detail)
}
