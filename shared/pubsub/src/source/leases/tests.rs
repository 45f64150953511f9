//! Tests of the table of leases, in paused time.

mod keep;

use googleapis_tonic_google_rpc::google::rpc;
use pipeline::reasons::PANICKED;
use prost::Message as _;
use prost_types::Any;
use tokio::time::advance;

use super::*;

const EXTENSION: Duration = Duration::from_secs(60);

fn leases() -> (Leases, SourceMetrics) {
    let metrics = SourceMetrics::default();
    let max_lease = Duration::from_secs(300);
    let settings =
        Subscription { lease_extension: EXTENSION, max_lease, ..Subscription::default() };
    (Leases::new(&settings, metrics.clone()), metrics)
}

impl Leases {
    /// Takes leases with the ids `0`, `1` and so on.
    fn hold(&self, count: usize) -> Vec<u64> {
        (0..count).map(|id| self.take(id.to_string()).0).collect()
    }

    /// Returns the ids that are acked or nacked next.
    fn sent(&self) -> Option<(Work, Vec<String>)> {
        let (work, request) = self.next_answers(Instant::now(), MAX_IDS)?;
        let (Request::Acknowledge(ids) | Request::Lease(ids, _)) = request;
        Some((work, ids))
    }

    fn extension(&self) -> Option<(Work, Request)> {
        self.next_extension(&mut self.scan(Instant::now()), MAX_IDS)
    }

    fn end(&self, work: Work, outcome: Result<(), Status>) {
        self.finish(Done { work, outcome });
    }

    /// Extends what is due, and returns the ids.
    fn extend(&self) -> Vec<String> {
        let mut due = self.scan(Instant::now());
        let mut extended = Vec::new();
        while let Some((work, request)) = self.next_extension(&mut due, MAX_IDS) {
            let Request::Lease(ids, EXTENSION) = request else { panic!("{request:?}") };
            assert!(ids.len() <= MAX_IDS);
            extended.extend(ids);
            self.end(work, Ok(()));
        }
        extended
    }

    fn is_closed(&self) -> bool {
        self.state().is_closed()
    }
}

