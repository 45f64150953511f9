//! Tests of the bounds while the destination accepts nothing.

use crate::env::{Parts, keyed, message, seconds, sized, to};
use message::Message;
use pipeline::batch::FlushReason;
use pipeline::doubles::{Fault, FaultRates, Faults};

/// Builds parts whose writes hang until they time out.
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

/// Returns the memory of an archive that holds this message.
async fn memory_of(message: Message) -> usize {
    let env = Parts { is_archive: true, ..Parts::default() }.start();
    env.push_all([message]);
    env.pass(seconds(1)).await;
    env.running.status().batch_memory()
}

/// The lane, its index by size and its clock each have a copy of the key.
#[tokio::test(start_paused = true)]
async fn three_copies_of_a_key_are_memory_of_an_archive() {
    let memory = async |key: &str| memory_of(to(key, message("1"))).await;

    let (short, long) = (memory("k").await, memory(&"k".repeat(1_001)).await);

    assert_eq!(long - short, 3_000);
}

#[tokio::test(start_paused = true)]
async fn the_names_of_ordered_messages_are_memory_of_an_archive() {
    let memory = async |key: &str, id: &str| memory_of(keyed(key, message(id))).await;

    let (short, long) =
        (memory("k", "i").await, memory(&"k".repeat(1_001), &"i".repeat(501)).await);

    assert_eq!(long - short, 1_500);
}

/// One message is being written, one is in a closed batch, and intake holds one.
#[tokio::test(start_paused = true)]
async fn no_more_messages_wait_for_a_lane_than_allowed() {
    for max_queue in [1, 5] {
        let mut parts = stuck();
        parts.limits.max_queue = max_queue;
        parts.limits.max_writes = 1;
        parts.limits.batch.max_messages = 1;
        let env = parts.start();

        env.push_all((0..20).map(|id| message(&id.to_string())));
        env.pass(seconds(1)).await;

        assert_eq!(env.recorder.recording().unsettled, max_queue + 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_has_no_more_writes_than_allowed() {
    let mut parts = stuck();
    parts.limits.lanes = 2;
    parts.limits.max_writes = 1;
    parts.limits.batch.max_messages = 1;
    let env = parts.start();

    // All messages are on one lane, while both lanes together may have two writes.
    env.push_all(["1", "2", "3"].map(|id| keyed("device", to(id, message(id)))));
    env.pass(seconds(6)).await;

    assert_eq!(env.retried("write"), 1, "of those that began at first");
}

/// There may be thousands of small batches. Closing one at a time would free only a few messages
/// for the time of a write.
#[tokio::test(start_paused = true)]
async fn whoever_waits_for_room_gets_it_from_as_many_batches_as_it_takes() {
    let mut parts = stuck();
    parts.limits.max_messages_in_flight = 64;
    parts.limits.max_writes = 10;
    let env = parts.start();

    env.push_all((0..65).map(|id| to(&id.to_string(), message(&id.to_string()))));
    env.pass(seconds(1)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Memory, 4)], "a sixteenth of 64");
    assert_eq!(env.metrics.open_batches.get(), 60);
}

/// Each lane frees its share of the room.
#[tokio::test(start_paused = true)]
async fn a_lane_makes_room_for_its_part_of_the_messages() {
    let mut parts = stuck();
    parts.limits.lanes = 2;
    parts.limits.max_messages_in_flight = 64;
    parts.limits.max_writes = 10;
    let env = parts.start();

    // All messages are on one lane.
    env.push_all((0..65).map(|id| id.to_string()).map(|id| keyed("device", to(&id, message(&id)))));
    env.pass(seconds(1)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Memory, 2)], "a sixteenth of 32");
}

#[tokio::test(start_paused = true)]
async fn a_batch_makes_room_for_bytes_where_originals_are_kept() {
    let mut parts = Parts::default();
    parts.limits.max_bytes_in_flight = 25;
    let env = parts.start();

    env.push_all(["1", "2", "3"].map(message));
    env.pass(seconds(1)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Memory, 1)]);
    assert_eq!(env.written(), ["1", "2"]);
}

/// Batches without originals hold none of the bytes in flight, but they count as messages in
/// flight.
#[tokio::test(start_paused = true)]
async fn an_archive_makes_room_for_messages() {
    let mut parts = stuck();
    parts.is_archive = true;
    parts.limits.max_messages_in_flight = 64;
    parts.limits.max_writes = 10;
    let env = parts.start();

    env.push_all((0..65).map(|id| to(&id.to_string(), message(&id.to_string()))));
    env.pass(seconds(1)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Memory, 4)], "a sixteenth of 64");
}

#[tokio::test(start_paused = true)]
async fn an_archive_makes_no_room_for_bytes_that_it_does_not_hold() {
    let transform = Faults::script([Fault::None, Fault::Hung, Fault::Hung]);
    let mut parts = Parts { transform, is_archive: true, ..Parts::default() };
    parts.limits.max_bytes_in_flight = 25;
    let env = parts.start();

    // Messages 2 and 3 are being transformed, and message 4 waits for their bytes.
    env.push_all(["1", "2", "3", "4"].map(message));
    env.pass(seconds(1)).await;

    assert_eq!(env.metrics.received.get(), 4);
    assert_eq!(env.flush_reasons(), []);
}

