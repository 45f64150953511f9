//! Endpoints of Google's APIs, and the credentials for them.

use std::env;
use std::str::FromStr;

use google_cloud_auth::credentials::{CacheableResource, anonymous};
use google_cloud_auth::errors::CredentialsError;
use pipeline::Error;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Faults;
use crate::settings::{Parsed, url};

mod identity;

pub use google_cloud_auth::credentials::Credentials;
pub use identity::{GoogleSettings, Identity};

pub(crate) use identity::CredentialsFile;

/// Headers of an HTTP request.
pub type Headers = axum::http::HeaderMap;

/// Domain of Google's public cloud. Sovereign clouds have other domains.
const GOOGLE: &str = "googleapis.com";
/// Variable that names another domain. Google's own clients read it too.
const UNIVERSE: &str = "GOOGLE_CLOUD_UNIVERSE_DOMAIN";
/// Variable that names the project to bill. It overrides the one of the credentials.
const QUOTA_PROJECT: &str = "GOOGLE_CLOUD_QUOTA_PROJECT";
/// Types of files with credentials that work here.
const SUPPORTED: &str = "supported are the types service_account, authorized_user, \
                         impersonated_service_account and external_account";

/// Credentials that calls to an endpoint carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Login {
    /// No credentials, as emulators expect.
    Anonymous,
    /// Application Default Credentials, or those of `google.credentials_file`.
    ApplicationDefault,
}

/// URL of an endpoint: `http` or `https`, and a host. It holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    text: String,
    host: String,
    is_https: bool,
    is_bare: bool,
}

impl FromStr for EndpointUrl {
    type Err = String;

    /// Parses a URL. The error never repeats it, because it may hold a secret.
    fn from_str(text: &str) -> Result<Self, String> {
        const LIKE: &str = "must be a URL with http:// or https://, such as http://localhost:8085";
        const INSTEAD: &str = "credentials are Application Default Credentials";
        let parts = url::split(text, &["http", "https"], LIKE);
        let url::Parts { scheme, host, path } = parts.map_err(|wrong| wrong.because(INSTEAD))?;
        Ok(Self {
            text: text.trim_end_matches('/').to_owned(),
            host: host.to_owned(),
            is_https: scheme == "https",
            is_bare: path.is_empty(),
        })
    }
}

impl EndpointUrl {
    /// Returns whether the host belongs to Google, or to the cloud that the variable names.
    #[must_use]
    pub fn is_google(&self) -> bool {
        self.is_below(GOOGLE) || named_universe().is_some_and(|domain| self.is_below(&domain))
    }

    /// Returns whether the host is below a domain.
    fn is_below(&self, domain: &str) -> bool {
        self.host.strip_suffix(domain).is_some_and(|name| name.ends_with('.'))
    }
}

/// Access to one of Google's APIs: its URL, if it differs from the default, and the credentials.
#[derive(Debug, Clone)]
pub struct Access {
    url: Option<String>,
    credentials: Option<Credentials>,
    domain: String,
}

impl Access {
    /// Finds the credentials for an endpoint. An endpoint without a login is an emulator, which
    /// gets none, whatever the identity is.
    ///
    /// # Errors
    /// Fails with `Stop` when credentials are missing, or have a type that is not supported, and for
    /// an endpoint that nobody has checked.
    pub async fn find(
        endpoint: Option<&Parsed<EndpointUrl>>,
        login: Option<Login>,
        identity: &Identity,
    ) -> Result<Self, Error> {
        let url = endpoint.map(|endpoint| endpoint.value("endpoint")).transpose()?;
        let credentials = match login.unwrap_or_else(|| Login::of(endpoint)) {
            Login::Anonymous => None,
            Login::ApplicationDefault => Some(identity.credentials()?),
        };
        Ok(Self::new(url, credentials).await)
    }

    /// Returns the access to an endpoint, or to Google's own one, with credentials that exist
    /// already.
    pub async fn new(endpoint: Option<&EndpointUrl>, credentials: Option<Credentials>) -> Self {
        Self::in_universe(named_universe(), endpoint, credentials).await
    }

