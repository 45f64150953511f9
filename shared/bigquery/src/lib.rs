//! Client of BigQuery's REST API, for every service that needs one.
//!
//! [`rest`] builds the client, [`RestApi`] has the calls, and [`TableName`] names a table.

mod api;
mod client;
mod query;
mod table_name;

pub use api::{Failure, Refused, RestApi};
pub use client::{Clients, EMULATOR, rest};
pub use query::{JobReference, QueryAnswer};
pub use table_name::TableName;
