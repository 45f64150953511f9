//! Tests of the flows over the real services in one process, with a real mosquitto.

use std::time::Duration;

use crate::flow_env::{
    FlowEnv, GRACE, PATIENCE, RAW_ARCHIVE, counter, next_dead_letter, start_icestore,
    start_ingestion, until,
};
use clap::Parser as _;
use e2e::archive::{self, Line};
use e2e::metrics::SENT;
use e2e::names::RAW;
use e2e::reconcile::{self, Arrived, Destinations, Reconciliation};
use icestore::tools::replay::Arguments as Replay;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use service::{Hosted, Tool as _};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn from_mqtt_to_pubsub() {
    let env = FlowEnv::start().await;
    let ingestion = start_ingestion(env.ingestion()).await;

    let mut fleet = env.fleet(2_000);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    let mut arrived = Vec::new();
    until(async || {
        let received = env.cloud.pull(&env.cloud.name(RAW_ARCHIVE)).await.unwrap();
        for one in &received {
            assert_eq!(one.attributes["route_name"], "uplinks");
            assert!(one.attributes["mqtt_topic"].starts_with("devices/device-"));
            arrived.push(Arrived::of_message(one).unwrap());
        }
        arrived.len() >= 2_000
    })
    .await;
    ingestion.shutdown(GRACE).await.unwrap();

    let totals = reconcile::reconcile(&fleet, Destinations::archive(&arrived));
    assert_eq!((totals.sent, totals.acknowledged), (2_000, 2_000));
    assert!(totals.is_clean(), "{totals:?}");
    assert_eq!(totals.archived, 2_000 + totals.duplicates);
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_mqtt_to_cloud_storage_and_back() {
    let env = FlowEnv::start().await;
    let ingestion = start_ingestion(env.ingestion()).await;
    let icestore = start_icestore(env.icestore()).await;

    let mut fleet = env.fleet(2_000);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    until(async || counter(&icestore, SENT) >= 2_000).await;
    ingestion.shutdown(GRACE).await.unwrap();
    icestore.shutdown(GRACE).await.unwrap();

    let lines = env.lines().await;
    assert_clean(&reconcile_lines(&fleet, &lines), 2_000);
    check_objects(&env).await;
    replay_is_the_original(&env, &lines).await;
    env.teardown().await;
}

fn reconcile_lines(fleet: &e2e::fleet::Fleet, lines: &[Line]) -> Reconciliation {
    let arrived: Vec<_> = lines.iter().map(|line| Arrived::of_line(line).unwrap()).collect();
    reconcile::reconcile(fleet, Destinations::archive(&arrived))
}

fn assert_clean(totals: &Reconciliation, messages: u64) {
    assert_eq!((totals.sent, totals.acknowledged), (messages, messages));
    assert!(totals.is_clean(), "{totals:?}");
    assert_eq!(totals.archived, messages + totals.duplicates);
}

/// Checks the names, types and metadata of all objects.
async fn check_objects(env: &FlowEnv) {
    let bucket = env.bucket();
    for name in env.cloud.list(&bucket, "").await.unwrap() {
        let metadata = env.cloud.metadata(&bucket, &name).await.unwrap();
        let lines = archive::lines(&name, &env.cloud.read(&bucket, &name).await.unwrap()).unwrap();

        assert!(name.starts_with("archive/") && name.ends_with(".jsonl.gz"), "{name}");
        assert_eq!(metadata["contentType"], "application/gzip");
        assert_eq!(metadata["contentEncoding"], serde_json::Value::Null);
        assert_eq!(metadata["metadata"]["records"], lines.len().to_string());
        assert_eq!(metadata["metadata"]["format_version"], "1");
        assert!(lines.iter().all(|line| name.contains(&line.batch_key)));
    }
}

/// Checks that replay sends the original payload, byte for byte, on the original topic.
async fn replay_is_the_original(env: &FlowEnv, lines: &[Line]) {
    let (client, mut events) = subscribe(env.broker.port(), "devices/+/up").await;
    let mut expected: Vec<_> = lines
        .iter()
        .map(|line| (line.topic().unwrap().unwrap(), line.payload().unwrap()))
        .collect();

    let url = format!("mqtt://127.0.0.1:{}", env.broker.port());
    let args = ["replay", "--rate", "10000", "--to-mqtt", &url];
    let args = Replay::parse_from(args);
    let (sent, mut received) =
        tokio::join!(args.run(env.icestore()), receive(&mut events, expected.len()),);

    sent.unwrap();
    expected.sort();
    received.sort();
    assert_eq!(received, expected);
    drop(client);
}

/// Receives this many messages, each as its topic and payload.
async fn receive(events: &mut rumqttc::EventLoop, count: usize) -> Vec<(String, Vec<u8>)> {
    let mut received = Vec::new();
    while received.len() < count {
        let event = timeout(PATIENCE, events.poll()).await.unwrap().unwrap();
        if let rumqttc::Event::Incoming(rumqttc::Incoming::Publish(publish)) = event {
            received.push((publish.topic, publish.payload.to_vec()));
        }
    }
    received
}

async fn subscribe(port: u16, filter: &str) -> (rumqttc::AsyncClient, rumqttc::EventLoop) {
    let options = rumqttc::MqttOptions::new("replay-check", "127.0.0.1", port);
    let (client, mut events) = rumqttc::AsyncClient::new(options, 10);
    client.subscribe(filter, rumqttc::QoS::AtLeastOnce).await.unwrap();
    let is_subscribed = async {
        loop {
            let event = events.poll().await.unwrap();
            if matches!(event, rumqttc::Event::Incoming(rumqttc::Incoming::SubAck(_))) {
                return;
            }
        }
    };
    timeout(PATIENCE, is_subscribed).await.unwrap();
    (client, events)
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_3_1_1_works_like_mqtt_5() {
    let env = FlowEnv::start().await;
    let mut settings = env.ingestion();
    settings.mqtt.protocol = ingestion::config::Protocol::V4;
    let ingestion = start_ingestion(settings).await;
    let icestore = start_icestore(env.icestore()).await;

    let mut fleet = env.fleet(1_000);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    until(async || counter(&icestore, SENT) >= 1_000).await;
    ingestion.shutdown(GRACE).await.unwrap();
    icestore.shutdown(GRACE).await.unwrap();

    let lines = env.lines().await;
    assert_clean(&reconcile_lines(&fleet, &lines), 1_000);
    env.teardown().await;
}

/// An MQTT 5 publisher that waits for each PUBACK.
pub(crate) struct Device {
    client: rumqttc::v5::AsyncClient,
    events: rumqttc::v5::EventLoop,
}

impl Device {
    pub(crate) fn new(port: u16) -> Self {
        let mut options = rumqttc::v5::MqttOptions::new("device", "127.0.0.1", port);
        options.set_max_packet_size(Some(64 * 1024 * 1024));
        let (client, events) = rumqttc::v5::AsyncClient::new(options, 10);
        Self { client, events }
    }

    pub(crate) async fn publish(&mut self, topic: &str, retain: bool, payload: impl Into<Vec<u8>>) {
        let properties = [("color", "red"), ("route_name", "forged")];
        self.publish_with(&properties, topic, retain, payload).await;
    }

    pub(crate) async fn publish_with(
        &mut self,
        properties: &[(&str, &str)],
        topic: &str,
        retain: bool,
        payload: impl Into<Vec<u8>>,
    ) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let user_properties = properties.iter().map(owned).collect();
        let properties = PublishProperties { user_properties, ..PublishProperties::default() };
        self.publish_given(properties, topic, retain, payload).await;
    }

    pub(crate) async fn publish_given(
        &mut self,
        properties: PublishProperties,
        topic: &str,
        retain: bool,
        payload: impl Into<Vec<u8>>,
    ) {
        let payload = payload.into();
        let qos = QoS::AtLeastOnce;
        self.client.publish_with_properties(topic, qos, retain, payload, properties).await.unwrap();
        let acknowledged = async {
            loop {
                let event = self.events.poll().await.unwrap();
                if let rumqttc::v5::Event::Incoming(rumqttc::v5::Incoming::PubAck(_)) = event {
                    return;
                }
            }
        };
        timeout(PATIENCE, acknowledged).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_goes_where_the_contract_says() {
    let env = FlowEnv::start().await;
    let mut settings = env.ingestion();
    let mut wide = settings.routes["uplinks"].clone();
    wide.source.mqtt_topic = "sites/#".into();
    settings.routes.insert("wide".into(), wide);
    let ingestion = start_ingestion(settings).await;
    let icestore = start_icestore(env.icestore()).await;
    let mut device = Device::new(env.broker.port());
    // The largest payload that fits into Pub/Sub as base64 in an envelope, and a larger one.
    let (fits, too_large) = (vec![b'x'; 7_000_000], vec![b'y'; 9_000_000]);
    let payloads: [&[u8]; 6] =
        [b"", b"null", b"{}", br#"{"payload":"on","battery":3}"#, b"{\"broken", &fits];

    for payload in payloads {
        device.publish("devices/d/up", false, payload).await;
    }
    device.publish("devices/d/up", false, too_large.clone()).await;
    device.publish("devices/d/up", true, "retained").await;
    let raw = env.cloud.name(RAW);
    let location = serde_json::json!({ "location": "../../x" });
    env.cloud.publish(&raw, b"not from ingestion", location).await.unwrap();
    until(async || counter(&icestore, SENT) >= 8).await;
    until(async || dead_lettered(&ingestion, "message_too_large") == 1).await;

    let lines = env.lines().await;
    let found = |payload: &[u8]| lines.iter().find(|line| line.payload().unwrap() == payload);
    for payload in payloads {
        let line = found(payload).unwrap();
        assert_eq!(line.attributes["color"], "red");
        assert_eq!(line.attributes["route_name"], "uplinks", "reserved names are not overridden");
    }
    assert!(found(b"retained").is_some());
    let raw = found(b"not from ingestion").unwrap();
    assert!(raw.batch_key.ends_with("/______x"), "{}", raw.batch_key);
    let dead_letter = next_dead_letter(&env).await;
    assert_eq!(dead_letter.attributes["dl_reason"], "message_too_large");
    assert_eq!(dead_letter.attributes["dl_service"], "ingestion");
    assert_eq!(dead_letter.attributes["mqtt_topic"], "devices/d/up");
    assert_eq!(dead_letter.data, too_large, "it fits into Pub/Sub without its envelope");
    ingestion.shutdown(GRACE).await.unwrap();
    icestore.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_lost_its_route_is_a_dead_letter() {
    let env = FlowEnv::start().await;
    let mut settings = env.ingestion();
    let mut other = settings.routes["uplinks"].clone();
    other.source.mqtt_topic = "other/+".into();
    settings.routes.insert("other".into(), other);
    // The session keeps the subscription of the route, which is missing from the next start.
    start_ingestion(settings).await.shutdown(GRACE).await.unwrap();
    let ingestion = start_ingestion(env.ingestion()).await;

    Device::new(env.broker.port()).publish("other/x", false, "orphan").await;

    let dead_letter = next_dead_letter(&env).await;
    assert_eq!(
        (dead_letter.attributes["dl_reason"].as_str(), &dead_letter.data[..]),
        ("no_route", &b"orphan"[..])
    );
    assert_eq!(dead_letter.attributes["mqtt_topic"], "other/x");
    until(async || dead_lettered(&ingestion, "no_route") == 1).await;
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_above_the_limit_stops_nothing_else() {
    let env = FlowEnv::start().await;
    let mut settings = env.ingestion();
    settings.mqtt.max_packet_bytes = 4096;
    let ingestion = start_ingestion(settings).await;
    let mut device = Device::new(env.broker.port());

    device.publish("devices/d/up", false, vec![b'x'; 10_000]).await;
    device.publish("devices/d/up", false, "small").await;

    until(async || counter(&ingestion, SENT) == 1).await;
    assert!(ingestion.health().is_ready());
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_mqtt_3_1_1_a_packet_above_the_limit_is_named_until_it_is_gone() {
    let env = FlowEnv::start().await;
    let mut settings = env.ingestion();
    settings.mqtt.max_packet_bytes = 4096;
    settings.mqtt.protocol = ingestion::config::Protocol::V4;
    let ingestion = start_ingestion(settings).await;

    Device::new(env.broker.port()).publish("devices/d/up", false, vec![b'x'; 10_000]).await;

    let reason = || ingestion.health().conditions()["mqtt"].reason.clone();
    until(async || reason().contains("packet of 10019 bytes, above 4096")).await;
    assert!(!ingestion.health().is_ready());
    assert_eq!(ingestion.health().dead(), None);
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_holds_the_broker_back_and_loses_nothing() {
    let env = FlowEnv::start().await;
    let Some(emulator) = env.faulty_cloud() else { return env.teardown().await };
    let mut settings = env.ingestion();
    settings.mqtt.max_bytes_in_flight = 50_000;
    settings.mqtt.keep_alive = Duration::from_secs(5);
    settings.pipeline.retry.max = Duration::from_millis(200);
    let ingestion = start_ingestion(settings.clone()).await;
    let icestore = start_icestore(env.icestore()).await;

    emulator.faults().refuse("Publish", u64::MAX, tonic::Code::Unavailable);
    let mut fleet = env.fleet(2_000);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    // The broker would disconnect a client that is silent for this long.
    tokio::time::sleep(settings.mqtt.keep_alive * 2).await;
    let taken_in = counter(&ingestion, "dataflow_pipeline_received_messages_total");
    emulator.faults().clear();
    until(async || counter(&ingestion, SENT) >= 2_000).await;
    until(async || counter(&icestore, SENT) >= 2_000).await;
    assert_eq!(counter(&ingestion, "dataflow_ingestion_reconnects_total"), 0);
    ingestion.shutdown(GRACE).await.unwrap();
    icestore.shutdown(GRACE).await.unwrap();

    // A message takes 200 bytes and some overhead, so the limit allows about 70.
    assert!(taken_in < 200, "{taken_in}");
    let lines = env.lines().await;
    assert_clean(&reconcile_lines(&fleet, &lines), 2_000);
    env.teardown().await;
}

fn dead_lettered(hosted: &Hosted, reason: &str) -> u64 {
    let name = "dataflow_pipeline_dead_lettered_messages_total";
    counter(hosted, &format!("{name}{{reason=\"{reason}\"}}"))
}
