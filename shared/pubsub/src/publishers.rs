//! Publishes messages, in one or more requests for each ordering key of a batch.
//!
//! Google's client cannot cancel a publish. Its own tasks continue to upload after the caller has
//! given up, at the same time as the retry. It also keeps a task for each ordering key that it ever
//! saw. So this module calls the gRPC method itself, and a publish that is dropped is reset.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PublishRequest;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::publisher_client::PublisherClient;
use pipeline::{Error, Recovery};
use service::google::Access;
use service::renewable::Renewable;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::connection::{Connection, metadata};
use crate::limits::{MAX_REQUEST_BYTES, MAX_REQUEST_MESSAGES};
use crate::names::TopicName;
use crate::outgoing::{Outgoing, encoded_size};
use crate::published::Published;
use crate::reasons;

/// Maximum number of concurrent requests of one publish. A higher number is no faster over a
/// connection.
const MAX_REQUESTS: usize = 100;
/// Longest duration of [`Publishers::send`].
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Publishers of all topics on shared connections. Clones share them too.
#[derive(Debug, Clone)]
pub struct Publishers(Renewable<Client>);

/// A client that publishes.
#[derive(Debug)]
pub(crate) struct Client {
    /// Clients that take turns, each with its own connections.
    clients: Vec<PublisherClient<Channel>>,
    turn: AtomicUsize,
    /// Credentials and address. An emulator needs no credentials.
    access: Access,
}

impl Publishers {
    /// Creates publishers that connect when the first message is sent.
    ///
    /// # Errors
    /// `Stop` if no client can be built, for example without credentials.
    pub async fn new(connection: &Connection) -> Result<Self, Error> {
        let connection = connection.clone();
        let publisher = Renewable::open(move || {
            let connection = connection.clone();
            Box::pin(async move { Client::connect(&connection).await })
        });
        Ok(Self(publisher.await?))
    }

    /// Publishes messages of one topic and returns once all are confirmed. Gives up after a minute.
    ///
    /// # Errors
    /// Same as [`Publishers::publish`].
    pub async fn send<'a>(
        &self,
        topic: &TopicName,
        messages: &'a [Outgoing],
    ) -> Result<Published<'a>, Error> {
        let sent = timeout(SEND_TIMEOUT, self.publish(topic, messages)).await;
        sent.map_err(|late| Recovery::Retry.because("publish", late))?
    }

    /// Publishes messages of one topic and returns once all are confirmed. Messages of one ordering
    /// key keep their order.
    ///
    /// Cancel safety: if the call is dropped, nothing more of it is sent.
    ///
    /// # Errors
    /// `Reject` if Pub/Sub calls the request invalid, otherwise `Retry`. Some of the messages may
    /// have been published nevertheless.
    pub async fn publish<'a>(
        &self,
        topic: &TopicName,
        messages: &'a [Outgoing],
    ) -> Result<Published<'a>, Error> {
        let client = self.0.lease().await?;
        let published = client.publish(topic, messages).await;
        client.done();
        let published = Published::new(messages, published?);
        published.log(topic);
        Ok(published)
    }
}

impl Client {
    /// Creates a client whose requests take turns on several channels. It does not retry, because
    /// the pipeline does.
    async fn connect(connection: &Connection) -> Result<Self, Error> {
        let route = connection.route("build Pub/Sub publisher").await?;
        let clients =
            (0..connection.endpoint.channels).map(|_| PublisherClient::new(route.connect()));
        Ok(Self { clients: clients.collect(), turn: AtomicUsize::new(0), access: route.access })
    }

    /// Publishes messages. Returns the ids of each ordering key, in the order of its messages. The
    /// keys have the order in which they first appear.
    async fn publish(
        &self,
        topic: &TopicName,
        messages: &[Outgoing],
    ) -> Result<Vec<Vec<String>>, Error> {
        let metadata = metadata(&self.access, "topic", topic.as_str()).await;
        let metadata = metadata.map_err(|status| {
            let recovery = match status.code() {
                Code::InvalidArgument => Recovery::Stop,
                _ => Recovery::Retry,
            };
            recovery.because("publish", status.message().to_owned())
        })?;
        let keys = requests(topic, messages);
        let mut by_key = vec![Vec::new(); keys.len()];
        let keys = keys.into_iter().enumerate().map(|(place, requests)| {
            let metadata = &metadata;
            async move {
                let mut ids = Vec::new();
                for request in requests {
                    let confirmed = self.request(metadata.clone(), request).await?;
                    if ids.is_empty() { ids = confirmed } else { ids.extend(confirmed) }
                }
                Ok::<_, Error>((place, ids))
            }
        });
        // All requests are awaited. A request that is cut short here would have to be sent again.
        let mut sending = stream::iter(keys).buffer_unordered(MAX_REQUESTS);
        let mut worst: Option<Error> = None;
        while let Some(outcome) = sending.next().await {
            match outcome {
                Ok((place, ids)) => by_key[place] = ids,
                // `Retry` comes first, because no message is at fault in an outage.
                Err(error) if error.recovery() == Recovery::Retry => worst = Some(error),
                Err(error) => worst = worst.or(Some(error)),
            }
        }
        worst.map_or(Ok(by_key), Err)
    }

