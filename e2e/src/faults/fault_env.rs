//! The test environment of the fault test, each part a separate process.
//!
//! It has two replicas of each service, the broker, Redis and the embedded cloud. Every link has a
//! proxy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::database_server::{self, DatabaseServer, LINK};
use super::replica::Replica;
use super::replica_settings::{self, Timeouts};
use crate::cloud::{Cloud, Urls};
use crate::embedded::Embedded;
use crate::env::TestEnv;
use crate::mosquitto::Mosquitto;
use crate::names::{
    ARCHIVE, DEAD_LETTER_REPORT, DEAD_LETTERS, DEVICES, ENRICH, ENRICHED, POSTGRES, RAW, ROWS,
    SERVICES, Subscription,
};
use crate::proxy::Proxy;
use crate::reading;
use crate::redis::Redis;
use crate::settings::ServiceSettings;
use crate::strictness::Strictness;

/// Services that run as replicas: those of the chain, and postgres as one more sink.
pub(super) const REPLICATED: [&str; 5] =
    [SERVICES[0], SERVICES[1], SERVICES[2], SERVICES[3], POSTGRES];
/// Links of the services. Ingestion publishes over `publish`; the others use `pubsub`.
pub(super) const LINKS: [&str; 8] =
    ["mqtt", "publish", "pubsub", "redis", "firestore", "bigquery", "storage", LINK];
/// Number of devices of a fleet; each has a document.
pub(super) const DEVICE_COUNT: u32 = 100;
/// Number of devices with a separate location. Each location is a folder of the archive.
pub(super) const LOCATION_COUNT: u32 = 10_000;
/// Subscription of a reader that relies on the order of each key.
pub(super) const ORDER: &str = "order";
const SUBSCRIPTIONS: [Subscription; 6] = [
    Subscription::ordered(ENRICH, RAW),
    Subscription::ordered(ORDER, ENRICHED),
    Subscription::new(ARCHIVE, ENRICHED),
    Subscription::new(ROWS, ENRICHED),
    Subscription::new(POSTGRES, ENRICHED),
    Subscription::new(DEAD_LETTER_REPORT, DEAD_LETTERS),
];

pub(super) struct FaultEnv {
    pub(super) broker: tokio::sync::Mutex<Mosquitto>,
    pub(super) broker_port: u16,
    pub(super) redis: tokio::sync::Mutex<Redis>,
    pub(super) database: DatabaseServer,
    pub(super) embedded: Embedded,
    /// The embedded cloud without a proxy in between.
    pub(super) cloud: Cloud,
    links: BTreeMap<&'static str, Proxy>,
    /// Locks that let one fault at a time use a link.
    reservations: BTreeMap<&'static str, tokio::sync::Mutex<()>>,
    timeouts: Timeouts,
    replicas: Mutex<Vec<Arc<Replica>>>,
    folder: TempDir,
}

impl FaultEnv {
    /// Starts all processes, and returns when all of them are ready.
    pub(super) async fn start(timeouts: Timeouts, strictness: Strictness) -> anyhow::Result<Self> {
        let env = TestEnv::start(strictness).await?;
        create_resources(&env.cloud).await.context("prepare the embedded cloud")?;
        let TestEnv { broker, redis, server: embedded, cloud, folder } = env;
        let redis = redis.context("there is no Redis")?;
        let database = DatabaseServer::start().await?;
        let mut links = BTreeMap::new();
        for name in LINKS {
            let server = match name {
                "mqtt" => broker.port(),
                "redis" => redis.port(),
                LINK => database.port(),
                _ => embedded.port(),
            };
            links.insert(name, Proxy::start(server)?);
        }
        let broker_port = broker.port();
        let env = Self {
            broker: broker.into(),
            broker_port,
            redis: redis.into(),
            database,
            embedded,
            cloud,
            links,
            reservations: LINKS.map(|link| (link, tokio::sync::Mutex::default())).into(),
            timeouts,
            replicas: Mutex::default(),
            folder,
        };
        let settings = env.settings_of(POSTGRES, 0, timeouts)?;
        env.database.create_table(&settings).await?;
        for service in REPLICATED {
            for ordinal in 0..2 {
                env.add(service, ordinal).await?;
            }
        }
        Ok(env)
    }

