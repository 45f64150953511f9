//! Tests of the flows with real services, a real mosquitto and a real Redis. They use the embedded
//! cloud, or Google's own if `DATAFLOW_E2E_PROJECT` names a project.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod binaries;
mod caches;
mod chain;
mod credentials;
#[path = "../../../shared/emulator/tests/google/emulators.rs"]
mod emulators;
mod examples;
mod flow_env;
mod flows;
mod google;
mod grpc_ingest;
mod half_open;
mod http_ingest;
mod ingest_env;
mod keep_resources;
mod live;
mod metadata;
mod monitoring;
mod mqtt;
mod own_clients;
mod own_parts;
mod quiet_night;
mod readers;
mod readiness;
mod real_cloud;
mod timings;
mod tools;
mod trace;
