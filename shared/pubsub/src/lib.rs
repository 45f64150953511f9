//! Pub/Sub as the [`Source`], the [`Sink`] and the [`DeadLetters`] of a pipeline.
//!
//! Administration uses Google's own client over REST. Reading and publishing call gRPC themselves.
//! Google's client cannot cancel a publish, and it extends leases with any number of concurrent
//! requests. A [`TopicGuard`] prevents publishing to topics where nobody would see the messages.

mod admin;
mod audience;
mod clients;
mod connection;
pub mod cost;
mod creation;
mod dead_letters;
mod guard;
mod intake;
pub mod limits;
mod names;
mod outgoing;
mod preflight;
mod proxy;
mod published;
mod publisher;
mod publishers;
pub mod reasons;
mod settings;
mod sink;
mod source;
pub mod tools;

pub use admin::Admin;
pub use audience::{Audience, FindAudience, SharedAudience};
pub use clients::{Channels, Clients};
pub use connection::Connection;
pub use dead_letters::DeadLetters;
pub use guard::TopicGuard;
pub use intake::{Intake, Opened, Reads};
pub use names::{SubscriptionId, TopicId, TopicName};
pub use outgoing::Outgoing;
pub use preflight::Preflight;
pub use published::Published;
pub use publisher::{Confirmation, NewMessage, Publisher, PublisherLimits};
pub use publishers::Publishers;
pub use settings::{DeadLetterConfig, Endpoint, IntakeSettings, Keyword, Subscription};
pub use sink::Sink;
pub use source::{Source, SourceMetrics};
