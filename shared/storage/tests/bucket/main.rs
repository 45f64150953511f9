//! Tests of a bucket with the embedded cloud, and with scripted answers that the embedded cloud
//! never gives.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod clients;
mod scripted;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use emulator::{Emulator, Fault, Kind, Options};
use pipeline::Recovery;
use service::tools::preflight::State;
use service::{Dependency, Health};
use storage::{Bucket, Endpoint, Object, ObjectStore as _};
use tokio::time::{sleep, timeout};
use tonic::Code;

use scripted::Scripted;

/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(30);
const BUCKET: &str = "/storage/v1/b/bucket";

async fn bucket(url: &str) -> Bucket {
    service::install_crypto();
    Bucket::new(
        &"bucket".parse().unwrap(),
        &Endpoint { endpoint: Some(url.into()), ..<_>::default() },
    )
    .await
    .unwrap()
}

async fn make_bucket(emulator: &Emulator) {
    let url = format!("{}/storage/v1/b?project=p", emulator.url());
    let request = reqwest::Client::new().post(url).body(r#"{"name":"bucket"}"#);
    request.send().await.unwrap().error_for_status().unwrap();
}

fn object(name: &str, content: &'static str) -> Object {
    Object {
        name: name.into(),
        content: Bytes::from_static(content.as_bytes()),
        content_type: "text/plain",
        metadata: vec![("key", "value".into())],
        may_exist: AtomicBool::new(false),
    }
}

#[tokio::test]
async fn what_is_created_is_listed_and_read() {
    let emulator = Emulator::start(Options::default()).await.unwrap();
    make_bucket(&emulator).await;
    let bucket = bucket(&emulator.url()).await;

    // Names that must be escaped in a path.
    for name in ["a/b c%2Fd?#", "a/z", "b"] {
        bucket.create(&object(name, "content")).await.unwrap();
    }

    assert_eq!(bucket.address("b"), "gs://bucket/b");
    let (names, next) = bucket.list("a/", None).await.unwrap();
    assert_eq!(names, ["a/b c%2Fd?#", "a/z"]);
    assert_eq!(next, None);
    assert_eq!(bucket.read("a/b c%2Fd?#").await.unwrap(), "content");
    let stored = format!("{}/storage/v1/b/bucket/o/b", emulator.url());
    let stored = reqwest::get(stored).await.unwrap().bytes().await.unwrap();
    let stored: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(stored["contentType"], "text/plain");
    assert_eq!(stored["metadata"]["key"], "value");
}

/// Starts an embedded cloud with the bucket.
async fn embedded() -> (Emulator, Bucket) {
    let emulator = Emulator::start(Options::default()).await.unwrap();
    make_bucket(&emulator).await;
    let bucket = bucket(&emulator.url()).await;
    (emulator, bucket)
}

const INSERT: &str = "storage.objects.insert";

#[tokio::test]
async fn an_object_that_exists_is_the_one_of_an_attempt_without_an_answer() {
    let (emulator, bucket) = embedded().await;
    let object = object("name", "content");
    emulator.faults().lose_reply(INSERT, 1);

    let lost = bucket.create(&object).await.unwrap_err();
    bucket.create(&object).await.unwrap();

    assert_eq!(lost.recovery(), Recovery::Retry);
    assert_eq!(bucket.read("name").await.unwrap(), "content");
}

#[tokio::test]
async fn an_object_of_an_attempt_that_was_dropped_may_exist() {
    let (emulator, bucket) = embedded().await;
    let object = object("name", "content");
    let millis = u64::try_from(PATIENCE.as_millis()).unwrap();
    emulator.faults().add(fault(Kind::DelayReply { millis }));

    let dropped = timeout(Duration::from_secs(1), bucket.create(&object)).await;
    bucket.create(&object).await.unwrap();

    assert!(dropped.is_err());
    assert_eq!(bucket.read("name").await.unwrap(), "content");
}

#[tokio::test]
async fn an_object_that_exists_before_the_first_attempt_is_not_ours() {
    let (emulator, bucket) = embedded().await;
    bucket.create(&object("name", "theirs")).await.unwrap();
    let ours = object("name", "ours");

    // A refused attempt has not created it either.
    emulator.faults().refuse(INSERT, 1, Code::ResourceExhausted);
    for _ in 0..2 {
        assert_eq!(bucket.create(&ours).await.unwrap_err().recovery(), Recovery::Retry);
    }

    assert_eq!(bucket.read("name").await.unwrap(), "theirs");
}

#[tokio::test]
async fn an_object_whose_name_is_its_content_may_exist() {
    let (_emulator, bucket) = embedded().await;
    bucket.create(&object("hash", "content")).await.unwrap();

    let same = Object { may_exist: AtomicBool::new(true), ..object("hash", "content") };

    bucket.create(&same).await.unwrap();
}

#[tokio::test]
async fn a_policy_that_refuses_an_object_is_no_object() {
    let (emulator, bucket) = embedded().await;
    let object = Object { may_exist: AtomicBool::new(true), ..object("name", "content") };
    emulator.faults().add(fault(Kind::Refuse {
        code: Code::FailedPrecondition.into(),
        retry_after: None,
        reason: Some("orgPolicyConstraintFailed".into()),
        message: Some("Request violates an OrgPolicy constraint".into()),
    }));

    let refused = bucket.create(&object).await.unwrap_err();

    assert_eq!(refused.recovery(), Recovery::Retry);
    let text = format!("{refused:#}");
    assert!(text.contains("violates") && text.contains("orgPolicyConstraintFailed"), "{text}");
    assert!(bucket.read("name").await.is_err(), "nothing was created");
}

fn fault(kind: Kind) -> Fault {
    Fault { method: INSERT.into(), topic: None, count: 1, for_millis: None, kind }
}

#[tokio::test]
async fn what_cannot_be_stored_or_read_is_tried_again() {
    let emulator = Emulator::start(Options::default()).await.unwrap();
    let bucket = bucket(&emulator.url()).await;

    let created = bucket.create(&object("name", "content")).await.unwrap_err();
    let read = bucket.read("name").await.unwrap_err();
    let listed = bucket.list("", None).await.unwrap_err();

    for error in [created, read, listed] {
        assert_eq!(error.recovery(), Recovery::Retry);
    }
}

#[tokio::test]
async fn a_list_goes_on_where_the_last_page_ended() {
    let server = Scripted::start().await;
    let page = r#"{"items":[{"name":"x"}],"nextPageToken":"next"}"#;
    server.answers(&format!("{BUCKET}/o"), 200, page);
    let bucket = bucket(&server.url).await;

    let (names, next) = bucket.list("prefix/", Some("page")).await.unwrap();

    assert_eq!((names, next), (vec!["x".to_owned()], Some("next".to_owned())));
    assert_eq!(server.asked(), [format!("{BUCKET}/o?prefix=prefix%2F&pageToken=page")]);
    server.answers(&format!("{BUCKET}/o"), 200, "no JSON");
    assert_eq!(bucket.list("", None).await.unwrap_err().recovery(), Recovery::Retry);
}

#[tokio::test]
async fn a_bucket_that_comes_into_being_is_found() {
    let server = Scripted::start().await;
    let bucket = bucket(&server.url).await;
    let health = Health::default();
    let condition = health.condition("bucket");

    let come = async {
        while server.asked().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        assert!(!health.conditions()["bucket"].ready);
        server.answers(BUCKET, 200, "{}");
    };
    let waited = async { tokio::join!(bucket.wait(&condition), come).0 };
    timeout(PATIENCE, waited).await.unwrap().unwrap();

    assert!(health.conditions()["bucket"].ready);
}

#[tokio::test]
async fn a_watched_bucket_that_is_lost_and_found_ends_and_begins_readiness() {
    let server = Scripted::start().await;
    let bucket = bucket(&server.url).await;
    let health = Health::default();
    let watching = tokio::spawn(bucket.watch(health.condition("bucket")));
    let until = async |is_ready| {
        let waiting = async {
            while health.conditions()["bucket"].ready != is_ready {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap();
    };

    until(false).await;
    server.answers(BUCKET, 200, "{}");
    until(true).await;

    // A bucket that exists is checked rarely.
    assert!(server.asked().len() < 60, "{:?}", server.asked());
    watching.abort();
}

#[tokio::test]
async fn no_right_to_see_the_bucket_is_no_outage() {
    let server = Scripted::start().await;
    let bucket = bucket(&server.url).await;
    let health = Health::default();
    server.answers(BUCKET, 403, "");

    timeout(PATIENCE, bucket.wait(&health.condition("bucket"))).await.unwrap().unwrap();

    assert!(health.conditions()["bucket"].ready);
}

#[tokio::test]
async fn what_is_needed_of_a_bucket_is_told() {
    let server = Scripted::start().await;
    let bucket = bucket(&server.url).await;
    let state = async || bucket.dependency().await.state;
    let rights = format!("{BUCKET}/iam/testPermissions");

    assert!(matches!(state().await, State::Missing(why) if why == "bucket bucket does not exist"));
    server.answers(BUCKET, 500, "");
    assert!(matches!(state().await, State::Unreachable(why) if why.contains("500")));
    server.answers(BUCKET, 200, "{}");
    assert!(matches!(state().await, State::Unchecked(_)));
    server.answers(&rights, 200, "{}");
    assert!(
        matches!(state().await, State::Denied(why) if why.contains("roles/storage.objectCreator"))
    );
    server.answers(&rights, 200, r#"{"permissions":["storage.objects.get"]}"#);
    assert!(matches!(state().await, State::Denied(_)));
    server.answers(&rights, 200, r#"{"permissions":["storage.objects.create"]}"#);
    let Dependency { kind, name, roles, state } = bucket.dependency().await;
    assert!(matches!(state, State::Ready));
    assert_eq!(
        (kind, name.as_str(), roles),
        ("bucket", "gs://bucket", &["roles/storage.objectCreator"][..])
    );
    let question = format!("{rights}?permissions=storage.objects.create");
    assert_eq!(server.asked().last(), Some(&question));
}

#[tokio::test]
async fn a_server_that_is_away_is_said_to_be() {
    let server = Scripted::start().await;
    let url = server.url.clone();
    let away = bucket(&url.replace("127.0.0.1", "127.0.0.2")).await;

    assert!(
        matches!(away.dependency().await.state, State::Unreachable(why) if why.contains("does not answer"))
    );
    // Nothing was sent, so no object of this attempt can exist.
    let object = object("name", "content");
    assert_eq!(away.create(&object).await.unwrap_err().recovery(), Recovery::Retry);
    assert!(!object.may_exist.load(Ordering::Relaxed));
}
