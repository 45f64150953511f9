//! Writes JSON objects with a base64 payload, and reads JSON without loss of digits.

mod exact;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

pub use exact::{parse, wide_number};

/// A JSON object that grows by one entry at a time.
///
/// Base64 is copied into the text as it is. A serializer would check every character of it for
/// escapes, which takes longer than all the rest.
#[derive(Debug)]
pub struct Object(Vec<u8>);

impl Object {
    /// Creates an object without entries. `bytes` is the reserved capacity of its text.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Adds an entry. The key must need no escapes.
    ///
    /// # Errors
    /// The value has no form in JSON. The text is unusable after that.
    pub fn put(
        &mut self,
        key: &'static str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), serde_json::Error> {
        self.key(key);
        serde_json::to_writer(&mut self.0, value)
    }

    /// Adds an entry of bytes as padded base64.
    pub fn put_base64(&mut self, key: &'static str, bytes: &[u8]) {
        self.key(key);
        self.0.push(b'"');
        let start = self.0.len();
        self.0.resize(start + bytes.len().div_ceil(3) * 4, 0);
        STANDARD.encode_slice(bytes, &mut self.0[start..]).expect("there is room");
        self.0.push(b'"');
    }

    /// Adds an entry that is already in base64.
    pub(crate) fn put_encoded(&mut self, key: &'static str, base64: &[u8]) {
        self.key(key);
        self.0.push(b'"');
        self.0.extend_from_slice(base64);
        self.0.push(b'"');
    }

    /// Returns the text of the object.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.0.is_empty() {
            self.0.push(b'{');
        }
        self.0.push(b'}');
        self.0
    }

    fn key(&mut self, key: &'static str) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        self.0.push(b'"');
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            text in ".{0,20}", bytes in proptest::collection::vec(any::<u8>(), 0..20)
        ) {
            let mut object = Object::with_capacity(0);
            object.put("text", &text).unwrap();
            object.put_base64("bytes", &bytes);

            let read: serde_json::Value = serde_json::from_slice(&object.finish()).unwrap();

            prop_assert_eq!(read, json!({ "text": text, "bytes": STANDARD.encode(bytes) }));
        }
    }

    #[test]
    fn an_object_may_be_empty() {
        assert_eq!(Object::with_capacity(0).finish(), b"{}");
    }
}
