//! Test doubles of the stages: a [`Feed`] that delivers again what is nacked, a [`Shelf`] that keeps
//! what is written, [`Faults`] that make it fail, and a [`Ledger`] that watches the promise.
//!
//! They are real code: a source, a sink and dead letters in memory.

mod faults;
mod feed;
mod ledger;
mod stages;

pub use faults::{Fault, FaultRates, Faults};
pub use feed::{Feed, Tap};
pub use ledger::{Book, Ledger};
pub use stages::{Archive, Describe, Graveyard, Item, Kind, Shelf};