    /// Starts one more replica, and waits until it is ready.
    pub(super) async fn add(
        &self,
        service: &'static str,
        ordinal: u32,
    ) -> anyhow::Result<Arc<Replica>> {
        let mut settings = self.settings_of(service, ordinal, self.timeouts)?;
        if ordinal == 0 {
            // A killed process counts as crashed, too. No message may become a dead letter because
            // of that.
            let file = self.folder.path().join(format!("{service}.crash"));
            settings["pipeline"]["crash_file"] = file.to_string_lossy().into();
        }
        let replica = Arc::new(Replica::new(service, ordinal, self.folder.path(), &settings)?);
        replica.start().await?;
        self.lock().push(Arc::clone(&replica));
        replica.ready().await?;
        Ok(replica)
    }

    /// Removes a replica from the list of those that must be ready.
    pub(super) fn remove(&self, replica: &Arc<Replica>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, replica));
    }

    /// Returns all replicas that should run now.
    pub(super) fn replicas(&self) -> Vec<Arc<Replica>> {
        self.lock().clone()
    }

    /// Returns all replicas of a service.
    pub(super) fn replicas_of(&self, service: &str) -> Vec<Arc<Replica>> {
        let mut replicas = self.replicas();
        replicas.retain(|replica| replica.service == service);
        replicas
    }

    /// Returns one of the replicas of a service.
    pub(super) fn replica(&self, service: &str, choice: u32) -> anyhow::Result<Arc<Replica>> {
        let replicas = self.replicas_of(service);
        let index = choice as usize % replicas.len().max(1);
        replicas.into_iter().nth(index).with_context(|| format!("there is no {service}"))
    }

    /// Builds the settings of a replica. It reaches everything over the links of the environment.
    pub(super) fn settings_of(
        &self,
        service: &str,
        ordinal: u32,
        timeouts: Timeouts,
    ) -> anyhow::Result<Value> {
        let port = |link: &str| self.link(link).port();
        let url = |link: &str| format!("http://127.0.0.1:{}", port(link));
        let pubsub = if service == "ingestion" { "publish" } else { "pubsub" };
        let [pubsub, firestore, bigquery, storage] =
            [pubsub, "firestore", "bigquery", "storage"].map(url);
        let cloud = self.cloud.at(Urls { pubsub, firestore, bigquery, storage: storage.clone() });
        let redis_url = format!("redis://127.0.0.1:{}", port("redis"));
        let all = ServiceSettings::new(&cloud, port("mqtt"), Some(redis_url));
        let mut settings = match service {
            POSTGRES => database_server::settings(&all, &cloud, port(LINK))?,
            _ => all.json(service)?,
        };
        settings["storage"]["endpoint"] = storage.into();
        replica_settings::change(&mut settings, service, ordinal, timeouts);
        Ok(settings)
    }

    pub(super) fn link(&self, name: &str) -> &Proxy {
        &self.links[name]
    }

    /// Reserves a link, so that no other fault uses it.
    pub(super) async fn reserve(&self, name: &str) -> tokio::sync::MutexGuard<'_, ()> {
        self.reservations[name].lock().await
    }

    /// Returns the folder of settings and logs.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends everything, but keeps the folder.
    pub(super) fn keep(self) -> PathBuf {
        self.folder.keep()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Replica>>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates the resources of the services, a reader of the order, and a document for each device.
async fn create_resources(cloud: &Cloud) -> anyhow::Result<()> {
    cloud.create_resources(&SUBSCRIPTIONS).await?;
    cloud.create_bucket(DEAD_LETTERS).await?;
    cloud.put_documents(DEVICES, reading::documents(DEVICE_COUNT)).await?;
    let located = (0..LOCATION_COUNT).map(|number| {
        // The first location would leave the folder of the archive if icestore did not prevent it.
        let place = if number == 0 { "../../x".into() } else { format!("place {number}/é") };
        (located_device(number), json!({ "LocationID": place }))
    });
    cloud.put_documents(DEVICES, located).await
}

/// Returns the name of a device with a separate location.
pub(super) fn located_device(number: u32) -> String {
    format!("located-{number:05}")
}
