//! Presence: short-lived values by key, such as the place where a client is connected.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use redis::AsyncCommands as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::LayerError;
use super::firestore::Firestore;
use super::redis::{Connection, Redis};

/// Store of values by key.
pub trait Presence: Send + Sync {
    /// Stores a value under a key. It replaces any earlier value.
    ///
    /// # Errors
    /// Fails when the store cannot be asked.
    fn set(&self, key: &str, value: Value) -> impl Future<Output = Result<(), LayerError>> + Send;

    /// Returns the value of a key, or `None` if there is none or it has expired.
    ///
    /// # Errors
    /// Fails when the store cannot be asked. This is different from `None`.
    fn fetch(&self, key: &str) -> impl Future<Output = Result<Option<Value>, LayerError>> + Send;

    /// Removes a key. A missing key is no error.
    ///
    /// # Errors
    /// Fails when the store cannot be asked.
    fn delete(&self, key: &str) -> impl Future<Output = Result<(), LayerError>> + Send;

    /// Ends the use of the store.
    fn close(self)
    where
        Self: Sized,
    {
        drop(self);
    }
}

/// Presence in the memory of this process. The number of values is limited, and each value expires.
#[derive(Debug)]
pub struct InMemory {
    values: Mutex<LruCache<String, (Value, Instant)>>,
    life: Duration,
}

impl InMemory {
    /// Creates a store of at most `most` values. Each is kept for `life`.
    #[must_use]
    pub fn new(most: NonZeroUsize, life: Duration) -> Self {
        Self { values: Mutex::new(LruCache::new(most)), life }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<String, (Value, Instant)>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence for InMemory {
    async fn set(&self, key: &str, value: Value) -> Result<(), LayerError> {
        self.lock().put(key.to_owned(), (value, Instant::now() + self.life));
        Ok(())
    }

    async fn fetch(&self, key: &str) -> Result<Option<Value>, LayerError> {
        let mut values = self.lock();
        let found = values.get(key).filter(|(_, until)| Instant::now() < *until);
        let found = found.map(|(value, _)| value.clone());
        if found.is_none() {
            values.pop(key);
        }
        Ok(found)
    }

    async fn delete(&self, key: &str) -> Result<(), LayerError> {
        self.lock().pop(key);
        Ok(())
    }
}

/// Presence in Redis. Each value expires.
#[derive(Debug)]
pub struct InRedis {
    redis: Redis,
    life: Duration,
}

impl InRedis {
    /// Creates a store that keeps each value for `life`.
    #[must_use]
    pub fn new(redis: Redis, life: Duration) -> Self {
        Self { redis, life }
    }
}

impl Presence for InRedis {
    async fn set(&self, key: &str, value: Value) -> Result<(), LayerError> {
        let name = self.redis.name(key);
        let millis = u64::try_from(self.life.as_millis()).unwrap_or(u64::MAX).max(1);
        let set = async |mut connection: Connection| {
            connection.pset_ex(name, value.to_string(), millis).await
        };
        self.redis.call(set).await
    }

    async fn fetch(&self, key: &str) -> Result<Option<Value>, LayerError> {
        let name = self.redis.name(key);
        let get = async |mut connection: Connection| connection.get(name).await;
        let found: Option<Vec<u8>> = self.redis.call(get).await?;
        let value = found.map(|json| serde_json::from_slice(&json)).transpose();
        value.map_err(|error| LayerError::of(&error))
    }

    async fn delete(&self, key: &str) -> Result<(), LayerError> {
        self.redis.remove(key).await
    }
}

/// Presence in a collection of Firestore. Values stay until they are deleted.
#[derive(Debug)]
pub struct InFirestore(Firestore);

/// Value as a document, because Firestore's documents are maps.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
struct StoredPresence {
    value: Value,
}

impl InFirestore {
    /// Creates a store in the collection of `firestore`.
    #[must_use]
    pub fn new(firestore: Firestore) -> Self {
        Self(firestore)
    }
}

impl Presence for InFirestore {
    async fn set(&self, key: &str, value: Value) -> Result<(), LayerError> {
        let database = self.0.connect().await?;
        let (collection, stored) = (self.0.collection(), StoredPresence { value });
        let update = database.fluent().update().in_col(collection).document_id(key);
        let updated = update.object(&stored).execute::<StoredPresence>().await;
        updated.map_err(|error| LayerError::of(&error))?;
        database.done();
        Ok(())
    }

    async fn fetch(&self, key: &str) -> Result<Option<Value>, LayerError> {
        let database = self.0.connect().await?;
        let select =
            database.fluent().select().by_id_in(self.0.collection()).obj::<StoredPresence>();
        let found = select.one(key).await.map_err(|error| LayerError::of(&error))?;
        database.done();
        Ok(found.map(|stored| stored.value))
    }

    async fn delete(&self, key: &str) -> Result<(), LayerError> {
        let database = self.0.connect().await?;
        let delete = database.fluent().delete().from(self.0.collection()).document_id(key);
        delete.execute().await.map_err(|error| LayerError::of(&error))?;
        database.done();
        Ok(())
    }
}
