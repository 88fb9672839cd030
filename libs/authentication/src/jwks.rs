//! A JSON Web Key Set (JWKS, RFC 7517) and the selection of the key of a token.

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Header, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;

/// The supported keys of a JWKS.
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// Why each of the other keys is ignored.
    ignored: Vec<String>,
}

/// A key and the validation of its tokens.
pub(crate) struct Key {
    id: Option<String>,
    pub(crate) decoding: DecodingKey,
    /// Restricted to the algorithms of the key.
    pub(crate) validation: Validation,
}

/// A JWKS cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeySetError {
    #[error("the JWKS is not valid JSON")]
    Invalid(#[from] serde_json::Error),
    #[error("the JWKS contains no supported key{}", first_reason(.0))]
    Empty(Vec<String>),
}

fn first_reason(reasons: &[String]) -> String {
    reasons.first().map_or_else(String::new, |reason| format!(" ({reason})"))
}

/// No key can verify a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyLookupError {
    /// No key has this id.
    Unknown,
    /// The key is for other algorithms.
    Algorithm,
    /// The token has no key id, and several keys are for its algorithm.
    Ambiguous,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Parses a JWKS. Unsupported keys are ignored, as RFC 7517 requires.
    pub(crate) fn parse(json: &[u8], with_secrets: bool, validation: &Validation) -> Result<Self, KeySetError> {
        let Jwks { keys } = serde_json::from_slice(json)?;
        let (mut supported, mut ignored) = (Vec::new(), Vec::new());
        for (number, key) in keys.into_iter().enumerate() {
            let id = key["kid"].as_str().map_or_else(String::new, |id| format!(" (kid {id:?})"));
            match Key::parse(key, with_secrets, validation) {
                Ok(key) => supported.push(key),
                Err(reason) => ignored.push(format!("key {}{id}: {reason}", number + 1)),
            }
        }
        if supported.is_empty() {
            return Err(KeySetError::Empty(ignored));
        }
        Ok(Self { keys: supported, ignored })
    }

    /// The keys that a token with this header may be signed with: several if they share its key id.
    ///
    /// A token without a key id is accepted if exactly one key is for its algorithm.
    pub(crate) fn find(&self, header: &Header) -> Result<Vec<&Key>, KeyLookupError> {
        let fits = |key: &&Key| key.validation.algorithms.contains(&header.alg);
        let Some(id) = &header.kid else {
            let mut keys = self.keys.iter().filter(fits);
            return match (keys.next(), keys.next()) {
                (Some(key), None) => Ok(vec![key]),
                (None, _) => Err(KeyLookupError::Algorithm),
                (Some(_), Some(_)) => Err(KeyLookupError::Ambiguous),
            };
        };
        let named: Vec<&Key> = self.keys.iter().filter(|key| key.id.as_ref() == Some(id)).collect();
        let fitting: Vec<&Key> = named.iter().copied().filter(fits).collect();
        match (named.is_empty(), fitting.is_empty()) {
            (true, _) => Err(KeyLookupError::Unknown),
            (false, true) => Err(KeyLookupError::Algorithm),
            (false, false) => Ok(fitting),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Why each of the other keys of the JWKS is ignored.
    pub(crate) fn ignored(&self) -> &[String] {
        &self.ignored
    }
}

impl Key {
    fn parse(json: serde_json::Value, with_secrets: bool, validation: &Validation) -> Result<Self, String> {
        let Jwk { common, algorithm } = serde_json::from_value(json).map_err(|error| error.to_string())?;
        if common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
            return Err("its use is not `sig`".into());
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
            AlgorithmParameters::OctetKey(_) => return Err("HMAC secrets are only accepted from a file".into()),
            _ => return Err("its type or curve is not supported".into()),
        };
        if let Some(only) = common.key_algorithm {
            algorithms.retain(|algorithm| jsonwebtoken::jwk::KeyAlgorithm::from(*algorithm) == only);
        }
        let jwk = Jwk { common, algorithm };
        let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
        let key = match key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => {
                algorithms.retain(|algorithm| is_valid_length(*algorithm, bytes.len()));
                key
            }
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                // Some providers prepend a zero byte as a sign.
                let n: &[u8] = &n[n.iter().take_while(|byte| **byte == 0).count()..];
                if n.len() < 256 {
                    return Err("an RSA key must have at least 2048 bits".into());
                }
                DecodingKey::from_rsa_raw_components(n, e)
            }
        };
        if algorithms.is_empty() {
            return Err("its `alg` or its length does not match its type".into());
        }
        let validation = Validation { algorithms, ..validation.clone() };
        Ok(Self { id: jwk.common.key_id, decoding: key, validation })
    }
}

