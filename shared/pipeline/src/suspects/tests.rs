use super::*;
use crate::batch;
use message::{Message, attribute};

fn message(id: &str, data: &'static str) -> Message {
    let mut message = Message::new(data);
    message.id = id.into();
    message
}

/// A crash file that each process opens again.
struct Crashes(tempfile::TempDir);

impl Crashes {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("suspects")
    }

    fn start(&self, lanes: usize) -> Suspects {
        let limits = Limits { lanes, ..Limits::default() };
        Suspects::open(&self.path(), &limits).unwrap()
    }
}

/// Returns the record of a lane that works on these messages.
fn at_work<'a>(messages: impl IntoIterator<Item = &'a Message>) -> AtWork {
    AtWork::new(messages.into_iter().map(fingerprint))
}

fn look(suspects: &Suspects, lane: usize, message: &Message) {
    suspects.admit(message).unwrap();
    suspects.enter(lane, &at_work([message]), Work::Compute);
}

#[test]
fn a_message_at_work_at_three_ends_in_a_row_is_put_aside() {
    let crashes = Crashes::new();
    let (bad, good) = (message("bad", "x"), message("good", "x"));

    for _ in 0..MAX_CRASHES {
        let suspects = crashes.start(2);
        look(&suspects, 0, &good);
        suspects.leave(0);
        look(&suspects, 1, &bad);
        // The process ends here.
    }
    let suspects = crashes.start(2);

    let refused = suspects.admit(&bad).unwrap_err();
    assert_eq!(refused.recovery(), Recovery::Reject(CRASHED));
    assert!(refused.detail().contains("3 processes"), "{}", refused.detail());
    suspects.admit(&good).unwrap();
}

#[test]
fn an_end_without_the_message_at_work_clears_it() {
    let crashes = Crashes::new();
    let bad = message("", "content");
    for _ in 1..MAX_CRASHES {
        look(&crashes.start(1), 0, &bad);
    }

    look(&crashes.start(1), 0, &message("", "other"));

    for _ in 0..MAX_CRASHES {
        look(&crashes.start(1), 0, &bad);
    }
    assert!(crashes.start(1).admit(&bad).is_err());
}

#[test]
fn a_file_that_another_process_uses_is_left_alone() {
    let crashes = Crashes::new();
    let living = crashes.start(1);
    look(&living, 0, &message("bad", "x"));

    let error = Suspects::open(&crashes.path(), &Limits::default()).unwrap_err();

    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    drop(living);
    assert_eq!(crashes.start(1).suspects.len(), 1);
}

#[test]
fn without_an_id_the_topic_and_the_content_tell_messages_apart() {
    let crashes = Crashes::new();
    let from = |topic: &str| message("", "same").with_attribute(attribute::MQTT_TOPIC, topic);
    for _ in 0..MAX_CRASHES {
        look(&crashes.start(1), 0, &from("d/1"));
    }

    let suspects = crashes.start(1);

    assert!(suspects.admit(&from("d/1")).is_err());
    suspects.admit(&from("d/2")).unwrap();
}

#[test]
fn one_end_counts_once_for_a_message_in_two_lanes() {
    for lanes in [[0, 1], [1, 0]] {
        let crashes = Crashes::new();
        let (twin, other) = (message("", "twin"), message("", "other"));
        for _ in 0..MAX_CRASHES {
            let suspects = crashes.start(2);
            suspects.admit(&twin).unwrap();
            suspects.enter(lanes[0], &at_work([&twin]), Work::Compute);
            suspects.enter(lanes[1], &at_work([&twin, &other]), Work::Write);
        }

        assert!(crashes.start(2).admit(&twin).is_err(), "{lanes:?}");
    }
}

#[test]
fn fewer_lanes_than_before_lose_no_suspect() {
    let crashes = Crashes::new();
    let bad = message("bad", "x");
    for lanes in [4, 1, 2] {
        look(&crashes.start(lanes), lanes - 1, &bad);
    }

    assert!(crashes.start(1).admit(&bad).is_err());
}

