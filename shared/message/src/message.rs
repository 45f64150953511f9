//! A message on its way through a pipeline.

use std::collections::{HashMap, hash_map};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;

/// String pairs that accompany a message over every hop.
///
/// Clones share the pairs until one of them is changed. This saves memory, because the original
/// message is kept beside its record until the record is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Arc<HashMap<String, String>>);

impl Deref for Attributes {
    type Target = HashMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Attributes {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl From<HashMap<String, String>> for Attributes {
    fn from(map: HashMap<String, String>) -> Self {
        Self(Arc::new(map))
    }
}

impl<'a> IntoIterator for &'a Attributes {
    type Item = (&'a String, &'a String);
    type IntoIter = hash_map::Iter<'a, String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Bytes with attributes, as a source received them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Id from the transport, such as the Pub/Sub message id. Empty if the transport has no ids.
    pub id: String,
    /// The data, byte for byte as received.
    pub data: Bytes,
    /// String pairs that accompany the data.
    pub attributes: Attributes,
    /// Ordering key. Messages with the same non-empty key keep their order.
    pub ordering_key: String,
    /// Time when the transport accepted the message.
    pub publish_time: OffsetDateTime,
    /// Number of deliveries of this message according to the transport. It is 1 if the transport
    /// does not say.
    pub attempts: u32,
    /// True if the transport counts deliveries and gives up the message after a number of them.
    /// Such a message is never nacked only because other messages should go first.
    pub counts_attempts: bool,
}

impl Message {
    /// Creates a message with this data, published now, without attributes.
    #[must_use]
    pub fn new(data: impl Into<Bytes>) -> Self {
        Self {
            id: String::new(),
            data: data.into(),
            attributes: Attributes::default(),
            ordering_key: String::new(),
            publish_time: OffsetDateTime::now_utc(),
            attempts: 1,
            counts_attempts: false,
        }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// Bytes that this message holds in memory, without the fixed overhead.
    #[must_use]
    pub fn size(&self) -> usize {
        let attributes: usize = self.attributes.iter().map(|(k, v)| k.len() + v.len()).sum();
        self.data.len() + self.id.len() + self.ordering_key.len() + attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_message_holds_counts() {
        let mut message =
            Message::new("12345").with_attribute("abcd", "de").with_attribute("f", "");
        message.id = "1234567".into();
        message.ordering_key = "0123456789-0123456789".into();

        assert_eq!(message.size(), 5 + 7 + 21 + 6 + 1);
        assert_eq!(Message::new("").size(), 0);
    }

    #[test]
    fn attributes_are_shared_until_one_is_changed() {
        let map = HashMap::from([("name".to_owned(), "value".to_owned())]);
        let first = Attributes::from(map.clone());
        let mut second = first.clone();

        second.insert("other".into(), "value".into());

        assert_eq!(*first, map);
        assert_eq!((&first).into_iter().collect::<Vec<_>>().len(), 1);
        assert_eq!((&second).into_iter().collect::<Vec<_>>().len(), 2);
    }
}
