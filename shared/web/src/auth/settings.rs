//! Settings of authentication.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::Faults;
use service::settings::url;

use super::api_keys::ApiKeys;
use super::content;
use super::key_set::KeySet;
use crate::Reach;

/// Maximum of `leeway`. A longer one would make expired tokens valid.
const MAX_LEEWAY: Duration = Duration::from_secs(600);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Maximum of requests and of bytes in limits.
const MAX_REQUESTS: u32 = 1_000_000;
const MAX_BYTES: u64 = 1 << 40;

/// Advice for settings that name no keys, or keys of two places.
pub(super) const NOT_ONE: &str = "needs one of jwks_file, jwks_url and hs256_secret_file";

/// Credentials that callers need, and their limits. Without `jwt` and `api_keys_file` nobody is
/// asked, and listeners start on loopback only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Auth {
    /// Tokens of an identity provider. They are not accepted if it is unset.
    pub jwt: Option<Jwt>,
    /// File with API keys: one a line, or entries in YAML or JSON. It is read again when it
    /// changes. API keys are not accepted if it is unset.
    pub api_keys_file: Option<PathBuf>,
    /// Limits of each client. A client is the subject of the credentials, or else an address.
    pub rate_limit: RateLimit,
}

/// Tokens (JSON Web Tokens) that are accepted. The keys come from one of `jwks_file`, `jwks_url` and
/// `hs256_secret_file`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Jwt {
    /// File with public keys (a JSON Web Key Set) for RS256, ES256 and EdDSA. It is read again when
    /// it changes.
    pub jwks_file: Option<PathBuf>,
    /// URL of such a set, with `https`, or with `http` on loopback. Redirects are not followed.
    pub jwks_url: Option<String>,
    /// File with a secret of at least 32 bytes for HS256. It is read again when it changes. The end
    /// of its line does not count.
    pub hs256_secret_file: Option<PathBuf>,
    /// Claim `iss` that a token must have. Required.
    pub issuer: String,
    /// Claim `aud` that a token must have, alone or in a list. Required.
    pub audience: String,
    /// Tolerance for clocks that differ, in the claims `exp`, `nbf` and `iat`; at most 10 minutes.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub leeway: Duration,
    /// Interval at which `jwks_url` is fetched; 10 seconds to a day. A token of an unknown key has it
    /// fetched sooner, at most every 10 seconds.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub refresh_interval: Duration,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            jwks_file: None,
            jwks_url: None,
            hs256_secret_file: None,
            issuer: String::new(),
            audience: String::new(),
            leeway: MINUTE,
            refresh_interval: 5 * MINUTE,
        }
    }
}

/// Limits of each client. A request beyond them is refused with 429 and `Retry-After`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct RateLimit {
    /// Requests per second, on average; 1 to 1000000. No limit if unset.
    pub requests_per_second: Option<u32>,
    /// Requests at once after a pause; 1 to 1000000. As many as in a second if unset.
    pub burst_requests: Option<u32>,
    /// Bytes of bodies per second, on average; 1 to 2^40. No limit if unset.
    pub bytes_per_second: Option<u64>,
    /// Bytes at once after a pause; 1 to 2^40. As many as in a second if unset. The last body may
    /// exceed it: then the client waits until it is paid for.
    pub burst_bytes: Option<u64>,
}

impl Auth {
    /// Reports all faults. `key` is the section of these settings, such as `auth`.
    pub fn check(&self, key: &str, faults: &mut Faults) {
        if let Some(jwt) = &self.jwt {
            jwt.check(&format!("{key}.jwt"), faults);
        }
        let file = self.api_keys_file.as_deref();
        check_file(&format!("{key}.api_keys_file"), file, ApiKeys::read, faults);
        self.rate_limit.check(&format!("{key}.rate_limit"), faults);
    }

    /// Returns the addresses at which listeners with these settings may be reached.
    #[must_use]
    pub fn reach(&self) -> Reach {
        if self.jwt.is_none() && self.api_keys_file.is_none() {
            return Reach::Loopback;
        }
        Reach::Anywhere
    }
}

impl Jwt {
    fn check(&self, key: &str, faults: &mut Faults) {
        let sources =
            [self.jwks_file.is_some(), self.jwks_url.is_some(), self.hs256_secret_file.is_some()];
        let is_one = sources.into_iter().filter(|is_set| *is_set).count() == 1;
        faults.require(is_one, key, NOT_ONE);
        let files = [
            ("jwks_file", &self.jwks_file, KeySet::of_jwks as fn(&[u8]) -> _),
            ("hs256_secret_file", &self.hs256_secret_file, KeySet::of_secret),
        ];
        for (name, file, read) in files {
            check_file(&format!("{key}.{name}"), file.as_deref(), read, faults);
        }
        if let Some(url) = &self.jwks_url
            && let Err(wrong) = check_url(url)
        {
            faults.add(&format!("{key}.jwks_url"), wrong);
        }
        for (name, value) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            let right = "required: without it, tokens for others would be accepted";
            faults.require(!value.is_empty(), &format!("{key}.{name}"), right);
        }
        faults.duration(&format!("{key}.leeway"), self.leeway, Duration::ZERO..=MAX_LEEWAY);
        let intervals = Duration::from_secs(10)..=DAY;
        faults.duration(&format!("{key}.refresh_interval"), self.refresh_interval, intervals);
    }
}

