//! Tests of the process with a store with the API of S3.

use hyper::StatusCode;

use crate::env::{PAYLOADS, TestEnv, lines};
use crate::s3_double::{BUCKET, Conditions, Fault, S3Double};

fn place(double: &S3Double) -> Vec<(&'static str, String)> {
    vec![
        ("DATAFLOW__STORAGE__S3__BUCKET", BUCKET.into()),
        ("DATAFLOW__STORAGE__S3__ENDPOINT", double.url.clone()),
        ("DATAFLOW__STORAGE__S3__ALLOW_HTTP", "true".into()),
        ("AWS_ACCESS_KEY_ID", "key".into()),
        ("AWS_SECRET_ACCESS_KEY", "a secret".into()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_store_has_the_archive_once_and_replay_reads_it() {
    let env = TestEnv::new().await;
    env.create_resources().await;
    let double = S3Double::start(Conditions::Kept).await;
    let slow_down = Fault::Refuse(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
    let failed = Fault::Refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    double.fail([slow_down, failed, Fault::LoseReply]);

    let service = env.start(&place(&double));
    env.publish().await;
    let archived = env
        .until(&service, || {
            let objects = double.objects();
            let archived: Vec<_> =
                objects.values().flat_map(|object| lines(&object.content)).collect();
            (archived.len() >= PAYLOADS.len()).then_some(archived)
        })
        .await;
    service.stop();

    assert_eq!(archived, PAYLOADS);
    assert_eq!(double.objects().len(), 1, "the attempt after the lost reply found its object");
    let counted = env.tool(&["replay", "--dry-run"], &place(&double));
    assert!(counted.contains("messages that would be sent: 3"), "{counted}");
    let online = env.tool(&["check", "--online"], &place(&double));
    assert!(online.contains("s3://archive/"), "{online}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_replaces_objects_ends_the_start() {
    let env = TestEnv::new().await;
    env.create_resources().await;
    let double = S3Double::start(Conditions::Ignored).await;

    let (code, log) = env.start(&place(&double)).ended();

    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("ignores If-None-Match"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_keys_names_them() {
    let env = TestEnv::new().await;
    let double = S3Double::start(Conditions::Kept).await;

    let (code, log) = env.start(&place(&double)[..3]).ended();

    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("AWS_ACCESS_KEY_ID"), "{log}");
}
