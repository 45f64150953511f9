use std::collections::BTreeMap;

use pubsub::limits::{MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES};
use time::macros::datetime;

use super::*;
use crate::config::{Producer, RouteSettings};
use crate::enricher::FromTopic;

fn route(change: impl FnOnce(&mut RouteSettings, &mut Settings)) -> Route<FromTopic> {
    route_with(FromTopic, change)
}

fn route_with<E: Enricher>(
    enricher: E,
    change: impl FnOnce(&mut RouteSettings, &mut Settings),
) -> Route<E> {
    let mut settings = Settings::default();
    settings.process.project = "p".into();
    let mut route = RouteSettings::default();
    route.source.mqtt_topic = "devices/{device_id}/up".into();
    route.destination.route_name = "uplinks".into();
    settings.producers.insert("uplinks".into(), Producer { topic_id: "raw".into() });
    change(&mut route, &mut settings);
    settings.routes.insert("up".into(), route);
    Route::new(
        &settings,
        std::sync::Arc::new(Routes::new(&settings.routes).unwrap()),
        enricher,
        Metrics::default(),
    )
    .unwrap()
}

fn message(topic: &str, payload: &'static [u8]) -> Message {
    Message::new(payload).with_attribute(attribute::MQTT_TOPIC, topic)
}

fn pass<E: Enricher>(route: &Route<E>, message: &Message) -> (Outgoing, Envelope) {
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
fn a_function_can_be_the_enricher() {
    let enricher = |arrival: Arrival<'_>, data: &mut Map<String, serde_json::Value>| {
        let facts = format!("{} {:?}", arrival.route, arrival.device_id);
        data.insert("Facts".into(), facts.into());
    };
    let route = route_with(enricher, |_, _| {});

    let (_, envelope) = pass(&route, &message("devices/d1/up", b"x"));

    assert_eq!(envelope.enrichment["Facts"], "up Some(\"d1\")");
    assert_eq!(envelope.enrichment.len(), 1, "the standard enricher did not run");
}

