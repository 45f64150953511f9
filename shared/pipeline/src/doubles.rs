//! Test doubles of the pipeline's traits.
//!
//! They are real code: sources, sinks and dead letters in memory.
//!
//! - [`MemorySource`] is a source that redelivers each nacked message.
//! - [`Broker`] is a source that redelivers everything after a nack, as MQTT does.
//! - [`MemorySink`] is a sink that stores what is written.
//! - [`Faults`] make a double fail. Your own sink draws one fault an attempt: [`Faults::draw`], then
//!   [`Fault::before`] and [`Fault::after`].
//! - [`Recorder`] records what happened. A message that is acked before its id is in
//!   [`Recording::written`] is noted in [`Recording::broken`]. Your own sink adds the ids, and your
//!   test asserts that nothing is broken.
//!
//! To stop a pipeline halfway, wait for `Running::ended` under a time-out in paused time, and drop it.

mod broker;
mod faults;
mod hooked;
mod memory_source;
pub mod reasons;
mod recorder;
mod stages;

pub use broker::Broker;
pub use faults::{Fault, FaultRates, Faults};
pub use hooked::{Call, Hook, Hooked};
pub use memory_source::{LostNacks, MemorySource, SourceInput};
pub use recorder::{Recorder, Recording};
pub use stages::{Archive, FnTransform, Item, Kind, MemoryDeadLetters, MemorySink};
