//! The payload of an envelope.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::json::Object;

/// The bytes that a device sent.
///
/// A payload from an envelope stays in base64 until its bytes are needed. Most services only pass
/// it on, so they neither decode nor encode it.
#[derive(Clone)]
pub struct Payload(Form);

#[derive(Clone)]
enum Form {
    Plain(Bytes),
    /// Valid, padded base64.
    Base64(Bytes),
}

impl Payload {
    /// Creates a payload from a base64 text. Returns `None` if the text is not padded base64.
    pub(crate) fn from_base64(text: Bytes) -> Option<Self> {
        is_base64(&text).then_some(Self(Form::Base64(text)))
    }

    /// Returns the bytes. A payload in base64 is decoded again at each call.
    ///
    /// # Panics
    /// Never: base64 is checked when it is read.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        match &self.0 {
            Form::Plain(bytes) => bytes.clone(),
            Form::Base64(text) => STANDARD.decode(text).expect("it was checked").into(),
        }
    }

    /// Maximum length of the payload in base64.
    pub(crate) fn max_base64_len(&self) -> usize {
        match &self.0 {
            Form::Plain(bytes) => bytes.len() * 4 / 3 + 4,
            Form::Base64(text) => text.len(),
        }
    }

    pub(crate) fn put(&self, key: &'static str, json: &mut Object) {
        match &self.0 {
            Form::Plain(bytes) => json.put_base64(key, bytes),
            Form::Base64(text) => json.put_encoded(key, text),
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(Form::Plain(bytes))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Payload").field(&self.bytes()).finish()
    }
}

/// Returns true if the text is padded base64 that decodes. This takes a tenth of the time of
/// decoding it.
fn is_base64(text: &[u8]) -> bool {
    const GROUP: usize = 4;
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() | (*byte == b'+') | (*byte == b'/');
    // Only the last group may have padding, or bits that belong to no byte.
    let (groups, last) = text.split_at(text.len().saturating_sub(GROUP));
    // No early exit, so that the compiler can check many bytes at a time.
    let all_digits = groups.iter().fold(true, |all, byte| all & is_digit(byte));
    text.len().is_multiple_of(GROUP)
        && all_digits
        && STANDARD.decode_slice(last, &mut [0; GROUP]).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_passed_on_is_what_came() {
        let text = Bytes::from_static(b"AP9kYXRh");

        let payload = Payload::from_base64(text.clone()).unwrap();
        let mut json = Object::with_capacity(0);
        payload.put("payload", &mut json);

        assert_eq!(payload, Payload::from(b"\x00\xffdata".as_slice()));
        assert_eq!(json.finish(), br#"{"payload":"AP9kYXRh"}"#);
    }

    #[test]
    fn payloads_are_equal_by_their_bytes() {
        let encoded = Payload::from_base64(Bytes::from_static(b"YQ==")).unwrap();

        assert_eq!(encoded, Payload::from(b"a".as_slice()));
        assert_ne!(encoded, Payload::from(b"b".as_slice()));
        assert_ne!(encoded, Payload::from(Vec::new()));
    }

    #[test]
    fn a_wrong_character_is_found_beside_others() {
        for text in ["!bcdefgh", "!!cdefgh", "!!!defgh", "!!!!efgh", "abcd!!gh", "abcd====", "abc"]
        {
            assert!(Payload::from_base64(text.into()).is_none(), "{text}");
        }
        assert!(Payload::from_base64("abcdefgh".into()).is_some());
        assert!(Payload::from_base64("+/+/+/+/".into()).is_some());
    }

    proptest! {
        #[test]
        fn what_is_taken_for_base64_is_what_decodes(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            change in proptest::option::of((any::<prop::sample::Index>(), "[ -~]{0,2}")),
        ) {
            let mut text = STANDARD.encode(bytes);
            if let Some((at, other)) = change {
                let at = at.index(text.len() + 1);
                text.replace_range(at..text.len().min(at + 1), &other);
            }

            let read = Payload::from_base64(text.clone().into());

            prop_assert_eq!(read.map(|payload| payload.bytes().to_vec()), STANDARD.decode(text).ok());
        }
    }
}
