//! What the flows are tested with: a [`fleet`] of devices that knows what it sent, a real broker
//! ([`mosquitto`]) and a real [`redis`], [`cloud`] resources that clean up after themselves, the
//! embedded cloud's [`hardness`], the [`archive`]'s reader and
//! [`replay`], the [`account`] that compares both ends by content, and the [`faults`] that all of it must survive.

pub mod account;
pub mod archive;
pub mod certificates;
pub mod cloud;
pub mod embedded;
pub mod faults;
pub mod fleet;
pub mod hardness;
pub mod mosquitto;
pub mod process;
pub mod proxy;
pub mod reading;
pub mod redis;
pub mod replay;
pub mod usage;
