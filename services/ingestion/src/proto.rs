//! Messages and client of the gRPC API, generated from `proto/dataflow/ingest/v1/ingest.proto`.

#![allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub)]

tonic::include_proto!("dataflow.ingest.v1");

/// Name of the service.
pub const SERVICE: &str = "dataflow.ingest.v1.Ingest";

/// Descriptors of the file and of those that it imports.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
