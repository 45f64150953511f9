//! Tests of the setting `create`.

use std::fs;

use emulator::Profile;
use serde_json::Value;

use crate::env::TestEnv;
use crate::files;

/// Returns the variables of a service that creates everything.
fn variables(place: (&'static str, String)) -> Vec<(&'static str, String)> {
    vec![
        place,
        ("DATAFLOW__CREATE", "true".into()),
        ("DATAFLOW__SUBSCRIPTION__TOPIC_ID", "enriched".into()),
        ("DATAFLOW__DEAD_LETTERS__BUCKET", "too-big".into()),
    ]
}

const RESOURCES: [&str; 6] = [
    "v1/projects/p/topics/enriched",
    "v1/projects/p/topics/letters",
    "v1/projects/p/subscriptions/archive",
    "v1/projects/p/subscriptions/letters",
    "storage/v1/b/too-big",
    "storage/v1/b/archive",
];

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_missing_is_created_once() {
    let env = TestEnv::new().await;
    let variables = variables(("DATAFLOW__STORAGE__BUCKET", "archive".into()));

    let checked = env.tool(&["check"], &variables);
    let planned = env.tool(&["check", "--online"], &variables);
    for resource in RESOURCES {
        assert_eq!(
            env.resource(resource).await,
            Value::Null,
            "{resource}: a check creates nothing"
        );
    }
    let service = env.start(&variables);
    env.until(&service, || service.is_reading().then_some(())).await;
    let log = service.log();
    service.stop();
    let again = env.start(&variables);
    env.until(&again, || again.is_reading().then_some(())).await;
    let quiet = again.log();
    again.stop();

    assert!(checked.contains("create is on"), "{checked}");
    assert_eq!(planned.matches("will create").count(), 4, "{planned}");
    for resource in RESOURCES {
        assert_ne!(env.resource(resource).await, Value::Null, "{resource}");
    }
    assert_eq!(log.matches("\"created\"").count(), 6, "{log}");
    assert_eq!(quiet.matches("\"created\"").count(), 0, "{quiet}");
    let subscription = env.resource("v1/projects/p/subscriptions/archive").await;
    assert_eq!(subscription["topic"], "projects/p/topics/enriched");
    assert_eq!(subscription["ackDeadlineSeconds"], 60);
    assert_eq!(subscription["messageRetentionDuration"], "604800s");
    assert_eq!(subscription["retryPolicy"]["minimumBackoff"], "1s");
    assert_eq!(subscription["retryPolicy"]["maximumBackoff"], "60s");
    assert_eq!(subscription["expirationPolicy"]["ttl"], Value::Null);
    let letters = env.resource("v1/projects/p/topics/letters").await;
    assert_eq!(letters["messageRetentionDuration"], "2592000s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_created_too() {
    let env = TestEnv::new().await;
    let folder = env.folder.path().join("a/b");
    let place = ("DATAFLOW__STORAGE__FOLDER", folder.to_str().unwrap().to_owned());

    let service = env.start(&variables(place));
    env.until(&service, || service.is_reading().then_some(())).await;
    env.publish().await;
    env.until(&service, || (!files(&folder).is_empty()).then_some(())).await;
    service.stop();

    assert!(fs::metadata(&folder).unwrap().is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_ends_the_start() {
    for (denied, resource) in [
        ("storage.buckets.create", "gs://archive/"),
        ("pubsub.topics.create", "topic projects/p/topics/enriched"),
    ] {
        let env = TestEnv::new().await;
        let denied_names = [denied.to_owned()].into();
        env.emulator.set_profile(Profile { denied: denied_names, ..Profile::default() });
        let place = ("DATAFLOW__STORAGE__BUCKET", "archive".into());

        let (code, log) = env.start(&variables(place)).ended();

        assert_eq!(code, Some(2), "{log}");
        let expected = format!("create: {resource} cannot be created: we lack {denied}");
        assert!(log.contains(&expected), "{log}");
    }
}
