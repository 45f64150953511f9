//! Writes batches of messages to their topics.

use std::time::Duration;

use pipeline::{Error, PushError, Refusal};
use service::Health;

use crate::guard::TopicGuard;
use crate::limits::{MAX_REQUEST_BYTES, MAX_REQUEST_MESSAGES};
use crate::names::TopicName;
use crate::outgoing::{Outgoing, check, encoded_size};
use crate::published::LastPublished;
use crate::publishers::Publishers;

/// Publishes batches and waits for the confirmation. A batch is sent with one or more requests for
/// each ordering key.
#[derive(Debug)]
pub struct Sink {
    publishers: Publishers,
    guard: TopicGuard,
    last: LastPublished,
}

impl Sink {
    /// Creates a sink for the topics that `guard` checks. A topic without an audience is not
    /// published to.
    #[must_use]
    pub fn new(publishers: Publishers, guard: TopicGuard) -> Self {
        Self { publishers, guard, last: LastPublished::default() }
    }

    /// Shows the topic and the id of the last confirmed message in `/status`, as `last_published`.
    #[must_use]
    pub fn reporting_to(self, health: &Health) -> Self {
        let last = self.last.clone();
        health.ask("last_published", move || last.report());
        self
    }
}

/// Messages of one topic, and their encoded size.
#[derive(Debug)]
pub struct Batch {
    topic: TopicName,
    messages: Vec<Outgoing>,
    bytes: usize,
}

impl pipeline::Sink for Sink {
    type Record = Outgoing;
    type Key = TopicName;
    type Batch = Batch;
    type EncodedBatch = Batch;
    type LaneState = ();

    fn lane_state(&self) {}

    fn key(&self, record: &Outgoing) -> TopicName {
        record.topic.clone()
    }

    fn open(&self, topic: &TopicName) -> Batch {
        Batch { topic: topic.clone(), messages: Vec::new(), bytes: topic.as_str().len() }
    }

    fn push(
        &self,
        batch: &mut Batch,
        record: Outgoing,
        (): &mut (),
    ) -> Result<usize, PushError<Outgoing>> {
        let size = encoded_size(&record);
        check(&record, size).map_err(PushError::Refused)?;
        let is_full =
            batch.bytes + size > MAX_REQUEST_BYTES || batch.messages.len() == MAX_REQUEST_MESSAGES;
        if is_full && !batch.messages.is_empty() {
            return Err(PushError::Full(record));
        }
        batch.bytes += size;
        batch.messages.push(record);
        Ok(batch.bytes)
    }

    fn encode(&self, batch: Batch, (): &mut ()) -> Batch {
        batch
    }

    /// Dropping the call cancels it, so it needs no time limit of its own.
    async fn write(&self, batch: &Batch, _: Duration) -> Result<Vec<Refusal>, Error> {
        self.guard.pass(&batch.topic)?;
        let published = self.publishers.publish(&batch.topic, &batch.messages).await?;
        self.last.note(&batch.topic, published);
        Ok(Vec::new())
    }

    /// Returns the id of the topic, without its project.
    fn destination(&self, batch: &Batch) -> Option<String> {
        batch.topic.as_str().rsplit('/').next().map(str::to_owned)
    }

