//! How BigQuery is reached: one set of credentials for both APIs.

use std::sync::Arc;

use async_trait::async_trait;
use gcp_bigquery_client::auth::Authenticator;
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::model::test_iam_permissions_response::TestIamPermissionsResponse;
use gcp_bigquery_client::{Client, client_builder::ClientBuilder};
use google_cloud_auth::credentials::{AccessTokenCredentials, Builder, Credentials, anonymous};
use google_cloud_bigquery::client::Write;
use pipeline::{Error, Recovery, Renewable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::credentials;

use crate::table::TableName;

/// How BigQuery is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Endpoint {
    /// URL of an emulator, such as `http://localhost:8085`; Google's own service when left out.
    /// The variable `BIGQUERY_EMULATOR_HOST` wins.
    pub endpoint: Option<String>,
}

/// Google's credentials for a client that has its own notion of them.
#[derive(Clone)]
struct Tokens(Option<AccessTokenCredentials>);

impl Tokens {
    fn of(endpoint: &Endpoint) -> Result<Self, Error> {
        if endpoint.endpoint.is_some() {
            return Ok(Self(None));
        }
        let credentials = Builder::default().build_access_token_credentials();
        let stop = |error| Recovery::Stop.because("find credentials", credentials::explain(&error));
        Ok(Self(Some(credentials.map_err(stop)?)))
    }
}

#[async_trait]
impl Authenticator for Tokens {
    async fn access_token(&self) -> Result<String, BQError> {
        match &self.0 {
            // An emulator takes any.
            None => Ok("emulator".into()),
            Some(credentials) => {
                let token = credentials.access_token().await;
                token.map(|token| token.token).map_err(|_| BQError::NoToken)
            }
        }
    }
}

/// A client of the REST API. Nothing is sent yet.
///
/// # Errors
/// `Stop` when there are no credentials.
pub async fn rest(endpoint: &Endpoint) -> Result<Renewable<Client>, Error> {
    let endpoint = endpoint.clone();
    Renewable::open(move || Box::pin(build_rest(endpoint.clone()))).await
}

async fn build_rest(endpoint: Endpoint) -> Result<Client, Error> {
    let stop = |error: BQError| Recovery::Stop.because("build BigQuery client", error);
    let tokens = Tokens::of(&endpoint)?;
    let mut builder = ClientBuilder::new();
    if let Some(url) = &endpoint.endpoint {
        builder.with_v2_base_url(format!("{}/bigquery/v2", url.trim_end_matches('/')));
    }
    builder.build_from_authenticator(Arc::new(tokens)).await.map_err(stop)
}

/// Whether we have a permission on a table.
///
/// Asked by hand, because the client's own question has a path that BigQuery does not know.
///
/// # Errors
/// When BigQuery does not tell.
pub(crate) async fn may(
    endpoint: &Endpoint,
    table: &TableName,
    permission: &str,
) -> Result<bool, Error> {
    const ACTION: &str = "ask for rights";
    let untold = |error: reqwest::Error| Recovery::Retry.because(ACTION, error);
    let tokens = Tokens::of(endpoint)?;
    let token = tokens.access_token().await;
    let token =
        token.map_err(|error| Recovery::Retry.because(ACTION, credentials::explain(&error)))?;
    let host = endpoint.endpoint.as_deref().unwrap_or("https://bigquery.googleapis.com");
    let (host, table) = (host.trim_end_matches('/'), table.resource());
    let request = reqwest::Client::new()
        .post(format!("{host}/bigquery/v2/{table}:testIamPermissions"))
        .bearer_auth(token)
        .json(&serde_json::json!({ "permissions": [permission] }));
    let answer = request.send().await.and_then(reqwest::Response::error_for_status);
    let granted: TestIamPermissionsResponse =
        answer.map_err(untold)?.json().await.map_err(untold)?;
    Ok(granted.permissions.unwrap_or_default().iter().any(|granted| granted == permission))
}

/// Builds a client of the Storage Write API. Nothing is sent yet.
///
/// # Errors
/// `Stop` when there are no credentials.
pub async fn storage_write(endpoint: &Endpoint) -> Result<Write, Error> {
    let builder = Write::builder();
    let builder = match &endpoint.endpoint {
        Some(url) => {
            let anonymous: Credentials = anonymous::Builder::new().build();
            builder.with_endpoint(url).with_credentials(anonymous)
        }
        None => builder,
    };
    let built = builder.build().await;
    built.map_err(|error| {
        Recovery::Stop.because("build Storage Write client", credentials::explain(&error))
    })
}
