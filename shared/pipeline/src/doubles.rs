//! Test doubles of the stages: a [`Feed`] that delivers again what is nacked, a [`Broker`] that then
//! delivers everything again, a [`Shelf`] that keeps what is written, [`Faults`] that make it fail, and a
//! [`Ledger`] that watches the promise.
//!
//! They are real code: a source, a sink and dead letters in memory.

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
pub use stages::{Archive, Describe, Graveyard, Item, Kind, Shelf};