#[tokio::test(start_paused = true)]
async fn no_more_batches_are_closed_than_memory_asks_for() {
    let mut parts = stuck();
    parts.limits.max_batch_memory = 320;
    parts.limits.max_writes = 10;
    let env = parts.start();

    // Open batches may hold 300 bytes. The other 20 bytes are reserved for batches being written.
    env.push_all((0..31).map(|id| to(&id.to_string(), message(&id.to_string()))));
    env.pass(seconds(1)).await;
    assert_eq!(env.flush_reasons(), [(FlushReason::Memory, 1)]);
    env.push_all((31..33).map(|id| to(&id.to_string(), message(&id.to_string()))));
    env.pass(seconds(1)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Memory, 3)]);
    assert_eq!(env.running.status().batch_memory(), 330, "one record more than allowed");
}

/// If originals are not kept, only the data needed to acknowledge a message is left of it.
#[tokio::test(start_paused = true)]
async fn what_acknowledges_a_message_counts_where_nothing_else_is_left_of_it() {
    let held = async |is_archive| {
        let mut parts = Parts { is_archive, held_bytes: 600, ..stuck() };
        parts.limits.max_batch_memory = 1_000_000;
        let env = parts.start();
        env.push_all((0..100).map(|id| message(&id.to_string())));
        env.pass(seconds(1)).await;
        env.running.status().batch_memory()
    };

    assert_eq!(held(false).await, 1_000);
    let bytes = held(true).await;
    assert!((61_000 + 100 * 100..61_000 + 100 * 500).contains(&bytes), "{bytes}");
}

/// Otherwise as many messages again could be taken while these are held.
#[tokio::test(start_paused = true)]
async fn messages_of_an_unwritten_batch_are_memory_until_their_nack() {
    let memory = async |is_archive| {
        let mut parts = Parts { is_archive, held_bytes: 600, ..stuck() };
        parts.sink = Faults::always(Fault::Retryable);
        parts.lease = Some(seconds(1));
        parts.limits.batch.max_messages = 100;
        let env = parts.start();
        env.push_all((0..100).map(|id| message(&id.to_string())));
        env.pass(seconds(1) / 4).await;
        assert_eq!(env.nacked_for("lease"), 100);
        assert_eq!(env.recorder.recording().nacked.len(), 0);
        let held = env.running.status().batch_memory();
        // They come again, fail again and are held again.
        env.pass(seconds(3)).await;
        assert!(env.nacked_for("lease") > 500 && !env.recorder.recording().nacked.is_empty());
        assert_eq!(env.running.status().batch_memory(), held);
        held
    };

    assert_eq!(memory(false).await, 0);
    let bytes = memory(true).await;
    assert!((60_000 + 100 * 100..60_000 + 100 * 300).contains(&bytes), "{bytes}");
}

/// The largest batch may be one whose key has an ordered write under way.
#[tokio::test(start_paused = true)]
async fn a_batch_that_must_wait_for_its_key_does_not_keep_others_from_making_room() {
    let mut parts = stuck();
    parts.limits.max_batch_memory = 160;
    parts.limits.batch.max_messages = 3;
    let env = parts.start();
    let ordered = |id| keyed("device", message(id));

    env.push_all(["1", "2", "3"].map(ordered));
    env.pass(seconds(1)).await;
    assert_eq!(env.flush_reasons(), [(FlushReason::Count, 1)]);
    env.push_all([sized(80, ordered("4")), to("other", sized(75, message("5")))]);
    env.pass(seconds(1)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Count, 1), (FlushReason::Memory, 1)]);
}

/// A closed batch takes no more records, so it would be smaller than necessary.
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
    assert_eq!(env.flush_reasons(), [(FlushReason::Count, 2)]);
    assert_eq!(env.metrics.open_batches.get(), 2);
}

/// The smallest batch is never the largest. So it would wait as long as memory is short, if memory
/// alone decided.
#[tokio::test(start_paused = true)]
async fn a_small_batch_is_written_in_its_time_while_memory_is_short() {
    let rates = FaultRates { max_delay: seconds(1), ..FaultRates::default() };
    let mut parts = Parts { sink: Faults::new(rates, 7), ..Parts::default() };
    parts.limits.max_batch_memory = 320;
    parts.limits.max_writes = 1;
    parts.limits.batch.max_age = seconds(5);
    let env = parts.start();

    env.push_all([to("cold", message("cold"))]);
    for turn in 0..100 {
        let hot =
            |id: u32| sized(60, to(&format!("{turn}-{id}"), message(&format!("{turn}-{id}"))));
        env.push_all((0..10).map(hot));
        env.pass(seconds(1)).await;
    }

    let age = env
        .flush_reasons()
        .iter()
        .find(|(cause, _)| *cause == FlushReason::Age)
        .map(|(_, count)| *count);
    assert!(age.is_some_and(|count| count >= 1), "{:?}", env.flush_reasons());
}
