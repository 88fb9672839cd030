//! Signs tokens, like an identity provider.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    rsa::PublicKeyComponents,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaKeyPair,
    },
};
use serde_json::{Value, json};

/// Generated for these tests with `openssl genpkey`; it protects nothing.
const RSA_KEY: &[u8] = include_bytes!("../keys/rsa-2048.pk8");

pub(crate) struct Signer {
    pub(crate) kid: String,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl Signer {
    pub(crate) fn rsa(kid: &str) -> Self {
        Self { kid: kid.into(), key: Key::Rsa(RsaKeyPair::from_pkcs8(RSA_KEY).unwrap()) }
    }

    pub(crate) fn es256(kid: &str) -> Self {
        Self { kid: kid.into(), key: Key::Ec(elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING), "P-256") }
    }

    pub(crate) fn es384(kid: &str) -> Self {
        Self { kid: kid.into(), key: Key::Ec(elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING), "P-384") }
    }

    pub(crate) fn ed(kid: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { kid: kid.into(), key: Key::Ed(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()) }
    }

    pub(crate) fn secret(kid: &str, secret: impl Into<Vec<u8>>) -> Self {
        Self { kid: kid.into(), key: Key::Secret(secret.into()) }
    }

    /// The public key as in a JWKS.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Key::Rsa(pair) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "use": "sig", "n": base64(n), "e": base64(e)})
            }
            Key::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": base64(x), "y": base64(y)})
            }
            Key::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key())}),
            Key::Secret(secret) => json!({"kty": "oct", "k": base64(secret)}),
        };
        jwk["kid"] = json!(self.kid);
        jwk
    }

    /// The bytes of the public key, which an attacker could use as an HMAC secret.
    pub(crate) fn public_bytes(&self) -> Vec<u8> {
        match &self.key {
            Key::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Key::Ec(pair, _) => pair.public_key().as_ref().to_vec(),
            Key::Ed(pair) => pair.public_key().as_ref().to_vec(),
            Key::Secret(secret) => secret.clone(),
        }
    }

    /// A valid token of a user.
    pub(crate) fn token(&self, algorithm: &str, user: &str) -> String {
        self.sign(&json!({"alg": algorithm, "typ": "JWT", "kid": self.kid}), &claims(user))
    }

    /// Any token, signed with the algorithm of the header. The signature is empty if the key does not support the
    /// algorithm.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        let (bytes, random) = (message.as_bytes(), SystemRandom::new());
        let signature = match (&self.key, header["alg"].as_str()) {
            (Key::Rsa(pair), Some(algorithm @ ("RS256" | "RS512" | "PS256"))) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                match algorithm {
                    "RS256" => pair.sign(&RSA_PKCS1_SHA256, &random, bytes, &mut signature),
                    "RS512" => pair.sign(&RSA_PKCS1_SHA512, &random, bytes, &mut signature),
                    _ => pair.sign(&RSA_PSS_SHA256, &random, bytes, &mut signature),
                }
                .unwrap();
                signature
            }
            (Key::Ec(pair, _), Some("ES256" | "ES384")) => pair.sign(&random, bytes).unwrap().as_ref().to_vec(),
            (Key::Ed(pair), Some("EdDSA")) => pair.sign(bytes).as_ref().to_vec(),
            (Key::Secret(secret), Some(algorithm @ ("HS256" | "HS384" | "HS512"))) => {
                let hash = match algorithm {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                hmac::sign(&hmac::Key::new(hash, secret), bytes).as_ref().to_vec()
            }
            _ => Vec::new(),
        };
        format!("{message}.{}", base64(signature))
    }
}

/// The claims of a valid token.
pub(crate) fn claims(user: &str) -> Value {
    let (exp, nbf) = (now() + 600, now() - 5);
    json!({"sub": user, "iss": "https://login.example", "aud": ["shop", "coupons"], "exp": exp, "nbf": nbf})
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn elliptic(algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap()
}