/// Whether a key for the algorithm may have this length: a secret is at least as long as the hash (RFC 7518, 3.2).
const fn is_valid_length(algorithm: Algorithm, bytes: usize) -> bool {
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

    fn parse(keys: &serde_json::Value, with_secrets: bool) -> Result<KeySet, String> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), with_secrets, &Validation::default())
            .map_err(|error| error.to_string())
    }

    fn secret(id: Option<&str>, bytes: usize) -> serde_json::Value {
        json!({"kty": "oct", "kid": id, "k": "A".repeat((bytes * 4).div_ceil(3))})
    }

    #[test]
    fn key_set_ignores_unsupported_keys() {
        let point = "A".repeat(43);
        let supported = json!({"kty": "EC", "crv": "P-256", "x": point, "y": point, "kid": "supported"});
        let unsupported = [
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
        for key in &unsupported {
            assert!(parse(&json!([key]), false).is_err(), "{key}");
        }
        let mut all = unsupported.to_vec();
        all.push(supported);
        let parsed = parse(&json!(all), false).unwrap();
        assert_eq!((parsed.len(), parsed.ignored().len()), (1, unsupported.len()));
        assert_eq!(parse(&json!([]), false).err().unwrap(), "the JWKS contains no supported key");
        assert!(parse(&json!({}), false).err().unwrap().contains("not valid JSON"));
        assert!(parse(&json!([secret(None, 31)]), true).is_err(), "shorter than the hash");
    }

    #[test]
    fn key_is_found_by_its_id_or_as_the_only_one_of_its_algorithm() {
        let header = |algorithm, id: Option<&str>| {
            let mut header = Header::new(algorithm);
            header.kid = id.map(Into::into);
            header
        };
        let one = parse(&json!([secret(Some("a"), 48)]), true).unwrap();
        assert!(one.find(&header(Algorithm::HS256, Some("a"))).is_ok());
        assert!(one.find(&header(Algorithm::HS384, None)).is_ok());
        assert_eq!(
            one.find(&header(Algorithm::HS512, Some("a"))).err(),
            Some(KeyLookupError::Algorithm),
            "too short for the algorithm"
        );
        assert_eq!(one.find(&header(Algorithm::RS256, Some("a"))).err(), Some(KeyLookupError::Algorithm));
        assert_eq!(one.find(&header(Algorithm::RS256, None)).err(), Some(KeyLookupError::Algorithm));
        assert_eq!(one.find(&header(Algorithm::HS256, Some("b"))).err(), Some(KeyLookupError::Unknown));
        let two = parse(&json!([secret(Some("a"), 48), secret(Some("b"), 32)]), true).unwrap();
        assert!(two.find(&header(Algorithm::HS256, Some("b"))).is_ok());
        assert!(two.find(&header(Algorithm::HS384, None)).is_ok(), "only one is long enough");
        assert_eq!(two.find(&header(Algorithm::HS256, None)).err(), Some(KeyLookupError::Ambiguous));
        let same_id = parse(&json!([secret(Some("a"), 48), secret(Some("a"), 32)]), true).unwrap();
        assert_eq!(same_id.find(&header(Algorithm::HS256, Some("a"))).unwrap().len(), 2);
        assert_eq!(same_id.find(&header(Algorithm::HS384, Some("a"))).unwrap().len(), 1, "the other key is too short");
    }
}
