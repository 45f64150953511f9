//! Where messages may go.

use pipeline::Sink as _;
use pubsub::{Admin, Outgoing, Publishers, Sink, TopicGuard, TopicName};
use serde_json::json;
use service::Health;
use tonic::Code;

use crate::world::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_lets_nothing_pass_where_nobody_listens() {
    let world = World::new(json!({})).await;
    let lonely = TopicName::new("p", "lonely");
    world.put("topics/lonely", json!({})).await;
    let guard = TopicGuard::new([lonely.clone()]);
    let admin = Admin::new(&world.connection).await.unwrap();
    let condition = Health::default().condition("topics");
    let sink = Sink::new(Publishers::new(&world.connection).await.unwrap(), guard.clone());
    let write = async || {
        let mut batch = sink.open(&lonely);
        let outgoing = Outgoing { topic: lonely.clone(), ..world.outgoing("data".into(), "") };
        sink.join(&mut batch, outgoing, &mut ()).unwrap();
        sink.write(&sink.seal(batch, &mut ()), PATIENCE).await.is_ok()
    };

    assert!(!guard.look(&admin, &condition).await);
    assert!(!write().await);
    world.put("topics/kept", json!({ "messageRetentionDuration": "600s" })).await;
    let kept = TopicGuard::new([TopicName::new("p", "kept")]);
    assert!(kept.look(&admin, &condition).await, "retention is an audience");
    let settings = json!({ "topic": lonely.as_str() });
    world.put("subscriptions/listener", settings).await;

    assert!(guard.look(&admin, &condition).await);
    assert!(write().await);
    // No right to look: what was known still counts, and it is said.
    world.emulator.faults().refuse("GetTopic", 2, Code::PermissionDenied);
    assert!(guard.look(&admin, &condition).await);
    assert_eq!(guard.unchecked(), std::slice::from_ref(&lonely));
}
