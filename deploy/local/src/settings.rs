//! Settings of the four services in one process: those of every environment, with the differences
//! of local mode.

use std::time::Duration;

use e2e::cloud::Cloud;
use e2e::names::{ROUTE, VIEW};
use e2e::settings::ServiceSettings;
use ingestion::config::{HttpIngest, Protocol, RouteSettings};
use service::Http;

use crate::args::Args;

/// First part of the name of each object.
pub(crate) const PREFIX: &str = "messages";

/// Returns the settings of all services. Without a URL there is no Redis.
pub(crate) fn of(
    args: &Args,
    protocol: Protocol,
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
    ingestion.mqtt.protocol = protocol;
    // The live page sends messages over HTTP, from any free port.
    ingestion.http_ingest = Some(HttpIngest { port: 0, ..HttpIngest::default() });
    let mut route = RouteSettings::default();
    route.source.http_source = Some("{device_id}".into());
    route.destination.route_name = ROUTE.into();
    ingestion.routes.insert("http".into(), route);
    bigqueries.table.view = Some(VIEW.into());
    icestore.archive.prefix = PREFIX.into();
    // Objects appear within seconds here. In production, icestore collects for a minute.
    icestore.pipeline.batch.max_age = Duration::from_secs(2);
    all
}

fn http(args: &Args, index: u16) -> Http {
    // With port 0, each service takes a free port.
    let port = if args.http_port == 0 { 0 } else { args.http_port.saturating_add(index) };
    Http { host: "127.0.0.1".into(), port, ..Http::default() }
}
