//! Whether the layers of the caches answer. Changes nothing.

use service::Need;
use service::survey::State;

use crate::cache::Fetch;
use crate::cache::redis::{Redis, Settings};

/// A key that nobody has: that it is absent tells that the source answers us.
const KEY: &str = "dataflow-check";

/// The source of documents.
pub(crate) async fn documents(source: &impl Fetch, collection: &str) -> Need {
    let state = match source.fetch(&[KEY.into()]).await {
        Ok(_) => State::Ready,
        Err(error) => State::Unreachable(error.to_string()),
    };
    let role = Some("roles/datastore.viewer");
    Need { kind: "documents", name: collection.to_owned(), role, state }
}

/// Redis, where there is one, and its channel of invalidations. Both as the service uses them.
pub(crate) async fn redis(settings: &Settings, source: &impl Fetch) -> Vec<Need> {
    let Some(name) = &settings.url else { return Vec::new() };
    let need = |kind, state| Need { kind, name: name.clone(), role: None, state };
    let redis = match Redis::open(settings) {
        Ok(Some(redis)) => redis.of_source(&source.origin()),
        Ok(None) => return Vec::new(),
        Err(error) => return vec![need("redis", State::Differs(error.to_string()))],
    };
    if let Err(error) = redis.get(&[KEY.into()]).await {
        return vec![need("redis", State::Unreachable(error.to_string()))];
    }
    let listens = match redis.subscribe().await {
        Ok(_) => State::Ready,
        Err(error) => {
            State::Differs(format!("invalidations of other replicas cannot arrive: {error}"))
        }
    };
    vec![need("redis", State::Ready), need("redis channel", listens)]
}
