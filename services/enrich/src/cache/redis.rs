//! Second layer: Redis as one node, as a cluster, or behind sentinels.

mod access;
mod certificates;
mod connection;
mod settings;
mod url;
mod value;

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use redis::AsyncCommands as _;
use redis::Cmd;
use redis::aio::PubSub;
use service::renewable::Renewable;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Entry, LayerError};
use crate::clients::RedisClient;
use access::Access;
pub use connection::Connection;
pub use settings::{Mode, RedisSettings, Sentinel};
pub use url::RedisUrl;
use value::{entry, json, tombstone};

/// Life of a tombstone in Redis, and minimum life of an entry that replaces one.
const TOMBSTONE_LIFE: Duration = Duration::from_secs(120);
/// Age from which a read is too old to be written to Redis. The rest of a tombstone's life is left
/// for calls that Redis executes late.
pub(super) const MAX_READ_AGE: Duration = Duration::from_secs(60);

/// Script that sets `KEYS[1]` to `ARGV[2]` for `ARGV[3]` milliseconds, if its value is still
/// `ARGV[1]`. A missing key counts as an empty value, and so does a value that is no string.
const SWAP: &str = "\
if (redis.call('MGET', KEYS[1])[1] or '') == ARGV[1] then \
redis.call('PSETEX', KEYS[1], ARGV[3], ARGV[2]) end";
/// Script that sets `KEYS[1]` to `ARGV[1]` for `ARGV[2]` milliseconds. A server whose memory is
/// full accepts the `DEL`. It does not refuse a script after the script's first write.
const INVALIDATE: &str =
    "redis.call('DEL', KEYS[1]) redis.call('PSETEX', KEYS[1], ARGV[2], ARGV[1])";
/// Script that sets `KEYS[1]` to an empty value for a millisecond. It needs the same permissions as
/// the other scripts. Unlike the script that invalidates, it also needs free memory.
const PROBE: &str = "redis.call('PSETEX', KEYS[1], 1, '')";
/// Key that tests write. No document has it.
pub(crate) const TEST_KEY: &str = "dataflow-check";

/// Connection that is replaced when it no longer works. Clones share it.
#[derive(Debug, Clone)]
pub struct Redis {
    connection: Renewable<Connection, LayerError>,
    settings: Arc<RedisSettings>,
    /// Client that was handed in.
    given: Option<RedisClient>,
    prefix: String,
}

/// State of a key in Redis.
#[derive(Debug, Clone)]
pub struct Known {
    /// Entry of the key; `None` if there is none that can be read.
    pub entry: Option<Entry>,
    /// Value of the key, to be given to [`Redis::put`].
    pub seen: Seen,
}

/// Value of a key at the start of a read.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Bytes of the value; empty for a missing key.
    pub(super) bytes: Vec<u8>,
    pub(super) at: Instant,
}

/// Entry to write to Redis.
#[derive(Debug, Clone)]
pub struct Put {
    /// Key of the entry.
    pub key: Arc<str>,
    /// Entry as it was read from the source.
    pub entry: Entry,
    /// Time for which the entry is useful.
    pub life: Duration,
    /// Value of the key before the source was asked.
    pub seen: Seen,
}

impl Put {
    /// Returns whether the read started so recently that Redis may accept the entry.
    pub(super) fn is_in_time(&self) -> bool {
        self.seen.at.elapsed() < MAX_READ_AGE
    }
}

impl Redis {
    /// Creates a connection that is opened when it is first needed. Returns `None` without a URL.
    ///
    /// # Errors
    /// Fails for an invalid URL or file.
    pub fn open(settings: &RedisSettings) -> Result<Option<Self>, LayerError> {
        if settings.url.is_none() {
            return Ok(None);
        }
        let access = Access::to_redis(settings)?;
        settings.urls()?.into_iter().try_for_each(|url| access.client(url.server()).map(drop))?;
        Ok(Some(Self::lazy(settings, None)))
    }

