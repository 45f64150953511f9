//! The second layer: Redis, over one pipelined connection.

use std::sync::Arc;
use std::time::Duration;

use pipeline::Renewable;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{AsyncCommands as _, IntoConnectionInfo as _, RedisConnectionInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Document, Entry, LayerError};

/// How Redis is reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Settings {
    /// Such as `redis://localhost:6379/0`, or `rediss://` for TLS; no Redis when left out. A user or
    /// password in it is refused.
    pub url: Option<String>,
    /// The user; Redis's own `default` when left out. It needs `password_file`.
    pub username: Option<String>,
    /// A file with the password.
    pub password_file: Option<std::path::PathBuf>,
    /// What all keys begin with. The project, the database and the collection of the documents follow.
    pub key_prefix: String,
    /// Longest duration of a call; 10ms to 10s. Beyond it the next layer is asked.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: None,
            username: None,
            password_file: None,
            key_prefix: "dataflow:enrich:".into(),
            timeout: Duration::from_millis(500),
        }
    }
}

/// A connection that mends itself; clones share it.
#[derive(Debug, Clone)]
pub struct Redis {
    connection: Renewable<ConnectionManager, LayerError>,
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
    /// For a URL or password file that is wrong.
    pub fn open(settings: &Settings) -> Result<Option<Self>, LayerError> {
        let Some(url) = &settings.url else { return Ok(None) };
        let wrong = |error: redis::RedisError| LayerError::of(&error);
        let mut info = url.as_str().into_connection_info().map_err(wrong)?;
        let login = login(settings, info.redis_settings().clone())?;
        info = info.set_redis_settings(login);
        // Small requests must not wait for each other's acknowledgements.
        info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = redis::Client::open(info).map_err(wrong)?;
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(settings.timeout))
            .set_connection_timeout(Some(settings.timeout))
            // The breaker decides when to try again.
            .set_number_of_retries(0);
        let connection = Renewable::lazy(move || {
            let connection =
                ConnectionManager::new_lazy_with_config(client.clone(), config.clone());
            Box::pin(async move { connection.map_err(|error| LayerError::of(&error)) })
        });
        Ok(Some(Self { connection, prefix: settings.key_prefix.clone() }))
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
        let mut pipe = redis::pipe();
        for (key, entry, life) in entries {
            let stored = Stored { document: entry.document.clone(), read_at: entry.read_at };
            let json = serde_json::to_vec(&stored).map_err(|error| LayerError::of(&error))?;
            let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1);
            pipe.pset_ex(self.name(key), json, millis).ignore();
        }
        self.call(async |mut connection| pipe.query_async(&mut connection).await).await
    }

    /// Forgets a key.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn remove(&self, key: &str) -> Result<(), LayerError> {
        let name = self.name(key);
        self.call(async |mut connection| connection.del(name).await).await
    }

    /// Calls Redis. A connection that did not answer in time is not used again.
    pub(super) async fn call<T>(
        &self,
        call: impl AsyncFnOnce(ConnectionManager) -> redis::RedisResult<T>,
    ) -> Result<T, LayerError> {
        let connection = self.connection.lease().await?;
        let answer = call(connection.clone()).await;
        if !answer.as_ref().is_err_and(redis::RedisError::is_timeout) {
            connection.done();
        }
        answer.map_err(|error| LayerError::of(&error))
    }

    /// The name that a key has in Redis.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

/// Adds the user and the password of the settings.
fn login(
    settings: &Settings,
    mut login: RedisConnectionInfo,
) -> Result<RedisConnectionInfo, LayerError> {
    if let Some(file) = &settings.password_file {
        let password = std::fs::read_to_string(file)
            .map_err(|error| LayerError(format!("read {}: {error}", file.display())))?;
        login = login.set_password(password.trim_end());
    }
    if let Some(username) = &settings.username {
        login = login.set_username(username);
    }
    Ok(login)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_login_is_that_of_the_settings() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"hunter2\n").unwrap();
        let settings = Settings {
            username: Some("enrich".into()),
            password_file: Some(file.path().into()),
            ..Settings::default()
        };

        let with_both = login(&settings, RedisConnectionInfo::default()).unwrap();
        let with_none = login(&Settings::default(), RedisConnectionInfo::default()).unwrap();

        assert_eq!((with_both.username(), with_both.password()), (Some("enrich"), Some("hunter2")));
        assert_eq!((with_none.username(), with_none.password()), (None, None));
    }
}
