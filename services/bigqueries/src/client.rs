//! Clients of BigQuery. Both APIs use the same credentials.

use std::sync::Arc;

use bigquery::RestApi;
use google_cloud_bigquery::client::Write;
use pipeline::{Error, Recovery};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::google::{Access, Credentials, EndpointUrl, Identity, Login};
use service::renewable::Renewable;
use service::settings::Parsed;
use service::{Faults, cloud, credentials};

use crate::write_api::Api;

/// Address of BigQuery, and the credentials for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Endpoint {
    /// URL of an emulator, such as `http://localhost:8085`, or of a regional or private endpoint of
    /// Google. Left out, Google's usual endpoint is used. The variable `BIGQUERY_EMULATOR_HOST`
    /// overrides it.
    pub endpoint: Option<Parsed<EndpointUrl>>,
    /// Credentials for `endpoint`: `anonymous` for an emulator, which is the default, or
    /// `application_default` for an endpoint of Google.
    pub credentials: Option<Login>,
    /// URL of the Storage Write API, such as
    /// `https://bigquerystorage.europe-west3.rep.googleapis.com`. It needs `credentials:
    /// application_default`. Left out, `endpoint` is used.
    pub storage_write_endpoint: Option<Parsed<EndpointUrl>>,
}

/// Clients and credentials that a program hands in. Those that are left out are built from the
/// settings. No client that is handed in is rebuilt after a time-out.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    /// Clients of Pub/Sub and Cloud Storage. Their credentials are those of BigQuery, too.
    pub intake: pubsub::Clients,
    /// Client of the REST API. It checks the table, also for readiness, and writes with `insertAll`.
    pub http: Option<reqwest::Client>,
    /// Client of the Storage Write API. It has its own endpoint and credentials.
    pub storage_write: Option<Arc<Write>>,
}

impl From<Credentials> for Clients {
    fn from(credentials: Credentials) -> Self {
        Self { intake: credentials.into(), ..Self::default() }
    }
}

/// Builds a client of the REST API. Nothing is sent yet.
///
/// # Errors
/// `Stop` when there are no credentials.
pub async fn rest(endpoint: &Endpoint) -> Result<Renewable<RestApi>, Error> {
    rest_with(endpoint, &Clients::default()).await
}

/// Builds a client of the REST API on what is handed in. Nothing is sent yet.
///
/// # Errors
/// `Stop` when there are no credentials.
pub async fn rest_with(
    endpoint: &Endpoint,
    clients: &Clients,
) -> Result<Renewable<RestApi>, Error> {
    let Clients { intake, http, .. } = clients;
    let given = bigquery::Clients { identity: intake.identity.clone(), http: http.clone() };
    bigquery::rest(endpoint.endpoint.as_ref(), endpoint.credentials, &given).await
}

impl Endpoint {
    async fn access_to_storage_write(&self, identity: &Identity) -> Result<Access, Error> {
        Access::find(self.url_of_storage_write(), self.credentials, identity).await
    }

    fn url_of_storage_write(&self) -> Option<&Parsed<EndpointUrl>> {
        // An emulator serves both APIs at one address. Google's address of this API may still stand
        // in the settings file, so it counts only with `application_default`.
        let url = self.storage_write_endpoint.as_ref();
        let url = url.filter(|_| self.credentials == Some(Login::ApplicationDefault));
        url.or(self.endpoint.as_ref())
    }

    /// Returns the APIs that are called. The table is checked over REST in any case.
    pub(crate) fn apis(&self, write: Api) -> Vec<cloud::Api> {
        let rest = cloud::Api::new("bigquery", self.endpoint.as_ref(), self.credentials);
        let storage_write =
            || cloud::Api::new("bigquerystorage", self.url_of_storage_write(), self.credentials);
        let storage_write = (write == Api::StorageWrite).then(storage_write);
        std::iter::once(rest).chain(storage_write).collect()
    }

    /// Reports faults of these settings, which belong to the section `bigquery`.
    pub(crate) fn check(&self, faults: &mut Faults) {
        const KEY: &str = "bigquery.storage_write_endpoint";
        let url = self.storage_write_endpoint.as_ref();
        // Any credentials will do here: the variable of an emulator may have replaced those of the
        // file.
        let has_login = url.is_none() || self.credentials.is_some();
        faults.require(has_login, KEY, "needs bigquery.credentials: application_default");
        Login::check_endpoint(KEY, url, self.credentials, faults);
        Login::check("bigquery", self.endpoint.as_ref(), self.credentials, faults);
    }
}

/// Returns the client of the Storage Write API that was handed in, or builds one. Nothing is sent
/// yet.
///
/// # Errors
/// `Stop` when there are no credentials.
pub async fn storage_write(endpoint: &Endpoint, clients: &Clients) -> Result<Arc<Write>, Error> {
    if let Some(given) = &clients.storage_write {
        return Ok(Arc::clone(given));
    }
    let access = endpoint.access_to_storage_write(&clients.intake.identity).await?;
    let builder = Write::builder()
        .with_credentials(access.credentials())
        .with_universe_domain(access.domain());
    let builder = match access.endpoint() {
        Some(url) => builder.with_endpoint(url),
        None => builder,
    };
    let built = builder.build().await;
    built.map(Arc::new).map_err(|error| {
        Recovery::Stop.because("build Storage Write client", credentials::explain(&error))
    })
}
