//! Key of the document that a message needs.

use message::field_path::Found;
use message::{Envelope, FieldPath, Message};

/// Rule that finds the key of a message's document. It must return the same key for the same
/// message.
///
/// A function of a message and its envelope is such a rule, too.
pub trait Key: Send + Sync + 'static {
    /// Returns the key, or `None` for a message that needs no document.
    fn key(&self, message: &Message, envelope: &Envelope) -> Option<String>;
}

impl<F> Key for F
where
    F: Fn(&Message, &Envelope) -> Option<String> + Send + Sync + 'static,
{
    fn key(&self, message: &Message, envelope: &Envelope) -> Option<String> {
        self(message, envelope)
    }
}

/// Rule that tries several paths. The first one with a text or a number gives the key.
#[derive(Debug, Clone)]
pub struct FirstOf {
    paths: Vec<FieldPath>,
    needs_payload: bool,
}

impl FirstOf {
    /// Creates a rule that tries these paths in this order.
    #[must_use]
    pub fn new(paths: Vec<FieldPath>) -> Self {
        let needs_payload = paths.iter().any(FieldPath::needs_payload);
        Self { paths, needs_payload }
    }
}

impl Key for FirstOf {
    fn key(&self, message: &Message, envelope: &Envelope) -> Option<String> {
        let payload = envelope.payload.as_ref().filter(|_| self.needs_payload);
        // A payload that is no JSON has no such field.
        let payload = payload.and_then(|payload| message::json::parse(&payload.bytes()).ok());
        let mut found =
            self.paths.iter().filter_map(|path| path.find(message, envelope, payload.as_ref()));
        found.find_map(Found::text)
    }
}