#[test]
fn the_messages_of_a_batch_keep_to_themselves_and_only_the_culprit_is_put_aside() {
    let crashes = Crashes::new();
    let all: Vec<_> = (0..900).map(|id| message(&id.to_string(), "x")).collect();
    let culprit = 777;
    let mut ends = 0;

    let suspects = loop {
        let suspects = crashes.start(1);
        let Ok((_, max_batch)) = suspects.admit(&all[culprit]) else { break suspects };
        ends += 1;
        // The first batch with this message ends the process.
        let batch = all.chunks(max_batch.min(900) as usize).find(|batch| {
            suspects.enter(0, &at_work(*batch), Work::Write);
            batch.iter().any(|message| message.id == "777")
        });
        let expected = [900, 30, 1, 1, 1];
        assert_eq!(batch.unwrap().len(), expected[ends - 1]);
    };

    assert_eq!(ends, 5);
    let others = all.iter().enumerate().filter(|(index, _)| *index != culprit);
    assert!(others.map(|(_, message)| suspects.admit(message)).all(|admitted| admitted.is_ok()));
}

/// The size is the square root of the number of messages that were in a crashed batch once.
#[test]
fn only_messages_that_were_in_a_batch_once_count_for_the_size_of_their_batches() {
    let crashes = Crashes::new();
    let all: Vec<_> = (0..9).map(|id| message(&id.to_string(), "x")).collect();
    let suspects = crashes.start(2);
    suspects.enter(0, &at_work(&all[4..8]), Work::Write);
    look(&suspects, 1, &all[8]);
    drop(suspects);

    crashes.start(2).enter(0, &at_work(&all), Work::Write);

    let suspects = crashes.start(2);
    let max_batches = all.iter().map(|message| suspects.admit(message).unwrap().1);
    assert_eq!(max_batches.collect::<Vec<_>>(), [2, 2, 2, 2, 1, 1, 1, 1, 1]);
}

#[test]
fn the_last_lane_of_the_largest_file_is_read() {
    let crashes = Crashes::new();
    let limits = || {
        let batch = batch::BatchLimits { max_messages: MAX_BATCH, ..batch::BatchLimits::default() };
        Limits { lanes: 256, batch, ..Limits::default() }
    };
    let bad = message("bad", "x");

    look(&Suspects::open(&crashes.path(), &limits()).unwrap(), 255, &bad);

    let found = Suspects::open(&crashes.path(), &limits()).unwrap().suspects;
    assert_eq!(found, [(fingerprint(&bad), EndCounts { alone: 1, in_a_batch: 0 })].into());
}

#[test]
fn what_is_noted_replaces_a_longer_batch() {
    let crashes = Crashes::new();
    let (first, second) = (message("1", "x"), message("2", "x"));

    let suspects = crashes.start(1);
    suspects.enter(0, &at_work([&first, &second]), Work::Write);
    look(&suspects, 0, &first);
    drop(suspects);

    let found = crashes.start(1).suspects;
    assert_eq!(found, [(fingerprint(&first), EndCounts { alone: 1, in_a_batch: 0 })].into());
}

#[test]
fn a_forced_end_keeps_what_a_lane_hangs_over_and_nothing_else() {
    let crashes = Crashes::new();
    let messages = ["hangs", "is written", "is over"].map(|id| message(id, "x"));
    let at_work_at = |hang| {
        let suspects = crashes.start(3);
        look(&suspects, 0, &messages[0]);
        suspects.enter(1, &at_work([&messages[1]]), Work::Write);
        look(&suspects, 2, &messages[2]);
        suspects.pause(2);
        suspects.excuse(hang);
        look(&suspects, 1, &messages[2]);
        drop(suspects);
        crashes.start(3).suspects.into_keys().collect::<Vec<_>>()
    };

    assert_eq!(at_work_at(Duration::ZERO), [fingerprint(&messages[0])]);
    assert_eq!(at_work_at(Duration::from_secs(3600)), [0; 0]);
}

#[test]
fn what_is_not_ours_is_overwritten() {
    let crashes = Crashes::new();
    for strange in [
        &b"\xff\xfesuspect zz 9\nsuspect 0000000000000007 -1 0\nnonsense"[..],
        b"suspect 0000000000000007 1 0\nlanes of 0 lines\n0000000000000007\n",
        b"lanes of 99999999999999999999 lines\n0000000000000007\n",
        b"lanes of 3 lines\nnonsense\xff\n0000000000000007\n",
        b"lanes of ",
    ] {
        std::fs::write(crashes.path(), strange).unwrap();

        let suspects = crashes.start(1);

        assert!(suspects.suspects.is_empty(), "{strange:?}");
        let text = std::fs::read_to_string(crashes.path()).unwrap();
        assert_eq!(text, "lanes of 1001 lines\n");
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error() {
    assert!(Suspects::open(Path::new("/nowhere/suspects"), &Limits::default()).is_err());
}
