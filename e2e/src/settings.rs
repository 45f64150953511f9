//! Settings of the four services: their defaults, except for names and addresses.
//!
//! Every environment starts from them and states its differences. Those that run services as
//! processes change the JSON, with [`merge`].

use std::path::Path;

use anyhow::{Context as _, bail};
use enrich::config::Admin;
use ingestion::config::{Producer, RouteSettings};
use message::FieldPath;
use message::field_path::Pointer;
use postgresql::{Server, SslMode};
use pubsub::{DeadLetterConfig, Endpoint, IntakeSettings, Subscription};
use rows::column::{Column, Kind};
use serde_json::Value;
use service::Http;
use service::settings::{ProcessSettings, to_value};

use crate::cloud::Cloud;
use crate::names::{
    ARCHIVE, DEAD_LETTERS, DEVICES, ENRICH, ENRICHED, POSTGRES, RAW, ROUTE, ROWS, SERVICES, TABLE,
};
use crate::postgres::{DATABASE, Postgres, USER};

/// Settings of all services.
#[derive(Debug, Clone)]
pub struct ServiceSettings {
    /// Settings of ingestion, with one route for the topics of a fleet.
    pub ingestion: ingestion::config::Settings,
    /// Settings of enrich.
    pub enrich: enrich::config::Settings,
    /// Settings of bigqueries, with the columns that the comparison of messages needs.
    pub bigqueries: bigqueries::config::Settings,
    /// Settings of icestore.
    pub icestore: icestore::config::Settings,
}

impl ServiceSettings {
    /// Returns settings for this cloud, for a broker on this port of loopback, and for this Redis.
    /// Without a URL there is no Redis.
    #[must_use]
    pub fn new(cloud: &Cloud, mqtt_port: u16, redis_url: Option<String>) -> Self {
        Self {
            ingestion: ingestion(cloud, mqtt_port),
            enrich: enrich(cloud, redis_url),
            bigqueries: bigqueries(cloud),
            icestore: icestore(cloud),
        }
    }

    /// Returns the settings of postgres: the columns of bigqueries, in a table of the server on this port
    /// of loopback.
    #[must_use]
    pub fn postgres(&self, cloud: &Cloud, port: u16) -> ::postgres::config::Settings {
        let Self { bigqueries, .. } = self;
        let mut settings = ::postgres::config::Settings {
            process: bigqueries.process.clone(),
            intake: bigqueries.intake.clone(),
            ..<_>::default()
        };
        settings.intake.subscription.id = cloud.name(POSTGRES).into();
        settings.postgres.host = "127.0.0.1".into();
        settings.postgres.port = port;
        settings.postgres.user = USER.into();
        settings.postgres.database = DATABASE.into();
        settings.postgres.sslmode = SslMode::Disable;
        settings.table.name = TABLE.into();
        settings.table.columns.clone_from(&bigqueries.table.columns);
        settings.table.source_column = Some("device_id".into());
        settings
    }

    /// Returns the settings of the service of this name as JSON, which is also valid YAML.
    ///
    /// # Errors
    /// Fails when there is no such service.
    pub fn json(&self, service: &str) -> anyhow::Result<Value> {
        let json = match service {
            "ingestion" => to_value(&self.ingestion),
            "enrich" => to_value(&self.enrich),
            "bigqueries" => to_value(&self.bigqueries),
            "icestore" => to_value(&self.icestore),
            _ => bail!("there is no service {service}"),
        };
        json.context("write settings as JSON")
    }

    /// Writes the settings of each service to `<service>.yaml` in a folder.
    ///
    /// # Errors
    /// Fails when a file cannot be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        for service in SERVICES {
            let text = serde_json::to_string_pretty(&self.json(service)?)?;
            std::fs::write(folder.join(format!("{service}.yaml")), text)?;
        }
        Ok(())
    }
}

/// Merges changes into settings: objects by key, and everything else as a whole.
pub fn merge(settings: &mut Value, changes: &Value) {
    match (settings, changes) {
        (Value::Object(settings), Value::Object(changes)) => {
            for (key, change) in changes {
                merge(settings.entry(key.clone()).or_insert(Value::Null), change);
            }
        }
        (settings, change) => settings.clone_from(change),
    }
}

fn dead_letters(cloud: &Cloud) -> Option<DeadLetterConfig> {
    Some(DeadLetterConfig::Topic { topic_id: cloud.name(DEAD_LETTERS).into(), bucket: None })
}

fn pubsub(cloud: &Cloud) -> Endpoint {
    Endpoint {
        endpoint: cloud.endpoint(|urls| &urls.pubsub).map(Into::into),
        ..Endpoint::default()
    }
}

/// Returns the settings of a process with its health server on any free port of loopback.
fn process(cloud: &Cloud, defaults: ProcessSettings) -> ProcessSettings {
    let http = Http { host: "127.0.0.1".into(), port: 0, ..Http::default() };
    ProcessSettings { project: cloud.project.clone(), http, ..defaults }
}

fn intake(cloud: &Cloud, subscription: &str, defaults: IntakeSettings) -> IntakeSettings {
    let subscription =
        Subscription { id: cloud.name(subscription).into(), ..defaults.subscription };
    let (dead_letters, pubsub) = (dead_letters(cloud), pubsub(cloud));
    IntakeSettings { subscription, dead_letters, pubsub, ..defaults }
}

