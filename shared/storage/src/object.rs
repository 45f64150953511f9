//! Objects that are about to be created.

use std::sync::atomic::AtomicBool;

use bytes::Bytes;

/// An object with its whole content.
#[derive(Debug)]
pub struct Object {
    /// Name in the store. No other object has it.
    pub name: String,
    /// Content of the object.
    pub content: Bytes,
    /// Media type of the content. A folder does not keep it.
    pub content_type: &'static str,
    /// Metadata of the object. A folder does not keep it.
    pub metadata: Vec<(&'static str, String)>,
    /// True if the object may already exist. Either its name is derived from its content, or an
    /// attempt to create it ended without an answer. A store that may not read its objects sets it in
    /// the second case.
    pub may_exist: AtomicBool,
}
