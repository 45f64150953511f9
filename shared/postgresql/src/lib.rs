//! Connections to PostgreSQL, for every service that needs them.
//!
//! [`Server`] is the section of the settings. [`Database`] is a pool of connections. [`identifier`]
//! makes names safe in SQL, and [`describe`] puts an error into words.

mod advice;
mod database;
mod error;
pub mod identifier;
mod server;

pub use database::{Connection, Database, Sessions};
pub use error::{describe, describe_with_values};
pub use server::{Server, SslMode};
pub use service::settings::Password;
