//! Client with the credentials of the settings.

use pipeline::{Error, Recovery};
use service::google::{Access, Credentials, EndpointUrl, Identity, Login};
use service::renewable::Renewable;
use service::settings::{Parsed, Variable, VariableKind};

use crate::api::RestApi;

/// Variable with the address of an emulator. The endpoint is a key of the section `bigquery`.
pub const EMULATOR: Variable = Variable {
    name: "BIGQUERY_EMULATOR_HOST",
    key: "bigquery.endpoint",
    kind: VariableKind::EmulatorHost,
};

/// Credentials and client that a program hands in.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    /// Credentials of the calls. The default are those of the settings.
    pub identity: Identity,
    /// Client of the calls. It is not rebuilt after a time-out.
    pub http: Option<reqwest::Client>,
}

impl From<Credentials> for Clients {
    fn from(credentials: Credentials) -> Self {
        Self { identity: credentials.into(), http: None }
    }
}

/// Builds a client of the REST API. Nothing is sent yet.
///
/// # Errors
/// `Stop` when there are no credentials.
pub async fn rest(
    endpoint: Option<&Parsed<EndpointUrl>>,
    login: Option<Login>,
    clients: &Clients,
) -> Result<Renewable<RestApi>, Error> {
    let (endpoint, clients) = (endpoint.cloned(), clients.clone());
    Renewable::open(move || {
        let (endpoint, clients) = (endpoint.clone(), clients.clone());
        Box::pin(async move {
            let access = Access::find(endpoint.as_ref(), login, &clients.identity).await?;
            let built = RestApi::new(access, clients.http);
            built.map_err(|error| Recovery::Stop.because("build BigQuery client", error))
        })
    })
    .await
}
