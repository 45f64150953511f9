//! Settings of the services in one process: those of every environment, with the differences of
//! local mode.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use e2e::cloud::Cloud;
use e2e::names::{ROUTE, VIEW};
use e2e::settings::ServiceSettings;
use ingestion::config::{HttpIngest, Protocol, RouteSettings};
use service::Http;
use service::settings::{Settings, to_value};

use crate::args::Args;

/// First part of the name of each object.
pub(crate) const PREFIX: &str = "messages";

/// Returns the settings of the services of Google's profile, of which others run the first two.
/// Without a URL there is no Redis, and without a protocol no broker.
pub(crate) fn of(
    args: &Args,
    protocol: Option<Protocol>,
    redis_url: Option<String>,
    cloud: &Cloud,
) -> ServiceSettings {
    let mut all = ServiceSettings::new(cloud, args.mqtt_port, redis_url);
    let ServiceSettings { ingestion, enrich, bigqueries, icestore } = &mut all;
    let processes = [
        &mut ingestion.process,
        &mut enrich.process,
        &mut bigqueries.process,
        &mut icestore.process,
    ];
    for (index, process) in (0..).zip(processes) {
        process.http = http(args, index);
    }
    match protocol {
        Some(protocol) => ingestion.mqtt.protocol = protocol,
        None => {
            ingestion.mqtt.url = "".into();
            ingestion.routes.clear();
        }
    }
    let mut route = RouteSettings::default();
    route.source.http_source = Some("{device_id}".into());
    route.destination.route_name = ROUTE.into();
    ingestion.routes.insert("over_http".into(), route);
    ingestion.http_ingest = Some(HttpIngest { port: args.ingest_port, ..HttpIngest::default() });
    bigqueries.table.view = Some(VIEW.into());
    icestore.archive.prefix = PREFIX.into();
    // Objects appear within seconds here. In production, icestore collects for a minute.
    icestore.pipeline.batch.max_age = Duration::from_secs(2);
    all
}

/// Writes the settings of a service to `<service>.yaml` in a folder.
pub(crate) fn write(folder: &Path, service: &str, settings: &impl Settings) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).context("create the folder of the settings")?;
    let text = serde_json::to_string_pretty(&to_value(settings)?)?;
    std::fs::write(folder.join(format!("{service}.yaml")), text).context("write settings")
}

/// Returns the address of the health server of the service at this index.
pub(crate) fn http(args: &Args, index: u16) -> Http {
    // With port 0, each service takes a free port.
    let port = if args.http_port == 0 { 0 } else { args.http_port.saturating_add(index) };
    Http { host: "127.0.0.1".into(), port, ..Http::default() }
}
