//! Tests of the examples that are whole programs: a publisher, enrich with clients of its own, and
//! bigqueries with a derived row type.

use std::collections::{BTreeMap, BTreeSet};

use e2e::metrics::SENT;
use e2e::names::{ARCHIVE, ENRICH, RAW, ROUTE};
use e2e::process::binary;
use e2e::reconcile::Arrived;
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use service::google::Login;
use tokio::process::Command;
use tokio::time::timeout;

use crate::examples::text;
use crate::flow_env::{FlowEnv, GRACE, PATIENCE, counter, start, until};

#[expect(dead_code, reason = "the test starts the service instead of the process")]
#[path = "../../../services/enrich/examples/own_clients.rs"]
mod clients_example;
#[expect(dead_code, reason = "the test starts the service instead of the process")]
#[path = "../../../services/bigqueries/examples/derived_row.rs"]
mod derived_row;

#[tokio::test(flavor = "multi_thread")]
async fn the_publisher_prints_the_ids_of_what_it_has_published() {
    let env = FlowEnv::start().await;
    let Some(emulator) = env.faulty_cloud() else { return env.teardown().await };
    let program = binary("examples/publisher").expect("cargo build --workspace --examples");
    let mut publisher = Command::new(program);
    publisher.args([&env.cloud.project, &env.cloud.name(RAW)]).kill_on_drop(true);
    publisher.env("PUBSUB_EMULATOR_HOST", emulator.address().to_string());

    let ended = timeout(PATIENCE, publisher.output()).await.unwrap().unwrap();

    assert!(ended.status.success(), "{}", text(&ended));
    let said = String::from_utf8(ended.stdout).unwrap();
    let [one, batch] = &*said.lines().collect::<Vec<_>>() else { panic!("{said}") };
    let (one, batch) = (one.strip_prefix("one message: "), batch.strip_prefix("a batch: "));
    let ids: BTreeSet<_> = batch.unwrap().split(", ").chain(one).collect();
    assert!(ids.len() == 4 && !ids.contains(""), "{said}");
    let mut arrived = BTreeMap::new();
    until(async || {
        for one in env.cloud.pull(&env.cloud.name(ENRICH)).await.unwrap() {
            let data = String::from_utf8_lossy(&one.data).into_owned();
            arrived.insert(data, one.attributes.get("unit").cloned());
        }
        arrived.len() >= 5
    })
    .await;
    let expected = ["20.1", "20.2", "20.4", "20.5", "21.5"].map(|data| {
        let unit = (data == "21.5").then(|| "C".to_owned());
        (data.to_owned(), unit)
    });
    assert_eq!(arrived, BTreeMap::from(expected));
    env.teardown().await;
}

/// Returns the key of a service account that nobody knows.
fn key() -> String {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let content = json!({
        "type": "service_account", "client_email": "robot@p.iam.gserviceaccount.com",
        "private_key_id": "1", "private_key": key.serialize_pem(), "project_id": "p",
    });
    content.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn enrich_works_with_the_credentials_and_the_redis_of_its_program() {
    let env = FlowEnv::start().await;
    if env.faulty_cloud().is_none() {
        return env.teardown().await;
    }
    env.put_devices(1).await;
    let mut settings = env.enrich(None);
    // The calls need credentials now, and the settings name none.
    let login = Some(Login::ApplicationDefault);
    (settings.intake.pubsub.credentials, settings.firestore.credentials) = (login, login);

    let enrich = start(clients_example::with_own_clients(settings, &key()).unwrap()).await;
    let attributes = json!({ "device_id": "device-00000" });
    env.cloud.publish(&env.cloud.name(RAW), b"{}", attributes).await.unwrap();

    let mut arrived = Vec::new();
    until(async || {
        arrived.extend(env.cloud.pull(&env.cloud.name(ARCHIVE)).await.unwrap());
        !arrived.is_empty()
    })
    .await;
    let location = Arrived::of_message(&arrived[0]).unwrap().location;
    assert_eq!(location.as_deref(), Some("site-0"));
    let redis = || enrich.health().report()["redis"].as_str().map(str::to_owned);
    until(async || redis().is_some()).await;
    // The settings name no Redis. The one of the example need not run.
    assert_ne!(redis().as_deref(), Some("not set"));
    enrich.shutdown(GRACE).await.unwrap();
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_derived_row_type_makes_the_table_and_its_rows() {
    let env = FlowEnv::start().await;
    let topic = env.cloud.name(RAW);
    let enriched = json!({
        "id": "i-1", "payload": "/wD+", "publishTime": "2025-06-15T10:00:00Z",
        "enrichmentData": { "DeviceID": "d1", "location": "site-0" },
    });
    let attributes = json!({ "route_name": ROUTE });
    env.cloud.publish(&topic, enriched.to_string().as_bytes(), attributes).await.unwrap();
    env.cloud.publish(&topic, b"unknown", json!({})).await.unwrap();

    let bigqueries = start(derived_row::with_derived_row(env.bigqueries())).await;
    until(async || counter(&bigqueries, SENT) >= 2).await;
    bigqueries.shutdown(GRACE).await.unwrap();

    let rows = env.rows().await;
    let row = |device: &str| rows.iter().find(|row| row["device"] == device).unwrap();
    let bytes = |device: &str| row(device)["bytes"].to_string().trim_matches('"').to_owned();
    let (known, unknown) = (row("d1"), row(""));
    assert_eq!(known.len(), 5, "{known:?}");
    assert_eq!(known["at"].as_str().unwrap().parse(), Ok(1_749_981_600.0));
    assert_eq!((&*bytes("d1"), &*bytes("")), ("3", "7"));
    assert_eq!((&known["tags"], &unknown["tags"]), (&json!([{ "v": ROUTE }]), &json!([])));
    let place = json!({ "f": [{ "v": "site-0" }] });
    assert_eq!((&known["where"], &unknown["where"]), (&place, &Value::Null));
    env.teardown().await;
}