/// A status that names failures by id, as Pub/Sub does for exactly-once delivery.
fn by_id(failures: &[(&str, &str)]) -> Status {
    let text = |(id, failure): &(&str, &str)| ((*id).to_owned(), (*failure).to_owned());
    let metadata = failures.iter().map(text).collect();
    let info = rpc::ErrorInfo { metadata, ..Default::default() };
    let type_url = "type.googleapis.com/google.rpc.ErrorInfo".into();
    let detail = Any { type_url, value: info.encode_to_vec() };
    let details = rpc::Status { details: vec![detail], ..Default::default() }.encode_to_vec();
    Status::with_details(Code::FailedPrecondition, "some failed", details.into())
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_extended_before_it_ends_and_not_beyond_its_longest_time() {
    let (leases, _) = leases();
    leases.hold(SCAN_SLICE + 1);

    assert_eq!(leases.extend().len(), SCAN_SLICE + 1, "the first lease may be short");
    advance(EXTENSION / 2 - Duration::from_millis(1)).await;
    assert_eq!(leases.extend(), [""; 0]);
    advance(Duration::from_millis(1)).await;
    assert_eq!(leases.extend().len(), SCAN_SLICE + 1);

    advance(Duration::from_secs(271)).await;
    assert_eq!(leases.extend(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_extension_counts_from_its_begin_and_a_failed_one_not_at_all() {
    let (leases, _) = leases();
    leases.hold(1);

    let (work, _) = leases.extension().unwrap();
    assert!(leases.extension().is_none(), "no lease is in two requests");
    leases.end(work, Err(Status::unavailable("again")));
    let (work, _) = leases.extension().unwrap();
    advance(EXTENSION / 2).await;
    leases.end(work, Ok(()));

    assert!(leases.extension().is_some());
}

#[tokio::test(start_paused = true)]
async fn leases_that_end_first_are_extended_first() {
    let (leases, _) = leases();
    leases.hold(2);
    advance(Duration::from_secs(1)).await;
    let (work, _) = leases.next_extension(&mut [0].into(), MAX_IDS).unwrap();
    leases.end(work, Ok(()));

    advance(EXTENSION).await;

    assert_eq!(leases.extend(), ["1", "0"]);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_not_settled_is_extended() {
    let (leases, metrics) = leases();
    let numbers = leases.hold(3);
    assert_eq!(metrics.unsettled.get(), 3);
    let mut due = leases.scan(Instant::now());

    leases.settle(numbers[0], Disposition::Ack);
    leases.settle(numbers[1], Disposition::Nack);
    let (_, request) = leases.next_extension(&mut due, MAX_IDS).unwrap();

    assert!(matches!(request, Request::Lease(ids, EXTENSION) if ids == ["2"]));
    assert_eq!(metrics.unsettled.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_is_not_confirmed_keeps_its_lease_and_a_nack_does_not() {
    let (leases, _) = leases();
    let numbers = leases.hold(2);
    leases.settle(numbers[0], Disposition::Ack);
    leases.settle(numbers[1], Disposition::Nack);

    advance(EXTENSION / 2).await;

    assert_eq!(leases.extend(), ["0"]);
}

#[tokio::test(start_paused = true)]
async fn answers_wait_for_each_other_up_to_a_full_request() {
    let (leases, _) = leases();
    let numbers = leases.hold(MAX_IDS + 500);

    numbers[500..].iter().for_each(|number| leases.settle(*number, Disposition::Ack));
    assert_eq!(leases.sent().unwrap().1.len(), MAX_IDS);
    numbers[..500].iter().for_each(|number| leases.settle(*number, Disposition::Ack));
    assert!(leases.sent().is_none());

    advance(FLUSH_DELAY).await;
    assert_eq!(leases.sent().unwrap().1.len(), 500);
    assert!(leases.sent().is_none());
}

#[tokio::test(start_paused = true)]
async fn nacks_do_not_wait_behind_a_backlog_of_acks() {
    let (leases, _) = leases();
    let numbers = leases.hold(MAX_IDS * 3 + 1);
    leases.settle(numbers[MAX_IDS * 3], Disposition::Nack);
    numbers[..MAX_IDS * 3].iter().for_each(|number| leases.settle(*number, Disposition::Ack));

    advance(FLUSH_DELAY).await;
    let sent: Vec<_> = std::iter::from_fn(|| leases.sent()).map(|(_, ids)| ids.len()).collect();

    assert_eq!(sent, [1, MAX_IDS, MAX_IDS, MAX_IDS]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_can_never_succeed_is_acked() {
    let (leases, _) = leases();
    let numbers = leases.hold(2);

    leases.settle(numbers[0], Disposition::DeadLettered(PANICKED));
    leases.settle(numbers[1], Disposition::Dropped(PANICKED));
    advance(FLUSH_DELAY).await;

    let (work, ids) = leases.sent().unwrap();
    assert!(matches!(work, Work::Answers(Reply::Ack, _)) && ids == ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_failed_is_sent_again_until_its_lease_has_ended() {
    for (disposition, lost) in [(Disposition::Ack, 2), (Disposition::Nack, 0)] {
        let (leases, metrics) = leases();
        let numbers = leases.hold(3);
        numbers[..2].iter().for_each(|number| leases.settle(*number, disposition));
        leases.close();
        let (work, _) = leases.sent().unwrap();

        leases.end(work, Err(Status::unavailable("again")));
        assert!(leases.sent().is_none() && !leases.is_closed(), "not at once");
        leases.settle(numbers[2], disposition);
        assert_eq!(leases.sent().unwrap().1, ["2"], "others do not wait for it");
        advance(RETRY_DELAY).await;
        let (work, ids) = leases.sent().unwrap();
        assert_eq!(ids, ["0", "1"]);

        advance(EXTENSION).await;
        leases.end(work, Err(Status::unavailable("again")));
        assert!(leases.sent().is_none() && leases.is_closed());
        assert_eq!(metrics.lost_acks.get(), lost);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_request_itself_is_not_repeated_and_one_of_the_login_is() {
    for (status, is_repeated) in [
        (Status::not_found("no such subscription"), false),
        (Status::invalid_argument("wrong"), false),
        (Status::unauthenticated("old key"), true),
        (Status::permission_denied("not yet"), true),
    ] {
        let (leases, metrics) = leases();
        leases.settle(leases.hold(1)[0], Disposition::Ack);
        leases.close();
        let (work, _) = leases.sent().unwrap();

        leases.end(work, Err(status));

        assert_eq!(leases.is_closed(), !is_repeated);
        assert_eq!(metrics.lost_acks.get(), u64::from(!is_repeated));
    }
}

#[tokio::test(start_paused = true)]
async fn acks_whose_failure_is_named_are_told_apart() {
    let (leases, metrics) = leases();
    leases.hold(3).iter().for_each(|number| leases.settle(*number, Disposition::Ack));
    leases.close();
    let (work, _) = leases.sent().unwrap();

    let transient = ("1", "TRANSIENT_FAILURE_INVALID_ACK_ID");
    leases.end(work, Err(by_id(&[transient, ("2", "PERMANENT_FAILURE_INVALID_ACK_ID")])));

    assert_eq!(metrics.lost_acks.get(), 1);
    advance(RETRY_DELAY).await;
    assert_eq!(leases.sent().unwrap().1, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_pubsub_calls_lost_is_left() {
    let (leases, metrics) = leases();
    let numbers = leases.hold(3);
    let (work, _) = leases.extension().unwrap();

    let transient = ("1", "TRANSIENT_FAILURE_OTHER");
    leases.end(work, Err(by_id(&[transient, ("2", "PERMANENT_FAILURE_INVALID_ACK_ID")])));

    assert_eq!(leases.extend(), ["1"], "0 is extended");
    leases.settle(numbers[2], Disposition::Ack);
    assert_eq!(metrics.expired_leases.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_too_late_is_acked_and_not_nacked() {
    let (leases, metrics) = leases();
    let numbers = leases.hold(2);
    advance(EXTENSION + Duration::from_millis(1)).await;

    leases.settle(numbers[0], Disposition::Nack);
    leases.settle(numbers[1], Disposition::Ack);
    advance(FLUSH_DELAY).await;

    let (work, ids) = leases.sent().unwrap();
    assert!(matches!(work, Work::Answers(Reply::Ack, _)) && ids == ["1"]);
    assert!(leases.sent().is_none());
    assert_eq!(metrics.expired_leases.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_nack_is_sent_if_an_extension_could_have_saved_the_lease() {
    let (leases, metrics) = leases();
    let numbers = leases.hold(2);
    let (work, _) = leases.next_extension(&mut [0].into(), MAX_IDS).unwrap();
    advance(EXTENSION + Duration::from_millis(1)).await;

    numbers.iter().for_each(|number| leases.settle(*number, Disposition::Nack));
    leases.end(work, Ok(()));
    advance(FLUSH_DELAY).await;

    assert_eq!(leases.sent().unwrap().1, ["0"]);
    assert_eq!(metrics.expired_leases.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_extension_that_comes_too_late_is_counted_with_its_message() {
    let (leases, metrics) = leases();
    let numbers = leases.hold(1);
    advance(EXTENSION + Duration::from_millis(1)).await;

    assert_eq!(leases.extend(), ["0"]);
    leases.settle(numbers[0], Disposition::Ack);

    assert_eq!(metrics.expired_leases.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_lasts_until_its_last_moment() {
    let (leases, metrics) = leases();
    let numbers = leases.hold(1);
    advance(EXTENSION).await;

    leases.settle(numbers[0], Disposition::Ack);

    assert_eq!(metrics.expired_leases.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_extension_that_begins_at_the_end_of_a_lease_is_in_time() {
    let (leases, metrics) = leases();
    let numbers = leases.hold(1);
    advance(EXTENSION).await;

    assert_eq!(leases.extend(), ["0"]);
    leases.settle(numbers[0], Disposition::Ack);

    assert_eq!(metrics.expired_leases.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_held_beyond_the_longest_lease_is_counted() {
    let (leases, metrics) = leases();
    let numbers = leases.hold(2);
    for _ in 0..5 {
        leases.extend();
        advance(EXTENSION).await;
    }
    leases.extend();

    leases.settle(numbers[0], Disposition::Ack);
    assert_eq!(metrics.expired_leases.get(), 0);
    advance(Duration::from_millis(1)).await;
    leases.settle(numbers[1], Disposition::Ack);

    assert_eq!(metrics.expired_leases.get(), 1);
}

#[test]
fn requests_are_smaller_after_a_time_out_and_grow_again() {
    let late = || Err(Status::deadline_exceeded("late"));

    // Requests that fail together count once.
    let small = [1000, 1000, 1000].iter().fold(MAX_IDS, |max, n| adapted(max, *n, &late()));
    assert_eq!(small, 500);
    assert_eq!(adapted(small, 3, &late()), small, "that says nothing about the size");
    assert_eq!(adapted(small, 250, &late()), small);
    assert_eq!(adapted(small, 252, &late()), 126);
    assert_eq!(adapted(MIN_IDS + 1, MIN_IDS + 1, &late()), MIN_IDS);
    assert_eq!(adapted(5, 5, &late()), 5);
    assert_eq!(adapted(small, 400, &Ok(())), small);
    assert_eq!(adapted(small, 500, &Ok(())), 625);
    assert_eq!(adapted(small, 500, &Err(Status::unavailable("away"))), 625);
    assert_eq!(adapted(MIN_IDS, 1000, &Ok(())), 20, "one that was large before");
    assert_eq!(adapted(900, 900, &Ok(())), MAX_IDS);
}
