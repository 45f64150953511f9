//! Test environment, and tools of the end-to-end tests:
//!
//! - [`mod@env`]: one environment of a broker, a cloud and Redis. [`names`] has the names of what is in
//!   it, [`settings`] the settings of its services. [`hosted`] runs services in this process,
//!   [`process`] as processes. [`metrics`] reads their metrics.
//! - [`fleet`]: simulated devices that record what they sent.
//! - [`mosquitto`], [`redis`] and [`mod@postgres`]: real servers as processes. [`small_disk`] is a disk
//!   that a test can fill.
//! - [`cloud`]: resources in a cloud, which are removed after the test.
//! - [`strictness`]: makes the embedded cloud as strict as Google's.
//! - [`archive`]: reads archived objects.
//! - [`reconcile`]: compares what was sent with what arrived, by content.
//! - [`mod@timings`]: durations of the phases of tests.
//! - [`faults`]: the fault test.

pub mod archive;
pub mod certificates;
pub mod cloud;
pub mod embedded;
pub mod env;
pub mod faults;
pub mod fleet;
pub mod hosted;
pub mod metrics;
pub mod mosquitto;
pub mod names;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod reading;
pub mod reconcile;
pub mod redis;
pub mod settings;
pub mod small_disk;
pub mod strictness;
pub mod timings;
pub mod usage;
