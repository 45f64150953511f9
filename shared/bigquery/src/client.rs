//! Client with the credentials of the settings.

use pipeline::{Error, Recovery};
use service::google::{Access, EndpointUrl, Login};
use service::renewable::Renewable;
use service::settings::{Parsed, Variable, VariableKind};

use crate::api::RestApi;

/// Variable with the address of an emulator. The endpoint is a key of the section `bigquery`.
pub const EMULATOR: Variable = Variable {
    name: "BIGQUERY_EMULATOR_HOST",
    key: "bigquery.endpoint",
    kind: VariableKind::EmulatorHost,
};

/// Builds a client of the REST API. Nothing is sent yet.
///
/// # Errors
/// `Stop` when there are no credentials.
pub async fn rest(
    endpoint: Option<&Parsed<EndpointUrl>>,
    login: Option<Login>,
) -> Result<Renewable<RestApi>, Error> {
    let endpoint = endpoint.cloned();
    Renewable::open(move || {
        let endpoint = endpoint.clone();
        Box::pin(async move {
            let access = Access::find(endpoint.as_ref(), login).await?;
            let built = RestApi::new(access);
            built.map_err(|error| Recovery::Stop.because("build BigQuery client", error))
        })
    })
    .await
}
