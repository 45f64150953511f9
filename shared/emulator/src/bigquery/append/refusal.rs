//! Errors inside the answers of `AppendRows`.

use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::rpc;
use prost::Message as _;
use proto::append_rows_response::Response;
use proto::storage_error::StorageErrorCode;
use tonic::Code;

use super::AppendResponse;

/// An error inside an answer. The stream continues after it.
pub(super) struct Refusal {
    pub code: Code,
    /// BigQuery's own error code.
    pub storage_error: Option<StorageErrorCode>,
    pub why: String,
}

impl Refusal {
    /// Builds the error of an invalid request.
    pub(super) fn of(why: &str) -> Self {
        Self { code: Code::InvalidArgument, storage_error: None, why: why.into() }
    }

    /// Builds the answer to a request that wrote nothing.
    pub(super) fn answer(&self, entity: &str) -> AppendResponse {
        let Self { code, storage_error, why } = self;
        let message = format!("{why} Entity: {entity}");
        let details = storage_error.map(|code| detail(code, why, entity)).into_iter().collect();
        let status = rpc::Status { code: (*code).into(), message, details };
        AppendResponse { response: Some(Response::Error(status)), ..<_>::default() }
    }
}

/// Builds the error detail with BigQuery's own error code.
pub(super) fn detail(code: StorageErrorCode, why: &str, entity: &str) -> prost_types::Any {
    let error = storage_error(code, entity, why);
    prost_types::Any {
        type_url: "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError".into(),
        value: error.encode_to_vec(),
    }
}

/// Builds an error with BigQuery's own error code.
pub(super) fn storage_error(
    code: StorageErrorCode,
    entity: &str,
    why: &str,
) -> proto::StorageError {
    proto::StorageError { code: code.into(), entity: entity.into(), error_message: why.into() }
}