    /// Creates a connection of a client that was handed in. It is opened when it is first needed. Of
    /// the settings, the time-out and the prefix count.
    #[must_use]
    pub fn with_client(settings: &RedisSettings, client: RedisClient) -> Self {
        Self::lazy(settings, Some(client))
    }

    /// Creates the connection of `given`, or of the settings if that is `None` and they have a URL.
    ///
    /// # Errors
    /// Same as [`Redis::open`].
    pub(crate) fn of(
        settings: &RedisSettings,
        given: Option<RedisClient>,
    ) -> Result<Option<Self>, LayerError> {
        match given {
            Some(client) => Ok(Some(Self::with_client(settings, client))),
            None => Self::open(settings),
        }
    }

    fn lazy(settings: &RedisSettings, given: Option<RedisClient>) -> Self {
        let settings = Arc::new(settings.clone());
        let connection = Renewable::lazy({
            let (settings, given) = (Arc::clone(&settings), given.clone());
            move || {
                let (settings, given) = (Arc::clone(&settings), given.clone());
                Box::pin(async move { connection::connect(&settings, given.as_ref()).await })
            }
        });
        let prefix = settings.key_prefix.clone();
        Self { connection, settings, given, prefix }
    }

    /// Returns the part of Redis that holds the documents of one source.
    #[must_use]
    pub fn of_source(self, origin: &str) -> Self {
        Self { prefix: format!("{}{origin}/", self.prefix), ..self }
    }

    /// Reads these keys in one call. The result has their order.
    ///
    /// # Errors
    /// Fails when Redis does not answer. Values that cannot be parsed count as missing.
    pub async fn get(&self, keys: &[Arc<str>]) -> Result<Vec<Known>, LayerError> {
        let names: Vec<String> = keys.iter().map(|key| self.name(key)).collect();
        let at = Instant::now();
        // In a cluster, the client asks each node for its own keys.
        let found: Vec<Option<Vec<u8>>> =
            self.call(async |mut connection| connection.mget(&names).await).await?;
        let now = OffsetDateTime::now_utc();
        let known = |bytes: Option<Vec<u8>>| {
            let bytes = bytes.unwrap_or_default();
            // If another replica's clock is ahead of ours, the entry counts as read now, not in the
            // future.
            let entry = entry(&bytes)
                .map(|Entry { document, read_at }| Entry { document, read_at: read_at.min(now) });
            Known { entry, seen: Seen { bytes, at } }
        };
        Ok(found.into_iter().map(known).collect())
    }

    /// Stores entries, each for its own time, in one call. An entry is skipped if its key was
    /// invalidated or written after it was seen. It is also skipped if reading it took too long.
    ///
    /// # Errors
    /// Fails when Redis does not answer.
    pub async fn put(&self, puts: &[Put]) -> Result<(), LayerError> {
        let mut swaps = Vec::with_capacity(puts.len());
        for Put { key, entry, life, seen } in puts.iter().filter(|put| put.is_in_time()) {
            // A tombstone and the entries that replace it outlive all reads that started before it.
            let least = if seen.bytes.is_empty() { Duration::ZERO } else { TOMBSTONE_LIFE };
            swaps.push(self.swap(key, &seen.bytes, &json(entry)?, *life.max(&least)));
        }
        self.send(&swaps).await
    }

    /// Removes the entries that [`put`](Self::put) has stored, if they are still there.
    ///
    /// # Errors
    /// Fails when Redis does not answer.
    pub async fn take_back(&self, puts: &[Put]) -> Result<(), LayerError> {
        let mut swaps = Vec::with_capacity(puts.len());
        for Put { key, entry, .. } in puts {
            swaps.push(self.swap(key, &json(entry)?, &tombstone()?, TOMBSTONE_LIFE));
        }
        self.send(&swaps).await
    }

