//! Tests of the steps of messages that viewers see.

use message::Message;
use pipeline::Disposition;
use pipeline::doubles::{Fault, Faults, Kind};
use pipeline::hops::{Filter, Viewer};
use serde_json::{Value, json};

use crate::env::{Parts, TestEnv, bad, eager, message, seconds, to};

/// Creates a message of a device, with the id that ingestion gives.
fn of_device(id: &str, device: &str) -> Message {
    message(id).with_attribute("ingest_id", format!("i-{id}")).with_attribute("device_id", device)
}

fn watch(env: &TestEnv, device: &str) -> Viewer {
    let filter = Filter { device: Some(device.into()), ..Filter::default() };
    env.metrics.hops.watch(filter).unwrap()
}

async fn hops(viewer: &mut Viewer) -> Vec<Value> {
    let mut hops = Vec::new();
    while let Some(hop) = viewer.next_within(seconds(1)).await {
        hops.push(json!(&*hop));
    }
    hops
}

fn steps(hops: &[Value]) -> Vec<&str> {
    hops.iter().map(|hop| hop["step"].as_str().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_message_is_shown_at_each_step_with_its_destination() {
    let env = eager().start();
    let mut viewer = watch(&env, "a");

    env.push_all([to("table", of_device("1", "a")), of_device("2", "b")]);

    let hops = hops(&mut viewer).await;
    assert_eq!(steps(&hops), ["received", "transformed", "durable"]);
    for hop in &hops {
        assert_eq!(hop["stage"], "pipeline");
        assert_eq!((&hop["ingest_id"], &hop["device_id"]), (&json!("i-1"), &json!("a")));
        assert_eq!(hop["message_id"], "1");
    }
    let record = json!({ "kind": "envelope", "text": "0123456789" });
    assert_eq!(hops[0]["record"], record);
    assert_eq!(hops[2]["destination"], "table");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_leaves_the_stream_is_shown_with_the_reason() {
    let env = eager().start();
    let mut viewer = watch(&env, "a");

    env.push_all([bad(Kind::Refused, of_device("1", "a"))]);
    let refused = hops(&mut viewer).await;
    env.push_all([bad(Kind::Skipped, of_device("2", "a"))]);
    let skipped = hops(&mut viewer).await;

    assert_eq!(steps(&refused), ["received", "transformed", "dead_lettered"]);
    assert_eq!((&refused[2]["reason"], &refused[2]["detail"]), (&json!("refused"), &json!("1")));
    assert_eq!(steps(&skipped), ["received", "skipped"]);
    assert_eq!(skipped[1]["reason"], "skipped");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_handed_back_is_shown() {
    let parts = Parts { transform: Faults::script([Fault::LostReply]), ..eager() };
    let env = parts.start();
    let mut viewer = watch(&env, "a");

    env.push_all([of_device("1", "a")]);

    let hops = hops(&mut viewer).await;
    let nacked = ["received", "nacked", "received", "transformed", "durable"];
    assert_eq!(steps(&hops), nacked);
    assert_eq!(hops[1]["reason"], "asked");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_gets_its_id_by_the_transform_is_shown_from_its_receipt_on() {
    let env = eager().start();
    let mut viewer = env.metrics.hops.watch(Filter::default()).unwrap();

    env.push_all([message("1")]);

    let hops = hops(&mut viewer).await;
    assert_eq!(steps(&hops), ["received", "transformed", "durable"]);
    assert_eq!(hops[0]["record"]["kind"], "payload");
}

#[tokio::test(start_paused = true)]
async fn the_last_dead_letters_are_kept_although_nobody_watches() {
    let env = eager().start();

    let all = (0..25).map(|index| bad(Kind::Refused, of_device(&index.to_string(), "a")));
    env.push_all(all);
    env.pass(seconds(5)).await;

    let kept = env.metrics.hops.dead_letters();
    let ids: Vec<_> = kept.iter().map(|letter| letter.message_id.clone()).collect();
    let expected: Vec<_> = (5..25).rev().map(|index| index.to_string()).collect();
    assert_eq!(ids, expected, "the newest first");
    assert_eq!((kept[0].reason, &*kept[0].ingest_id), ("refused", "i-24"));
    assert_eq!(kept[0].record.as_ref().unwrap().text, "0123456789");
}

#[tokio::test(start_paused = true)]
async fn a_viewer_who_reads_nothing_delays_nobody_and_misses_hops() {
    let env = eager().start();
    let viewer = env.metrics.hops.watch(Filter::default()).unwrap();

    env.push_all((0..1000).map(|index| of_device(&index.to_string(), "a")));
    env.pass(seconds(5)).await;

    let recording = env.recorder.recording();
    assert_eq!(recording.acked.len(), 1000);
    assert!(recording.outcomes.iter().all(|(_, outcome)| *outcome == Disposition::Ack));
    assert_eq!(viewer.take_dropped(), 3000 - 256);
}

#[tokio::test(start_paused = true)]
async fn the_age_counts_from_the_ingest_that_the_id_tells() {
    let env = eager().start();
    let age = || {
        let mut text = String::new();
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register("age", "of the test", env.metrics.end_to_end_age.clone());
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let sum = text.lines().find_map(|line| line.strip_prefix("age_sum ")).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("age_count ")).unwrap();
        (count.parse::<u64>().unwrap(), sum.parse::<f64>().unwrap())
    };
    let mut one = message("1");
    // The UUID is of 2022-02-22 19:22:22.
    one.publish_time = time::macros::datetime!(2022-02-22 19:22:32 UTC);
    let since = time::OffsetDateTime::now_utc() - one.publish_time;

    env.push_all([
        message("2"),
        one.with_attribute("ingest_id", "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"),
    ]);
    env.pass(seconds(1)).await;

    let (count, sum) = age();
    assert_eq!(count, 1, "the other message has no such id");
    let upstream = sum - since.as_seconds_f64();
    assert!((10.0..3600.0).contains(&upstream), "{upstream}");
}
