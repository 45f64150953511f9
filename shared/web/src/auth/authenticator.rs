//! Authentication by tokens and API keys.

use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use service::WrongSettings;

use super::api_keys::ApiKeys;
use super::jwt::Tokens;
use super::rates::RateLimiter;
use super::settings::Auth;
use super::watched::{FILE_INTERVAL, Origin, Plan, Watched};
use super::{Authenticate, Denied, Identity};
use crate::Reach;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Maximum size of credentials in bytes.
const MAX_BYTES: usize = 8 * 1024;

/// Authentication as the settings say: by tokens, by API keys, or both. Without either, it serves
/// everybody on loopback.
///
/// It reads keys again while it lives. Clones share their keys and limits, so one serves several
/// listeners.
#[derive(Clone)]
pub struct Authenticator(Arc<Methods>);

struct Methods {
    tokens: Option<Tokens>,
    api_keys: Option<Watched<ApiKeys>>,
    rates: Option<RateLimiter>,
    reach: Reach,
}

impl Authenticator {
    /// Reads the keys. `key` is the section of the settings, such as `auth`.
    ///
    /// # Errors
    /// A file cannot be read or is wrong. A URL that does not answer is no error: its tokens are
    /// refused with 503 until it does.
    pub async fn start(settings: &Auth, key: &str) -> anyhow::Result<Self> {
        let tokens = match &settings.jwt {
            Some(jwt) => Some(Tokens::start(jwt, &format!("{key}.jwt")).await?),
            None => None,
        };
        let api_keys = match &settings.api_keys_file {
            Some(path) => Some(start_api_keys(path.into(), &format!("{key}.api_keys_file")).await?),
            None => None,
        };
        let rates = RateLimiter::new(&settings.rate_limit);
        let reach = settings.reach();
        Ok(Self(Arc::new(Methods { tokens, api_keys, rates, reach })))
    }

    fn missing(&self) -> Denied {
        let or_key = if self.0.api_keys.is_some() { ", or a key in X-Api-Key" } else { "" };
        refused(&format!("send credentials in the header Authorization: Bearer{or_key}"))
    }
}

async fn start_api_keys(path: std::path::PathBuf, key: &str) -> anyhow::Result<Watched<ApiKeys>> {
    let plan = Plan {
        key: key.to_owned(),
        origin: Origin::File(path),
        interval: FILE_INTERVAL,
        parse: ApiKeys::read,
    };
    let (keys, first) = Watched::start(plan).await;
    first.map_err(|wrong| WrongSettings(format!("{key}: {wrong}")))?;
    Ok(keys)
}

impl Authenticate for Authenticator {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, Denied> {
        let Methods { tokens, api_keys, .. } = &*self.0;
        if tokens.is_none() && api_keys.is_none() {
            return Ok(Identity::unknown());
        }
        let credentials = Credentials::of(headers)?.ok_or_else(|| self.missing())?;
        let (Credentials::Bearer(text) | Credentials::ApiKey(text)) = credentials;
        if text.len() > MAX_BYTES {
            return Err(refused("the credentials are too large"));
        }
        let known = api_keys.as_ref().and_then(Watched::latest);
        if let Some(identity) = known.and_then(|keys| keys.find(text)) {
            return Ok(identity);
        }
        match (credentials, tokens) {
            // With both methods, only a token has two dots and is no key.
            (Credentials::Bearer(token), Some(tokens))
                if api_keys.is_none() || token.matches('.').count() == 2 =>
            {
                tokens.authenticate(token).await
            }
            _ if api_keys.is_none() => Err(refused("API keys are not accepted here, send a token")),
            _ => Err(refused("the API key is not known")),
        }
    }

    fn schemes(&self) -> &'static [&'static str] {
        if self.0.api_keys.is_some() { &["Bearer", "X-Api-Key"] } else { &["Bearer"] }
    }

    fn rates(&self) -> Option<&RateLimiter> {
        self.0.rates.as_ref()
    }

    fn reach(&self) -> Reach {
        self.0.reach
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

/// Credentials as they are sent.
#[derive(Clone, Copy)]
enum Credentials<'a> {
    Bearer(&'a str),
    ApiKey(&'a str),
}

impl<'a> Credentials<'a> {
    /// Finds the credentials of a request, if it has any. It may send one kind only, and once.
    fn of(headers: &'a HeaderMap) -> Result<Option<Self>, Denied> {
        match (only(headers, &header::AUTHORIZATION)?, only(headers, &API_KEY)?) {
            (Some(text), None) => {
                let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
                let is_bearer = scheme.eq_ignore_ascii_case("bearer");
                let wrong = || refused("the header Authorization must be `Bearer` and a token");
                is_bearer.then_some(Some(Self::Bearer(token.trim()))).ok_or_else(wrong)
            }
            (None, Some(key)) => Ok(Some(Self::ApiKey(key.trim()))),
            (Some(_), Some(_)) => Err(refused("send either Authorization or X-Api-Key, not both")),
            (None, None) => Ok(None),
        }
    }
}

/// Returns the value of a header that may be there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Denied> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::to_str);
    let value = values.next().transpose();
    let is_only = values.next().is_none();
    value.ok().filter(|_| is_only).ok_or_else(|| refused("the header with credentials is wrong"))
}

fn refused(why: &str) -> Denied {
    Denied::Unauthenticated(why.into())
}
