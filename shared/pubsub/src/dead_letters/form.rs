//! Format of a dead letter: the original message and the reason, within Pub/Sub's limits.
//!
//! Some attributes cannot keep their own names in a dead letter. They are stored as JSON: in the
//! attribute `dl_attributes` if the JSON is short, otherwise in front of the data. [`restore`]
//! reverses both.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use message::Attributes;
use message::Message;
use message::attribute::RESERVED;
use pipeline::dead_letter::cut;
use pipeline::{DeadLetter, Error, Recovery};
use sha2::{Digest as _, Sha256};
use time::format_description::well_known::Rfc3339;

use crate::limits::{
    MAX_ATTRIBUTE_KEY_BYTES, MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES, MAX_MESSAGE_BYTES,
};
use crate::reasons;

/// Bytes of data that are kept of a message that is too big for Pub/Sub.
const KEPT_BYTES: usize = 1_000_000;
/// Maximum number of attributes that a dead letter adds.
const ADDED: usize = 11;
/// Maximum bytes of content, if the dead letter also has the maximum of attributes.
const MAX_CONTENT_BYTES: usize =
    MAX_MESSAGE_BYTES - MAX_ATTRIBUTES * (MAX_ATTRIBUTE_KEY_BYTES + MAX_ATTRIBUTE_VALUE_BYTES);
/// Prefix of the attribute names that dead letters add.
const PREFIX: &str = "dl_";
/// Attribute with the JSON of the attributes that cannot keep their own names.
const MORE_ATTRIBUTES: &str = "dl_attributes";
/// Attribute that is `true` if the data begins with a line of JSON. The line holds the attributes
/// that cannot keep their own names.
const WRAPPED: &str = "dl_wrapped";
/// Attribute with the number of attributes that were lost.
const ATTRIBUTES_CUT: &str = "dl_attributes_cut";
/// Attribute that is `true` if only the first bytes of the data were kept.
const TRUNCATED: &str = "dl_truncated";

/// A dead letter before the place of its content is decided.
#[derive(Debug)]
pub(super) struct Draft {
    attributes: HashMap<String, String>,
    /// Attributes that are stored in front of the data.
    front: BTreeMap<String, String>,
    data: Bytes,
}

/// Data and attributes in the form that Pub/Sub accepts.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) data: Bytes,
    pub(super) attributes: Attributes,
}

impl Draft {
    pub(super) fn new(dead_letter: &DeadLetter<'_>) -> Self {
        let original = dead_letter.message;
        let (mut attributes, mut front) = part(&original.attributes);
        let first_seen = dead_letter.first_seen.format(&Rfc3339).unwrap_or_default();
        let short = |text: &str| cut(text.to_owned(), MAX_ATTRIBUTE_VALUE_BYTES);
        let mut add = |name: &str, value: String| drop(attributes.insert(name.to_owned(), value));
        add("dl_service", dead_letter.service.to_owned());
        add("dl_reason", dead_letter.reason.to_string());
        add("dl_detail", short(&dead_letter.detail));
        add("dl_attempts", dead_letter.attempts.to_string());
        add("dl_first_seen", first_seen);
        if !original.id.is_empty() {
            add("dl_message_id", short(&original.id));
        }
        if !front.is_empty() {
            let json = json(&front);
            if json.len() <= MAX_ATTRIBUTE_VALUE_BYTES {
                front.clear();
                add(MORE_ATTRIBUTES, json);
            } else {
                add(WRAPPED, "true".into());
            }
        }
        Self { attributes, front, data: original.data.clone() }
    }

    /// Returns the data, after the attributes that are stored in front of it.
    pub(super) fn content(&self) -> Bytes {
        if self.front.is_empty() {
            return self.data.clone();
        }
        let mut content = json(&self.front).into_bytes();
        content.push(b'\n');
        content.extend_from_slice(&self.data);
        content.into()
    }

    /// Returns the content of the dead letter. Returns a [`TooBig`] if the content is too big for
    /// Pub/Sub.
    pub(super) fn finish(self) -> Result<Content, Box<TooBig>> {
        let content = self.content();
        if content.len() <= MAX_CONTENT_BYTES {
            return Ok(Content { data: content, attributes: self.attributes.into() });
        }
        Err(Box::new(TooBig { draft: self, content }))
    }

    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.attributes.insert(name.to_owned(), value.into());
    }
}

/// A dead letter whose content is too big for Pub/Sub.
#[derive(Debug)]
pub(super) struct TooBig {
    draft: Draft,
    content: Bytes,
}

impl TooBig {
    /// Returns the content that must be stored elsewhere.
    pub(super) fn content(&self) -> &Bytes {
        &self.content
    }

