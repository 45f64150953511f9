//! Names, texts and errors of SQLite.

use tonic::Code;

use crate::status::Status;

/// Quotes a name for SQLite.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for SQLite.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Converts an error of SQLite to the status that the caller sees.
pub(super) fn failed(error: &rusqlite::Error) -> Status {
    Status::new(Code::Internal, format!("SQLite: {error}"))
}
