use super::*;
use crate::config::{Producer, Route as RouteSettings};
use crate::enricher::FromTopic;

fn route(change: impl FnOnce(&mut RouteSettings, &mut Settings)) -> Route<FromTopic> {
    let mut settings = Settings { project: "p".into(), ..Settings::default() };
    let mut route = RouteSettings::default();
    route.source.mqtt_topic = "devices/{device_id}/up".into();
    route.destination.route_name = "uplinks".into();
    settings.producers.insert("uplinks".into(), Producer { topic_id: "raw".into() });
    change(&mut route, &mut settings);
    settings.routes.insert("up".into(), route);
    Route::new(
        &settings,
        std::sync::Arc::new(Routes::new(&settings.routes)),
        FromTopic,
        Metrics::default(),
    )
}

fn message(topic: &str, payload: &'static [u8]) -> Message {
    Message::new(payload).with_attribute(attribute::MQTT_TOPIC, topic)
}

fn pass(route: &Route<FromTopic>, message: &Message) -> (Outgoing, Envelope) {
    let Ok(Step::Pass(outgoing)) = route.route(message) else { panic!("it passes") };
    let envelope = Envelope::read(&outgoing.data).unwrap();
    (outgoing, envelope)
}

#[test]
fn a_message_is_wrapped_with_all_that_is_known() {
    let message = message("devices/d1/up", b"\xff\x00").with_attribute("color", "red");

    let (outgoing, envelope) = pass(&route(|_, _| {}), &message);

    assert_eq!(outgoing.topic.as_str(), "projects/p/topics/raw");
    assert_eq!(envelope.payload, Some(b"\xff\x00".as_slice().into()));
    assert_eq!(envelope.publish_time, Some(message.publish_time));
    assert_eq!(envelope.enrichment["DeviceID"], "d1");
    assert_eq!(envelope.enrichment["Topic"], "devices/d1/up");
    assert!(envelope.enrichment["Timestamp"].as_str().unwrap().ends_with('Z'));
    let attribute = |name: &str| outgoing.attributes[name].as_str();
    assert_eq!(attribute("ingest_id"), envelope.id);
    assert_eq!(attribute("mqtt_topic"), "devices/d1/up");
    assert_eq!(attribute("route_name"), "uplinks");
    assert_eq!(attribute("device_id"), "d1");
    assert_eq!(attribute("color"), "red");
}

#[test]
fn the_trace_of_a_device_goes_on_and_others_get_a_new_one() {
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let with = |value: &str| message("devices/d1/up", b"x").with_attribute("traceparent", value);
    let route = route(|_, _| {});

    let (traced, _) = pass(&route, &with(given));
    let (wrong, _) = pass(&route, &with("nonsense"));

    assert_eq!(traced.attributes[attribute::TRACEPARENT], given);
    assert!(!traced.attributes.contains_key("traceparent"));
    assert!(trace::is_valid(&wrong.attributes[attribute::TRACEPARENT]));
}

#[test]
fn an_envelope_from_a_device_is_wrapped_like_any_payload() {
    let payload = br#"{"id":"1","payload":null,"publishTime":"2025-01-01T00:00:00Z"}"#;

    let (_, envelope) = pass(&route(|_, _| {}), &message("devices/d1/up", payload));

    assert_eq!(envelope.payload, Some(payload.as_slice().into()));
}

#[test]
fn a_topic_without_a_route_is_rejected() {
    let error = route(|_, _| {}).route(&message("other", b"x")).unwrap_err();

    assert_eq!(error.recovery(), Recovery::Reject("no_route"));
}

#[test]
fn sizes_and_retained_messages_are_skipped_as_the_settings_ask() {
    let route = route(|route, settings| {
        (route.min_payload_bytes, route.max_payload_bytes) = (Some(2), Some(3));
        settings.mqtt.retained = Retained::Drop;
    });
    let step = |payload| route.route(&message("devices/d/up", payload)).unwrap();

    assert_eq!(skipped(step(b"1")), Some("payload_too_small"));
    assert_eq!(skipped(step(b"12")), None);
    assert_eq!(skipped(step(b"123")), None);
    assert_eq!(skipped(step(b"1234")), Some("payload_too_large"));
    let retained = message("devices/d/up", b"12").with_attribute(attribute::MQTT_RETAIN, "true");
    assert_eq!(skipped(route.route(&retained).unwrap()), Some("retained"));
}

fn skipped(step: Step<Outgoing>) -> Option<&'static str> {
    match step {
        Step::Skip(reason) => Some(reason),
        Step::Pass(_) => None,
    }
}

#[test]
fn what_is_no_attribute_for_pubsub_goes_into_the_enrichment_data() {
    let mut message = message("devices/d/up", b"x").with_attribute("long", "v".repeat(2000));
    for index in 0..150 {
        message = message.with_attribute(format!("p{index}"), "v");
    }

    let (outgoing, envelope) = pass(&route(|_, _| {}), &message);

    assert_eq!(outgoing.attributes.len(), MAX_ATTRIBUTES);
    assert!(outgoing.attributes.contains_key("ingest_id"));
    assert_eq!(envelope.enrichment["long"].as_str().unwrap().len(), 2000);
    let kept = |name: &str| {
        outgoing.attributes.contains_key(name) || envelope.enrichment.contains_key(name)
    };
    assert!((0..150).all(|index| kept(&format!("p{index}"))));
}

#[test]
fn attributes_are_filled_from_captures() {
    let route = route(|route, _| {
        route.source.mqtt_topic = "{tenant}/devices/{device_id}".into();
        route.attributes.insert("tenant".into(), "t-{tenant}".into());
    });

    let (outgoing, _) = pass(&route, &message("acme/devices/d", b"x"));

    assert_eq!(outgoing.attributes["tenant"], "t-acme");
}