    fn split(&self, batch: &Batch, at: usize) -> Option<(Batch, Batch)> {
        let part = |messages: &[Outgoing]| Batch {
            topic: batch.topic.clone(),
            messages: messages.to_vec(),
            bytes: batch.bytes,
        };
        let (first, second) = batch.messages.split_at(at);
        Some((part(first), part(second)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PublishRequest;
    use message::Attributes;
    use pipeline::{Recovery, Sink as _};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::connection::Connection;
    use crate::limits::MAX_MESSAGE_BYTES;
    use crate::reasons;
    use crate::settings::Endpoint;

    fn outgoing() -> Outgoing {
        Outgoing {
            topic: TopicName::new("p", "t"),
            data: Bytes::from_static(b"data"),
            attributes: Attributes::default(),
            ordering_key: String::new(),
        }
    }

    async fn sink() -> Sink {
        service::install_crypto();
        let endpoint = Some("http://127.0.0.1:1".to_owned());
        let connection =
            Connection::new(Endpoint { endpoint: endpoint.map(Into::into), ..<_>::default() });
        Sink::new(Publishers::new(&connection).await.unwrap(), TopicGuard::new([]))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_message_is_never_larger_than_it_is_counted(
            data in proptest::collection::vec(any::<u8>(), 0..5_000),
            key in "[a-z]{0,200}",
            attributes in proptest::collection::hash_map("[a-z]{1,200}", "[a-z]{0,1000}", 0..20),
        ) {
            let mut record = outgoing();
            record.data = data.into();
            record.ordering_key = key;
            record.attributes = attributes.into();
            let request = PublishRequest {
                topic: String::new(),
                messages: vec![record.to_message()],
            };

            prop_assert!(request.encoded_len() <= encoded_size(&record));
        }
    }

    #[test]
    fn a_message_counts_its_parts_and_8_bytes_for_each_of_their_fields() {
        let mut record = outgoing();
        assert_eq!(encoded_size(&record), 3 * 8 + 4);
        record.ordering_key = "key".into();
        assert_eq!(encoded_size(&record), 3 * 8 + 4 + 3);
        record.attributes.insert("n".into(), "value".into());
        assert_eq!(encoded_size(&record), 3 * 8 + 4 + 3 + 2 * 8 + 6);
    }

    #[test]
    fn what_is_at_a_limit_passes_and_what_is_above_it_is_refused() {
        let refused = |change: &dyn Fn(&mut Outgoing)| {
            let mut record = outgoing();
            change(&mut record);
            let size = encoded_size(&record);
            check(&record, size).map_err(|error| error.recovery())
        };
        let reject = |reason| Err(Recovery::Reject(reason));
        let most = MAX_MESSAGE_BYTES - 3 * 8;

        assert_eq!(refused(&|m| m.data = vec![0; most].into()), Ok(()));
        let above = refused(&|m| m.data = vec![0; most + 1].into());
        assert_eq!(above, reject(reasons::MESSAGE_TOO_LARGE));
        let attributes = |count: usize| {
            move |m: &mut Outgoing| {
                m.attributes.extend((0..count).map(|i| (i.to_string(), String::new())));
            }
        };
        assert_eq!(refused(&attributes(100)), Ok(()));
        assert_eq!(refused(&attributes(101)), reject(reasons::TOO_MANY_ATTRIBUTES));
        let attribute = |name: usize, value: usize| {
            move |m: &mut Outgoing| drop(m.attributes.insert("n".repeat(name), "v".repeat(value)))
        };
        assert_eq!(refused(&attribute(256, 1024)), Ok(()));
        for (name, value) in [(0, 1), (257, 1), (1, 1025)] {
            assert_eq!(refused(&attribute(name, value)), reject(reasons::ATTRIBUTE_INVALID));
        }
        assert_eq!(refused(&|m| m.ordering_key = "k".repeat(1024)), Ok(()));
        let above = refused(&|m| m.ordering_key = "k".repeat(1025));
        assert_eq!(above, reject(reasons::ORDERING_KEY_TOO_LONG));
        assert_eq!(refused(&|m| m.data.clear()), reject(reasons::EMPTY_MESSAGE));
        let no_data = |m: &mut Outgoing| {
            m.data.clear();
            m.attributes.insert("n".into(), String::new());
        };
        assert_eq!(refused(&no_data), Ok(()));
    }

    #[tokio::test]
    async fn a_batch_is_full_at_the_limits_of_a_request() {
        let sink = sink().await;
        let sized = |bytes: usize| Outgoing { data: vec![0; bytes - 3 * 8].into(), ..outgoing() };
        let topic = outgoing().topic;
        let rest = MAX_REQUEST_BYTES - topic.as_str().len() - 5_000_000;
        let second = |bytes| {
            let mut batch = sink.open(&topic);
            let first = sink.push(&mut batch, sized(5_000_000), &mut ()).unwrap();
            assert_eq!(first, 5_000_000 + topic.as_str().len());
            sink.push(&mut batch, sized(bytes), &mut ())
        };

        assert!(matches!(second(rest), Ok(MAX_REQUEST_BYTES)));
        assert!(matches!(second(rest + 1), Err(PushError::Full(_))));
        let mut batch = sink.open(&topic);
        for _ in 0..MAX_REQUEST_MESSAGES {
            sink.push(&mut batch, outgoing(), &mut ()).unwrap();
        }
        assert!(matches!(sink.push(&mut batch, outgoing(), &mut ()), Err(PushError::Full(_))));
        // The name of a topic may be longer than the room that the largest message leaves.
        let mut empty = sink.open(&TopicName::new("p", &"t".repeat(2_000)));
        sink.push(&mut empty, sized(MAX_MESSAGE_BYTES), &mut ()).unwrap();
    }

    #[tokio::test]
    async fn a_batch_is_of_one_topic_and_parted_in_its_order() {
        let sink = sink().await;
        assert_eq!(sink.key(&outgoing()), TopicName::new("p", "t"));
        let mut batch = sink.open(&outgoing().topic);
        for data in ["a", "b", "c"] {
            let record = Outgoing { data: data.into(), ..outgoing() };
            sink.push(&mut batch, record, &mut ()).unwrap();
        }

        let (first, second) = sink.split(&sink.encode(batch, &mut ()), 1).unwrap();

        let data = |batch: &Batch| -> Vec<Bytes> {
            batch.messages.iter().map(|message| message.data.clone()).collect()
        };
        assert_eq!(data(&first), ["a"]);
        assert_eq!(data(&second), ["b", "c"]);
        assert_eq!(second.topic, TopicName::new("p", "t"));
    }
}
