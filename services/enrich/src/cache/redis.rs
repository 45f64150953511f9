//! The second layer: Redis, as one node, as a cluster, or behind sentinels.

mod access;
mod connection;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use pipeline::Renewable;
use redis::AsyncCommands as _;
use redis::aio::PubSub;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Document, Entry, LayerError};
use access::Access;
pub use connection::Connection;
pub use settings::{Mode, Sentinel, Settings};

/// A connection that is made anew when it no longer serves; clones share it.
#[derive(Debug, Clone)]
pub struct Redis {
    connection: Renewable<Connection, LayerError>,
    settings: Arc<Settings>,
    prefix: String,
}

/// An entry as it lies in Redis.
#[derive(Debug, Deserialize, Serialize)]
struct Stored {
    document: Option<Arc<Document>>,
    #[serde(with = "time::serde::rfc3339")]
    read_at: OffsetDateTime,
}

impl Redis {
    /// A connection that is made when it is first needed; `None` without a URL.
    ///
    /// # Errors
    /// For a URL or a file that is wrong.
    pub fn open(settings: &Settings) -> Result<Option<Self>, LayerError> {
        if settings.url.is_none() {
            return Ok(None);
        }
        let access = Access::to_redis(settings)?;
        settings.urls().try_for_each(|url| access.client(url).map(drop))?;
        let settings = Arc::new(settings.clone());
        let connection = Renewable::lazy({
            let settings = Arc::clone(&settings);
            move || {
                let settings = Arc::clone(&settings);
                Box::pin(async move { connection::connect(&settings).await })
            }
        });
        let prefix = settings.key_prefix.clone();
        Ok(Some(Self { connection, settings, prefix }))
    }

    /// The part that holds the documents of one source.
    #[must_use]
    pub fn of_source(self, origin: &str) -> Self {
        Self { prefix: format!("{}{origin}/", self.prefix), ..self }
    }

    /// The entries of these keys, in their order, in one call.
    ///
    /// # Errors
    /// When Redis does not answer. What cannot be read is as if it were not there.
    pub async fn get(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Entry>>, LayerError> {
        let names: Vec<String> = keys.iter().map(|key| self.name(key)).collect();
        // The client asks each node of a cluster for the keys that it has.
        let found: Vec<Option<Vec<u8>>> =
            self.call(async |mut connection| connection.mget(&names).await).await?;
        let read = |bytes: Vec<u8>| {
            // Another version's entry, or a stranger's, is a miss.
            let stored: Stored = serde_json::from_slice(&bytes).ok()?;
            Some(Entry { document: stored.document, read_at: stored.read_at })
        };
        Ok(found.into_iter().map(|bytes| bytes.and_then(read)).collect())
    }

    /// Keeps entries, each for its own time, in one call.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn put(&self, entries: &[(Arc<str>, Entry, Duration)]) -> Result<(), LayerError> {
        let mut commands = Vec::with_capacity(entries.len());
        for (key, entry, life) in entries {
            let stored = Stored { document: entry.document.clone(), read_at: entry.read_at };
            let json = serde_json::to_vec(&stored).map_err(|error| LayerError::of(&error))?;
            let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1);
            commands.push(redis::Cmd::pset_ex(self.name(key), json, millis));
        }
        let put = async |mut connection| match connection {
            Connection::Node(_) => {
                let mut pipe = redis::pipe();
                for command in commands {
                    pipe.add_command(command).ignore();
                }
                pipe.query_async(&mut connection).await
            }
            // A pipeline has one node, and the keys have several.
            Connection::Cluster(cluster) => {
                let sent = commands.iter().map(|command| {
                    let mut cluster = cluster.clone();
                    async move { command.query_async::<()>(&mut cluster).await }
                });
                try_join_all(sent).await.map(drop)
            }
        };
        self.call(put).await
    }

    /// Forgets a key.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn remove(&self, key: &str) -> Result<(), LayerError> {
        let name = self.name(key);
        self.call(async |mut connection| connection.del(name).await).await
    }

    /// Forgets a key, and tells all who are subscribed to invalidations.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn invalidate(&self, key: &str) -> Result<(), LayerError> {
        let (delete, publish) =
            (redis::Cmd::del(self.name(key)), redis::Cmd::publish(self.channel(), key));
        let invalidate = async |mut connection| match connection {
            // At once: what another replica puts there afterwards, it puts there after the message.
            Connection::Node(_) => {
                let mut pipe = redis::pipe();
                pipe.atomic().add_command(delete).ignore().add_command(publish).ignore();
                pipe.query_async(&mut connection).await
            }
            Connection::Cluster(mut cluster) => {
                delete.query_async::<()>(&mut cluster).await?;
                publish.query_async(&mut cluster).await
            }
        };
        self.call(invalidate).await
    }

    /// Subscribes to the keys that anybody invalidates.
    ///
    /// # Errors
    /// When Redis does not answer, or its user may not listen there.
    pub async fn subscribe(&self) -> Result<PubSub, LayerError> {
        connection::subscribe(&self.settings, &self.channel()).await
    }

    /// Longest duration of a call.
    pub(super) fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Calls Redis. A connection that no longer serves is not used again.
    pub(super) async fn call<T>(
        &self,
        call: impl AsyncFnOnce(Connection) -> redis::RedisResult<T>,
    ) -> Result<T, LayerError> {
        let connection = self.connection.lease().await?;
        let answer = call(connection.clone()).await;
        if answer.as_ref().err().is_none_or(connection::is_still_good) {
            connection.done();
        }
        answer.map_err(|error| connection::told(&error))
    }

    /// The name that a key has in Redis.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The channel of invalidated keys.
    fn channel(&self) -> String {
        format!("{}invalidated", self.prefix)
    }
}
