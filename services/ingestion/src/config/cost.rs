//! Cost of ingestion, for `plan --rate`.

use pubsub::cost;
use service::cost::{Item, Load, Prices};

use super::Settings;

/// Returns the cost of a month for these messages.
pub(super) fn of(settings: &Settings, load: &Load, prices: &Prices) -> Vec<Item> {
    let is_ordered = settings.routes.values().any(|route| route.ordering_key.is_some());
    let keys = if is_ordered { settings.ordering_buckets } else { 1 };
    vec![cost::publishing(load, &settings.pipeline, keys, prices)]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use message::envelope::Input;
    use message::{Message, attribute};
    use pipeline::{Step, Transform as _};

    use super::*;
    use crate::config::{Producer, RouteSettings};
    use crate::enricher::FromTopic;
    use crate::metrics::Metrics;
    use crate::route::Route;
    use crate::routes::Routes;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.process.project = "p".into();
        let mut route = RouteSettings::default();
        route.source.mqtt_topic = "devices/{device_id}/up".into();
        route.destination.route_name = "uplinks".into();
        settings.routes.insert("uplinks".into(), route);
        settings.producers.insert("uplinks".into(), Producer { topic_id: "raw".into() });
        settings.pipeline.lanes = 2;
        settings
    }

    #[test]
    fn each_message_is_published_once() {
        let (mut settings, prices) = (settings(), Prices::built_in());
        let load = Load::new(1_000.0, 300.0);

        let [item] = &of(&settings, &load, &prices)[..] else { panic!("one item") };
        settings.routes.get_mut("uplinks").unwrap().ordering_key = Some("{device_id}".into());
        let [ordered] = &of(&settings, &load, &prices)[..] else { panic!("one item") };

        // 1000 x 940 x 2628000 / 2^40 x 40: 6 messages a request share its 1000 bytes.
        assert!((item.cost() - 89.87).abs() < 0.01, "{item}");
        // With 256 ordering keys each has a request of its own: 1000 x 1000 x 2628000 / 2^40 x 40.
        assert!((ordered.cost() - 95.61).abs() < 0.01, "{ordered}");
    }

    #[tokio::test]
    async fn a_message_has_about_the_bytes_that_the_estimate_assumes() {
        let settings = settings();
        let routes = Arc::new(Routes::new(&settings.routes).unwrap());
        let route = Route::new(&settings, routes, FromTopic, Metrics::default()).unwrap();

        for payload in [10, 300, 3_000] {
            let message = Message::new(vec![b'a'; payload])
                .with_attribute(attribute::MQTT_TOPIC, "devices/device-00001/up");
            let Ok(Step::Pass(sent)) = route.apply(&message).await else { panic!("passed") };
            let attributes: usize = sent.attributes.iter().map(|(k, v)| k.len() + v.len()).sum();
            // Pub/Sub adds the time and the id. Enrichment adds some tens of bytes later.
            let real = (sent.data.len() + attributes + 40) as f64;
            let assumed = Load::new(1.0, payload as f64).message_bytes(Input::Envelope);
            assert!(real <= assumed && assumed - real < 120.0, "{real} of {assumed}");
        }
    }
}
