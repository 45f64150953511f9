//! Key of the document that a message needs.

use pipeline::place::Found;
use pipeline::{Envelope, Message, Place};

/// Rule that finds the key of a message's document. It must return the same key for the same
/// message.
pub trait Key: Send + Sync + 'static {
    /// Returns the key, or `None` for a message that needs no document.
    fn key(&self, message: &Message, envelope: &Envelope) -> Option<String>;
}

/// Rule that tries several places. The first one with a text or a number gives the key.
#[derive(Debug, Clone)]
pub struct FirstOf {
    places: Vec<Place>,
    needs_payload: bool,
}

impl FirstOf {
    /// Creates a rule that tries these places in this order.
    #[must_use]
    pub fn new(places: Vec<Place>) -> Self {
        let needs_payload = places.iter().any(Place::needs_payload);
        Self { places, needs_payload }
    }
}

impl Key for FirstOf {
    fn key(&self, message: &Message, envelope: &Envelope) -> Option<String> {
        let payload = envelope.payload.as_ref().filter(|_| self.needs_payload);
        // A payload that is no JSON has no such place.
        let payload = payload.and_then(|payload| pipeline::json::parse(&payload.bytes()).ok());
        let mut found =
            self.places.iter().filter_map(|place| place.find(message, envelope, payload.as_ref()));
        found.find_map(Found::text)
    }
}