    /// Uses the domain `named`, if given, and does not ask the metadata server then. While the
    /// metadata server does not answer, its credentials report that they have no domain.
    async fn in_universe(
        named: Option<String>,
        endpoint: Option<&EndpointUrl>,
        credentials: Option<Credentials>,
    ) -> Self {
        let domain = match (named, &credentials) {
            (Some(named), _) => Some(named),
            (None, Some(credentials)) => credentials.universe_domain().await,
            (None, None) => None,
        };
        let url = endpoint.map(|url| url.text.clone());
        Self { url, credentials, domain: domain.unwrap_or_else(|| GOOGLE.into()) }
    }

    /// Returns the URL from the settings, if there is one.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// Returns the URL of a service such as `bigquery`.
    #[must_use]
    pub fn url(&self, service: &str) -> String {
        self.url.clone().unwrap_or_else(|| format!("https://{service}.{}", self.domain))
    }

    /// Returns the domain of the cloud that the credentials belong to.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the credentials for Google's own clients.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.credentials.clone().unwrap_or_else(|| anonymous::Builder::new().build())
    }

    /// Returns the headers of a request: the token, and the project that pays for it.
    ///
    /// # Errors
    /// Fails when no token can be had.
    pub async fn headers(&self) -> Result<Headers, CredentialsError> {
        let Some(credentials) = &self.credentials else { return Ok(Headers::new()) };
        match credentials.headers(Default::default()).await? {
            CacheableResource::New { data, .. } => Ok(data),
            // This request names no earlier answer, so the answer is always new.
            CacheableResource::NotModified => Ok(Headers::new()),
        }
    }
}

impl Login {
    /// Returns the login for an endpoint whose settings name none.
    pub(crate) fn of<T>(endpoint: Option<T>) -> Self {
        match endpoint {
            Some(_) => Self::Anonymous,
            None => Self::ApplicationDefault,
        }
    }

    /// Reports an endpoint and a login that do not match. Both are in the same section, as
    /// `endpoint` and `credentials`.
    pub fn check(
        section: &str,
        endpoint: Option<&Parsed<EndpointUrl>>,
        login: Option<Self>,
        faults: &mut Faults,
    ) {
        let key = format!("{section}.credentials");
        Self::check_endpoint(&format!("{section}.endpoint"), endpoint, login, faults);
        let is_below =
            |url: &Parsed<EndpointUrl>| url.value(section).is_ok_and(|url| url.is_below(GOOGLE));
        let is_google = endpoint.map(is_below);
        let (is_right, right) = match (is_google, login) {
            (None, Some(Self::Anonymous)) => (
                false,
                "anonymous needs an endpoint: Google's own service wants to know its callers",
            ),
            (Some(true), None | Some(Self::Anonymous)) => {
                (false, "application_default is needed: the endpoint is one of Google's")
            }
            _ => (true, ""),
        };
        faults.require(is_right, &key, right);
    }

    /// Reports an invalid URL, and a URL to which credentials must not be sent.
    pub fn check_endpoint(
        key: &str,
        endpoint: Option<&Parsed<EndpointUrl>>,
        login: Option<Self>,
        faults: &mut Faults,
    ) {
        let Some(url) = endpoint.and_then(|url| url.check(key, faults)) else { return };
        if login != Some(Self::ApplicationDefault) {
            return;
        }
        let is_here = matches!(&*url.host, "localhost" | "127.0.0.1" | "::1");
        let right = "must begin with https:// where credentials are sent, as \
                     https://pubsub.europe-west3.rep.googleapis.com";
        faults.require(url.is_https || is_here, key, right);
        faults.require(url.is_bare, key, "must end with the host or its port");
    }
}

/// Returns the project to bill that the environment names.
pub(crate) fn quota_project() -> Option<String> {
    env::var(QUOTA_PROJECT).ok()
}

/// Returns the domain that the variable names. Returns nothing if the variable is empty.
fn named_universe() -> Option<String> {
    // A name that is not UTF-8 is no domain.
    domain_of(env::var(UNIVERSE).ok())
}

