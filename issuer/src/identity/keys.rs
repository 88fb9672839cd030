//! A set of keys (JWKS, RFC 7517), and which of them a token may be signed with.

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Header, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;

/// The keys that we can use.
pub(super) struct KeySet(Vec<Key>);

/// One key, and what its tokens must be like.
pub(super) struct Key {
    id: Option<String>,
    pub(super) decoding: DecodingKey,
    /// With the key's algorithms.
    pub(super) validation: Validation,
}

/// Why a set of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("not a set of keys (JWKS): {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("no key in it can be used{}", .0.first().map_or_else(String::new, |why| format!(": {why}")))]
    Empty(Vec<String>),
}

/// Why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// There is none of this name, or none for its algorithm.
    Unknown,
    /// The key of this name is for other algorithms.
    Algorithm,
    /// The token names none, and there are several.
    Several,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads a set. Keys that we cannot use are passed over, as RFC 7517 wants it, with their reason in the log.
    pub(super) fn read(json: &[u8], with_secrets: bool, validation: &Validation) -> Result<Self, KeySetError> {
        let Jwks { keys } = serde_json::from_slice(json)?;
        let (mut usable, mut unusable) = (Vec::new(), Vec::new());
        for (number, key) in keys.into_iter().enumerate() {
            match Key::read(key, with_secrets, validation) {
                Ok(key) => usable.push(key),
                Err(why) => unusable.push(format!("key {}: {why}", number + 1)),
            }
        }
        if usable.is_empty() {
            return Err(KeySetError::Empty(unusable));
        }
        for why in unusable {
            tracing::debug!(why, "a key for tokens is not used");
        }
        Ok(Self(usable))
    }

    /// The key that a token with this header is signed with; several, if they have the name that it gives.
    ///
    /// A token that names no key is taken when only one key is for its algorithm: with several, trying would be guessing.
    pub(super) fn find(&self, header: &Header) -> Result<Vec<&Key>, NoKey> {
        let fits = |key: &&Key| key.validation.algorithms.contains(&header.alg);
        let Some(id) = &header.kid else {
            let mut keys = self.0.iter().filter(fits);
            return match (keys.next(), keys.next()) {
                (Some(key), None) => Ok(vec![key]),
                (None, _) => Err(NoKey::Algorithm),
                (Some(_), Some(_)) => Err(NoKey::Several),
            };
        };
        let named: Vec<&Key> = self.0.iter().filter(|key| key.id.as_ref() == Some(id)).collect();
        let fitting: Vec<&Key> = named.iter().copied().filter(fits).collect();
        match (named.is_empty(), fitting.is_empty()) {
            (true, _) => Err(NoKey::Unknown),
            (false, true) => Err(NoKey::Algorithm),
            (false, false) => Ok(fitting),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Key {
    fn read(json: serde_json::Value, with_secrets: bool, validation: &Validation) -> Result<Self, String> {
        let Jwk { common, algorithm } = serde_json::from_value(json).map_err(|error| error.to_string())?;
        if common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
            return Err("not for signatures".into());
        }
        let mut algorithms = match &algorithm {
            AlgorithmParameters::RSA(_) => vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => vec![Algorithm::ES256],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => vec![Algorithm::ES384],
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
            AlgorithmParameters::OctetKey(_) if with_secrets => {
                vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512]
            }
            AlgorithmParameters::OctetKey(_) => return Err("a secret does not belong on a URL: use a file".into()),
            _ => return Err("of a kind that is not known here".into()),
        };
        if let Some(only) = common.key_algorithm {
            algorithms.retain(|algorithm| jsonwebtoken::jwk::KeyAlgorithm::from(*algorithm) == only);
        }
        let jwk = Jwk { common, algorithm };
        let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
        let key = match key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => {
                algorithms.retain(|algorithm| bytes_fit(*algorithm, bytes.len()));
                key
            }
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                // Some write a zero in front, so that the number is not taken for a negative one.
                let n: &[u8] = &n[n.iter().take_while(|byte| **byte == 0).count()..];
                if n.len() < 256 {
                    return Err("an RSA key must have 2048 bits".into());
                }
                DecodingKey::from_rsa_raw_components(n, e)
            }
        };
        if algorithms.is_empty() {
            return Err("its algorithm (`alg`) or its length does not fit its kind".into());
        }
        let validation = Validation { algorithms, ..validation.clone() };
        Ok(Self { id: jwk.common.key_id, decoding: key, validation })
    }
}

