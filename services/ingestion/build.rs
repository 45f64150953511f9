//! Generates the messages of the gRPC API, and its descriptors for reflection. It needs no protoc.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

/// File of the API.
const FILE: &str = "dataflow/ingest/v1/ingest.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/{FILE}");
    let descriptors = protox::compile([FILE], ["proto"])?;
    let folder = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(folder.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // The server reads frames by itself: it asks for room before it reads a message.
    let generate = tonic_prost_build::configure().build_server(false).build_transport(false);
    generate.compile_fds(descriptors)?;
    Ok(())
}
