//! The cloud that a service calls: the URL of each API, the kind of the credentials, and the project
//! that is billed. Nothing here is secret.

use std::path::PathBuf;
use std::{env, fmt, fs};

use pipeline::Error;
use serde::{Deserialize, Serialize};

use crate::google::{Access, CredentialsFile, EndpointUrl, GoogleSettings, Login, quota_project};
use crate::settings::{Parsed, url};

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

/// Returns true if one of these APIs is called with credentials.
pub(crate) fn need_credentials(apis: &[Api]) -> bool {
    apis.iter().any(|api| api.login() == Login::ApplicationDefault)
}

/// Address of an API, and the identity that its calls have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Address {
    pub(crate) api: &'static str,
    pub(crate) url: String,
    #[serde(flatten)]
    pub(crate) caller: Caller,
}

/// Credentials of calls. The secret members of their file are not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Caller {
    /// Type of the credentials, such as `service_account`.
    pub(crate) credentials: String,
    /// File of the setting `google.credentials_file`, if the credentials come from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) credentials_file: Option<PathBuf>,
    /// Project that is billed, if it is not the one of the resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quota_project: Option<String>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.credentials)?;
        if let Some(file) = &self.credentials_file {
            write!(f, " of {}", file.display())?;
        }
        match &self.quota_project {
            Some(project) => write!(f, ", quota project {project}"),
            None => Ok(()),
        }
    }
}

/// Members of a file of Application Default Credentials that are no secret.
#[derive(Debug, Deserialize)]
struct DefaultFile {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "quota_project_id")]
    quota_project: Option<String>,
}

/// Finds the addresses of these APIs.
///
/// # Errors
/// Fails with `Stop` when credentials are missing, or have a type that is not supported.
pub(crate) async fn addresses(
    apis: Vec<Api>,
    settings: &GoogleSettings,
) -> Result<Vec<Address>, Error> {
    let uses_google = need_credentials(&apis);
    let login = if uses_google { Login::ApplicationDefault } else { Login::Anonymous };
    let google = Access::find(None, Some(login), &settings.identity()).await?;
    let caller = Caller::find(settings);
    Ok(apis.iter().map(|api| Address::of(api, &google, &caller)).collect())
}

/// Credentials of the calls to an API, for `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Used {
    api: &'static str,
    #[serde(flatten)]
    caller: Caller,
    /// True if the settings name a file that these calls do not use.
    #[serde(skip)]
    is_file_unused: bool,
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api, caller, is_file_unused } = self;
        write!(f, "{api}: credentials: {caller}")?;
        match is_file_unused {
            true => write!(f, "; {} is not used here", GoogleSettings::FILE_KEY),
            false => Ok(()),
        }
    }
}

/// Returns the credentials of the calls to these APIs. Asks nobody.
pub(crate) fn credentials(apis: &[Api], settings: &GoogleSettings) -> Vec<Used> {
    let google = Caller::find(settings);
    let used = |api: &Api| {
        let is_file_unused = settings.credentials_file.is_some() && api.login() == Login::Anonymous;
        Used { api: api.name, caller: Caller::of(api.login(), &google), is_file_unused }
    };
    apis.iter().map(used).collect()
}

impl Address {
    fn of(api: &Api, google: &Access, caller: &Caller) -> Self {
        let mut url = api.endpoint.clone().unwrap_or_else(|| google.url(api.name));
        url::mask(&mut url);
        Self { api: api.name, url, caller: Caller::of(api.login(), caller) }
    }
}

impl Caller {
    fn new(credentials: &str) -> Self {
        Self { credentials: credentials.into(), credentials_file: None, quota_project: None }
    }

    /// Returns the caller of an API with this login. `google` are the credentials for Google.
    fn of(login: Login, google: &Self) -> Self {
        match login {
            Login::Anonymous => Self::new("anonymous"),
            Login::ApplicationDefault => google.clone(),
        }
    }

    /// Reads the file of the settings, or else the one that Google's clients read.
    fn find(settings: &GoogleSettings) -> Self {
        if let Some(path) = &settings.credentials_file {
            // A file that cannot be used is reported by the check, if it is needed.
            let file = CredentialsFile::read(path).ok();
            let billed = file.as_ref().and_then(|file| file.quota_project().map(str::to_owned));
            return Self {
                credentials_file: Some(path.clone()),
                quota_project: quota_project().or(billed),
                ..Self::new(file.as_ref().map_or("unknown", CredentialsFile::kind))
            };
        }
        let named = env::var_os("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from);
        let usual = || {
            let home = PathBuf::from(env::var_os("HOME")?);
            Some(home.join(".config/gcloud/application_default_credentials.json"))
        };
        // A file that cannot be read is reported by the client that needs it.
        let file = named.or_else(usual).and_then(|file| fs::read_to_string(file).ok());
        Self::of_default(file.as_deref(), quota_project())
    }

    /// Returns the caller of Application Default Credentials.
    fn of_default(file: Option<&str>, quota_project: Option<String>) -> Self {
        let found = file.and_then(|file| serde_json::from_str::<DefaultFile>(file).ok());
        let (kind, billed) = match found {
            Some(DefaultFile { kind, quota_project }) => (kind, quota_project),
            None => (METADATA_SERVER.to_owned(), None),
        };
        Self { quota_project: quota_project.or(billed), ..Self::new(&kind) }
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

        let found = Caller::of_default(Some(&file.to_string()), None);
        let billed = Caller::of_default(Some(&file.to_string()), Some("other".into()));

        assert_eq!(
            (&*found.credentials, found.quota_project.as_deref()),
            ("authorized_user", Some("payer"))
        );
        assert_eq!(billed.quota_project.as_deref(), Some("other"));
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
        assert_eq!(Caller::of_default(None, None).credentials, METADATA_SERVER);
    }

    #[tokio::test]
    async fn an_emulator_is_told_from_google() {
        let quota_project = Some("p".to_owned());
        let caller = Caller { quota_project, ..Caller::new("service_account") };
        let emulator = Api::new("pubsub", Some(&"http://u:hunter2@localhost:1".into()), None);
        let google = Api::new("storage", None, None);
        let usual = Access::new(None, None).await;

        let found = addresses(vec![emulator], &GoogleSettings::default()).await.unwrap();
        let google = Address::of(&google, &usual, &caller);

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