    /// Returns the dead letter for content that is stored in an object of this name.
    pub(super) fn in_object(mut self, object: &str) -> Content {
        self.measure();
        self.draft.add("dl_object", object);
        Content { data: Bytes::new(), attributes: self.draft.attributes.into() }
    }

    /// Returns the dead letter with as much of its content as it can hold. The attributes come
    /// before the data.
    pub(super) fn cut(mut self) -> Content {
        self.measure();
        let draft = &mut self.draft;
        draft.add(TRUNCATED, "true");
        draft.data.truncate(KEPT_BYTES);
        let lost = shorten(&mut draft.front, MAX_CONTENT_BYTES - KEPT_BYTES);
        if lost > 0 {
            draft.add(ATTRIBUTES_CUT, lost.to_string());
        }
        if draft.front.is_empty() {
            draft.attributes.remove(WRAPPED);
        }
        Content { data: draft.content(), attributes: self.draft.attributes.into() }
    }

    fn measure(&mut self) {
        let size = self.draft.data.len().to_string();
        let hash = hash(&self.draft.data);
        self.draft.add("dl_size", size);
        self.draft.add("dl_sha256", hash);
    }
}

/// Returns the data and attributes of the message in a dead letter. `content` is the data of the
/// dead letter, or of the object that its `dl_object` names.
///
/// # Errors
/// `Reject` if the dead letter does not hold the whole message.
pub(crate) fn restore(dead_letter: &Message, content: Bytes) -> Result<(Bytes, Attributes), Error> {
    let refuse =
        |why: &str| Recovery::Reject(reasons::NOT_REPLAYABLE).because("restore", why.to_owned());
    let bears = |name| dead_letter.attributes.contains_key(name);
    if bears(TRUNCATED) {
        return Err(refuse("it was cut, because there was no bucket for it"));
    }
    let kept = dead_letter.attributes.iter().filter(|(name, _)| !name.starts_with(PREFIX));
    let mut attributes: HashMap<_, _> =
        kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut read = |json: &[u8]| {
        let more: Result<HashMap<String, String>, _> = serde_json::from_slice(json);
        more.map(|more| attributes.extend(more)).map_err(|_| refuse("its attributes are not JSON"))
    };
    if let Some(json) = dead_letter.attributes.get(MORE_ATTRIBUTES) {
        read(json.as_bytes())?;
    }
    let mut data = content;
    if bears(WRAPPED) {
        let end = data.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| refuse("its attributes are missing in front of its data"))?;
        read(&data.split_to(end + 1))?;
    }
    Ok((data, attributes.into()))
}

/// Separates the attributes that keep their own names from the others. Attributes with a special
/// meaning for the services are kept first.
fn part(attributes: &Attributes) -> (HashMap<String, String>, BTreeMap<String, String>) {
    let mut others = BTreeMap::new();
    let mut fitting = BTreeMap::new();
    for (name, value) in attributes {
        let rank = RESERVED.iter().position(|reserved| reserved == name);
        let rank = rank.unwrap_or(RESERVED.len());
        if fits(name, value) {
            fitting.insert((rank, name), value);
        } else {
            others.insert(name.clone(), value.clone());
        }
    }
    let mut kept = HashMap::new();
    for ((_, name), value) in fitting {
        if kept.len() < MAX_ATTRIBUTES - ADDED {
            kept.insert(name.clone(), value.clone());
        } else {
            others.insert(name.clone(), value.clone());
        }
    }
    (kept, others)
}

/// Returns true if Pub/Sub accepts an attribute under its own name, and the name is not reserved
/// for dead letters.
fn fits(name: &str, value: &str) -> bool {
    let is_googles = name.starts_with("goog") && !name.starts_with("googclient_");
    !name.is_empty()
        && !is_googles
        && !name.starts_with(PREFIX)
        && name.len() <= MAX_ATTRIBUTE_KEY_BYTES
        && value.len() <= MAX_ATTRIBUTE_VALUE_BYTES
}

fn json(attributes: &BTreeMap<String, String>) -> String {
    serde_json::to_string(attributes).expect("a map of strings has a form in JSON")
}

/// Drops the longest attributes until the others fit into a line of JSON of `max_bytes`. Returns
/// the number of dropped attributes.
fn shorten(attributes: &mut BTreeMap<String, String>, max_bytes: usize) -> usize {
    let size = |text: &String| serde_json::to_string(text).map_or(0, |json| json.len() + 1);
    let count = attributes.len();
    let sized = std::mem::take(attributes).into_iter();
    let mut sized: Vec<_> =
        sized.map(|(name, value)| (size(&name) + size(&value), name, value)).collect();
    sized.sort();
    // Two braces and the line end.
    let mut total = 3;
    for (bytes, name, value) in sized {
        total += bytes;
        if total > max_bytes {
            break;
        }
        attributes.insert(name, value);
    }
    count - attributes.len()
}