/// Whether a key of that many bytes is one: a secret must be as long as the hash (RFC 7518, 3.2), a point is what it is.
const fn bytes_fit(algorithm: Algorithm, bytes: usize) -> bool {
    match algorithm {
        Algorithm::HS256 => bytes >= 32,
        Algorithm::HS384 => bytes >= 48,
        Algorithm::HS512 => bytes >= 64,
        Algorithm::ES256 => bytes == 65,
        Algorithm::ES384 => bytes == 97,
        Algorithm::EdDSA => bytes == 32,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(keys: &serde_json::Value, with_secrets: bool) -> Result<KeySet, String> {
        KeySet::read(json!({ "keys": keys }).to_string().as_bytes(), with_secrets, &Validation::default())
            .map_err(|error| error.to_string())
    }

    fn secret(id: Option<&str>, bytes: usize) -> serde_json::Value {
        json!({"kty": "oct", "kid": id, "k": "A".repeat((bytes * 4).div_ceil(3))})
    }

    #[test]
    fn what_cannot_be_used_is_passed_over() {
        let point = "A".repeat(43);
        let good = json!({"kty": "EC", "crv": "P-256", "x": point, "y": point, "kid": "good"});
        let strange = [
            json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}),
            json!({"kty": "EC", "crv": "secp256k1", "x": point, "y": point}),
            json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
            json!({"kty": "EC", "crv": "P-256", "x": point, "y": point, "use": "enc"}),
            json!({"kty": "EC", "crv": "P-256", "x": point, "y": point, "alg": "ES384"}),
            json!({"kty": "OKP", "crv": "X25519", "x": point}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "RSA", "n": "!", "e": "AQAB"}),
            json!({"kty": "new"}),
            json!(5),
            secret(None, 48),
        ];
        for key in &strange {
            assert!(read(&json!([key]), false).is_err(), "{key}");
        }
        let mut all = strange.to_vec();
        all.push(good);
        assert_eq!(read(&json!(all), false).unwrap().len(), 1);
        assert_eq!(read(&json!([]), false).err().unwrap(), "no key in it can be used");
        assert!(read(&json!({}), false).err().unwrap().contains("not a set of keys"));
        assert!(read(&json!([secret(None, 31)]), true).is_err(), "shorter than its hash");
    }

    #[test]
    fn a_key_is_found_by_its_name_or_because_it_is_alone() {
        let header = |algorithm, id: Option<&str>| {
            let mut header = Header::new(algorithm);
            header.kid = id.map(Into::into);
            header
        };
        let one = read(&json!([secret(Some("a"), 48)]), true).unwrap();
        assert!(one.find(&header(Algorithm::HS256, Some("a"))).is_ok());
        assert!(one.find(&header(Algorithm::HS384, None)).is_ok());
        assert_eq!(one.find(&header(Algorithm::HS512, Some("a"))).err(), Some(NoKey::Algorithm), "too short for it");
        assert_eq!(one.find(&header(Algorithm::RS256, Some("a"))).err(), Some(NoKey::Algorithm));
        assert_eq!(one.find(&header(Algorithm::RS256, None)).err(), Some(NoKey::Algorithm));
        assert_eq!(one.find(&header(Algorithm::HS256, Some("b"))).err(), Some(NoKey::Unknown));
        let two = read(&json!([secret(Some("a"), 48), secret(Some("b"), 32)]), true).unwrap();
        assert!(two.find(&header(Algorithm::HS256, Some("b"))).is_ok());
        assert!(two.find(&header(Algorithm::HS384, None)).is_ok(), "only one is for it");
        assert_eq!(two.find(&header(Algorithm::HS256, None)).err(), Some(NoKey::Several));
        let namesakes = read(&json!([secret(Some("a"), 48), secret(Some("a"), 32)]), true).unwrap();
        assert_eq!(namesakes.find(&header(Algorithm::HS256, Some("a"))).unwrap().len(), 2);
        assert_eq!(namesakes.find(&header(Algorithm::HS384, Some("a"))).unwrap().len(), 1, "the other is too short");
    }
}