    /// Sends a request. Returns the ids of its messages.
    async fn request(
        &self,
        metadata: MetadataMap,
        request: PublishRequest,
    ) -> Result<Vec<String>, Error> {
        let count = request.messages.len();
        let request = Request::from_parts(metadata, tonic::Extensions::default(), request);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        let published = self.clients[turn].clone().publish(request).await;
        let answer = published.map_err(|status| refused(&status))?;
        let ids = answer.into_inner().message_ids;
        confirm(count, ids.len())?;
        Ok(ids)
    }
}

/// Returns the requests of each ordering key, in order. Pub/Sub accepts only one key in a request.
fn requests(topic: &TopicName, messages: &[Outgoing]) -> Vec<Vec<PublishRequest>> {
    let mut keys: Vec<Vec<PublishRequest>> = Vec::new();
    let mut places: HashMap<&str, (usize, usize)> = HashMap::new();
    for message in messages {
        let size = encoded_size(message);
        let (place, bytes) = places.entry(&message.ordering_key).or_insert_with(|| {
            keys.push(Vec::new());
            (keys.len() - 1, 0)
        });
        let requests = &mut keys[*place];
        let has_room = |request: &&mut PublishRequest| {
            *bytes + size <= MAX_REQUEST_BYTES && request.messages.len() < MAX_REQUEST_MESSAGES
        };
        if let Some(request) = requests.last_mut().filter(has_room) {
            *bytes += size;
            request.messages.push(message.to_message());
        } else {
            let topic = topic.to_string();
            *bytes = topic.len() + size;
            requests.push(PublishRequest { topic, messages: vec![message.to_message()] });
        }
    }
    keys
}

/// Checks that each message of a request received an id.
fn confirm(sent: usize, confirmed: usize) -> Result<(), Error> {
    if confirmed == sent {
        return Ok(());
    }
    let why = format!("{confirmed} of {sent} messages are confirmed");
    Err(Recovery::Retry.because("publish", why))
}

/// Classifies a failed publish. Missing topics and permissions are retried, because they can come
/// back.
fn refused(status: &Status) -> Error {
    let recovery = match status.code() {
        Code::InvalidArgument => Recovery::Reject(reasons::PUBLISH_INVALID),
        _ => Recovery::Retry,
    };
    recovery.because("publish", format!("{}: {}", status.code(), status.message()))
}

#[cfg(test)]
mod tests {
    use message::Attributes;
    use proptest::prelude::*;

    use super::*;

    fn outgoing(key: &str, data: impl Into<bytes::Bytes>) -> Outgoing {
        let topic = TopicName::new("p", "t");
        let attributes = Attributes::default();
        Outgoing { topic, data: data.into(), attributes, ordering_key: key.into() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn each_request_is_of_one_key_in_its_order(keys in proptest::collection::vec("[abc]?", 0..50)) {
            let numbered = keys.iter().enumerate();
            let messages: Vec<_> =
                numbered.map(|(index, key)| outgoing(key, index.to_string())).collect();

            let by_key = requests(&TopicName::new("p", "t"), &messages);

            let mut count = 0;
            for requests in by_key {
                let [request] = &requests[..] else { panic!("they fit into one") };
                prop_assert_eq!(&request.topic, "projects/p/topics/t");
                let key = &request.messages[0].ordering_key;
                let sent: Vec<_> = request.messages.iter().map(|message| &message.data).collect();
                let of_key = messages.iter().filter(|message| message.ordering_key == *key);
                prop_assert_eq!(sent, of_key.map(|message| &message.data).collect::<Vec<_>>());
                count += request.messages.len();
            }
            prop_assert_eq!(count, messages.len());
        }
    }

    #[test]
    fn a_request_keeps_to_the_limits_of_pubsub() {
        let topic = TopicName::new("p", "t");
        let counts = |messages: &[Outgoing]| {
            let by_key = requests(&topic, messages);
            assert_eq!(by_key.len(), 1);
            by_key[0].iter().map(|request| request.messages.len()).collect::<Vec<_>>()
        };

        assert_eq!(counts(&vec![outgoing("k", "x"); 2_001]), [1000, 1000, 1]);
        let overhead = encoded_size(&outgoing("k", ""));
        let half = (MAX_REQUEST_BYTES - topic.as_str().len()) / 2 - overhead;
        let halves = |first| [outgoing("k", vec![0; first]), outgoing("k", vec![0; half])];
        assert_eq!(counts(&halves(half)), [2]);
        let two_more = [halves(half), halves(half)].concat();
        assert_eq!(counts(&two_more), [2, 2]);
        assert_eq!(counts(&halves(half + 2)), [1, 1]);
    }

    #[test]
    fn what_is_not_confirmed_is_sent_again() {
        assert!(confirm(3, 3).is_ok());
        assert_eq!(confirm(3, 2).unwrap_err().recovery(), Recovery::Retry);
    }
}
