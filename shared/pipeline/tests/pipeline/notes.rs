//! Tests of the crash file. It names the work of a lane, and nothing while the lane waits. So a
//! process that is killed while it waits blames no message.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::env::{NEVER, Parts, TestEnv, item, keyed, message, seconds, sized};
use message::Message;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{
    Fault, Faults, FnTransform, MemoryDeadLetters, MemorySink, MemorySource, Recorder,
};
use pipeline::{Limits, Metrics, Pipeline};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Starts a pipeline with a crash file.
fn start(mut parts: Parts) -> (TestEnv, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    parts.limits.crash_file = Some(folder.path().join("crash_file"));
    (parts.start(), folder)
}

/// Returns the lines of the first lane.
fn noted(folder: &TempDir) -> Vec<String> {
    let text = std::fs::read_to_string(folder.path().join("crash_file")).unwrap();
    let lines = text.lines().skip_while(|line| !line.starts_with("lanes of ")).skip(1);
    lines.take_while(|line| *line != "0000000000000000").map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn a_message_in_an_open_batch_is_not_at_work() {
    let (env, folder) = start(Parts::default());

    env.push_all([message("1")]);
    env.pass(seconds(1)).await;

    assert_eq!(env.metrics.open_batches.get(), 1);
    assert_eq!(noted(&folder), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_waits_for_a_write_is_not_at_work() {
    let mut parts = Parts { sink: Faults::always(Fault::Hung), ..Parts::default() };
    parts.limits.max_writes = 1;
    parts.limits.batch.max_messages = 1;
    let (env, folder) = start(parts);

    env.push_all([message("is written")]);
    env.pass(seconds(1)).await;
    env.push_all([message("waits"), message("is at hand")]);
    env.pass(seconds(1)).await;

    assert_eq!(env.metrics.in_flight.get(), 3);
    assert_eq!(noted(&folder), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waited_for_room_behind_one_of_its_key_is_not_at_work() {
    let mut parts = Parts { transform: Faults::script([Fault::Retryable]), ..Parts::default() };
    parts.limits.max_batch_memory = 50;
    let (env, folder) = start(parts);

    // Message 1 takes all memory until it is written. Message 2 continues after that.
    env.push_all([keyed("device", sized(60, message("1"))), keyed("device", message("2"))]);
    env.pass(seconds(1)).await;

    assert_eq!(env.written(), ["1"]);
    assert_eq!(env.metrics.open_batches.get(), 1);
    assert_eq!(noted(&folder), [""; 0]);
}

/// Ends a process by force while a transform blocks its lane, after the lane is called stalled or
/// before. Returns the lines that stay recorded.
async fn noted_at_the_end(stall_after: Duration) -> Vec<String> {
    let is_stalled = stall_after < NEVER;
    let (folder, recorder) = (tempfile::tempdir().unwrap(), Recorder::default());
    let (has_begun, (release, blocked)) = (Arc::new(Notify::new()), mpsc::channel::<()>());
    let (begun, blocked) = (Arc::clone(&has_begun), Mutex::new(blocked));
    let describe = move |message: &Message| {
        begun.notify_one();
        blocked.lock().unwrap().recv().unwrap_err();
        item(message)
    };
    let crash_file = Some(folder.path().join("crash_file"));
    let mut running = Pipeline {
        service: "test",
        source: MemorySource::new([message("1")], recorder.clone()),
        transform: FnTransform(describe, Faults::none()),
        sink: MemorySink::new(recorder.clone(), Faults::none(), usize::MAX),
        dead_letters: Policy::Write(MemoryDeadLetters(recorder, Faults::none())),
        limits: Limits { lanes: 1, stall_after, crash_file, ..Limits::default() },
        metrics: Metrics::default(),
    }
    .start();
    let status = running.status();
    has_begun.notified().await;
    let noted_since = Instant::now();
    let has_stalled = || status.stalled().is_some_and(|(name, _)| name == "lane 0");
    let due = async {
        while is_stalled && !(has_stalled() && noted_since.elapsed() >= stall_after) {
            tokio::task::yield_now().await;
        }
    };
    timeout(seconds(30), due).await.unwrap();

    status.excuse();

    let noted = noted(&folder);
    drop(release);
    assert!(running.ended().await.is_none());
    noted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_which_a_lane_hangs_stays_noted_at_a_forced_end_and_others_do_not() {
    assert_eq!(noted_at_the_end(Duration::from_millis(10)).await.len(), 1);
    assert_eq!(noted_at_the_end(NEVER).await, [""; 0]);
}
