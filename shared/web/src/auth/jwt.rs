//! Tokens: JSON Web Tokens [RFC 7519] of one issuer for one audience.

use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header, get_current_timestamp};
use serde::Deserialize;
use service::WrongSettings;
use tracing::warn;

use super::key_set::{KeySet, Missing, VerifyingKey};
use super::settings::{Jwt, NOT_ONE};
use super::watched::{FILE_INTERVAL, Origin, Plan, RETRY_INTERVAL, Watched};
use super::{Denied, Identity, content};

/// Verifier of tokens.
pub(super) struct Tokens {
    keys: Watched<KeySet>,
    issuer: String,
    audience: String,
    leeway: u64,
}

/// Claims that this crate reads itself.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    iat: Option<f64>,
    scope: Option<Scopes>,
    scopes: Option<Scopes>,
    scp: Option<Scopes>,
}

/// Scopes of a claim: words of a text, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scopes {
    Text(String),
    List(Vec<String>),
}

impl Scopes {
    fn words(&self) -> impl Iterator<Item = &str> {
        let (text, list) = match self {
            Self::Text(text) => (text.as_str(), &[][..]),
            Self::List(list) => ("", list.as_slice()),
        };
        text.split_ascii_whitespace().chain(list.iter().map(String::as_str))
    }
}

impl Tokens {
    /// Reads the keys. A URL that does not answer is asked again later.
    ///
    /// # Errors
    /// A file cannot be read or is wrong, or the settings name no keys.
    pub(super) async fn start(settings: &Jwt, key: &str) -> anyhow::Result<Self> {
        let plan = plan(settings, key)?;
        let (setting, is_file) = (plan.key.clone(), matches!(plan.origin, Origin::File(_)));
        let (keys, first) = Watched::start(plan).await;
        match first {
            Err(wrong) if is_file => {
                return Err(WrongSettings(format!("{setting}: {wrong}")).into());
            }
            Err(error) => {
                warn!(
                    setting,
                    error, "no keys yet, tokens are refused with 503 until they are read"
                );
            }
            Ok(()) => {}
        }
        Ok(Self {
            keys,
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            leeway: settings.leeway.as_secs(),
        })
    }

    /// Returns the identity that a token proves.
    pub(super) async fn authenticate(&self, token: &str) -> Result<Identity, Denied> {
        let header = decode_header(token)
            .map_err(|_| refused("the token is no JWT with an algorithm that is allowed here"))?;
        // RFC 7515, 4.1.11: what is critical must be understood, and we understand nothing of it.
        if header.crit.is_some() {
            return Err(refused("the token has critical headers (crit)"));
        }
        let mut keys = self.latest().await?;
        let found = keys.find(header.kid.as_deref(), header.alg);
        if found.err() == Some(Missing::UnknownId) {
            self.keys.refresh().await;
            keys = self.latest().await?;
        }
        let key = keys.find(header.kid.as_deref(), header.alg);
        self.verify(token, key.map_err(of_missing)?)
    }

    /// Returns the latest keys.
    async fn latest(&self) -> Result<Arc<KeySet>, Denied> {
        if let Some(keys) = self.keys.latest() {
            return Ok(keys);
        }
        self.keys.refresh().await;
        self.keys.latest().ok_or_else(|| Denied::Unavailable {
            why: "the keys of the tokens cannot be read now".into(),
            retry_after: RETRY_INTERVAL,
        })
    }

    /// Checks the signature first, then the claims.
    fn verify(&self, token: &str, key: &VerifyingKey) -> Result<Identity, Denied> {
        let mut right = Validation::new(key.algorithm);
        right.leeway = self.leeway;
        right.validate_nbf = true;
        right.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        right.set_audience(&[&self.audience]);
        right.set_issuer(&[&self.issuer]);
        let claims = decode::<Claims>(token, &key.key, &right);
        let claims = claims.map_err(|error| of_error(error.kind()))?.claims;
        let latest = get_current_timestamp().saturating_add(self.leeway);
        if claims.iat.is_some_and(|issued| issued > latest as f64) {
            return Err(refused("the token was issued in the future (iat)"));
        }
        if claims.sub.is_empty() {
            return Err(refused("the token has no subject (sub)"));
        }
        let all = [&claims.scope, &claims.scopes, &claims.scp];
        let scopes = all.into_iter().flatten().flat_map(Scopes::words);
        Ok(Identity::new(&claims.sub, scopes))
    }
}

/// Returns the place of the keys.
fn plan(settings: &Jwt, key: &str) -> anyhow::Result<Plan<KeySet>> {
    let Jwt { jwks_file, jwks_url, hs256_secret_file, .. } = settings;
    let file = |name: &str, path: &std::path::Path, parse| Plan {
        key: format!("{key}.{name}"),
        origin: Origin::File(path.into()),
        interval: FILE_INTERVAL,
        parse,
    };
    match (jwks_file, jwks_url, hs256_secret_file) {
        (Some(path), None, None) => Ok(file("jwks_file", path, KeySet::of_jwks)),
        (None, None, Some(path)) => Ok(file("hs256_secret_file", path, KeySet::of_secret)),
        (None, Some(url), None) => Ok(Plan {
            key: format!("{key}.jwks_url"),
            origin: Origin::Url { url: url.clone(), client: content::client()? },
            interval: settings.refresh_interval,
            parse: KeySet::of_jwks,
        }),
        _ => Err(WrongSettings(format!("{key}: {NOT_ONE}")).into()),
    }
}

fn refused(why: impl Into<String>) -> Denied {
    Denied::Unauthenticated(why.into())
}

fn of_missing(missing: Missing) -> Denied {
    refused(match missing {
        Missing::UnknownId => "the key of the token (kid) is not known",
        Missing::WrongAlgorithm => "the algorithm of the token (alg) does not fit the key",
        Missing::Ambiguous => "the token must name its key (kid)",
    })
}

/// Returns the reason for the caller. It names claims, and never what would be right in them.
fn of_error(error: &ErrorKind) -> Denied {
    refused(match error {
        ErrorKind::InvalidSignature => "the signature of the token is wrong",
        ErrorKind::ExpiredSignature => "the token has expired (exp)",
        ErrorKind::ImmatureSignature => "the token is not valid yet (nbf)",
        ErrorKind::InvalidIssuer => "the token is from another issuer (iss)",
        ErrorKind::InvalidAudience => "the token is for another audience (aud)",
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            return refused(format!("the claim {claim} of the token is missing or wrong"));
        }
        ErrorKind::Json(_) => "the claims of the token are wrong, or sub is missing",
        // All others are about the form of the token.
        _ => "the token is no JWT",
    })
}
