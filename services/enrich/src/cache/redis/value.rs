//! Values in Redis: entries, and tombstones of invalidated entries.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::super::{Document, Entry, LayerError};

/// Stored form of an entry. Earlier versions read and write the same form.
#[derive(Debug, Deserialize, Serialize)]
struct Stored {
    document: Option<Arc<Document>>,
    #[serde(with = "time::serde::rfc3339")]
    read_at: OffsetDateTime,
}

/// Mark of an invalidation. It has no `read_at`, so earlier versions do not read it as an entry
/// either.
#[derive(Debug, Serialize)]
struct Tombstone {
    #[serde(with = "time::serde::rfc3339")]
    invalidated_at: OffsetDateTime,
    /// Random id. It makes tombstones different, so a read between two invalidations sees another
    /// value than a read after both.
    id: u64,
}

/// Returns the entry in a value. Returns `None` for a value of another version or of a foreign
/// program.
pub(super) fn entry(bytes: &[u8]) -> Option<Entry> {
    let stored: Stored = serde_json::from_slice(bytes).ok()?;
    Some(Entry { document: stored.document, read_at: stored.read_at })
}

/// Returns the value of an entry. The same entry always has the same value.
///
/// # Errors
/// Fails for a time that cannot be formatted.
pub(super) fn json(entry: &Entry) -> Result<Vec<u8>, LayerError> {
    let stored = Stored { document: entry.document.clone(), read_at: entry.read_at };
    serde_json::to_vec(&stored).map_err(|error| LayerError::of(&error))
}

/// Returns a value that marks a key as invalidated now.
///
/// # Errors
/// Fails for a time that cannot be formatted.
pub(super) fn tombstone() -> Result<Vec<u8>, LayerError> {
    let tombstone = Tombstone { invalidated_at: OffsetDateTime::now_utc(), id: rand::random() };
    serde_json::to_vec(&tombstone).map_err(|error| LayerError::of(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_an_earlier_version_is_an_entry() {
        let value = br#"{"document":{"name":"Hamburg"},"read_at":"2026-03-01T10:00:00.5Z"}"#;

        let entry = entry(value).unwrap();

        assert_eq!(entry.document.as_ref().unwrap()["name"], "Hamburg");
        assert_eq!(json(&entry).unwrap(), value);
    }

    #[test]
    fn a_tombstone_is_no_entry_and_no_two_are_the_same() {
        let [one, other] = [tombstone().unwrap(), tombstone().unwrap()];

        assert_ne!(one, other);
        assert_eq!((entry(&one), entry(&other), entry(b"")), (None, None, None));
    }
}