pub(super) fn hash(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::hash_map;
    use proptest::prelude::*;
    use time::OffsetDateTime;

    use super::*;

    pipeline::reasons! {
        /// Reasons of these tests.
        OF_THE_TESTS {
            /// No route matches the topic.
            NO_ROUTE = "no_route";
        }
    }

    fn draft(original: &Message) -> Draft {
        Draft::new(&DeadLetter {
            service: "ingestion",
            reason: NO_ROUTE,
            detail: "x".repeat(5000),
            attempts: 3,
            first_seen: OffsetDateTime::UNIX_EPOCH,
            message: original,
        })
    }

    fn dead_letter(content: Content) -> Message {
        let mut dead_letter = Message::new(content.data);
        dead_letter.attributes = content.attributes;
        dead_letter
    }

    fn assert_fits(dead_letter: &Message) {
        assert!(dead_letter.attributes.len() <= MAX_ATTRIBUTES, "{}", dead_letter.attributes.len());
        for (name, value) in &dead_letter.attributes {
            assert!(!name.is_empty() && name.len() <= MAX_ATTRIBUTE_KEY_BYTES, "{name}");
            assert!(value.len() <= MAX_ATTRIBUTE_VALUE_BYTES, "{name}: {value}");
            assert!(!name.starts_with("goog") || name.starts_with("googclient_"), "{name}");
        }
        assert!(dead_letter.size() <= MAX_MESSAGE_BYTES, "{} bytes", dead_letter.size());
    }

    /// Checks that a message can be stored in a dead letter and restored from it.
    fn assert_restored(original: &Message) {
        let (dead_letter, content) = match draft(original).finish() {
            Ok(content) => (dead_letter(content), None),
            Err(too_big) => {
                let content = too_big.content().clone();
                (dead_letter(too_big.in_object("gs://b/o")), Some(content))
            }
        };

        assert_fits(&dead_letter);
        let content = content.unwrap_or_else(|| dead_letter.data.clone());
        let (data, attributes) = restore(&dead_letter, content).unwrap();

        assert_eq!(data, original.data);
        assert_eq!(attributes, original.attributes);
    }

    fn attribute_names() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "[ -~äπ\n\u{1F600}]{0,40}",
            2 => "[a-z]{1,8}",
            1 => "[a-z]{250,270}",
            1 => "(dl_|goog|googclient_)[a-z]{0,9}",
            1 => proptest::sample::select(&RESERVED).prop_map(str::to_owned),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn a_letter_fits_into_pubsub_and_gives_back_the_message(
            attributes in hash_map(attribute_names(), prop_oneof!["[ -~äπ\n\u{1F600}]{0,40}", "[a-z]{1020,1030}"], 0..200),
            data in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut original = Message::new(data);
            original.attributes = attributes.into();

            assert_restored(&original);
        }
    }

    #[test]
    fn a_letter_bears_the_original_and_its_reason() {
        let mut original = Message::new("data").with_attribute("device_id", "d");
        original.id = "42".into();

        let dead_letter = dead_letter(draft(&original).finish().unwrap());

        assert_eq!(dead_letter.data, "data");
        let expected = [
            ("device_id", "d"),
            ("dl_service", "ingestion"),
            ("dl_reason", "no_route"),
            ("dl_attempts", "3"),
            ("dl_first_seen", "1970-01-01T00:00:00Z"),
            ("dl_message_id", "42"),
            ("dl_detail", &"x".repeat(MAX_ATTRIBUTE_VALUE_BYTES)),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(*dead_letter.attributes, HashMap::from(expected));
    }

    #[test]
    fn attributes_with_a_meaning_keep_their_places() {
        let mut original = Message::new("data");
        for index in 0..300 {
            original = original.with_attribute(format!("a{index}"), "v".repeat(100));
        }
        for name in RESERVED {
            original = original.with_attribute(name, name);
        }

        let dead_letter = dead_letter(draft(&original).finish().unwrap());

        assert!(RESERVED.iter().all(|name| dead_letter.attributes[*name] == *name));
        let plain = dead_letter.attributes.keys().filter(|name| !name.starts_with(PREFIX)).count();
        assert_eq!(plain, MAX_ATTRIBUTES - ADDED);
        assert_restored(&original);
    }

    #[test]
    fn a_little_too_much_is_an_attribute_and_more_goes_in_front_of_the_data() {
        let is_wrapped = |value_bytes| {
            let original = Message::new("data").with_attribute("", "v".repeat(value_bytes));
            let dead_letter = dead_letter(draft(&original).finish().unwrap());
            let names = [MORE_ATTRIBUTES, WRAPPED];
            assert_eq!(
                names.iter().filter(|name| dead_letter.attributes.contains_key(**name)).count(),
                1
            );
            dead_letter.attributes.contains_key(WRAPPED)
        };
        // `{"":"v.."}` needs 7 bytes more than the value.
        assert!(!is_wrapped(MAX_ATTRIBUTE_VALUE_BYTES - 7));
        assert!(is_wrapped(MAX_ATTRIBUTE_VALUE_BYTES - 6));
    }

    #[test]
    fn a_message_that_is_too_big_only_with_its_attributes_is_restored_from_an_object() {
        let message = Message::new(vec![b'x'; MAX_CONTENT_BYTES]);
        assert_restored(&message.with_attribute("", "v".repeat(2000)));
    }

    #[test]
    fn content_at_the_limit_is_in_the_letter_and_above_it_is_not() {
        let at = Message::new(vec![b'x'; MAX_CONTENT_BYTES]);
        assert!(draft(&at).finish().is_ok());

        let above = Message::new(vec![b'x'; MAX_CONTENT_BYTES + 1]);
        let too_big = draft(&above).finish().unwrap_err();
        let dead_letter = dead_letter(too_big.in_object("gs://b/o"));

        assert_eq!(dead_letter.data, "");
        assert_eq!(dead_letter.attributes["dl_object"], "gs://b/o");
        assert_eq!(dead_letter.attributes["dl_size"], (MAX_CONTENT_BYTES + 1).to_string());
        assert_eq!(dead_letter.attributes["dl_sha256"], hash(&above.data));
        assert!(!dead_letter.attributes.contains_key(TRUNCATED));
    }

    #[test]
    fn without_a_bucket_the_first_megabyte_is_kept() {
        let original = Message::new(vec![b'x'; 12_000_000]).with_attribute("", "nameless");

        let dead_letter = dead_letter(draft(&original).finish().unwrap_err().cut());

        assert_eq!(dead_letter.data.len(), KEPT_BYTES);
        assert_eq!(dead_letter.attributes[TRUNCATED], "true");
        assert_eq!(dead_letter.attributes["dl_size"], "12000000");
        assert_eq!(dead_letter.attributes["dl_sha256"], hash(&original.data));
        assert_eq!(dead_letter.attributes[MORE_ATTRIBUTES], r#"{"":"nameless"}"#);
        assert!(!dead_letter.attributes.contains_key(WRAPPED));
        assert!(!dead_letter.attributes.contains_key(ATTRIBUTES_CUT));
        let error = restore(&dead_letter, dead_letter.data.clone()).unwrap_err();
        assert_eq!(error.recovery(), Recovery::Reject(reasons::NOT_REPLAYABLE));
    }

    #[test]
    fn the_longest_attributes_are_lost_when_not_all_fit() {
        let room = MAX_CONTENT_BYTES - KEPT_BYTES;
        // In addition to the values, the line needs 3 bytes, and each attribute with a short name
        // needs 7.
        let kept = |first: usize| {
            let mut original = Message::new(vec![b'x'; KEPT_BYTES + 10]);
            original = original.with_attribute("a", "v".repeat(first));
            original = original.with_attribute("b", "v".repeat(5_000_000));
            let dead_letter = dead_letter(draft(&original).finish().unwrap_err().cut());
            assert_fits(&dead_letter);
            dead_letter.attributes.get(ATTRIBUTES_CUT).cloned()
        };
        let both = room - 5_000_000 - 3 - 2 * 7;
        assert_eq!(kept(both), None);
        assert_eq!(kept(both + 1).as_deref(), Some("1"));
        assert_eq!(kept(room).as_deref(), Some("1"));
    }

    #[test]
    fn the_hash_of_data_is_its_sha_256_in_hex() {
        let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

        assert_eq!(hash(b"abc"), of_abc);
        assert_ne!(hash(b"abd"), of_abc);
    }

    #[test]
    fn a_letter_that_somebody_else_wrote_is_refused_and_not_misread() {
        for (name, value, data) in [
            (MORE_ATTRIBUTES, "no JSON", "data"),
            (WRAPPED, "true", "no line"),
            (WRAPPED, "true", "no JSON\ndata"),
        ] {
            let dead_letter = Message::new(data).with_attribute(name, value);

            let error = restore(&dead_letter, dead_letter.data.clone()).unwrap_err();

            assert_eq!(error.recovery(), Recovery::Reject(reasons::NOT_REPLAYABLE));
        }
    }
}
