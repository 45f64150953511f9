//! User properties of a device, converted to attributes and back.

use std::sync::{Arc, LazyLock};

use futures::FutureExt as _;
use icestore::tools::replay::properties;
use ingestion::config::{Producer, RouteSettings, Settings};
use ingestion::enricher::FromTopic;
use ingestion::metrics::Metrics;
use ingestion::mqtt::user_properties;
use ingestion::route::Route;
use ingestion::routes::Routes;
use message::{Envelope, Message};
use pipeline::{Step, Transform as _};
use pubsub::limits::{MAX_ATTRIBUTE_KEY_BYTES, MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES};

use super::{Target, require};

pub(super) const TARGET: Target = Target {
    name: "attributes",
    corpus: &[
        include_bytes!("../../corpus/attributes/plain.txt"),
        include_bytes!("../../corpus/attributes/reserved.txt"),
        include_bytes!("../../corpus/attributes/many.txt"),
    ],
    dictionary: &[
        "=",
        "\n",
        "device_id=",
        "DeviceID=",
        "Topic=",
        "mqtt_topic=",
        "mqtt_repeated=",
        "mqtt_property_",
        "dl_reason=",
        "goog",
        "tenant=",
        "traceparent=",
        "[\"a\",\"b\"]",
        "[]",
        "ingest_id=",
    ],
    weight: 1,
    check,
};

/// Parses lines of `name=value`.
fn pairs(input: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        (name.to_owned(), value.to_owned())
    };
    input.split('\n').map(line).collect()
}

/// Checks that no property of a device is lost, that none overrides an attribute of the service,
/// and that Pub/Sub accepts the result.
fn check(input: &[u8]) -> Result<(), String> {
    let given = pairs(&String::from_utf8_lossy(input));
    let attributes = user_properties(given.clone(), &Metrics::default());

    let mut expected = given;
    expected.sort_by(|one, other| one.0.cmp(&other.0));
    let back = properties::of(&attributes).user_properties;
    require(back == expected, || format!("{expected:?} became {back:?}"))?;

    let mut message = Message::new("x");
    message.attributes = attributes.into();
    message.attributes.insert("mqtt_topic".into(), "devices/real".into());
    route(&message)
}

fn route(message: &Message) -> Result<(), String> {
    static ROUTE: LazyLock<Route<FromTopic>> = LazyLock::new(routes);
    let passed = ROUTE.apply(message).now_or_never();
    let Some(Ok(Step::Pass(outgoing))) = passed else { return Err("it does not pass".into()) };
    let envelope = Envelope::read(&outgoing.data).ok_or("no envelope")?;
    let (out, enrichment) = (&outgoing.attributes, &envelope.enrichment);
    let fits = out.iter().all(|(name, value)| {
        (1..=MAX_ATTRIBUTE_KEY_BYTES).contains(&name.len())
            && value.len() <= MAX_ATTRIBUTE_VALUE_BYTES
    });
    require(fits && out.len() <= MAX_ATTRIBUTES, || "Pub/Sub does not take it".into())?;
    for (name, value) in [("device_id", "real"), ("mqtt_topic", "devices/real"), ("tenant", "ours")]
    {
        require(out.get(name).is_some_and(|is| is == value), || format!("{name} is overridden"))?;
    }
    let is_ours = enrichment["DeviceID"] == "real" && enrichment["Topic"] == "devices/real";
    require(is_ours, || "the enrichment data is overridden".into())?;
    for (name, value) in &message.attributes {
        let is_kept = out.values().any(|kept| kept == value)
            || enrichment.values().any(|kept| kept.as_str() == Some(value))
            || name == "mqtt_repeated";
        require(is_kept, || format!("{name} is lost"))?;
    }
    Ok(())
}

fn routes() -> Route<FromTopic> {
    let mut settings = Settings::default();
    settings.process.project = "p".into();
    let mut route = RouteSettings::default();
    route.source.mqtt_topic = "devices/{device_id}".into();
    route.destination.route_name = "uplinks".into();
    route.attributes.insert("tenant".into(), "ours".into());
    settings.routes.insert("up".into(), route);
    settings.producers.insert("uplinks".into(), Producer { topic_id: "raw".into() });
    let routes = Arc::new(Routes::new(&settings.routes).expect("a right filter"));
    Route::new(&settings, routes, FromTopic, Metrics::default()).expect("a right topic")
}
