//! Description of the running platform, with commands to try.

use std::fmt::{self, Write as _};
use std::path::Path;

use e2e::env::TestEnv;
use e2e::names::{ARCHIVE, DATASET, VIEW};

use crate::args::Args;
use crate::env::LocalEnv;

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

fn write(text: &mut String, args: &Args, env: &LocalEnv, data: &Path) -> Result<(), fmt::Error> {
    let port = args.mqtt_port;
    let TestEnv { broker, redis, server, cloud: client, folder } = &env.servers;
    let (cloud, project) = (server.url(), &client.project);
    let data = data.display();
    writeln!(text, "Live      http://{}  (state, messages, dead letters)", env.page.address())?;
    writeln!(text, "MQTT      mqtt://127.0.0.1:{port}  ({})", broker.name())?;
    writeln!(text, "Cloud     {cloud}  (Pub/Sub, Firestore, BigQuery, Cloud Storage)")?;
    let services: Vec<_> = env
        .services
        .iter()
        .map(|service| format!("http://{} {:<12}", service.hosted.address(), service.name))
        .collect();
    for (index, pair) in services.chunks(2).enumerate() {
        let head = if index == 0 { "Services" } else { "" };
        writeln!(text, "{head:<10}{}", pair.join("  ").trim_end())?;
    }
    match redis {
        Some(redis) => writeln!(text, "Cache     memory, {}, Firestore", redis.url())?,
        None => writeln!(text, "Cache     memory, Firestore  (no redis-server on the PATH)")?,
    }
    writeln!(text, "Data      {}", folder.display())?;
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
    writeln!(text, "  zcat {data}/storage/{ARCHIVE}/*/*/*/*/*.gz | grep '\"device_id\":\"abc\"'")?;
    writeln!(text, "See what was refused, and why:")?;
    writeln!(text, "  cargo run -q --bin bigqueries -- dead-letters list \\")?;
    writeln!(text, "    --config {data}/settings/bigqueries.yaml")?;
    writeln!(text, "Ctrl-C stops the devices and accounts for every message.")?;
    writeln!(text)
}
