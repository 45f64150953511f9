//! An embedded Google Cloud: one process and one port, wire-compatible with Google's own clients.
//!
//! [`Emulator::start`] serves Pub/Sub (gRPC and REST), Firestore (gRPC), BigQuery (REST and Storage
//! Write) and Cloud Storage (JSON) until it is shut down or dropped.
//!
//! - Objects are files in a folder, and tables are in a SQLite file. Both survive a restart.
//! - Pub/Sub and Firestore are in memory only.
//! - An unsupported feature answers `UNIMPLEMENTED` or 501, and the error names it.
//! - [`Faults`] inject errors and delays.
//! - A [`Profile`] makes it as slow and as strict as Google's own cloud.

mod bigquery;
mod cloud;
mod conditions;
mod control;
mod existence;
mod faults;
mod firestore;
mod grpc;
mod profile;
mod pubsub;
mod resources;
mod rest;
mod rights;
mod server;
mod status;
mod storage;

pub use faults::{Fault, Faults, Kind};
pub use profile::{Latency, Profile};
pub use resources::Resources;
pub use server::{Emulator, Options};
pub use status::Status;
