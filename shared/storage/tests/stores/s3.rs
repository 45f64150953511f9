//! Tests of a store with the API of S3.

use hyper::StatusCode;
use pipeline::Recovery;
use service::tools::preflight::State;
use storage::{ObjectStore as _, Outage, S3, S3Settings, Store};

use super::s3_double::{BUCKET, Conditions, Fault, S3Double};
use super::{check_promise, object};

fn settings(double: &S3Double, bucket: &str) -> S3Settings {
    let endpoint = Some(double.url.as_str().into());
    S3Settings { bucket: bucket.into(), endpoint, allow_http: true, ..S3Settings::default() }
}

fn open(double: &S3Double, bucket: &str) -> S3 {
    service::install_crypto();
    let keys = |name: &str| match name {
        "AWS_ACCESS_KEY_ID" => Some("key".to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some("a secret".to_owned()),
        _ => None,
    };
    S3::with_variables(&settings(double, bucket), keys).unwrap()
}

#[tokio::test]
async fn a_store_with_the_api_of_s3_keeps_the_promise() {
    let double = S3Double::start(Conditions::Kept).await;
    let store = open(&double, BUCKET);

    check_promise(Store::S3(store.clone())).await;

    let stored = &double.objects()["a/b/ours"];
    assert_eq!(stored.headers["content-type"], "text/plain");
    assert_eq!(stored.headers["x-amz-meta-first_event_time"], "2025-06-15T10:00:00Z");
    assert_eq!(stored.headers["if-none-match"], "*");
    assert_eq!(store.address("a/b"), "s3://archive/a/b");
}

#[tokio::test]
async fn failures_of_the_store_are_tried_again() {
    let double = S3Double::start(Conditions::Kept).await;
    let (store, object) = (open(&double, BUCKET), object("name", "content"));
    let refusals = [
        (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        (StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
        (StatusCode::CONFLICT, "ConditionalRequestConflict"),
        (StatusCode::FORBIDDEN, "AccessDenied"),
        (StatusCode::NOT_FOUND, "NoSuchBucket"),
        (StatusCode::BAD_REQUEST, "EntityTooLarge"),
    ];
    double.fail(refusals.map(|(status, code)| Fault::Refuse(status, code)));

    for (status, code) in refusals {
        let refused = store.create(&object).await.unwrap_err();
        assert_eq!(refused.recovery(), Recovery::Retry, "{code}");
        assert_eq!(refused.detail(), format!("{status}: {code}"), "the rest stays in the store");
        assert!(double.objects().is_empty(), "{code}");
    }
    store.create(&object).await.unwrap();

    assert_eq!(double.objects()["name"].content, "content");
}

#[tokio::test]
async fn an_object_of_an_attempt_without_an_answer_is_found_by_its_content() {
    let double = S3Double::start(Conditions::Kept).await;
    let store = open(&double, BUCKET);
    let ours = object("name", "content");
    double.fail([Fault::LoseReply]);

    let lost = store.create(&ours).await.unwrap_err();
    store.create(&ours).await.unwrap();
    let theirs = store.create(&object("name", "other")).await.unwrap_err();

    assert_eq!(lost.recovery(), Recovery::Retry);
    assert!(format!("{theirs:#}").contains("another content"), "{theirs:#}");
    assert_eq!(double.objects()["name"].content, "content");
    double.forbid_reading();
    let unseen = store.create(&ours).await.unwrap_err();
    assert!(format!("{unseen:#}").contains("s3:GetObject"), "{unseen:#}");
}

#[tokio::test]
async fn a_store_that_replaces_objects_is_refused() {
    for (conditions, why) in [
        (Conditions::Ignored, "ignores If-None-Match"),
        (Conditions::Unknown, "does not take If-None-Match"),
    ] {
        let double = S3Double::start(conditions).await;

        let found = open(&double, BUCKET).find().await;

        assert!(matches!(&found, Err(Outage::Unfit(text)) if text.contains(why)), "{found:?}");
    }
}

#[tokio::test]
async fn a_conflict_does_not_prove_that_the_store_refuses_names() {
    let conflict = Fault::Refuse(StatusCode::CONFLICT, "ConditionalRequestConflict");
    let replacing = S3Double::start(Conditions::Ignored).await;
    replacing.fail_probe([conflict]);
    let fit = S3Double::start(Conditions::Kept).await;
    fit.fail_probe([conflict; 2]);
    let busy = S3Double::start(Conditions::Kept).await;
    busy.fail_probe([conflict; 9]);

    let found = open(&replacing, BUCKET).find().await;
    assert!(matches!(found, Err(Outage::Unfit(_))), "{found:?}");
    assert_eq!(open(&fit, BUCKET).find().await, Ok(()));
    let found = open(&busy, BUCKET).find().await;
    assert!(
        matches!(&found, Err(Outage::Unreachable(why)) if why.contains("409 Conflict")),
        "{found:?}"
    );
}

#[tokio::test]
async fn an_outage_shows_the_code_of_an_answer_alone() {
    let double = S3Double::start(Conditions::Kept).await;
    let store = open(&double, BUCKET);
    double.fail_probe([
        Fault::Refuse(StatusCode::FORBIDDEN, "AccessDenied"),
        Fault::Refuse(StatusCode::BAD_GATEWAY, "this is no code"),
    ]);
    let outage = |why: &str| -> Result<(), Outage> {
        Err(Outage::Unreachable(format!("bucket archive cannot be written to: {why}")))
    };

    assert_eq!(store.find().await, outage("403 Forbidden: AccessDenied"));
    assert_eq!(store.find().await, outage("502 Bad Gateway"));
    store.create(&object("name", "content")).await.unwrap();
    double.forbid_reading();
    let unread = store.read("name").await.unwrap_err();
    assert_eq!(unread.detail(), "403 Forbidden: AccessDenied");
}

#[tokio::test]
async fn the_state_of_a_bucket_is_told() {
    let double = S3Double::start(Conditions::Kept).await;
    let store = open(&double, BUCKET);
    let missing = open(&double, "missing");

    assert!(
        matches!(missing.find().await, Err(Outage::Missing(why)) if why.contains("missing does not exist"))
    );
    assert!(matches!(missing.dependency().await.state, State::Missing(_)));
    assert!(matches!(store.dependency().await.state, State::Unchecked(_)), "nothing was created");
    assert_eq!(store.find().await, Ok(()));
    assert_eq!(store.dependency().await.state, State::Ready);
    let away =
        S3Settings { endpoint: Some("http://127.0.0.1:1".into()), ..settings(&double, BUCKET) };
    let away = S3::with_variables(&away, |_| Some("key".into())).unwrap();
    assert!(matches!(away.find().await, Err(Outage::Unreachable(_))));
}

#[tokio::test]
async fn a_client_without_keys_is_not_built() {
    let double = S3Double::start(Conditions::Kept).await;

    let error = S3::with_variables(&settings(&double, BUCKET), |_| None).unwrap_err();

    assert_eq!(error.recovery(), Recovery::Stop);
    assert!(format!("{error:#}").contains("AWS_ACCESS_KEY_ID"), "{error:#}");
}
