//! What the flows are tested with: a [`fleet`] of devices that knows what it sent, a real broker
//! ([`mosquitto`]) and a real [`redis`], [`cloud`] resources that clean up after themselves, the [`archive`]'s reader and
//! [`replay`], and the [`account`] that compares both ends by content.

pub mod account;
pub mod archive;
pub mod cloud;
pub mod fleet;
pub mod mosquitto;
pub mod process;
pub mod reading;
pub mod redis;
pub mod replay;