fn domain_of(named: Option<String>) -> Option<String> {
    named.filter(|domain| !domain.is_empty())
}

#[cfg(test)]
mod tests {
    use google_cloud_auth::credentials::user_account;

    use super::*;

    const REGIONAL: &str = "https://pubsub.europe-west3.rep.googleapis.com";

    fn faults(endpoint: Option<&str>, login: Option<Login>) -> String {
        let mut faults = Faults::default();
        Login::check("pubsub", endpoint.map(Parsed::from).as_ref(), login, &mut faults);
        faults.to_string()
    }

    #[test]
    fn an_endpoint_and_its_credentials_fit_each_other() {
        let google = Some(Login::ApplicationDefault);
        for (endpoint, login) in [
            (None, None),
            (None, google),
            (Some("http://localhost:8085"), None),
            (Some("http://emulator:8085"), Some(Login::Anonymous)),
            (Some("http://127.0.0.1:8085"), google),
            (Some(REGIONAL), google),
            (Some("https://pubsub-vpc.p.googleapis.com/"), google),
            (Some("https://pubsub.cloud.example"), google),
        ] {
            assert_eq!(faults(endpoint, login), "", "{endpoint:?} {login:?}");
        }
        for (endpoint, login, fault) in [
            (None, Some(Login::Anonymous), "pubsub.credentials: anonymous needs an endpoint"),
            (Some(REGIONAL), None, "pubsub.credentials: application_default is needed"),
            (Some("http://far:8085"), google, "pubsub.endpoint: must begin with https://"),
            (Some("https://far/v1"), google, "pubsub.endpoint: must end with the host"),
            (Some("far:8085"), None, "pubsub.endpoint: must be a URL"),
        ] {
            let said = faults(endpoint, login);
            assert!(said.starts_with(fault), "{fault} is not in {said}");
        }
    }

    #[tokio::test]
    async fn an_endpoint_without_a_login_is_an_emulator() {
        let identity = Identity::Given(anonymous::Builder::new().build());
        let url = "http://localhost:1/".into();
        let emulator = Access::find(Some(&url), None, &identity).await.unwrap();

        assert_eq!(emulator.url("bigquery"), "http://localhost:1");
        assert!(emulator.headers().await.unwrap().is_empty());
    }

    #[test]
    fn a_host_of_google_is_below_its_domain() {
        for url in [REGIONAL, "https://firestore.googleapis.com:443/"] {
            assert!(url.parse::<EndpointUrl>().unwrap().is_google(), "{url}");
        }
        for url in [
            "http://127.0.0.1:8085",
            "https://googleapis.com.example",
            "https://notgoogleapis.com",
            "https://proxy.example/firestore.googleapis.com",
        ] {
            assert!(!url.parse::<EndpointUrl>().unwrap().is_google(), "{url}");
        }
        let other: EndpointUrl = "https://firestore.cloud.example/".parse().unwrap();
        assert!(other.is_below("cloud.example"));
        assert_eq!(domain_of(Some("cloud.example".into())).as_deref(), Some("cloud.example"));
    }

    #[tokio::test]
    async fn another_cloud_has_another_domain() {
        let file = serde_json::json!({
            "type": "authorized_user", "client_id": "id", "client_secret": "secret", "refresh_token": "token",
        });
        let user = user_account::Builder::new(file).build().unwrap();

        let usual = Access::new(None, Some(user.clone())).await;
        let regional = REGIONAL.parse().unwrap();
        let regional = Access::new(Some(&regional), Some(user.clone())).await;
        let named =
            Access::in_universe(Some("cloud.example".into()), None, Some(user.clone())).await;
        let unnamed = domain_of(Some(String::new()));
        let unnamed = Access::in_universe(unnamed, None, Some(user)).await;

        assert_eq!(usual.url("bigquery"), "https://bigquery.googleapis.com");
        assert_eq!(regional.url("pubsub"), REGIONAL);
        assert_eq!(named.url("bigquery"), "https://bigquery.cloud.example");
        assert_eq!(unnamed.url("bigquery"), "https://bigquery.googleapis.com");
    }
}