fn ingestion(cloud: &Cloud, mqtt_port: u16) -> ingestion::config::Settings {
    let mut route = RouteSettings::default();
    route.source.mqtt_topic = "devices/{device_id}/up".into();
    route.source.qos = 1;
    route.destination.route_name = ROUTE.into();
    let mut settings = ingestion::config::Settings {
        dead_letters: dead_letters(cloud),
        pubsub: pubsub(cloud),
        ..ingestion::config::Settings::default()
    };
    settings.process = process(cloud, settings.process);
    settings.mqtt.url = format!("mqtt://127.0.0.1:{mqtt_port}").into();
    settings.routes.insert(ROUTE.into(), route);
    settings.producers.insert(ROUTE.into(), Producer { topic_id: cloud.name(RAW).into() });
    settings
}

fn enrich(cloud: &Cloud, redis_url: Option<String>) -> enrich::config::Settings {
    let mut settings = enrich::config::Settings {
        topic_id: cloud.name(ENRICHED).into(),
        // Any free port: `/status` shows it.
        admin: Admin { port: 0, ..Admin::default() },
        ..enrich::config::Settings::default()
    };
    settings.process = process(cloud, settings.process);
    settings.intake = intake(cloud, ENRICH, settings.intake);
    settings.firestore.collection = cloud.name(DEVICES);
    settings.firestore.endpoint = cloud.endpoint(|urls| &urls.firestore).map(Into::into);
    settings.cache.redis.url = redis_url.map(Into::into);
    settings
}

fn bigqueries(cloud: &Cloud) -> bigqueries::config::Settings {
    let mut settings = bigqueries::config::Settings::default();
    settings.process = process(cloud, settings.process);
    settings.intake = intake(cloud, ROWS, settings.intake);
    settings.bigquery.endpoint = cloud.endpoint(|urls| &urls.bigquery).map(Into::into);
    settings.table.dataset = cloud.dataset();
    settings.table.id = TABLE.into();
    settings.table.columns = columns();
    settings
}

/// Returns the columns that the comparison of messages needs.
fn columns() -> Vec<Column> {
    let column =
        |name: &str, kind, from: FieldPath| Column { from: Some(from), ..Column::new(name, kind) };
    vec![
        column("device_id", Kind::String, FieldPath::Attribute("device_id".into())),
        column("location", Kind::String, FieldPath::Enrichment(Pointer::to("location"))),
        column("temperature", Kind::Float64, FieldPath::Payload(Pointer::to("temperature"))),
    ]
}

/// Returns settings of postgres, which then takes the place of bigqueries in a cloud.
#[must_use]
pub fn postgres(cloud: &Cloud, server: &Postgres) -> ::postgres::config::Settings {
    let mut settings = ::postgres::config::Settings::default();
    settings.process = process(cloud, settings.process);
    settings.intake = intake(cloud, ROWS, settings.intake);
    settings.postgres = login(server);
    settings.table.name = TABLE.into();
    settings.table.columns = columns();
    settings.table.source_column = Some("device_id".into());
    settings
}

/// Returns settings of query for the table of [`postgres()`].
#[must_use]
pub fn query(cloud: &Cloud, server: &Postgres) -> ::query::config::Settings {
    let mut settings = ::query::config::Settings::default();
    settings.process = process(cloud, settings.process);
    settings.api.port = 0;
    settings.postgres = Some(login(server));
    settings.table.name = TABLE.into();
    settings.table.source_column = "device_id".into();
    settings
}

fn login(server: &Postgres) -> Server {
    Server {
        host: "127.0.0.1".into(),
        port: server.port(),
        user: USER.into(),
        password_file: server.password_file().map(Path::to_owned),
        database: DATABASE.into(),
        sslmode: SslMode::Disable,
        // The server has fifty, however many cores there are.
        max_connections: Some(10),
        ..Server::default()
    }
}

fn icestore(cloud: &Cloud) -> icestore::config::Settings {
    let mut settings = icestore::config::Settings::default();
    settings.process = process(cloud, settings.process);
    settings.intake = intake(cloud, ARCHIVE, settings.intake);
    settings.storage.bucket = cloud.name(ARCHIVE).into();
    settings.storage.endpoint = cloud.endpoint(|urls| &urls.storage).map(Into::into);
    settings
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use service::settings::load;

    use super::*;

    #[test]
    fn changes_replace_values_and_keep_their_neighbours() {
        let mut settings = json!({ "pipeline": { "lanes": 4, "retry": { "min": "1s" } } });

        merge(&mut settings, &json!({ "pipeline": { "lanes": 1 }, "dead_letters": "drop" }));

        let expected = json!({
            "pipeline": { "lanes": 1, "retry": { "min": "1s" } },
            "dead_letters": "drop",
        });
        assert_eq!(settings, expected);
    }

    #[test]
    fn services_take_their_settings_back_from_json() -> anyhow::Result<()> {
        let cloud = Cloud::embedded("http://127.0.0.1:8085");
        let settings = ServiceSettings::new(&cloud, 1883, None);

        let folder = tempfile::tempdir()?;
        settings.write(folder.path())?;
        let file = |name: &str| folder.path().join(format!("{name}.yaml"));
        let icestore: icestore::config::Settings = load(Some(&file("icestore")), []).unwrap();
        let ingestion: ingestion::config::Settings = load(Some(&file("ingestion")), []).unwrap();

        assert_eq!(icestore, settings.icestore);
        assert_eq!(ingestion, settings.ingestion);
        Ok(())
    }
}
