//! Pub/Sub as the [`Source`], the [`Sink`] and the [`DeadLetters`] of a pipeline.
//!
//! Reading and administration use Google's own client. It does not report failed acknowledgements,
//! and it ends streams permanently on some errors. So this crate waits for the confirmation of
//! exactly-once acknowledgements, and rebuilds streams.
//!
//! Publishing uses the gRPC connection directly, because Google's client cannot cancel a publish. A
//! [`TopicGuard`] prevents publishing to topics where nobody would see the messages.

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
