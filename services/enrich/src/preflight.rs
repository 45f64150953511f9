//! Check that the layers of the caches answer. It changes nothing except a test key in Redis, which
//! no device has.

use std::time::Duration;

use service::Dependency;
use service::tools::preflight::State;
use time::OffsetDateTime;

use crate::cache::redis::{Known, Put, Redis, RedisSettings, TEST_KEY};
use crate::cache::{Entry, Fetch, LayerError};
use crate::clients::RedisClient;

/// Checks the source of documents. It must answer that the test key does not exist.
pub(crate) async fn documents(source: &impl Fetch, collection: &str) -> Dependency {
    let state = match source.fetch(&[TEST_KEY.into()]).await {
        Ok(_) => State::Ready,
        Err(error) => State::Unreachable(error.to_string()),
    };
    let roles = &["roles/datastore.viewer"];
    Dependency { kind: "documents", name: collection.to_owned(), roles, state }
}

/// Checks Redis and its channel of invalidations, if Redis is set. Both are used in the same way as
/// by the service.
pub(crate) async fn redis(
    settings: &RedisSettings,
    given: Option<RedisClient>,
    source: &impl Fetch,
) -> Vec<Dependency> {
    let name = given.as_ref().map(RedisClient::address);
    let name = name.or_else(|| settings.url.as_ref().map(ToString::to_string)).unwrap_or_default();
    let dependency = |kind, state| Dependency { kind, name: name.clone(), roles: &[], state };
    let redis = match Redis::of(settings, given) {
        Ok(Some(redis)) => redis.of_source(&source.origin()),
        Ok(None) => return Vec::new(),
        Err(error) => return vec![dependency("redis", State::Differs(error.to_string()))],
    };
    let known = match redis.get(&[TEST_KEY.into()]).await {
        Ok(known) => known,
        Err(error) => return vec![dependency("redis", State::Unreachable(error.to_string()))],
    };
    let takes = match write(&redis, known).await {
        Ok(()) => State::Ready,
        Err(error) => State::Differs(format!("it refuses what is written: {error}")),
    };
    let listens = match redis.subscribe().await {
        Ok(_) => State::Ready,
        Err(error) => {
            State::Differs(format!("invalidations of other replicas cannot arrive: {error}"))
        }
    };
    vec![dependency("redis", takes), dependency("redis channel", listens)]
}

/// Writes the absence of the test key and invalidates it. Other replicas forget this key too, which
/// they never had.
async fn write(redis: &Redis, known: Vec<Known>) -> Result<(), LayerError> {
    let put = |Known { seen, .. }| Put {
        key: TEST_KEY.into(),
        entry: Entry { document: None, read_at: OffsetDateTime::now_utc() },
        life: Duration::from_millis(1),
        seen,
    };
    redis.put(&known.into_iter().map(put).collect::<Vec<_>>()).await?;
    redis.invalidate(TEST_KEY).await
}
