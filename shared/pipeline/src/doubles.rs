//! Test doubles of the pipeline's traits.
//!
//! They are real code: sources, sinks and dead letters in memory.
//!
//! - [`Feed`] is a source that redelivers each nacked message.
//! - [`Broker`] is a source that redelivers everything after a nack, as MQTT does.
//! - [`Shelf`] is a sink that stores what is written.
//! - [`Faults`] make a double fail.
//! - [`Ledger`] records what happened, and checks that no message is acked before it is durable.

mod broker;
mod faults;
mod feed;
mod hooked;
mod ledger;
mod stages;

pub use broker::Broker;
pub use faults::{Fault, FaultRates, Faults};
pub use feed::{Feed, LostNacks, Tap};
pub use hooked::{Call, Hook, Hooked};
pub use ledger::{Book, Ledger};
pub use stages::{Archive, Describe, Item, Kind, MemoryDeadLetters, Shelf};
