//! Messages in their wire format. Each message is encoded once, even if it is delivered several
//! times.

use std::time::SystemTime;

use bytes::Bytes;
use prost::Message;

use super::proto;

/// A published message.
#[derive(Debug)]
pub(super) struct Stored {
    /// Position in the order of publishing, over all topics. It is also the message id.
    pub sequence: u64,
    pub published: SystemTime,
    /// Encoded `PubsubMessage`.
    pub encoded: Bytes,
    /// Ordering key; empty for none.
    pub ordering_key: String,
}

impl Stored {
    pub(super) fn new(sequence: u64, published: SystemTime, message: proto::PubsubMessage) -> Self {
        let encoded = message.encode_to_vec().into();
        Self { sequence, published, encoded, ordering_key: message.ordering_key }
    }
}

/// Message `ReceivedMessage` with the inner message as bytes, which is the same on the wire.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Received {
    #[prost(string, tag = "1")]
    pub ack_id: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub message: Bytes,
    #[prost(int32, tag = "3")]
    pub delivery_attempt: i32,
}

/// Message `StreamingPullResponse`. With only the first field it is a `PullResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Pulled {
    #[prost(message, repeated, tag = "1")]
    pub received_messages: Vec<Received>,
    #[prost(message, optional, tag = "4")]
    pub properties: Option<proto::streaming_pull_response::SubscriptionProperties>,
}
