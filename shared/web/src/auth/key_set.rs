//! Keys that verify tokens.

use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations,
    PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::content::without_line_end;

/// Minimum size of a secret in bytes [RFC 7518, 3.2].
const MIN_SECRET_BYTES: usize = 32;
/// Maximum number of keys in a set.
const MAX_KEYS: usize = 100;

/// Keys of one provider. Each verifies one algorithm only.
pub(super) struct KeySet(Vec<VerifyingKey>);

/// Key that verifies one algorithm.
pub(super) struct VerifyingKey {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// Reason why no key is found for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// No key has this id.
    UnknownId,
    /// The key is for another algorithm.
    WrongAlgorithm,
    /// Several keys could be meant.
    Ambiguous,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a JSON Web Key Set [RFC 7517]. Keys of other kinds are left out, also symmetric ones.
    pub(super) fn of_jwks(json: &[u8]) -> Result<Self, String> {
        // The error of the parser could repeat a part of the file.
        let set: Jwks = serde_json::from_slice(json)
            .map_err(|error| format!("is no JSON Web Key Set: line {}", error.line()))?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("has more than {MAX_KEYS} keys"));
        }
        let keys: Vec<_> = set.keys.into_iter().filter_map(VerifyingKey::of_jwk).collect();
        if keys.is_empty() {
            return Err("has no public key for RS256, ES256 or EdDSA".into());
        }
        Ok(Self(keys))
    }

    /// Reads the secret of HS256.
    pub(super) fn of_secret(content: &[u8]) -> Result<Self, String> {
        let secret = without_line_end(content);
        if secret.starts_with(b"-----BEGIN ") {
            return Err("holds a key or a certificate in PEM, which others may know".into());
        }
        if secret.len() < MIN_SECRET_BYTES {
            return Err(format!("must hold at least {MIN_SECRET_BYTES} bytes"));
        }
        let key = DecodingKey::from_secret(secret);
        Ok(Self(vec![VerifyingKey { id: None, algorithm: Algorithm::HS256, key }]))
    }

    /// Returns the key for a token. A key without id fits each id.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<&VerifyingKey, Missing> {
        let mut named = self.0.iter().filter(|key| id.is_some() && key.id.as_deref() == id);
        if named.clone().next().is_some() {
            return named.find(|key| key.algorithm == algorithm).ok_or(Missing::WrongAlgorithm);
        }
        let is_possible = |key: &&VerifyingKey| id.is_none() || key.id.is_none();
        let mut possible = self.0.iter().filter(is_possible).peekable();
        if possible.peek().is_none() {
            return Err(Missing::UnknownId);
        }
        let mut fitting = possible.filter(|key| key.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(Missing::Ambiguous),
            (None, _) => Err(Missing::WrongAlgorithm),
        }
    }
}

impl VerifyingKey {
    /// Returns nothing for a key that is not for our algorithms, or not for signatures.
    fn of_jwk(jwk: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            // Symmetric keys, other curves, and kinds of keys that are not known yet.
            _ => return None,
        };
        if !is_for_signatures(&jwk.common, algorithm) {
            return None;
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id: jwk.common.key_id, algorithm, key })
    }
}

fn is_for_signatures(key: &CommonParameters, algorithm: Algorithm) -> bool {
    let (purpose, operations) = (&key.public_key_use, &key.key_operations);
    key.key_algorithm.is_none_or(|named| named == KeyAlgorithm::from(algorithm))
        && purpose.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
        && operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify))
}
