//! Tests of MQTT 5 metadata, from a device to both sinks.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use serde_json::Value;

use crate::flow_env::{
    FlowEnv, GRACE, counter, next_dead_letter, start_bigqueries, start_enrich, start_icestore,
    start_ingestion, until,
};
use crate::flows::Device;
use e2e::metrics::SENT;

/// Returns all properties that a device can set, some under names that are reserved for services.
fn properties() -> PublishProperties {
    let given = [
        ("color", "red"),
        ("device_id", "forged"),
        ("color", "blue"),
        ("dl_reason", "forged"),
        ("mqtt_content_type", "forged"),
    ];
    let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let long = ("DeviceID".to_owned(), "x".repeat(2000));
    PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(3600),
        response_topic: Some("answers/a".into()),
        correlation_data: Some(Bytes::from_static(b"\xff\x00\x01")),
        content_type: Some("application/json".into()),
        user_properties: given.into_iter().chain([long]).collect(),
        ..PublishProperties::default()
    }
}

fn assert_told(attributes: &HashMap<String, String>) {
    for (name, value) in [
        ("mqtt_payload_format", "1"),
        ("mqtt_response_topic", "answers/a"),
        ("mqtt_correlation_data", "/wAB"),
        ("mqtt_content_type", "application/json"),
        ("mqtt_property_device_id", "forged"),
        ("mqtt_property_dl_reason", "forged"),
        ("mqtt_property_mqtt_content_type", "forged"),
        ("mqtt_repeated", r#"["color"]"#),
        ("color", r#"["red","blue"]"#),
    ] {
        assert_eq!(attributes.get(name).map(String::as_str), Some(value), "{name}");
    }
    // The broker subtracts the time that it kept the message.
    let expiry: u32 = attributes["mqtt_message_expiry"].parse().unwrap();
    assert!((1..=3600).contains(&expiry), "{expiry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_mqtt_5_travels_to_both_sinks() {
    let env = FlowEnv::start().await;
    let mut settings = env.ingestion();
    let mut wide = settings.routes["uplinks"].clone();
    wide.source.mqtt_topic = "all/#".into();
    settings.routes.insert("wide".into(), wide);
    let ingestion = start_ingestion(settings).await;
    let enrich = start_enrich(env.enrich(None)).await;
    let (rows, mut objects) = (env.enriched_bigqueries(), env.enriched_icestore());
    objects.pipeline.batch.max_age = Duration::from_millis(200);
    let (bigqueries, icestore) = (start_bigqueries(rows).await, start_icestore(objects).await);

    let mut device = Device::new(env.broker.port());
    device.publish_given(properties(), "all/of/them", false, r#"{"on":true}"#).await;
    until(async || counter(&bigqueries, SENT) >= 1 && counter(&icestore, SENT) >= 1).await;

    let lines = env.lines().await;
    assert_told(&lines[0].attributes);
    let row = &env.rows().await[0];
    assert_eq!(row["device_id"], Value::Null, "no device says who it is");
    let rest: Value = serde_json::from_str(row["rest"].as_str().unwrap()).unwrap();
    assert_told(&serde_json::from_value(rest["attributes"].clone()).unwrap());
    assert_eq!(rest["enrichment"].get("DeviceID"), None);
    assert_eq!(rest["enrichment"]["mqtt_property_DeviceID"], "x".repeat(2000));
    let replaced = "dataflow_ingestion_replaced_values_total{reason=\"reserved_name\"}";
    assert_eq!(counter(&ingestion, replaced), 4);
    for service in [ingestion, enrich, bigqueries, icestore] {
        service.shutdown(GRACE).await.unwrap();
    }
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_keeps_the_metadata_of_mqtt_5() {
    let env = FlowEnv::start().await;
    let mut settings = env.ingestion();
    settings.routes.get_mut("uplinks").unwrap().source.mqtt_topic = "devices/#".into();
    // The session keeps the subscription of the route, which is missing from the next start.
    start_ingestion(settings).await.shutdown(GRACE).await.unwrap();
    let ingestion = start_ingestion(env.ingestion()).await;

    let mut device = Device::new(env.broker.port());
    device.publish_given(properties(), "devices/nowhere", false, "orphan").await;

    let dead_letter = next_dead_letter(&env).await;
    assert_eq!(dead_letter.attributes["dl_reason"], "no_route");
    assert_told(&dead_letter.attributes);
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}
