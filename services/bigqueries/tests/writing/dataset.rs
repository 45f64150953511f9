//! Tests of the dataset, which the service creates only with `create`.

use std::process::{Child, Command, Stdio};

use emulator::Profile;
use serde_json::{Value, json};
use service::Context;
use tokio::time::{sleep, timeout};

use crate::{Cloud, TIME_LIMIT, settings};

fn command(cloud: &Cloud, create: &str) -> Command {
    let address = cloud.emulator.address().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bigqueries"));
    command.env_clear().stderr(Stdio::piped()).envs([
        ("DATAFLOW__PROJECT", "p"),
        ("DATAFLOW__SUBSCRIPTION__ID", "s"),
        ("DATAFLOW__SUBSCRIPTION__TOPIC_ID", "enriched"),
        ("DATAFLOW__DEAD_LETTERS__TOPIC_ID", "letters"),
        ("DATAFLOW__TABLE__DATASET", "new"),
        ("DATAFLOW__TABLE__ID", "t"),
        ("DATAFLOW__TABLE__VIEW", "v"),
        ("DATAFLOW__CREATE", create),
        ("PUBSUB_EMULATOR_HOST", &address),
        ("BIGQUERY_EMULATOR_HOST", &address),
        ("PORT", "0"),
    ]);
    command
}

/// Ends its process when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_dataset_is_created_with_its_table() {
    let cloud = Cloud::start().await;
    let planned = command(&cloud, "true").arg("plan").output().unwrap();
    let off = command(&cloud, "false").arg("plan").output().unwrap();
    let during = cloud.get("projects/p/datasets/new").await;

    let running = Running(command(&cloud, "true").spawn().unwrap());
    let created = async {
        loop {
            let table = cloud.get("projects/p/datasets/new/tables/t").await;
            if table["id"] != Value::Null {
                break;
            }
            sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(TIME_LIMIT, created).await.unwrap();
    drop(running);

    let text = String::from_utf8(planned.stdout).unwrap();
    assert!(text.contains("create is on") && !text.contains("MISSING"), "{text}");
    assert!(String::from_utf8(off.stdout).unwrap().contains("MISSING      table"));
    assert_eq!(during["error"]["code"], 404, "a plan creates nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_without_the_right_to_create_it_ends_the_start() {
    let cloud = Cloud::start().await;
    let denied = ["bigquery.datasets.create".to_owned()].into();
    cloud.emulator.set_profile(Profile { denied, ..Profile::default() });

    let ended = command(&cloud, "true").output().unwrap();

    let text = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{text}");
    let expected =
        "create: dataset p.new cannot be created: we lack bigquery.datasets.create: grant";
    assert!(text.contains(expected), "{text}");
}

#[tokio::test]
async fn a_dataset_that_exists_or_may_not_be_seen_is_left_alone() {
    let cloud = Cloud::start().await;
    let table = cloud.open(&[], settings()).await;
    let context = Context::default();
    let condition = context.health.condition("table");

    table.create_dataset(&condition).await.unwrap();
    let denied = ["bigquery.datasets.get".to_owned()].into();
    cloud.emulator.set_profile(Profile { denied, ..Profile::default() });
    table.create_dataset(&condition).await.unwrap();

    let dataset = json!({ "datasetReference": { "datasetId": "d" } });
    assert_eq!(cloud.post("projects/p/datasets", &dataset).await["error"]["code"], 409);
}
