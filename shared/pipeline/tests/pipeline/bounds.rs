//! Bounds that hold while the destination takes nothing.

use crate::env::{Parts, keyed, message, seconds, sized, to};
use pipeline::batch::Cause;
use pipeline::doubles::{Fault, Faults};

/// Writes hang until their time is over.
fn stuck() -> Parts {
    Parts { sink: Faults::always(Fault::Hung), ..Parts::default() }
}

#[tokio::test(start_paused = true)]
async fn batches_take_no_more_memory_than_allowed_and_one_record() {
    let mut parts = stuck();
    parts.limits.max_batch_memory = 100;
    let env = parts.start();

    env.push_all((0..10).map(|id| sized(60, message(&id.to_string()))));
    env.pass(seconds(1)).await;

    assert_eq!(env.running.status().batch_memory(), 120);
}

#[tokio::test(start_paused = true)]
async fn a_lane_has_no_more_writes_than_allowed() {
    let mut parts = stuck();
    parts.limits.lanes = 2;
    parts.limits.max_writes = 1;
    parts.limits.batch.max_messages = 1;
    let env = parts.start();

    // All on one lane, while both together may have two writes.
    env.push_all(["1", "2", "3"].map(|id| keyed("device", to(id, message(id)))));
    env.pass(seconds(6)).await;

    assert_eq!(env.retried("write"), 1, "of those that began at first");
}

/// A batch that is closed takes no more records, so it would be smaller than it had to be.
#[tokio::test(start_paused = true)]
async fn a_batch_stays_open_while_another_one_waits_to_be_written() {
    let mut parts = stuck();
    parts.limits.max_writes = 2;
    parts.limits.batch.max_messages = 2;
    parts.limits.max_batch_memory = 55;
    let env = parts.start();

    let ordered = |id| keyed("device", message(id));
    let others = [to("b", message("3")), to("c", message("4"))];
    env.push_all(["1", "2"].map(ordered).into_iter().chain(others));
    env.push_all(["5", "6"].map(ordered));
    env.pass(seconds(1)).await;

    assert_eq!(env.running.status().batch_memory(), 60);
    assert_eq!(env.causes(), [(Cause::Count, 2)]);
    assert_eq!(env.metrics.open_batches.get(), 2);
}
