//! Source, sink, dead letters and guard against the embedded cloud, with the real clients in between.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod dead_letters;
mod guard;
mod intake;
mod proxy;
mod publishing;
mod reading;
mod sink;
mod survey;
mod world;
