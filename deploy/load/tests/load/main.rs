//! Tests of the load generator as a program, over a real mosquitto and a real ingestion.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod archive;
mod env;
mod http;
mod mqtt;
mod scripted;
mod stopping;
