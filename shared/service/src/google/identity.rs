//! Identity of a process towards Google: the credentials that its calls carry.

use std::path::{Path, PathBuf};

use google_cloud_auth::credentials::{
    Builder, Credentials, external_account, impersonated, service_account, user_account,
};
use pipeline::{Error, Recovery};
use rustls::SignatureAlgorithm;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SUPPORTED, named_universe, quota_project};
use crate::credentials;

/// Access to Google's APIs, under the key `google`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct GoogleSettings {
    /// File with credentials for Google, as JSON of one of the types `service_account`,
    /// `authorized_user`, `impersonated_service_account` and `external_account`. It replaces
    /// Application Default Credentials. Emulators get no credentials, also with this setting.
    pub credentials_file: Option<PathBuf>,
}

impl GoogleSettings {
    /// Key of the file.
    pub const FILE_KEY: &str = "google.credentials_file";

    /// Returns the identity of these settings.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.credentials_file.clone().map_or(Identity::ApplicationDefault, Identity::File)
    }
}

/// Credentials for the APIs of Google that need some. Emulators get none.
#[derive(Debug, Clone, Default)]
pub enum Identity {
    /// Application Default Credentials.
    #[default]
    ApplicationDefault,
    /// Credentials of a file. It is read for each new client.
    File(PathBuf),
    /// Credentials that a program hands in.
    Given(Credentials),
}

impl From<Credentials> for Identity {
    fn from(credentials: Credentials) -> Self {
        Self::Given(credentials)
    }
}

impl Identity {
    /// Returns this identity, or `other` if this one is the default.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match self {
            Self::ApplicationDefault => other,
            own => own,
        }
    }

    /// Returns the credentials. Nothing is sent.
    ///
    /// # Errors
    /// Fails with `Stop` when credentials are missing or cannot be used.
    pub(super) fn credentials(&self) -> Result<Credentials, Error> {
        let stop = |why: String| Recovery::Stop.because("find credentials", why);
        match self {
            Self::ApplicationDefault => application_default().map_err(stop),
            Self::File(file) => {
                let built = CredentialsFile::read(file).and_then(CredentialsFile::build);
                let built = built
                    .map_err(|wrong| stop(format!("{}: {wrong}", GoogleSettings::FILE_KEY)))?;
                credentials::note_configured();
                Ok(built)
            }
            Self::Given(given) => {
                credentials::note_configured();
                Ok(given.clone())
            }
        }
    }
}

/// Builds Application Default Credentials. If the variable names a domain, the credentials get it
/// too, because Google's clients compare the two.
fn application_default() -> Result<Credentials, String> {
    let builder = Builder::default();
    let builder = match named_universe() {
        Some(domain) => builder.with_universe_domain(domain),
        None => builder,
    };
    builder.build().map_err(|error| {
        let text = credentials::explain(&error);
        let is_other = error.is_unknown_type() || error.is_not_supported();
        if is_other { format!("{text}; {SUPPORTED}, and the metadata server") } else { text }
    })
}

/// Content of a credentials file whose form is right. Faults name the file, and show none of its
/// values.
pub(crate) struct CredentialsFile {
    path: PathBuf,
    kind: Kind,
    content: Value,
}

/// Type of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ServiceAccount,
    AuthorizedUser,
    Impersonated,
    ExternalAccount,
}

impl Kind {
    const ALL: [Self; 4] =
        [Self::ServiceAccount, Self::AuthorizedUser, Self::Impersonated, Self::ExternalAccount];

