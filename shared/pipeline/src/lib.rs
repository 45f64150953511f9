//! The pipeline that every service runs: messages flow from a [`Source`] through a [`Transform`]
//! into a [`Sink`], and each one is acknowledged when its record is durable.
//!
//! [`Pipeline::start`] is the entry: it takes the three parts and gives a [`Running`] pipeline.
//! From there the way of a message is `intake` (takes deliveries, picks a lane), `lane` (one task
//! that transforms records and grows batches) and `write` (one batch, with its retries, refusals and
//! dead letters). Nothing here does I/O or knows a vendor.

pub mod backoff;
pub mod batch;
pub mod bound;
pub mod dead_letter;
pub mod delivery;
#[cfg(feature = "doubles")]
pub mod doubles;
pub mod envelope;
mod error;
mod intake;
pub mod json;
mod lane;
mod limits;
pub mod message;
pub mod metrics;
mod pace;
mod panics;
mod payload;
pub mod place;
pub mod progress;
mod renewable;
mod runner;
mod stages;
mod suspects;
pub mod timestamp;
pub mod trace;
pub mod waiting;
mod write;

pub use dead_letter::{DeadLetters, Letter};
pub use delivery::{Delivery, Settle, Settlement, Verdict};
pub use envelope::Envelope;
pub use error::{Error, Recovery};
pub use limits::Limits;
pub use message::Message;
pub use metrics::Metrics;
pub use panics::{PANICKED, catch_async};
pub use payload::Payload;
pub use place::Place;
pub use renewable::{Lease, Renewable};
pub use runner::{Incomplete, Pipeline, Running, Status};
pub use stages::{Join, Refusal, Sink, Source, Step, Transform};
pub use suspects::{CRASHED, MAX_CRASHES};
