//! Tests with requests of other BigQuery clients: jobs, statements, loads, write streams and read
//! sessions.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod functions;
mod jobs;
mod layout;
mod lists;
mod loads;
mod nested;
mod numbers;
mod replacing;
mod rights;
mod statements;
mod streams;
mod tables;
mod times;
mod types;