impl RateLimit {
    fn check(&self, key: &str, faults: &mut Faults) {
        let counts = [
            ("requests_per_second", self.requests_per_second),
            ("burst_requests", self.burst_requests),
        ];
        for (name, value) in counts {
            if let Some(value) = value {
                faults.range(&format!("{key}.{name}"), value, 1..=MAX_REQUESTS);
            }
        }
        let sizes =
            [("bytes_per_second", self.bytes_per_second), ("burst_bytes", self.burst_bytes)];
        for (name, value) in sizes {
            if let Some(value) = value {
                faults.range(&format!("{key}.{name}"), value, 1..=MAX_BYTES);
            }
        }
        let has_rate = self.requests_per_second.is_some() || self.burst_requests.is_none();
        faults.require(has_rate, &format!("{key}.burst_requests"), "needs requests_per_second");
        let has_rate = self.bytes_per_second.is_some() || self.burst_bytes.is_none();
        faults.require(has_rate, &format!("{key}.burst_bytes"), "needs bytes_per_second");
    }
}

/// Reports a file that cannot be read, or that has wrong content.
fn check_file<T>(
    key: &str,
    file: Option<&Path>,
    read: impl FnOnce(&[u8]) -> Result<T, String>,
    faults: &mut Faults,
) {
    if let Some(file) = file
        && let Err(wrong) = content::of_file(file).and_then(|content| read(&content).map(drop))
    {
        faults.add(key, wrong);
    }
}

fn check_url(url: &str) -> Result<(), String> {
    const LIKE: &str = "must be a URL such as https://id.example.org/jwks.json";
    let parts = url::split(url, &["https", "http"], LIKE).map_err(|wrong| {
        wrong.because("the keys behind this URL are public, so it needs no credentials")
    })?;
    let address = parts.host.parse::<IpAddr>();
    let is_loopback =
        parts.host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if parts.scheme == "http" && !is_loopback {
        return Err("must begin with https://, unless its host is loopback: who answers it can \
                    make valid tokens"
            .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(auth: &Auth) -> Vec<String> {
        let mut faults = Faults::default();
        auth.check("auth", &mut faults);
        faults.lines().to_vec()
    }

    fn with_url(url: &str) -> Auth {
        let jwt = Jwt {
            jwks_url: Some(url.into()),
            issuer: "https://id.example.org".into(),
            audience: "dataflow".into(),
            ..Jwt::default()
        };
        Auth { jwt: Some(jwt), ..Auth::default() }
    }

    #[test]
    fn without_credentials_only_loopback_is_allowed() {
        assert_eq!(Auth::default().reach(), Reach::Loopback);
        assert_eq!(faults(&Auth::default()), [""; 0]);
        assert_eq!(with_url("https://id.example.org/jwks").reach(), Reach::Anywhere);
        let keys = Auth { api_keys_file: Some("keys".into()), ..Auth::default() };
        assert_eq!(keys.reach(), Reach::Anywhere);
    }

    #[test]
    fn public_keys_come_over_https_or_from_this_machine() {
        for right in [
            "https://id.example.org/jwks",
            "http://localhost:1/j",
            "http://127.0.0.1",
            "http://[::1]:80/j",
        ] {
            assert_eq!(faults(&with_url(right)), [""; 0], "{right}");
        }
        for wrong in [
            "http://id.example.org/jwks",
            "http://localhost.example.org",
            "http://10.0.0.1",
            "ftp://id.example.org",
            "id.example.org",
            "https://user:hunter2@id.example.org",
            "https://id.example.org?key=hunter2",
        ] {
            let said = faults(&with_url(wrong));
            assert_eq!(said.len(), 1, "{wrong}: {said:?}");
            assert!(said[0].starts_with("auth.jwt.jwks_url: must"), "{said:?}");
            assert!(!said[0].contains("hunter2"), "{said:?}");
        }
    }

    #[test]
    fn every_fault_names_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "x".repeat(31)).unwrap();
        let keys = folder.path().join("keys");
        std::fs::write(&keys, "short").unwrap();
        let jwt = Jwt {
            jwks_file: Some(folder.path().join("missing")),
            hs256_secret_file: Some(secret),
            leeway: Duration::from_secs(601),
            refresh_interval: Duration::ZERO,
            ..Jwt::default()
        };
        let rate_limit = RateLimit {
            requests_per_second: Some(0),
            burst_requests: Some(0),
            bytes_per_second: None,
            burst_bytes: Some(0),
        };

        let said = faults(&Auth { jwt: Some(jwt), api_keys_file: Some(keys), rate_limit });

        let found: Vec<_> = said.iter().filter_map(|line| line.split(": ").next()).collect();
        let expected = [
            "auth.jwt",
            "auth.jwt.jwks_file",
            "auth.jwt.hs256_secret_file",
            "auth.jwt.issuer",
            "auth.jwt.audience",
            "auth.jwt.leeway",
            "auth.jwt.refresh_interval",
            "auth.api_keys_file",
            "auth.rate_limit.requests_per_second",
            "auth.rate_limit.burst_requests",
            "auth.rate_limit.burst_bytes",
            "auth.rate_limit.burst_bytes",
        ];
        assert_eq!(found, expected, "{said:#?}");
    }

    #[test]
    fn settings_are_read_as_they_are_written() {
        let auth: Auth = serde_yaml::from_str(
            "jwt: {jwks_url: https://id.example.org/jwks, issuer: i, audience: a, leeway: 5s}\n\
             rate_limit: {requests_per_second: 10}",
        )
        .unwrap();

        let jwt = auth.jwt.unwrap();
        assert_eq!((jwt.leeway, jwt.refresh_interval), (Duration::from_secs(5), 5 * MINUTE));
        assert_eq!(auth.rate_limit.requests_per_second, Some(10));
    }
}
