//! Tests of ingestion with brokers: certificates, passwords, shared groups, order, and retired
//! replicas.

use std::collections::{HashMap, HashSet};
use std::process::Command;

use e2e::certificates;
use e2e::fleet::{Fleet, FleetPlan};
use e2e::process::binary;
use e2e::process::free_port;
use e2e::reading::Reading;
use e2e::reconcile::{self, Arrived, Destinations, Payload};
use ingestion::Ingestion;
use ingestion::config::Tls;
use service::Hosted;
use tokio::time::timeout;

use crate::flow_env::{FlowEnv, GRACE, PATIENCE, RAW_ARCHIVE, counter, start_ingestion, until};
use crate::flows::Device;
use e2e::metrics::SENT;
use e2e::names::RAW;

/// Starts a service and waits until it reports why it cannot connect to its broker.
async fn refused(settings: ingestion::config::Settings) -> String {
    let hosted = Hosted::start(Ingestion::new(settings)).await.unwrap();
    let mut reason = String::new();
    until(async || {
        let conditions = hosted.health().conditions();
        reason = conditions.get("mqtt").map(|state| state.reason.clone()).unwrap_or_default();
        !reason.is_empty() && reason != "not reached yet" && !reason.starts_with("connecting")
    })
    .await;
    hosted.shutdown(GRACE).await.unwrap();
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_lets_those_in_who_have_a_certificate() {
    let port = free_port().unwrap();
    // The first listener is for the fleet. Only the second one requires certificates.
    let lines = format!(
        "allow_anonymous true\nlistener {port} 127.0.0.1\ncafile FOLDER/ca.pem\n\
         certfile FOLDER/server.pem\nkeyfile FOLDER/server.key\nrequire_certificate true"
    );
    let env = FlowEnv::start_with(&lines, |folder| certificates::make(folder).unwrap()).await;
    let file = |name: &str| Some(env.folder.path().join(name));
    let with = |tls: Tls| {
        let mut settings = env.ingestion();
        settings.mqtt.url = format!("mqtts://127.0.0.1:{port}").into();
        settings.mqtt.tls = tls;
        settings
    };
    let right = Tls {
        ca_file: file("ca.pem"),
        client_cert_file: file("client.pem"),
        client_key_file: file("client.key"),
    };

    let stranger = refused(with(Tls { ca_file: file("stranger.pem"), ..right.clone() })).await;
    assert!(stranger.to_lowercase().contains("certificate"), "{stranger}");
    let nobody = refused(with(Tls { ca_file: file("ca.pem"), ..Tls::default() })).await;
    assert!(nobody.to_lowercase().contains("certificate"), "{nobody}");
    let ingestion = start_ingestion(with(right)).await;
    let mut fleet = env.fleet(200);
    timeout(PATIENCE, fleet.finish()).await.unwrap();

    until(async || counter(&ingestion, SENT) >= 200).await;
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_comes_in_with_the_password_in_the_file() {
    let lines = "allow_anonymous false\npassword_file FOLDER/passwords";
    let env = FlowEnv::start_with(lines, |folder| {
        let passwords = folder.join("passwords");
        let mut command = Command::new("mosquitto_passwd");
        command.args(["-b", "-c"]).arg(passwords).args(["ingestion", "12345"]);
        assert!(command.status().unwrap().success());
        std::fs::write(folder.join("right"), "12345\n").unwrap();
        std::fs::write(folder.join("wrong"), "54321\n").unwrap();
    })
    .await;
    let with = |file: &str| {
        let mut settings = env.ingestion();
        settings.mqtt.username = Some("ingestion".into());
        settings.mqtt.password_file = Some(env.folder.path().join(file));
        settings
    };

    let wrong = refused(with("wrong")).await;

    assert!(wrong.contains("NotAuthorized") || wrong.contains("BadUserName"), "{wrong}");
    start_ingestion(with("right")).await.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

/// A message of QoS 0 follows those that the broker may send before they are acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn the_receive_maximum_holds_the_broker_back_and_not_messages_of_qos_0() {
    let env = FlowEnv::start().await;
    let Some(emulator) = env.faulty_cloud() else { return env.teardown().await };
    let mut settings = env.ingestion();
    settings.mqtt.receive_maximum = 7;
    let mut telemetry = settings.routes["uplinks"].clone();
    telemetry.source.mqtt_topic = "telemetry/#".into();
    telemetry.source.qos = 0;
    // Such a message is counted without a publish.
    telemetry.max_payload_bytes = Some(0);
    settings.routes.insert("telemetry".into(), telemetry);
    let ingestion = start_ingestion(settings).await;
    let received = || counter(&ingestion, "dataflow_pipeline_received_messages_total");

    emulator.faults().refuse("Publish", u64::MAX, tonic::Code::Unavailable);
    let mut fleet = env.fleet(50);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    until(async || received() >= 7).await;
    Device::new(env.broker.port()).publish("telemetry/d", false, "x").await;
    let too_large = "dataflow_pipeline_skipped_messages_total{reason=\"payload_too_large\"}";
    until(async || counter(&ingestion, too_large) == 1).await;
    assert_eq!(received(), 7 + 1);
    emulator.faults().clear();

    until(async || counter(&ingestion, SENT) >= 50).await;
    let guarantees = ingestion.health().report()["guarantees"].to_string();
    assert!(guarantees.contains("telemetry") && guarantees.contains("may be lost"), "{guarantees}");
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_group_gets_every_message_once_over_all_connections() {
    let env = FlowEnv::start().await;
    let replica = |ordinal: u32| {
        let mut settings = env.ingestion();
        settings.mqtt.ordinal = Some(ordinal);
        settings.mqtt.connections = 2;
        let route = settings.routes.get_mut("uplinks").unwrap();
        route.source.shared_group = Some("ingestion".into());
        settings
    };
    let first = start_ingestion(replica(0)).await;
    let second = start_ingestion(replica(1)).await;

    let mut fleet = env.fleet(2_000);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    until(async || counter(&first, SENT) + counter(&second, SENT) >= 2_000).await;
    let mut arrived = Vec::new();
    until(async || {
        for one in &env.cloud.pull(&env.cloud.name(RAW_ARCHIVE)).await.unwrap() {
            arrived.push(Arrived::of_message(one).unwrap());
        }
        arrived.len() >= 2_000
    })
    .await;

    assert!(counter(&first, SENT) > 0 && counter(&second, SENT) > 0, "both had their share");
    let totals = reconcile::reconcile(&fleet, Destinations::archive(&arrived));
    assert!(totals.is_clean() && totals.duplicates == 0, "{totals:?}");
    first.shutdown(GRACE).await.unwrap();
    second.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgets_a_shared_group_at_its_restart_is_asked_again() {
    let mut env = FlowEnv::start().await;
    let mut settings = env.ingestion();
    let route = settings.routes.get_mut("uplinks").unwrap();
    route.source.shared_group = Some("ingestion".into());
    let ingestion = start_ingestion(settings).await;

    env.broker.stop().await.unwrap();
    until(async || !ingestion.health().is_ready()).await;
    env.broker.start_again().await.unwrap();
    until(async || ingestion.health().is_ready()).await;
    let mut fleet = env.fleet(100);
    timeout(PATIENCE, fleet.finish()).await.unwrap();

    until(async || counter(&ingestion, SENT) >= 100).await;
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordering_key_keeps_each_devices_order() {
    let env = FlowEnv::start().await;
    let (ordered, raw) = (env.cloud.name("ordered"), env.cloud.name(RAW));
    env.cloud.create_ordered_subscription(&ordered, &raw).await.unwrap();
    let mut settings = env.ingestion();
    settings.ordering_buckets = 8;
    settings.pipeline.lanes = 4;
    settings.routes.get_mut("uplinks").unwrap().ordering_key = Some("{device_id}".into());
    let ingestion = start_ingestion(settings).await;
    if let Some(emulator) = &env.server {
        emulator.faults().refuse("Publish", 5, tonic::Code::Unavailable);
    }

    // One connection for each device: otherwise readings of a device could overtake each other.
    let mut fleet = Fleet::start(FleetPlan {
        port: env.broker.port(),
        devices: 20,
        messages: Some(2_000),
        connections: 1,
        ..FleetPlan::default()
    });
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    let mut last: HashMap<u32, u64> = HashMap::new();
    let mut seen = HashSet::new();
    until(async || {
        for one in &env.cloud.pull(&ordered).await.unwrap() {
            let Payload::Bytes(payload) = Arrived::of_message(one).unwrap().payload else {
                panic!("a message has bytes");
            };
            let Reading { device, number } = Reading::of(fleet.name(), &payload).unwrap();
            // A publish that failed for some keys is repeated for all of them.
            if seen.insert(number) {
                let before = last.insert(device, number);
                assert!(before.is_none_or(|before| before < number), "{before:?} then {number}");
            }
        }
        seen.len() >= 2_000
    })
    .await;

    ingestion.shutdown(GRACE).await.unwrap();
    env.cloud.teardown(&[], &[&ordered], &[]).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_replica_carries_what_is_left_and_leaves_nothing_behind() {
    let env = FlowEnv::start().await;
    let settings = env.ingestion();
    start_ingestion(settings.clone()).await.shutdown(GRACE).await.unwrap();
    // The broker keeps these messages for the replica that is away.
    let mut fleet = env.fleet(200);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    let config = env.folder.path().join("ingestion.yaml");
    let written = service::settings::to_value(&settings).unwrap().to_string();
    std::fs::write(&config, written).unwrap();
    let mut arrived = Vec::new();
    let mut collect = async |least: usize| {
        until(async || {
            for one in &env.cloud.pull(&env.cloud.name(RAW_ARCHIVE)).await.unwrap() {
                arrived.push(Arrived::of_message(one).unwrap());
            }
            arrived.len() >= least
        })
        .await;
        arrived.clone()
    };

    let mut retire = tokio::process::Command::new(binary("ingestion").unwrap());
    retire.args(["retire", "--ordinal", "0", "--config"]).arg(&config).kill_on_drop(true);
    let retired = timeout(PATIENCE, retire.output()).await.unwrap().unwrap();

    assert!(retired.status.success(), "{}", String::from_utf8_lossy(&retired.stderr));
    let carried = collect(200).await;
    assert!(reconcile::reconcile(&fleet, Destinations::archive(&carried)).is_clean());
    // There is no subscription any more, so the broker discards these messages.
    let mut lost = env.fleet(10);
    timeout(PATIENCE, lost.finish()).await.unwrap();
    let ingestion = start_ingestion(settings).await;
    let mut found = env.fleet(10);
    timeout(PATIENCE, found.finish()).await.unwrap();
    let all = collect(210).await;
    assert_eq!(reconcile::reconcile(&found, Destinations::archive(&all)).missing, 0);
    assert_eq!(reconcile::reconcile(&lost, Destinations::archive(&all)).missing, 10);
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_never_was_is_not_retired() {
    let env = FlowEnv::start().await;
    let settings = env.ingestion();
    let config = env.folder.path().join("ingestion.yaml");
    let written = service::settings::to_value(&settings).unwrap().to_string();
    std::fs::write(&config, written).unwrap();

    let mut retire = tokio::process::Command::new(binary("ingestion").unwrap());
    retire.args(["retire", "--ordinal", "7", "--config"]).arg(&config).kill_on_drop(true);
    // The first run must not create a session that the second one would find.
    for _ in 0..2 {
        let refused = timeout(PATIENCE, retire.output()).await.unwrap().unwrap();

        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        let session = format!("has no session {}-7-0: nothing was retired", settings.mqtt.name);
        assert!(said.contains(&session) && said.contains("check --ordinal"), "{said}");
    }
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lives_is_not_retired() {
    let env = FlowEnv::start().await;
    let settings = env.ingestion();
    let ingestion = start_ingestion(settings.clone()).await;
    let config = env.folder.path().join("ingestion.yaml");
    let written = service::settings::to_value(&settings).unwrap().to_string();
    std::fs::write(&config, written).unwrap();

    let mut retire = tokio::process::Command::new(binary("ingestion").unwrap());
    retire.args(["retire", "--ordinal", "0", "--config"]).arg(&config).kill_on_drop(true);
    let refused = timeout(PATIENCE, retire.output()).await.unwrap().unwrap();

    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("the replica seems to be alive"), "{said}");
    until(async || ingestion.health().is_ready()).await;
    let mut fleet = env.fleet(100);
    timeout(PATIENCE, fleet.finish()).await.unwrap();
    until(async || counter(&ingestion, SENT) >= 100).await;
    assert_eq!(counter(&ingestion, "dataflow_ingestion_possible_gaps_total"), 0);
    // mosquitto 2.0.11 gives no reason for a take-over, so the service is sure only after the
    // second one.
    assert_eq!(counter(&ingestion, "dataflow_ingestion_reconnects_total"), 2);
    ingestion.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}
