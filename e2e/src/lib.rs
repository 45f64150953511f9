//! Tools of the end-to-end tests:
//!
//! - [`fleet`]: simulated devices that record what they sent.
//! - [`mosquitto`] and [`redis`]: real servers as processes.
//! - [`cloud`]: resources in a cloud, which are removed after the test.
//! - [`hardness`]: makes the embedded cloud as strict as Google's.
//! - [`archive`] and [`replay`]: read archived objects and send them to MQTT again.
//! - [`account`]: compares what was sent with what arrived, by content.
//! - [`faults`]: the fault test.

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
