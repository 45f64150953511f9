//! Tests of the pipeline with test doubles, in paused time.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod bounds;
mod crash;
mod env;
mod events;
mod file_sink;
mod flushing;
mod functions;
mod hops;
mod intake;
mod logs;
mod merged;
mod notes;
mod order;
mod poison;
mod promise;
mod refusals;
mod settling;
mod short_leases;
mod slow;
