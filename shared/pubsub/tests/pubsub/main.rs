//! Tests of source, sink, dead letters and guard with the embedded cloud and the real clients.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod clients;
mod creation;
mod dead_letters;
mod env;
mod guard;
mod intake;
mod leases;
mod preflight;
mod proxy;
mod publisher;
mod publishing;
mod reading;
mod sink;
