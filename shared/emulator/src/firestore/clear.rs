//! Empties a database between two tests, with the same path as Google's emulator: `DELETE
//! /emulator/v1/projects/P/databases/D/documents`.

use axum::Json;
use axum::http::Method;
use axum::response::{IntoResponse as _, Response};
use percent_encoding::percent_decode_str;

use super::documents::DocumentChanges;
use super::{Firestore, names};
use crate::status::Status;

/// Deletes all documents of the database in the path.
pub(crate) fn clear(
    firestore: &Firestore,
    method: &Method,
    path: &str,
) -> Result<Response, Status> {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let root = decoded.trim_start_matches("/emulator/v1/").trim_end_matches('/');
    if method != Method::DELETE || !root.ends_with("/documents") {
        return Err(Status::unimplemented(path));
    }
    names::check_parent(root)?;
    let mut store = firestore.lock();
    let below = format!("{root}/");
    let documents = &mut store.documents;
    let changes: DocumentChanges =
        documents.latest().under(&below).map(|document| (document.name.clone(), None)).collect();
    let time = documents.commit_time();
    documents.keep(changes, time);
    drop(store);
    firestore.notify_listeners();
    Ok(Json(serde_json::json!({})).into_response())
}
