//! Tests of one stream in paused time. The test plays Pub/Sub.

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;
use prost_types::Timestamp;
use time::macros::datetime;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::timeout;
use tonic::Code;

use super::*;
use crate::source::SourceMetrics;
use crate::source::scripted::{Opening, Openings, ScriptedStreams, message, pair, response};

/// Longer than any wait between attempts.
const LONG: Duration = Duration::from_secs(1000);

fn stream() -> (Stream<ScriptedStreams>, Openings, SourceMetrics) {
    let (pulls, openings) = pair();
    let (metrics, settings) = (SourceMetrics::default(), Subscription::default());
    let leases = Leases::new(&settings, metrics.clone());
    let first = first_request("subscription", "client", &settings, 10, 1000);
    let stream = Stream::new(pulls, first, &settings, leases, Outstanding::default());
    (stream, openings, metrics)
}

async fn next(stream: &mut Stream<ScriptedStreams>) -> Delivery {
    let next = timeout(LONG, stream.next()).await.expect("a message in time");
    next.unwrap().expect("a message").0
}

/// Reads until the stream has opened another connection, and returns the wait.
async fn reopened(
    stream: &mut Stream<ScriptedStreams>,
    openings: &mut Openings,
) -> (Opening, Duration) {
    let started = Instant::now();
    let opening = tokio::select! {
        biased;
        opening = openings.opened() => opening,
        read = stream.next() => panic!("{:?}", read.map(|read| read.is_some())),
    };
    (opening, started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn messages_come_as_pubsub_sent_them() {
    let (mut stream, mut openings, _) = stream();
    let opening = openings.next();
    let first = &opening.first;
    assert_eq!((&*first.subscription, &*first.client_id), ("subscription", "client"));
    assert_eq!(first.protocol_version, 1, "it asks for signs of life");
    let (responses, _end) = opening.accept();
    let whole = PubsubMessage {
        message_id: "7".into(),
        ordering_key: "key".into(),
        publish_time: Some(Timestamp { seconds: 1_750_000_000, nanos: 123_456_789 }),
        attributes: [("name".to_owned(), "value".to_owned())].into(),
        ..message("data")
    };
    let mut response = response(vec![whole, message("later")]);
    response.received_messages[1].delivery_attempt = 3;
    responses.unbounded_send(Ok(response)).unwrap();

    let (first, second) = (next(&mut stream).await, next(&mut stream).await);

    let (first, second) = (&first.message, &second.message);
    assert_eq!((&*first.id, &*first.ordering_key, &first.data[..]), ("7", "key", &b"data"[..]));
    assert_eq!(first.publish_time, datetime!(2025-06-15 15:06:40.123_456_789 UTC));
    assert_eq!(first.attributes["name"], "value");
    assert_eq!((first.attempts, first.counts_attempts), (1, false));
    assert_eq!((second.attempts, second.counts_attempts), (3, true));
}

#[tokio::test(start_paused = true)]
async fn a_response_without_messages_is_a_sign_of_life() {
    let (mut stream, mut openings, _) = stream();
    let (responses, _end) = openings.next().accept();
    responses.unbounded_send(Ok(response(Vec::new()))).unwrap();

    assert!(stream.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_passes_opens_the_stream_again_less_and_less_often() {
    let (mut stream, mut openings, metrics) = stream();
    let mut opening = openings.next();
    let mut waits = Vec::new();

    for _ in 0..20 {
        opening.refuse(Code::Unavailable);
        let (next, wait) = reopened(&mut stream, &mut openings).await;
        opening = next;
        waits.push(wait);
    }

    assert_eq!(metrics.reconnects.get(), 20);
    let (early, late): (Duration, Duration) = (waits[..5].iter().sum(), waits[15..].iter().sum());
    assert!(early > Duration::ZERO && early < late / 2, "{early:?} {late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_replaced_ends_on_our_side() {
    let (mut stream, mut openings, _) = stream();
    let (responses, mut end) = openings.next().accept();
    responses.unbounded_send(Ok(response(vec![message("data")]))).unwrap();
    next(&mut stream).await.ack();
    assert_eq!(end.try_recv(), Err(TryRecvError::Empty), "still open");

    drop(responses);
    let _reopened = reopened(&mut stream, &mut openings).await;

    assert_eq!(end.try_recv(), Err(TryRecvError::Closed));
}

#[tokio::test(start_paused = true)]
async fn messages_or_a_long_life_end_a_series_of_failures() {
    for is_long in [false, true] {
        let (mut stream, mut openings, _) = stream();
        let mut opening = openings.next();
        for _ in 0..20 {
            opening.refuse(Code::Unavailable);
            (opening, _) = reopened(&mut stream, &mut openings).await;
        }
        let (responses, _end) = opening.accept();
        if is_long {
            let quiet = LONG_LIFE + Duration::from_millis(1);
            assert!(timeout(quiet, stream.next()).await.is_err());
        } else {
            responses.unbounded_send(Ok(response(vec![message("data")]))).unwrap();
            next(&mut stream).await.ack();
        }

        drop(responses);
        let (_, wait) = reopened(&mut stream, &mut openings).await;

        let first = Backoff::default().min;
        assert!(wait <= first, "{is_long}: {wait:?}");
        assert_eq!(stream.failures, 1, "{is_long}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ended_soon_without_messages_is_one_more_failure() {
    let (mut stream, mut openings, _) = stream();
    openings.next().refuse(Code::Unavailable);
    let (opening, _) = reopened(&mut stream, &mut openings).await;
    let (responses, _end) = opening.accept();
    assert!(timeout(LONG_LIFE, stream.next()).await.is_err());

    drop(responses);
    let _reopened = reopened(&mut stream, &mut openings).await;

    assert_eq!(stream.failures, 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_does_not_pass_is_returned_and_the_next_call_tries_again() {
    let codes = [
        (Code::NotFound, true),
        (Code::PermissionDenied, true),
        (Code::Unauthenticated, true),
        (Code::InvalidArgument, true),
        (Code::FailedPrecondition, true),
        (Code::Unavailable, false),
        (Code::Internal, false),
        (Code::Unknown, false),
        (Code::Aborted, false),
        (Code::Cancelled, false),
        (Code::ResourceExhausted, false),
        (Code::DeadlineExceeded, false),
    ];
    for (code, is_returned) in codes {
        let (mut stream, mut openings, _) = stream();
        openings.next().refuse(code);
        let (opening, error) = if is_returned {
            let error = stream.next().await.err().map(|status| status.code());
            (openings.next(), error)
        } else {
            (reopened(&mut stream, &mut openings).await.0, None)
        };
        assert_eq!(error, is_returned.then_some(code));

        let (responses, _end) = opening.accept();
        responses.unbounded_send(Ok(response(vec![message("data")]))).unwrap();
        assert_eq!(&next(&mut stream).await.message.data[..], b"data", "{code:?}");
    }
}
