//! The pipeline that every service runs. Messages flow from a [`Source`] through a [`Transform`]
//! into a [`Sink`]. Each message is acknowledged once its record is durable.
//!
//! [`Pipeline::start`] is the entry point: it takes the three parts and returns a [`Running`]
//! pipeline. A message then passes through these modules:
//!
//! - `intake` receives deliveries from the source and picks a lane for each.
//! - `lane` is one task that transforms messages into records and collects records in batches. A
//!   pipeline runs several lanes side by side.
//! - `write` writes one batch, with retries, refused records and dead letters.
//!
//! Sources, transforms and dead letters work on messages. All of them may name another type that is
//! an [`Event`].
//!
//! People can watch messages on their way; [`hops`] has the steps that they see.
//!
//! This crate knows no vendor. Its only I/O is the optional crash file in `suspects`.

pub mod backoff;
pub mod batch;
pub mod bound;
pub mod dead_letter;
pub mod delivery;
#[cfg(feature = "doubles")]
pub mod doubles;
mod error;
mod event;
pub mod hops;
mod intake;
mod keyed;
mod lane;
mod lease_plan;
mod limits;
mod merged;
pub mod metrics;
pub mod oldest_unacked;
mod pace;
mod panics;
mod reason;
pub mod reasons;
mod retry;
mod runner;
mod shared;
mod spacing;
mod stages;
mod suspects;
pub mod transform;
pub mod watchdog;
mod write;

pub use dead_letter::{DeadLetter, DeadLetters};
pub use delivery::{Delivery, Disposition, Settle, Settlement};
pub use error::{Error, Recovery};
pub use event::Event;
pub use limits::Limits;
pub use merged::Merged;
pub use metrics::Metrics;
pub use panics::catch_async;
pub use reason::{Reason, Reasons};
pub use runner::{Incomplete, Pipeline, Running, Status};
pub use stages::{PushError, Refusal, Sink, Source, Step, Transform};
pub use suspects::MAX_CRASHES;