    /// Writes a test key, which lasts for a millisecond.
    ///
    /// # Errors
    /// Fails when Redis does not answer or refuses the write.
    pub async fn probe(&self) -> Result<(), LayerError> {
        let mut probe = redis::cmd("EVAL");
        probe.arg(PROBE).arg(1).arg(self.name(TEST_KEY));
        self.send(&[probe]).await
    }

    /// Removes a key.
    ///
    /// # Errors
    /// Fails when Redis does not answer.
    pub async fn remove(&self, key: &str) -> Result<(), LayerError> {
        let name = self.name(key);
        self.call(async |mut connection| connection.del(name).await).await
    }

    /// Removes a key and notifies all subscribers of invalidations. A running read in any replica
    /// cannot restore the key.
    ///
    /// # Errors
    /// Fails when Redis does not answer.
    pub async fn invalidate(&self, key: &str) -> Result<(), LayerError> {
        let (name, life) = (self.name(key), millis(TOMBSTONE_LIFE));
        let mut replace = redis::cmd("EVAL");
        replace.arg(INVALIDATE).arg(1).arg(name).arg(tombstone()?).arg(life);
        let publish = Cmd::publish(self.channel(), key);
        let invalidate = async |mut connection: Connection| {
            // The order matters: a subscriber that has received the message must find the
            // tombstone.
            replace.query_async::<()>(&mut connection).await?;
            publish.query_async(&mut connection).await
        };
        self.call(invalidate).await
    }

    /// Subscribes to invalidated keys.
    ///
    /// # Errors
    /// Fails when Redis does not answer, or when its user may not subscribe.
    pub async fn subscribe(&self) -> Result<PubSub, LayerError> {
        connection::subscribe(&self.settings, self.given.as_ref(), &self.channel()).await
    }

    /// Returns the maximum duration of a call.
    pub(super) fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Calls Redis. A connection that no longer works is not used again.
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

    /// Returns a command that replaces the value of a key, unless the value has changed since it
    /// was seen.
    fn swap(&self, key: &str, seen: &[u8], value: &[u8], life: Duration) -> Cmd {
        let mut swap = redis::cmd("EVAL");
        swap.arg(SWAP).arg(1).arg(self.name(key)).arg(seen).arg(value).arg(millis(life));
        swap
    }

    /// Sends commands together. Each command uses one key.
    async fn send(&self, commands: &[Cmd]) -> Result<(), LayerError> {
        if commands.is_empty() {
            return Ok(());
        }
        let send = async |mut connection| match connection {
            Connection::Node(_) => {
                let mut pipe = redis::pipe();
                for command in commands {
                    pipe.add_command(command.clone()).ignore();
                }
                pipe.query_async(&mut connection).await
            }
            // A pipeline goes to one node, but the keys are on several nodes.
            Connection::Cluster(cluster) => {
                let sent = commands.iter().map(|command| {
                    let mut cluster = cluster.clone();
                    async move { command.query_async::<()>(&mut cluster).await }
                });
                try_join_all(sent).await.map(drop)
            }
        };
        self.call(send).await
    }

    /// Returns the name of a key in Redis.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Returns the channel of invalidated keys.
    fn channel(&self) -> String {
        format!("{}invalidated", self.prefix)
    }
}

fn millis(life: Duration) -> u64 {
    u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_took_too_long_to_read_is_not_put() {
        let settings =
            RedisSettings { url: Some("redis://127.0.0.1:1".into()), ..RedisSettings::default() };
        let redis = Redis::open(&settings).unwrap().unwrap();
        let put = [Put {
            key: "d1".into(),
            entry: Entry { document: None, read_at: OffsetDateTime::now_utc() },
            life: Duration::from_secs(3600),
            seen: Seen { bytes: Vec::new(), at: Instant::now() },
        }];

        let in_time = redis.put(&put).await;
        tokio::time::advance(MAX_READ_AGE).await;
        let late = redis.put(&put).await;

        assert!(in_time.is_err(), "nobody listens there");
        assert!(late.is_ok(), "nothing is sent");
    }
}