    /// Returns the member `type` of a file of this kind.
    fn name(self) -> &'static str {
        match self {
            Self::ServiceAccount => "service_account",
            Self::AuthorizedUser => "authorized_user",
            Self::Impersonated => "impersonated_service_account",
            Self::ExternalAccount => "external_account",
        }
    }

    /// Returns the members that must be text.
    fn texts(self) -> &'static [&'static str] {
        match self {
            Self::ServiceAccount => {
                &["client_email", "private_key_id", "private_key", "project_id"]
            }
            Self::AuthorizedUser => &["client_id", "client_secret", "refresh_token"],
            Self::Impersonated => &["service_account_impersonation_url"],
            Self::ExternalAccount => &["audience", "subject_token_type", "token_url"],
        }
    }

    /// Returns the kind of credentials after all members are checked that the client library needs.
    fn check(content: &Value) -> Result<Self, String> {
        let named = content["type"].as_str().unwrap_or_default();
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == named);
        let kind = kind.ok_or_else(|| unknown(named))?;
        if let Some(name) = kind.texts().iter().find(|name| !content[**name].is_string()) {
            return Err(format!("has no text `{name}`, which {} needs", kind.name()));
        }
        match kind {
            Self::ServiceAccount => check_key(content["private_key"].as_str().unwrap_or_default())?,
            Self::Impersonated => {
                let source = Self::check(&content["source_credentials"]);
                source.map_err(|wrong| format!("in `source_credentials`: {wrong}"))?;
            }
            Self::ExternalAccount if !content["credential_source"].is_object() => {
                return Err(
                    "has no object `credential_source`, which external_account needs".into()
                );
            }
            Self::AuthorizedUser | Self::ExternalAccount => {}
        }
        Ok(kind)
    }
}

/// Describes a type that is not supported. What does not look like a type is not shown.
fn unknown(named: &str) -> String {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    if named.is_empty() || named.len() > 64 || !named.bytes().all(is_name) {
        return format!("has no known `type`; {SUPPORTED}");
    }
    format!("has the type {named}; {SUPPORTED}")
}

/// Checks the private key of a service account.
fn check_key(pem: &str) -> Result<(), String> {
    let Ok(PrivateKeyDer::Pkcs8(key)) = PrivateKeyDer::from_pem_slice(pem.as_bytes()) else {
        return Err("has a `private_key` that is no PEM of PKCS #8 (BEGIN PRIVATE KEY)".into());
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider().key_provider;
    match provider.load_private_key(key.into()) {
        Ok(key) if key.algorithm() == SignatureAlgorithm::RSA => Ok(()),
        Ok(_) | Err(_) => Err("has a `private_key` that is no RSA key".into()),
    }
}

impl CredentialsFile {
    /// Reads a file, and checks its form.
    ///
    /// # Errors
    /// Describes the first fault.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| format!("{shown} cannot be read: {error}"))?;
        let content: Value = serde_json::from_str(&text).map_err(|error| {
            format!("{shown} is no JSON: line {}, column {}", error.line(), error.column())
        })?;
        let kind = Kind::check(&content).map_err(|wrong| format!("{shown} {wrong}"))?;
        Ok(Self { path: path.to_owned(), kind, content })
    }

    /// Returns the type of the credentials.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind.name()
    }

    /// Returns the project that is billed, if the file names one.
    pub(crate) fn quota_project(&self) -> Option<&str> {
        self.content["quota_project_id"].as_str()
    }

    /// Builds the credentials. They fetch and renew their tokens by themselves.
    fn build(self) -> Result<Credentials, String> {
        /// Sets what the environment names, as for Application Default Credentials.
        macro_rules! build {
            ($builder:expr) => {{
                let builder = $builder;
                let builder = match quota_project() {
                    Some(project) => builder.with_quota_project_id(project),
                    None => builder,
                };
                builder.build()
            }};
        }
        macro_rules! in_universe {
            ($builder:expr) => {
                match named_universe() {
                    Some(domain) => $builder.with_universe_domain(domain),
                    None => $builder,
                }
            };
        }
        let Self { path, kind, content } = self;
        let built = match kind {
            Kind::ServiceAccount => build!(in_universe!(service_account::Builder::new(content))),
            Kind::AuthorizedUser => build!(user_account::Builder::new(content)),
            Kind::Impersonated => build!(in_universe!(impersonated::Builder::new(content))),
            Kind::ExternalAccount => build!(in_universe!(external_account::Builder::new(content))),
        };
        // The error of the library can repeat a value of the file.
        built.map_err(|_| format!("{} cannot be used as {}", path.display(), kind.name()))
    }
}

#[cfg(test)]
mod tests;
