//! Tests of the messages that a sink accepts, and of its errors for the others.

use pipeline::Sink as _;
use pubsub::Outgoing;
use pubsub::reasons;
use serde_json::json;
use tonic::Code;

use crate::env::{PATIENCE, TestEnv};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_publish_is_retried_by_the_pipeline_or_rejected() {
    let env = TestEnv::new(json!({})).await;
    let sink = env.sink().await;
    let write = async || {
        let mut batch = sink.open(&env.topic);
        sink.push(&mut batch, env.outgoing("data".into(), "key"), &mut ()).unwrap();
        sink.write(&sink.encode(batch, &mut ()), PATIENCE).await.map_err(|error| error.recovery())
    };

    env.emulator.faults().refuse("Publish", 1, Code::Unavailable);
    assert_eq!(write().await, Err(pipeline::Recovery::Retry));
    env.emulator.faults().refuse("Publish", 1, Code::NotFound);
    assert_eq!(write().await, Err(pipeline::Recovery::Retry));
    env.emulator.faults().refuse("Publish", 1, Code::InvalidArgument);
    assert_eq!(write().await, Err(pipeline::Recovery::Reject(reasons::PUBLISH_INVALID)));
    // A key that the client had paused continues.
    assert_eq!(write().await, Ok(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pubsub_would_refuse_never_joins_a_batch() {
    let env = TestEnv::new(json!({})).await;
    let sink = env.sink().await;
    let refused = |change: fn(&mut Outgoing)| {
        let mut outgoing = env.outgoing("data".into(), "");
        change(&mut outgoing);
        match sink.push(&mut sink.open(&env.topic), outgoing, &mut ()) {
            Err(pipeline::PushError::Refused(error)) => error.recovery(),
            other => panic!("{other:?}"),
        }
    };

    let reject = pipeline::Recovery::Reject;
    assert_eq!(
        refused(|m| m.data = vec![0; 10_000_000].into()),
        reject(reasons::MESSAGE_TOO_LARGE)
    );
    assert_eq!(
        refused(|m| drop(m.attributes.insert("k".into(), "v".repeat(1025)))),
        reject(reasons::ATTRIBUTE_INVALID)
    );
    assert_eq!(
        refused(|m| m.ordering_key = "k".repeat(1025)),
        reject(reasons::ORDERING_KEY_TOO_LONG)
    );
    let many =
        |m: &mut Outgoing| m.attributes.extend((0..101).map(|i| (i.to_string(), String::new())));
    assert_eq!(refused(many), reject(reasons::TOO_MANY_ATTRIBUTES));
}
