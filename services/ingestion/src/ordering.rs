//! Ordering keys. Many devices share few keys, because every key costs memory and throughput.

use std::sync::Arc;

use message::Origin;

use crate::routes::Routes;

/// Computes the ordering key of an origin, such as a topic.
#[derive(Debug, Clone)]
pub struct Ordering {
    routes: Arc<Routes>,
    buckets: u32,
}

impl Ordering {
    /// Creates a set of `buckets` keys. Returns `None` if no route has an ordering key, so no route
    /// is looked up.
    #[must_use]
    pub fn new(routes: &Arc<Routes>, buckets: u32) -> Option<Self> {
        let routes = Arc::clone(routes);
        routes.has_ordering().then_some(Self { routes, buckets })
    }

    /// Returns the key of an origin's messages. It is empty if their order does not matter.
    #[must_use]
    pub fn key(&self, origin: Origin<'_>) -> String {
        let Some(entry) = self.routes.find(origin) else { return String::new() };
        let Some(template) = &entry.ordering_key else { return String::new() };
        let bucket = hash(&template.fill(origin.address)) % u64::from(self.buckets.max(1));
        format!("b{bucket}")
    }
}

/// Returns the FNV-1a hash, <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>. It is the
/// same in every process and version, which keeps the order across a restart.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::config::RouteSettings;

    fn ordering(buckets: u32) -> Option<Ordering> {
        let mut route = RouteSettings::default();
        route.source.mqtt_topic = "devices/{device_id}/+".into();
        route.ordering_key = Some("{device_id}".into());
        let routes = BTreeMap::from([("r".to_owned(), route)]);
        Ordering::new(&Arc::new(Routes::new(&routes).unwrap()), buckets)
    }

    #[test]
    fn topics_of_one_device_have_one_key_and_devices_share_few() {
        let ordering = ordering(4).expect("a route has a key");
        let key = |topic: &str| ordering.key(Origin::mqtt(topic));

        assert_eq!(key("devices/7/up"), key("devices/7/status"));
        assert_eq!(key("elsewhere"), "");
        assert_eq!(key("devices/d1/up"), "b2", "as it was in each earlier state");
        let keys: BTreeSet<_> =
            (0..1000).map(|device| key(&format!("devices/{device}/up"))).collect();
        assert_eq!(keys.len(), 4);
    }

    #[test]
    fn a_key_is_the_same_in_every_process() {
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
    }
}
