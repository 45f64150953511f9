//! Pub/Sub as the [`Source`], the [`Sink`] and the [`DeadLetters`] of a pipeline.
//!
//! Reading and questions go over Google's own client, which swallows failed acknowledgements and ends
//! streams permanently on some errors. Acknowledgements of exactly-once subscriptions are confirmed
//! here, and streams rebuilt. Publishing goes over the gRPC connection itself, because that client cannot
//! end a publish. A [`TopicGuard`] keeps messages from being published where nobody would see them.

mod admin;
mod connection;
mod dead_letters;
mod guard;
mod intake;
pub mod letters;
pub mod limits;
mod publishers;
mod settings;
mod sink;
mod source;
mod survey;

pub use admin::Admin;
pub use connection::{Connection, TopicName};
pub use dead_letters::DeadLetters;
pub use guard::TopicGuard;
pub use intake::{Intake, Opened, Reads};
pub use publishers::Publishers;
pub use settings::{Endpoint, Graves, Keyword, Subscription};
pub use sink::{Outgoing, Sink};
pub use source::{Source, SourceMetrics};
pub use survey::Survey;
