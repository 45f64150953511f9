//! Tests of the service postgres against a real server.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod clients;
mod env;
mod outages;
mod own_rows;
mod partitions;
mod query;
mod rows_of_messages;
mod tables;
