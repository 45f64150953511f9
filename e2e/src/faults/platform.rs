//! Everything that faults befall, each part a process of its own: two replicas of each service, the
//! broker, Redis, and the embedded cloud, with a proxy on every link.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tempfile::TempDir;

use super::replica::Replica;
use super::settings::{self, Profile};
use crate::cloud::Cloud;
use crate::embedded::Embedded;
use crate::hardness::{self, Strictness};
use crate::mosquitto::Mosquitto;
use crate::proxy::Proxy;
use crate::reading;
use crate::redis::Redis;

/// In the order of the flow.
pub(super) const SERVICES: [&str; 4] = ["ingestion", "enrich", "bigqueries", "icestore"];
/// What services are linked to; ingestion publishes over `publish`, the others use `pubsub`.
pub(super) const LINKS: [&str; 7] =
    ["mqtt", "publish", "pubsub", "redis", "firestore", "bigquery", "storage"];
/// Devices of a fleet; each has its document.
pub(super) const DEVICES: u32 = 100;
/// Places that no other device is at: each is a folder of the archive.
pub(super) const WILD_PLACES: u32 = 10_000;

/// How long a service may drain.
pub(super) const GRACE: Duration = Duration::from_secs(20);

pub(super) struct Platform {
    pub(super) broker: tokio::sync::Mutex<Mosquitto>,
    pub(super) broker_port: u16,
    pub(super) redis: tokio::sync::Mutex<Redis>,
    pub(super) embedded: Embedded,
    /// Past the proxies.
    pub(super) cloud: Cloud,
    links: BTreeMap<&'static str, Proxy>,
    /// One fault at a time has a link.
    holds: BTreeMap<&'static str, tokio::sync::Mutex<()>>,
    profile: Profile,
    replicas: Mutex<Vec<Arc<Replica>>>,
    folder: TempDir,
}

impl Platform {
    /// Starts everything, and returns when all of it is ready.
    pub(super) async fn start(profile: Profile, strictness: Strictness) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("create a folder")?;
        let broker = Mosquitto::start(&folder.path().join("broker"), 0).await?;
        let redis = Redis::start().await?;
        let embedded = Embedded::start(&folder.path().join("cloud")).await?;
        let cloud = Cloud::embedded(&embedded.url());
        if strictness == Strictness::LikeGoogle {
            hardness::harden(&embedded.url()).await?;
        }
        prepare(&cloud).await.context("prepare the embedded cloud")?;
        let mut links = BTreeMap::new();
        for name in LINKS {
            let server = match name {
                "mqtt" => broker.port(),
                "redis" => redis.port(),
                _ => embedded.port(),
            };
            links.insert(name, Proxy::start(server)?);
        }
        let broker_port = broker.port();
        let platform = Self {
            broker: broker.into(),
            broker_port,
            redis: redis.into(),
            embedded,
            cloud,
            links,
            holds: LINKS.map(|link| (link, tokio::sync::Mutex::default())).into(),
            profile,
            replicas: Mutex::default(),
            folder,
        };
        for service in SERVICES {
            for ordinal in 0..2 {
                platform.add(service, ordinal).await?;
            }
        }
        Ok(platform)
    }

    /// Starts one more replica, and waits until it is ready.
    pub(super) async fn add(
        &self,
        service: &'static str,
        ordinal: u32,
    ) -> anyhow::Result<Arc<Replica>> {
        let mut settings =
            settings::of((service, ordinal), self.profile, |link| self.links[link].port());
        if ordinal == 0 {
            // A kill is an unclean end, too: no message may be put aside for it.
            let file = self.folder.path().join(format!("{service}.crash"));
            settings["pipeline"]["crash_file"] = file.to_string_lossy().into();
        }
        let replica = Arc::new(Replica::new(service, ordinal, self.folder.path(), &settings)?);
        replica.start().await?;
        self.lock().push(Arc::clone(&replica));
        replica.ready().await?;
        Ok(replica)
    }

    /// Takes a replica off the list of those that must be ready.
    pub(super) fn remove(&self, replica: &Arc<Replica>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, replica));
    }

    /// All replicas that there should be now.
    pub(super) fn replicas(&self) -> Vec<Arc<Replica>> {
        self.lock().clone()
    }

    /// All replicas of a service.
    pub(super) fn replicas_of(&self, service: &str) -> Vec<Arc<Replica>> {
        let mut replicas = self.replicas();
        replicas.retain(|replica| replica.service == service);
        replicas
    }

    /// One of the replicas of a service.
    pub(super) fn replica(&self, service: &str, choice: u32) -> anyhow::Result<Arc<Replica>> {
        let replicas = self.replicas_of(service);
        let index = choice as usize % replicas.len().max(1);
        replicas.into_iter().nth(index).with_context(|| format!("there is no {service}"))
    }

    pub(super) fn link(&self, name: &str) -> &Proxy {
        &self.links[name]
    }

    /// Keeps other faults off a link.
    pub(super) async fn hold(&self, name: &str) -> tokio::sync::MutexGuard<'_, ()> {
        self.holds[name].lock().await
    }

    /// Where settings and logs are.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends everything, and leaves the folder.
    pub(super) fn keep(self) -> PathBuf {
        self.folder.keep()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Replica>>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes topics, subscriptions, buckets, the dataset, and a document for each device.
async fn prepare(cloud: &Cloud) -> anyhow::Result<()> {
    for topic in ["raw", "enriched", "dead"] {
        cloud.create_topic(topic).await?;
    }
    cloud.create_ordered_subscription("enrich", "raw").await?;
    for (subscription, topic) in [("rows", "enriched"), ("archive", "enriched"), ("buried", "dead")]
    {
        cloud.create_subscription(subscription, topic).await?;
    }
    cloud.create_ordered_subscription("order", "enriched").await?;
    for bucket in ["archive", "graves"] {
        cloud.create_bucket(bucket).await?;
    }
    cloud.create_dataset("dataflow").await?;
    cloud.put_documents("devices", reading::documents(DEVICES)).await?;
    let wild = (0..WILD_PLACES).map(|number| {
        // The first one would leave its folder, if it were let.
        let place = if number == 0 { "../../x".into() } else { format!("place {number}/é") };
        (wild_device(number), json!({ "LocationID": place }))
    });
    cloud.put_documents("devices", wild).await
}

/// A device at a place of its own.
pub(super) fn wild_device(number: u32) -> String {
    format!("wild-{number:05}")
}
