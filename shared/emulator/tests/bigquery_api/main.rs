//! Requests of other people's clients to BigQuery: jobs, statements, loads, write streams, read sessions.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod jobs;
mod layout;
mod replacing;
mod rights;
mod statements;
mod streams;
mod tables;
