//! Failures of single acknowledgement ids, in the details of a status.

use std::collections::HashMap;

use googleapis_tonic_google_rpc::google::rpc::{ErrorInfo, Status};
use prost::Message as _;

/// Begin of a failure after which the same request can succeed.
pub(super) const TRANSIENT: &str = "TRANSIENT_FAILURE_";

/// Returns the failures that Pub/Sub names by their ids in the details of a status, as it does for
/// exactly-once delivery. Details of another form name none.
pub(super) fn failures(details: &[u8]) -> HashMap<String, String> {
    let status = Status::decode(details).unwrap_or_default();
    let infos = status.details.iter();
    let infos = infos.filter(|detail| detail.type_url.ends_with("/google.rpc.ErrorInfo"));
    let named = infos.filter_map(|detail| ErrorInfo::decode(detail.value.as_slice()).ok());
    let named = named.flat_map(|info| info.metadata);
    named
        .filter(|(_, failure)| {
            failure.starts_with(TRANSIENT) || failure.starts_with("PERMANENT_FAILURE_")
        })
        .collect()
}
