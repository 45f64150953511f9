//! Test doubles of the pipeline's traits.
//!
//! They are real code: sources, sinks and dead letters in memory.
//!
//! - [`MemorySource`] is a source that redelivers each nacked message.
//! - [`Broker`] is a source that redelivers everything after a nack, as MQTT does.
//! - [`MemorySink`] is a sink that stores what is written.
//! - [`Faults`] make a double fail.
//! - [`Recorder`] records what happened, and checks that no message is acked before it is durable.

mod broker;
mod faults;
mod hooked;
mod memory_source;
mod recorder;
mod stages;

pub use broker::Broker;
pub use faults::{Fault, FaultRates, Faults};
pub use hooked::{Call, Hook, Hooked};
pub use memory_source::{LostNacks, MemorySource, SourceInput};
pub use recorder::{Recorder, Recording};
pub use stages::{Archive, FnTransform, Item, Kind, MemoryDeadLetters, MemorySink};
