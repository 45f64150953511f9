//! Rows that postgres and bigqueries wrote are found over HTTP, with the same answers.

mod api;
mod bytes;
mod contract;
mod hostile;
mod on_bigquery;
mod on_postgres;
mod schema;
