//! Description of the running platform, with commands to try.

use std::fmt::{self, Write as _};
use std::path::Path;

use e2e::names::{ARCHIVE, DATASET, TABLE, VIEW};
use e2e::postgres::{DATABASE, USER};

use crate::addresses;
use crate::args::Args;
use crate::engine::Engine;
use crate::env::{Destination, LocalEnv};

/// Describes a running platform. With the table below it, the text takes the 24 lines of the usual
/// terminal. Its lines have at most 79 characters if paths are short.
///
/// `data` is the path of the data folder in commands.
pub(crate) fn describe(args: &Args, env: &LocalEnv, data: &Path) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    write(&mut text, args, env, data).unwrap_or_default();
    text
}

fn write(text: &mut String, args: &Args, env: &LocalEnv, data: &Path) -> fmt::Result {
    for address in addresses::of(args, env) {
        writeln!(text, "{}", address.line())?;
    }
    writeln!(text, "Data      {}", env.servers.folder.display())?;
    let last = match &env.destination {
        Destination::Google => {
            writeln!(text)?;
            google(text, args, env, data)?;
            "bigqueries"
        }
        Destination::Engine(engine) => {
            engine_commands(text, env, engine, data)?;
            "postgres"
        }
    };
    writeln!(text, "See what was refused, and why:")?;
    writeln!(text, "  cargo run -q --bin {last} -- dead-letters list \\")?;
    writeln!(text, "    --config {}/settings/{last}.yaml", data.display())?;
    writeln!(text, "Ctrl-C stops the devices and accounts for every message.")
}

fn google(text: &mut String, args: &Args, env: &LocalEnv, data: &Path) -> fmt::Result {
    let (port, cloud, data) = (args.mqtt_port, env.servers.server.url(), data.display());
    let project = &env.servers.cloud.project;
    writeln!(
        text,
        "Send a message. Find its row, and some seconds later its line in the archive:"
    )?;
    writeln!(
        text,
        "  mosquitto_pub -p {port} -q 1 -t devices/abc/up -m '{{\"temperature\":21.5}}'"
    )?;
    writeln!(text, "  curl -s {cloud}/bigquery/v2/projects/{project}/queries --json \\")?;
    writeln!(
        text,
        "    '{{\"query\":\"SELECT * FROM {DATASET}.{VIEW} WHERE device_id = \\\"abc\\\"\"}}'"
    )?;
    writeln!(text, "  zcat {data}/storage/{ARCHIVE}/*/*/*/*/*.gz | grep '\"device_id\":\"abc\"'")
}

fn engine_commands(text: &mut String, env: &LocalEnv, engine: &Engine, data: &Path) -> fmt::Result {
    let (port, data) = (engine.server.port(), data.display());
    writeln!(text, "Send a message. Find its row over HTTP, and in PostgreSQL itself:")?;
    writeln!(text, "  curl -s {}/ingest --json \\", env.ingest)?;
    writeln!(text, "    '{{\"sourceId\":\"abc\",\"payload\":{{\"temperature\":21.5}}}}'")?;
    writeln!(text, "  curl -s '{}/data?source_id=abc'", engine.query_url())?;
    writeln!(text, "  PGPASSWORD=$(cat {data}/postgresql/password) \\")?;
    writeln!(text, "    psql -h 127.0.0.1 -p {port} -U {USER} {DATABASE} -c 'TABLE {TABLE}'")
}
