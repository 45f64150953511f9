//! The cloud that a service calls: the URL of each API, the kind of the credentials, and the project
//! that is billed. Nothing here is secret.

use std::path::PathBuf;
use std::{env, fs};

use pipeline::Error;
use serde::{Deserialize, Serialize};

use crate::google::{Access, EndpointUrl, Login};
use crate::settings::{Parsed, url};

/// Variable that names the project to bill. It overrides the one of the credentials.
const QUOTA_PROJECT: &str = "GOOGLE_CLOUD_QUOTA_PROJECT";
/// Kind of the credentials of a machine or a pod.
const METADATA_SERVER: &str = "metadata server";

/// API of Google that a service calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// First part of its host at Google, such as `pubsub`.
    pub name: &'static str,
    /// Endpoint in the settings.
    pub endpoint: Option<String>,
    /// Credentials in the settings.
    pub credentials: Option<Login>,
}

impl Api {
    /// Creates an API with the endpoint and the credentials of its section.
    #[must_use]
    pub fn new(
        name: &'static str,
        endpoint: Option<&Parsed<EndpointUrl>>,
        credentials: Option<Login>,
    ) -> Self {
        Self { name, endpoint: endpoint.map(ToString::to_string), credentials }
    }

    fn login(&self) -> Login {
        self.credentials.unwrap_or_else(|| Login::of(self.endpoint.as_deref()))
    }
}

/// Address of an API, and the identity that its calls have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Address {
    pub(crate) api: &'static str,
    pub(crate) url: String,
    /// Type of the credentials, such as `service_account`.
    pub(crate) credentials: String,
    /// Project that is billed, if it is not the one of the resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quota_project: Option<String>,
}

/// Identity of Application Default Credentials. The secret members of their file are not read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Identity {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "quota_project_id")]
    quota_project: Option<String>,
}

/// Finds the addresses of these APIs.
///
/// # Errors
/// Fails with `Stop` when credentials are missing, or have a type that is not supported.
pub(crate) async fn addresses(apis: Vec<Api>) -> Result<Vec<Address>, Error> {
    let uses_google = apis.iter().any(|api| api.login() == Login::ApplicationDefault);
    let login = if uses_google { Login::ApplicationDefault } else { Login::Anonymous };
    let google = Access::find(None, Some(login)).await?;
    let identity = Identity::find();
    Ok(apis.iter().map(|api| Address::of(api, &google, &identity)).collect())
}

impl Address {
    fn of(api: &Api, google: &Access, identity: &Identity) -> Self {
        let mut url = api.endpoint.clone().unwrap_or_else(|| google.url(api.name));
        url::mask(&mut url);
        let (credentials, quota_project) = match api.login() {
            Login::Anonymous => ("anonymous".to_owned(), None),
            Login::ApplicationDefault => (identity.kind.clone(), identity.quota_project.clone()),
        };
        Self { api: api.name, url, credentials, quota_project }
    }
}

impl Identity {
    /// Reads the file that Google's clients read.
    fn find() -> Self {
        let named = env::var_os("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from);
        let usual = || {
            let home = PathBuf::from(env::var_os("HOME")?);
            Some(home.join(".config/gcloud/application_default_credentials.json"))
        };
        // A file that cannot be read is reported by the client that needs it.
        let file = named.or_else(usual).and_then(|file| fs::read_to_string(file).ok());
        Self::of(file.as_deref(), env::var(QUOTA_PROJECT).ok())
    }

    fn of(file: Option<&str>, quota_project: Option<String>) -> Self {
        let found = file.and_then(|file| serde_json::from_str::<Self>(file).ok());
        let found =
            found.unwrap_or_else(|| Self { kind: METADATA_SERVER.into(), quota_project: None });
        Self { quota_project: quota_project.or(found.quota_project), ..found }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_identity_has_no_secret() {
        let file = json!({
            "type": "authorized_user", "client_secret": "hunter2", "refresh_token": "hunter2",
            "quota_project_id": "payer",
        });

        let found = Identity::of(Some(&file.to_string()), None);
        let billed = Identity::of(Some(&file.to_string()), Some("other".into()));

        assert_eq!(
            (&*found.kind, found.quota_project.as_deref()),
            ("authorized_user", Some("payer"))
        );
        assert_eq!(billed.quota_project.as_deref(), Some("other"));
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
        assert_eq!(Identity::of(None, None).kind, METADATA_SERVER);
    }

    #[tokio::test]
    async fn an_emulator_is_told_from_google() {
        let identity = Identity { kind: "service_account".into(), quota_project: Some("p".into()) };
        let emulator = Api::new("pubsub", Some(&"http://u:hunter2@localhost:1".into()), None);
        let google = Api::new("storage", None, None);
        let usual = Access::new(None, None).await;

        let found = addresses(vec![emulator]).await.unwrap();
        let google = Address::of(&google, &usual, &identity);

        assert_eq!(
            json!([found[0], google]),
            json!([
                { "api": "pubsub", "url": "http://***@localhost:1", "credentials": "anonymous" },
                { "api": "storage", "url": "https://storage.googleapis.com",
                  "credentials": "service_account", "quota_project": "p" },
            ])
        );
    }
}
