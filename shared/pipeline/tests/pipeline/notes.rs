//! The crash file names what a lane works on, and nothing while it waits: a process that is killed then
//! blames no message.

use crate::env::{Parts, TestEnv, keyed, message, seconds, sized};
use pipeline::doubles::{Fault, Faults};
use tempfile::TempDir;

/// A pipeline with a crash file.
fn start(mut parts: Parts) -> (TestEnv, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    parts.limits.crash_file = Some(folder.path().join("crash_file"));
    (parts.start(), folder)
}

/// The lines of the first lane.
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
    let mut parts = Parts { transform: Faults::script([Fault::Refused]), ..Parts::default() };
    parts.limits.max_batch_memory = 50;
    let (env, folder) = start(parts);

    // The first one takes all memory until it is written. The second one goes on after that.
    env.push_all([keyed("device", sized(60, message("1"))), keyed("device", message("2"))]);
    env.pass(seconds(1)).await;

    assert_eq!(env.written(), ["1"]);
    assert_eq!(env.metrics.open_batches.get(), 1);
    assert_eq!(noted(&folder), [""; 0]);
}
