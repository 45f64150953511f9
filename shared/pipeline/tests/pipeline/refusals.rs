//! Tests of messages that are refused, skipped or dropped, and of their dead letters.

use std::time::Duration;

use crate::env::{Parts, bad, counted, eager, ids, message, seconds, sized, to};
use pipeline::dead_letter::Policy;
use pipeline::doubles::reasons::{REFUSED_RECORD, TOO_LARGE};
use pipeline::doubles::{Fault, Faults, Kind};
use pipeline::{Disposition, Reason};

#[tokio::test(start_paused = true)]
async fn refused_records_are_buried_and_their_neighbours_written() {
    let env = eager().start();

    let message_of = |index: u32| match index % 3 {
        0 => bad(Kind::Refused, message(&index.to_string())),
        _ => message(&index.to_string()),
    };
    env.push_all((0..30).map(message_of));
    env.pass(seconds(1)).await;

    let recording = env.recorder.recording();
    assert_eq!(
        (recording.dead_lettered.len(), recording.written.len(), recording.acked.len()),
        (10, 20, 30)
    );
    assert!(recording.dead_lettered.values().all(|reason| *reason == "refused"));
    assert_eq!(recording.broken, Vec::<String>::new());
    assert_eq!(env.metrics.sent.get(), 20);
    assert_eq!(counted(&env.metrics.dead_lettered, "refused"), 10);
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_is_parted_until_the_culprit_stands_alone() {
    let env = eager().start();

    let messages = ["1", "2", "3", "4", "5"].map(message);
    let messages = messages.map(|it| if it.id == "3" { bad(Kind::Poison, it) } else { it });
    env.push_all(messages);
    env.pass(seconds(1)).await;

    let recording = env.recorder.recording();
    assert_eq!(recording.written, ["1", "2", "4", "5"], "in their order");
    assert_eq!(recording.dead_lettered, [("3".to_owned(), "poison")].into());
    assert_eq!(recording.acked.len(), 5);
}

/// Returns the batches written for records of these sizes, with these faults.
async fn batches<const N: usize>(
    sizes: [usize; N],
    faults: impl IntoIterator<Item = Fault>,
    is_archive: bool,
) -> Vec<Vec<String>> {
    let env = Parts { sink: Faults::script(faults), is_archive, ..eager() }.start();
    let messages = sizes.into_iter().enumerate();
    env.push_all(messages.map(|(index, bytes)| sized(bytes, message(&index.to_string()))));
    env.pass(seconds(1000)).await;
    assert_eq!(env.recorder.recording().acked.len(), N);
    env.recorder.recording().batches.clone()
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_took_too_long_is_parted_where_its_size_may_be_the_cause() {
    const WORTH_IT: usize = 64 * 1024;
    let hung = [Fault::Hung];

    assert_eq!(batches([WORTH_IT, 1], hung, false).await, [["0"], ["1"]]);
    assert_eq!(batches([WORTH_IT / 2, WORTH_IT / 2], hung, false).await, [["0", "1"]]);
    assert_eq!(batches([10, 10], hung, false).await, [["0", "1"]]);
    assert_eq!(batches([WORTH_IT * 9], hung, false).await, [["0"]]);
    assert_eq!(batches([WORTH_IT, WORTH_IT], hung, true).await, [["0", "1"]], "an archive");
    // Each half counts its own bytes.
    let faults = [Fault::Hung, Fault::Hung, Fault::None, Fault::Hung];
    assert_eq!(batches([30 * 1024; 4], faults, false).await, [["0", "1"], ["2", "3"]]);
    let faults = [Fault::Hung, Fault::None, Fault::Hung];
    let parts = [vec!["0", "1"], vec!["2"], vec!["3"]];
    assert_eq!(batches([40 * 1024; 4], faults, false).await, parts);
}

/// A half that is refused again is split again. A batch that cannot be split is not retried
/// forever.
#[tokio::test(start_paused = true)]
async fn a_refused_batch_is_parted_whatever_its_size() {
    let rejected = |count| std::iter::repeat_n(Fault::Permanent, count);

    assert_eq!(batches([10, 10, 10], rejected(1), false).await, [vec!["0"], vec!["1", "2"]]);
    assert_eq!(batches([10, 10, 10], rejected(2), false).await, [["1", "2"]], "0 is a dead letter");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_fits_no_batch_is_buried() {
    let env = Parts { max_batch_bytes: 100, ..eager() }.start();

    env.push_all([message("1"), sized(101, message("2")), to("other", sized(101, message("3")))]);
    env.pass(seconds(1)).await;

    let recording = env.recorder.recording();
    assert_eq!(recording.batches, [["1"]], "and no empty one");
    assert_eq!(recording.dead_lettered, ["2", "3"].map(|id| (id.to_owned(), "too_large")).into());
    assert_eq!(env.metrics.open_batches.get(), 0);
    assert_eq!(env.running.status().batch_memory(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_no_record_is_acked_and_counted() {
    let env = eager().start();

    env.push_all([bad(Kind::Skipped, message("1"))]);
    env.pass(seconds(1)).await;

    // The recorder reports it as broken, because it knows of no record.
    assert_eq!(env.recorder.recording().acked, ids(["1"]));
    assert_eq!(counted(&env.metrics.skipped, "skipped"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_transform_rejects_is_buried_with_its_reason() {
    let env = Parts { transform: Faults::script([Fault::Permanent]), ..eager() }.start();

    env.push_all(["1", "2"].map(message));
    env.pass(seconds(1)).await;

    let recording = env.recorder.recording();
    assert_eq!(recording.dead_lettered, [("1".to_owned(), "rejected")].into());
    assert_eq!(recording.acked, ids(["1", "2"]));
}

/// Only the source may give up the message.
#[tokio::test(start_paused = true)]
async fn the_policy_of_the_subscription_gets_what_is_refused() {
    let dead_letters = Policy::Leave;
    let env = Parts { dead_letters, max_deliveries: 5, max_batch_bytes: 100, ..eager() }.start();

    env.push_all([bad(Kind::Refused, message("1")), message("2"), sized(101, message("3"))]);
    env.pass(seconds(60)).await;

    let recording = env.recorder.recording();
    assert_eq!(recording.acked, ids(["2"]));
    assert_eq!(recording.forwarded, ids(["1", "3"]));
    assert_eq!(env.nacked_for("refused"), 5);
}

#[tokio::test(start_paused = true)]
async fn messages_of_one_batch_are_nacked_each_for_its_reason() {
    let env = Parts { dead_letters: Policy::Leave, max_deliveries: 5, ..eager() }.start();

    let kinds = [(Kind::Refused, "1"), (Kind::Malformed, "2"), (Kind::Malformed, "3")];
    env.push_all(kinds.map(|(kind, id)| bad(kind, message(id))));
    env.pass(seconds(60)).await;

    assert_eq!((env.nacked_for("refused"), env.nacked_for("malformed")), (5, 10));
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_by_order_is_acked_and_counted() {
    let env = Parts { dead_letters: Policy::Drop, ..eager() }.start();
    env.recorder.recording().droppable.insert("1".into());

    env.push_all([bad(Kind::Refused, message("1")), message("2")]);
    env.pass(seconds(1)).await;

    let recording = env.recorder.recording();
    assert_eq!((&recording.acked, &recording.broken), (&ids(["1", "2"]), &Vec::new()));
    assert_eq!(counted(&env.metrics.dropped, "refused"), 1);
    assert_eq!(recording.written, ["2"]);
}

/// A source whose client waits must know whether a message that failed is kept somewhere.
#[tokio::test(start_paused = true)]
async fn a_source_learns_how_each_of_its_messages_ended() {
    type Ends = fn(Reason) -> Disposition;
    let policies: [(Policy<Faults>, Ends); 2] = [
        (Policy::Write(Faults::none()), Disposition::DeadLettered),
        (Policy::Drop, Disposition::Dropped),
    ];
    for (dead_letters, refused) in policies {
        let env = Parts { dead_letters, max_batch_bytes: 100, ..eager() }.start();

        env.push_all([message("good"), bad(Kind::Skipped, message("skipped"))]);
        env.push_all([bad(Kind::Refused, message("refused")), sized(101, message("large"))]);
        env.pass(seconds(1)).await;

        let expected = [
            ("good", Disposition::Ack),
            ("skipped", Disposition::Ack),
            ("refused", refused(REFUSED_RECORD)),
            ("large", refused(TOO_LARGE)),
        ];
        let expected = expected.map(|(id, outcome)| (id.to_owned(), outcome));
        assert_eq!(env.recorder.recording().outcomes, expected.into());
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_written_until_it_is_durable() {
    let dead_letters = Faults::script([Fault::Retryable, Fault::Hung, Fault::LostReply]);
    let env = Parts { dead_letters: Policy::Write(dead_letters), ..eager() }.start();

    env.push_all([bad(Kind::Refused, message("1"))]);
    env.pass(seconds(4)).await;
    assert_eq!(env.recorder.recording().acked, ids([]));
    assert!(env.running.status().dead_letter_outage().is_some());
    env.pass(seconds(10)).await;

    assert_eq!(env.recorder.recording().acked, ids(["1"]));
    assert_eq!(counted(&env.metrics.dead_lettered, "refused"), 1);
    assert_eq!(env.running.status().dead_letter_outage(), None);
    assert!(env.running.status().last_dead_letter_failure().is_some(), "it stays after the outage");
    assert_eq!(env.running.status().last_failure(), None);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_cannot_be_written_is_no_ack() {
    let dead_letters = Policy::Write(Faults::always(Fault::Retryable));
    let env = Parts { dead_letters, lease: Some(seconds(60)), ..eager() }.start();

    env.push_all([bad(Kind::Refused, message("1"))]);
    env.pass(seconds(53)).await;
    assert_eq!(env.recorder.recording().nacked, ids([]));
    env.pass(seconds(6)).await;

    assert_eq!(env.recorder.recording().nacked, ids(["1"]));
    assert_eq!(env.recorder.recording().acked, ids([]));
    assert_eq!(env.nacked_for("dead_letter_failed"), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_in_flight_after_the_last_message_however_it_ends() {
    for kind in [Kind::Refused, Kind::Skipped, Kind::Good] {
        for dead_letters in [Policy::Write(Faults::none()), Policy::Drop] {
            let env = Parts { dead_letters, ..eager() }.start();

            env.push_all([bad(kind, message("1"))]);
            env.pass(seconds(1)).await;

            assert_eq!(env.metrics.in_flight.get(), 0, "{kind:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_refused_dead_letters_make_few_attempts() {
    let dead_letters = Policy::Write(Faults::always(Fault::Retryable));
    let env = Parts { dead_letters, ..eager() }.start();

    env.push_all((0..200).map(|id| bad(Kind::Refused, message(&id.to_string()))));
    env.pass(seconds(20)).await;

    let retried = env.retried("dead_letter");
    assert!((60..=100).contains(&retried), "four a second, not {retried} in 20 s");
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_wait_for_an_outage_are_written_as_soon_as_it_ends() {
    let dead_letters = Policy::Write(Faults::script([Fault::Retryable; 80]));
    let env = Parts { dead_letters, ..eager() }.start();

    env.push_all((0..200).map(|id| bad(Kind::Refused, message(&id.to_string()))));
    env.pass(seconds(30)).await;
    while env.recorder.recording().dead_lettered.is_empty() {
        env.pass(Duration::from_millis(10)).await;
    }
    env.pass(seconds(16)).await;

    assert_eq!(env.recorder.recording().dead_lettered.len(), 200);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_ask_to_stop_ack_nothing() {
    let dead_letters = Policy::Write(Faults::always(Fault::Stopped));
    let env = Parts { dead_letters, ..eager() }.start();

    env.push_all([bad(Kind::Refused, message("1"))]);
    env.pass(seconds(1)).await;

    assert_eq!(env.recorder.recording().acked, ids([]));
    assert!(env.recorder.recording().nacked.contains("1"));
}

/// The original message is gone, so no dead letter can be written.
#[tokio::test(start_paused = true)]
async fn a_batch_without_originals_is_nacked_when_it_is_refused() {
    let mut parts = Parts { is_archive: true, ..eager() };
    parts.sink = Faults::script([Fault::Permanent]);
    let env = parts.start();

    env.push_all(["1", "2"].map(message));
    env.pass(seconds(60)).await;

    let recording = env.recorder.recording();
    assert_eq!((&recording.nacked, &recording.dead_lettered.len()), (&ids(["1", "2"]), &0));
    assert_eq!(recording.acked, ids(["1", "2"]), "at the next delivery");
    assert_eq!(env.nacked_for("rejected"), 2);
    assert_eq!(env.metrics.repeated.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn many_messages_that_are_refused_are_nacked_together() {
    let env = Parts { dead_letters: Policy::Leave, ..eager() }.start();
    let count = 1000;
    env.push_all((0..count).map(|id| bad(Kind::Refused, message(&id.to_string()))));

    env.pass(seconds(2)).await;

    assert_eq!(env.recorder.recording().nacked.len(), count);
}
