//! How BigQuery is reached: one set of credentials for both APIs.

use google_cloud_auth::credentials::{Builder, Credentials, anonymous};
use google_cloud_bigquery::client::Write;
use pipeline::{Error, Recovery, Renewable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::credentials;

use crate::api::Api;

/// How BigQuery is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Endpoint {
    /// URL of an emulator, such as `http://localhost:8085`; Google's own service when left out.
    /// The variable `BIGQUERY_EMULATOR_HOST` wins.
    pub endpoint: Option<String>,
}

/// A client of the REST API. Nothing is sent yet.
///
/// # Errors
/// `Stop` when there are no credentials.
pub async fn rest(endpoint: &Endpoint) -> Result<Renewable<Api>, Error> {
    let endpoint = endpoint.clone();
    Renewable::open(move || {
        let built = build_rest(&endpoint);
        Box::pin(async { built })
    })
    .await
}

fn build_rest(endpoint: &Endpoint) -> Result<Api, Error> {
    let stop = |error| Recovery::Stop.because("find credentials", credentials::explain(&error));
    let credentials = match &endpoint.endpoint {
        Some(_) => None,
        None => Some(Builder::default().build_access_token_credentials().map_err(stop)?),
    };
    Api::new(endpoint.endpoint.as_deref(), credentials)
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
