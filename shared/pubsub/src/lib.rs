//! Pub/Sub as the [`Source`], the [`Sink`] and the [`DeadLetters`] of a pipeline, on Google's own
//! client.
//!
//! The client has no flow control on publishing, batches by a timer, swallows failed
//! acknowledgements and ends streams for good on some errors. All of that is handled here: batches
//! are the pipeline's, acknowledgements of exactly-once subscriptions are confirmed, streams are
//! rebuilt, and a [`TopicGuard`] keeps messages from being published where nobody would see them.

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
