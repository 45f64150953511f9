//! An embedded Google Cloud: one process, one port, wire-compatible with Google's own clients.
//!
//! [`Emulator::start`] serves Pub/Sub (gRPC and REST), Firestore (gRPC), BigQuery (REST and Storage
//! Write) and Cloud Storage (JSON) until it is shut down or dropped. Objects are files in a folder,
//! tables lie in a SQLite file, and both survive a restart; Pub/Sub and Firestore live in memory.
//! What is not supported answers `UNIMPLEMENTED` or 501 and names itself. [`Faults`] make it
//! misbehave, and a [`Profile`] makes it as slow and as strict as Google's own.

mod bigquery;
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