#[test]
fn every_byte_of_a_message_from_mqtt_is_as_others_know_it() {
    let route = route(|route, settings| {
        route.attributes.insert("tenant".into(), "t-{device_id}".into());
        settings.identity.id_pointer = Some("/id".into());
    });
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut message = message("devices/d1/up", br#"{"id":"7"}"#)
        .with_attribute("traceparent", trace)
        .with_attribute("color", "red");
    message.publish_time = datetime!(2025-06-15 10:00:00.123456789 UTC);
    message.ordering_key = "b187".into();

    let (outgoing, _) = pass(&route, &message);

    let envelope = concat!(
        r#"{"id":"205d51101e410e1695c632ac9837a96b","payload":"eyJpZCI6IjcifQ==","#,
        r#""publishTime":"2025-06-15T10:00:00.123456789Z","enrichmentData":{"DeviceID":"d1","#,
        r#""Timestamp":"2025-06-15T10:00:00Z","Topic":"devices/d1/up"}}"#,
    );
    assert_eq!(outgoing.data, envelope);
    let attributes: BTreeMap<_, _> = (&outgoing.attributes).into_iter().collect();
    let attributes: Vec<_> =
        attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [
        ("color", "red"),
        ("device_id", "d1"),
        ("googclient_traceparent", trace),
        ("ingest_id", "205d51101e410e1695c632ac9837a96b"),
        ("mqtt_topic", "devices/d1/up"),
        ("route_name", "uplinks"),
        ("tenant", "t-d1"),
    ];
    assert_eq!(attributes, expected);
    assert_eq!(outgoing.ordering_key, "b187");
}

#[test]
fn a_message_that_does_not_tell_its_topic_takes_the_routes_of_an_empty_one() {
    let all = route(|route, _| route.source.mqtt_topic = "#".into());

    let (outgoing, envelope) = pass(&all, &Message::new("x"));
    let refused = route(|_, _| {}).route(&Message::new("x")).unwrap_err();

    assert_eq!(outgoing.attributes["mqtt_topic"], "");
    assert_eq!(envelope.enrichment["Topic"], "");
    assert_eq!(refused.detail(), "no route matches the topic ");
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
    assert_eq!(wrong.attributes["traceparent"], "nonsense");
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

    assert_eq!(error.recovery(), Recovery::Reject(reasons::NO_ROUTE));
}

#[test]
fn sizes_and_retained_messages_are_skipped_as_the_settings_ask() {
    let route = route(|route, settings| {
        (route.min_payload_bytes, route.max_payload_bytes) = (Some(2), Some(3));
        settings.mqtt.retained = Retained::Drop;
    });
    let step = |payload| route.route(&message("devices/d/up", payload)).unwrap();

    assert_eq!(skipped(step(b"1")), Some(PAYLOAD_TOO_SMALL));
    assert_eq!(skipped(step(b"12")), None);
    assert_eq!(skipped(step(b"123")), None);
    assert_eq!(skipped(step(b"1234")), Some(PAYLOAD_TOO_LARGE));
    let retained = message("devices/d/up", b"12").with_attribute(attribute::MQTT_RETAIN, "true");
    assert_eq!(skipped(route.route(&retained).unwrap()), Some(reasons::RETAINED));
}

fn skipped(step: Step<Outgoing>) -> Option<Reason> {
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
fn a_payload_that_no_envelope_fits_around_is_refused_before_it_is_read() {
    let refused = |bytes: usize| {
        let message = Message::new(vec![b'['; bytes]);
        let message = message.with_attribute(attribute::MQTT_TOPIC, "devices/d/up");
        route(|_, _| {}).route(&message).err().map(|error| error.recovery())
    };

    assert_eq!(refused(MAX_MESSAGE_BYTES / 4 * 3), None);
    let too_large = Some(Recovery::Reject(MESSAGE_TOO_LARGE));
    assert_eq!(refused(MAX_MESSAGE_BYTES / 4 * 3 + 3), too_large);
}

#[test]
fn a_device_sets_none_of_the_names_that_devices_are_looked_up_by() {
    let route = route(|route, _| route.source.mqtt_topic = "#".into());
    let long = |name| "v".repeat(MAX_ATTRIBUTE_VALUE_BYTES + 1) + name;
    let mut message = message("anything", b"x");
    for name in ["DeviceID", "Topic", "Timestamp"] {
        message = message.with_attribute(name, long(name));
    }

    let (outgoing, envelope) = pass(&route, &message);

    assert!(!envelope.enrichment.contains_key("DeviceID"));
    assert_eq!(envelope.enrichment["Topic"], "anything");
    assert!(envelope.enrichment["Timestamp"].as_str().unwrap().ends_with('Z'));
    for name in ["DeviceID", "Topic", "Timestamp"] {
        assert_eq!(envelope.enrichment[&format!("mqtt_property_{name}")], long(name));
        assert!(!outgoing.attributes.contains_key(name));
    }
    assert_eq!(route.metrics.replaced("reserved_name"), 3);
}

#[test]
fn what_a_route_sets_is_not_overridden_and_nothing_is_lost() {
    let route = route(|route, _| {
        route.attributes.insert("tenant".into(), "acme".into());
        route.attributes.insert("site".into(), "a".into());
    });
    let message = message("devices/d/up", b"x")
        .with_attribute("tenant", r#"["mine","yours"]"#)
        .with_attribute("site", "a")
        .with_attribute(attribute::MQTT_REPEATED, r#"["tenant"]"#);

    let (outgoing, _) = pass(&route, &message);

    assert_eq!(outgoing.attributes["tenant"], "acme");
    assert_eq!(outgoing.attributes["mqtt_property_tenant"], r#"["mine","yours"]"#);
    assert_eq!(outgoing.attributes["mqtt_repeated"], r#"["mqtt_property_tenant"]"#);
    assert!(!outgoing.attributes.contains_key("mqtt_property_site"));
    assert_eq!(route.metrics.replaced("reserved_name"), 1);
}

#[test]
fn what_has_a_meaning_stays_an_attribute_among_many() {
    let mut message =
        message("devices/d/up", b"x").with_attribute(attribute::MQTT_REPEATED, r#"["a"]"#);
    for index in 0..200 {
        message = message.with_attribute(format!("a{index}"), "v");
    }
    for name in [attribute::MQTT_CONTENT_TYPE, attribute::MQTT_RESPONSE_TOPIC] {
        message = message.with_attribute(name, "x");
    }
    let long = "r".repeat(2000);
    message = message.with_attribute(attribute::MQTT_CORRELATION_DATA, &long);

    let (outgoing, envelope) = pass(&route(|_, _| {}), &message);

    assert_eq!(outgoing.attributes.len(), MAX_ATTRIBUTES);
    for name in ["mqtt_content_type", "mqtt_response_topic", "mqtt_repeated"] {
        assert!(outgoing.attributes.contains_key(name), "{name}");
    }
    assert_eq!(envelope.enrichment["mqtt_correlation_data"], long);
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

#[test]
fn a_message_whose_properties_were_dropped_is_refused() {
    let message = message("devices/d/up", b"x").with_attribute("mqtt_properties_dropped", "many");

    let error = route(|_, _| {}).route(&message).unwrap_err();

    assert_eq!(error.recovery(), Recovery::Reject(reasons::PROPERTIES_TOO_LARGE));
}

#[test]
fn a_message_is_refused_by_its_size_with_attributes_before_it_is_wrapped() {
    let message = message("devices/d/up", b"x").with_attribute("a", "v".repeat(MAX_MESSAGE_BYTES));

    let refused = route(|_, _| {}).route(&message).err().map(|error| error.recovery());

    assert_eq!(refused, Some(Recovery::Reject(MESSAGE_TOO_LARGE)));
}

#[test]
fn an_item_over_http_keeps_its_id_its_time_and_its_bytes() {
    let route = route(|route, _| {
        route.source = crate::config::RouteSource {
            http_source: Some("plant/{line}".into()),
            ..Default::default()
        };
        route.attributes.insert("line".into(), "{line}".into());
    });
    let message = Message::new("{ \"t\": 1.50 }")
        .with_attribute(attribute::HTTP_SOURCE, "plant/7")
        .with_attribute(attribute::HTTP_TIMESTAMP, "2020-01-02T03:04:05Z")
        .with_attribute(attribute::INGEST_ID, "id-1");

    let (outgoing, envelope) = pass(&route, &message);

    assert_eq!(envelope.payload, Some(b"{ \"t\": 1.50 }".as_slice().into()));
    assert_eq!(envelope.publish_time, Some(datetime!(2020-01-02 03:04:05 UTC)));
    assert_eq!((&envelope.id[..], &envelope.enrichment["DeviceID"]), ("id-1", &"plant/7".into()));
    assert!(!envelope.enrichment.contains_key("Topic"));
    let mut attributes: Vec<_> = outgoing.attributes.iter().collect();
    attributes.retain(|(name, _)| *name != attribute::TRACEPARENT);
    attributes.sort();
    let expected = [
        ("device_id", "plant/7"),
        ("http_source", "plant/7"),
        ("ingest_id", "id-1"),
        ("line", "7"),
        ("route_name", "uplinks"),
    ];
    let attributes: Vec<_> =
        attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(attributes, expected);
}

#[test]
fn a_topic_takes_no_route_of_http() {
    let route = route(|route, _| {
        route.source.mqtt_topic = "".into();
        route.source.http_source = Some("#".into());
    });

    assert!(route.route(&message("devices/d1/up", b"x")).is_err());
}
