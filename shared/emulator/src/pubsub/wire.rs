//! Messages as they lie on the wire, so that each is encoded once however often it is delivered.

use std::time::SystemTime;

use bytes::Bytes;
use prost::Message;

use super::proto;

/// A published message.
#[derive(Debug)]
pub(super) struct Stored {
    /// Its place in the order of publishing, over all topics; also its id.
    pub sequence: u64,
    pub published: SystemTime,
    /// The encoded `PubsubMessage`.
    pub encoded: Bytes,
    /// Empty for none.
    pub ordering_key: String,
}

impl Stored {
    pub(super) fn new(sequence: u64, published: SystemTime, message: proto::PubsubMessage) -> Self {
        let encoded = message.encode_to_vec().into();
        Self { sequence, published, encoded, ordering_key: message.ordering_key }
    }
}

/// `ReceivedMessage`, with the message as bytes: the same on the wire.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Received {
    #[prost(string, tag = "1")]
    pub ack_id: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub message: Bytes,
    #[prost(int32, tag = "3")]
    pub delivery_attempt: i32,
}

/// `StreamingPullResponse`, and with the first field alone `PullResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Pulled {
    #[prost(message, repeated, tag = "1")]
    pub received_messages: Vec<Received>,
    #[prost(message, optional, tag = "4")]
    pub properties: Option<proto::streaming_pull_response::SubscriptionProperties>,
}
