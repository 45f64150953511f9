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

/// Redis, where there is one.
pub(crate) async fn redis(settings: &Settings) -> Option<Need> {
    let name = settings.url.clone()?;
    let state = match Redis::open(settings) {
        Ok(Some(redis)) => match redis.get(&[KEY.into()]).await {
            Ok(_) => State::Ready,
            Err(error) => State::Unreachable(error.to_string()),
        },
        Ok(None) => return None,
        Err(error) => State::Differs(error.to_string()),
    };
    Some(Need { kind: "redis", name, role: None, state })
}
