//! Settings of the four services in one process.

use std::path::Path;
use std::time::Duration;

use enrich::config::Admin;
use ingestion::config::{Producer, Protocol, RouteSettings};
use message::FieldPath;
use message::field_path::Pointer;
use pubsub::{DeadLetterConfig, Endpoint};
use rows::column::{Column, Kind};
use service::Http;

use crate::args::Args;
use crate::names::{
    ARCHIVE, BUCKET, DATASET, DEAD_LETTERS, DEVICES, ENRICH, ENRICHED, PREFIX, PROJECT, RAW, ROWS,
    TABLE, VIEW,
};

/// Settings of all services.
#[derive(Debug, Clone)]
pub(crate) struct All {
    pub ingestion: ingestion::config::Settings,
    pub enrich: enrich::config::Settings,
    pub bigqueries: bigqueries::config::Settings,
    pub icestore: icestore::config::Settings,
}

impl All {
    /// Writes the settings of each service to a file, for the tools of its binary.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        // JSON is also valid YAML.
        let files = [
            ("ingestion.yaml", serde_json::to_string_pretty(&self.ingestion)?),
            ("enrich.yaml", serde_json::to_string_pretty(&self.enrich)?),
            ("bigqueries.yaml", serde_json::to_string_pretty(&self.bigqueries)?),
            ("icestore.yaml", serde_json::to_string_pretty(&self.icestore)?),
        ];
        for (name, text) in files {
            std::fs::write(folder.join(name), text)?;
        }
        Ok(())
    }
}

/// Returns the settings of all services. Without a URL there is no Redis.
pub(crate) fn all(
    args: &Args,
    protocol: Protocol,
    redis_url: Option<String>,
    endpoint: &Endpoint,
) -> All {
    All {
        ingestion: ingestion(args, protocol, endpoint),
        enrich: enrich(args, redis_url, endpoint),
        bigqueries: bigqueries(args, endpoint),
        icestore: icestore(args, endpoint),
    }
}

fn http(args: &Args, index: u16) -> Http {
    // With port 0, each service takes a free port.
    let port = if args.http_port == 0 { 0 } else { args.http_port.saturating_add(index) };
    Http { host: "127.0.0.1".into(), port }
}

fn dead_letters() -> Option<DeadLetterConfig> {
    Some(DeadLetterConfig::Topic { topic_id: DEAD_LETTERS.into(), bucket: None })
}

fn ingestion(args: &Args, protocol: Protocol, endpoint: &Endpoint) -> ingestion::config::Settings {
    let mut route = RouteSettings::default();
    route.source.mqtt_topic = "devices/{device_id}/up".into();
    route.source.qos = 1;
    route.destination.route_name = "uplinks".into();
    let mut settings = ingestion::config::Settings {
        project: PROJECT.into(),
        dead_letters: dead_letters(),
        pubsub: endpoint.clone(),
        http: http(args, 0),
        ..ingestion::config::Settings::default()
    };
    settings.mqtt.url = format!("mqtt://127.0.0.1:{}", args.mqtt_port);
    settings.mqtt.protocol = protocol;
    settings.routes.insert("uplinks".into(), route);
    settings.producers.insert("uplinks".into(), Producer { topic_id: RAW.into() });
    settings
}

fn enrich(args: &Args, redis_url: Option<String>, endpoint: &Endpoint) -> enrich::config::Settings {
    let mut settings = enrich::config::Settings {
        project: PROJECT.into(),
        topic_id: ENRICHED.into(),
        // Any free port: `/status` shows it.
        admin: Admin { port: 0, ..Admin::default() },
        dead_letters: dead_letters(),
        pubsub: endpoint.clone(),
        http: http(args, 1),
        ..enrich::config::Settings::default()
    };
    settings.subscription.id = ENRICH.into();
    settings.firestore.collection = DEVICES.into();
    settings.firestore.endpoint.clone_from(&endpoint.endpoint);
    settings.cache.redis.url = redis_url;
    settings
}

fn bigqueries(args: &Args, endpoint: &Endpoint) -> bigqueries::config::Settings {
    let column =
        |name: &str, kind, from: FieldPath| Column { from: Some(from), ..Column::new(name, kind) };
    let mut settings = bigqueries::config::Settings {
        project: PROJECT.into(),
        dead_letters: dead_letters(),
        pubsub: endpoint.clone(),
        http: http(args, 2),
        ..bigqueries::config::Settings::default()
    };
    settings.subscription.id = ROWS.into();
    settings.bigquery.endpoint.clone_from(&endpoint.endpoint);
    settings.table.dataset = DATASET.into();
    settings.table.id = TABLE.into();
    settings.table.view = Some(VIEW.into());
    settings.table.columns = vec![
        column("device_id", Kind::String, FieldPath::Attribute("device_id".into())),
        column("location", Kind::String, FieldPath::Enrichment(Pointer::to("location"))),
        column("temperature", Kind::Float64, FieldPath::Payload(Pointer::to("temperature"))),
    ];
    settings
}

fn icestore(args: &Args, endpoint: &Endpoint) -> icestore::config::Settings {
    let mut settings = icestore::config::Settings {
        project: PROJECT.into(),
        dead_letters: dead_letters(),
        pubsub: endpoint.clone(),
        http: http(args, 3),
        ..icestore::config::Settings::default()
    };
    settings.subscription.id = ARCHIVE.into();
    settings.storage.bucket = BUCKET.into();
    settings.storage.endpoint.clone_from(&endpoint.endpoint);
    settings.archive.prefix = PREFIX.into();
    // Objects appear within seconds here. In production, icestore collects for a minute.
    settings.pipeline.batch.max_age = Duration::from_secs(2);
    settings
}
