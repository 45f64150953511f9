//! Streams: their acknowledgements, bounds and ends.

use futures::stream;
use message::attribute;
use pipeline::{Disposition, Source as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{
    CallEnv, PATIENCE, SHORT, accepted, acks, fields, has_retry, item, numbered, open, refused,
    within,
};
use crate::http::MAX_ITEMS;
use crate::proto::{Item, PublishStreamRequest};
use crate::reasons;

#[tokio::test]
async fn items_of_a_stream_are_acknowledged_when_they_are_settled() {
    let mut env = CallEnv::start(|_| {}).await;
    let (sender, mut answers) = open(env.client()).await;

    sender.send(numbered(3, item("a"))).unwrap();
    sender.send(numbered(7, item("a/b"))).unwrap();
    sender.send(numbered(8, Item { id: Some("7".into()), ..item("a") })).unwrap();
    let (first, second) = (env.receive().await, env.receive().await);
    let id = second.message.attributes[attribute::INGEST_ID].clone();
    second.ack();
    let early = acks(&mut answers, 2).await;
    first.into_parts().1.settle(Disposition::DeadLettered(reasons::PROPERTIES_TOO_LARGE));
    let late = acks(&mut answers, 1).await;
    drop(sender);

    let (ids, results): (Vec<_>, Vec<_>) = early.into_iter().unzip();
    assert_eq!(ids, [7, 8]);
    assert_eq!(refused(&results[0]).reason, "no_route");
    assert_eq!(accepted(&results[1]).id, id);
    assert_eq!((late[0].0, &accepted(&late[0].1).dead_letter[..]), (3, "properties_too_large"));
    assert!(within(answers.message()).await.unwrap().is_none(), "the status is OK");
}

#[tokio::test]
async fn a_wrong_number_ends_the_stream_after_the_items_before_it() {
    let mut env = CallEnv::start(|_| {}).await;
    let (sender, mut answers) = open(env.client()).await;

    for sequence in [5, 5] {
        sender.send(numbered(sequence, item("a"))).unwrap();
    }
    let held = env.receive().await;
    assert!(timeout(SHORT, answers.message()).await.is_err(), "the first item is open");
    held.ack();

    assert_eq!(acks(&mut answers, 1).await[0].0, 5);
    let status = within(answers.message()).await.unwrap_err();
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["sequence".into()]));
}

#[tokio::test]
async fn a_stream_has_a_bounded_number_of_open_items() {
    let mut env = CallEnv::start(|_| {}).await;
    let (sender, mut answers) = open(env.client()).await;
    let count = 2 * MAX_ITEMS;
    for sequence in 1..=count {
        sender.send(numbered(sequence as u64, item("a"))).unwrap();
    }

    let mut held = Vec::new();
    while held.len() < MAX_ITEMS {
        held.push(env.receive().await);
    }
    assert!(timeout(SHORT, env.source.receive()).await.is_err(), "the rest waits at the client");
    drop(sender);
    let settle = async {
        for delivery in held.drain(..) {
            delivery.ack();
        }
        for _ in MAX_ITEMS..count {
            env.receive().await.ack();
        }
    };
    let (mut told, ()) = tokio::join!(acks(&mut answers, count), settle);

    told.sort_by_key(|ack| ack.0);
    let expected: Vec<_> = (1..=count as u64).collect();
    assert_eq!(told.iter().map(|ack| ack.0).collect::<Vec<_>>(), expected);
    assert!(within(answers.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn bytes_of_open_items_are_bounded_over_all_streams() {
    let mut env = CallEnv::start(|settings| {
        settings.max_body_bytes = 1000;
        // Half of it is for streams: ten items with 1 KiB each.
        settings.max_waiting_bytes = 20 * 1024;
    })
    .await;
    let (one, _answers) = open(env.client()).await;
    let (two, mut answers) = open(env.client()).await;
    for sequence in 0..10 {
        one.send(numbered(sequence, item("a"))).unwrap();
    }
    let mut held = Vec::new();
    while held.len() < 10 {
        held.push(env.receive().await);
    }

    two.send(numbered(0, item("b"))).unwrap();
    assert!(timeout(SHORT, env.source.receive()).await.is_err(), "it waits for room");
    held.pop().unwrap().ack();
    env.receive().await.ack();

    assert_eq!(acks(&mut answers, 1).await.len(), 1);
}

#[tokio::test]
async fn the_messages_of_a_stream_that_is_cut_are_given_up() {
    let mut env = CallEnv::start(|settings| settings.max_waiting = 1).await;
    let (sender, answers) = open(env.client()).await;
    sender.send(numbered(1, item("a"))).unwrap();
    let held = env.receive().await;
    let second = env.client().publish_stream(stream::empty::<PublishStreamRequest>()).await;
    assert_eq!(second.unwrap_err().code(), Code::ResourceExhausted, "one stream is allowed");
    assert!(held.is_current());

    drop((sender, answers));

    within(async {
        while held.is_current() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (sender, mut answers) = within(async {
        loop {
            let (sender, requests) = mpsc::unbounded_channel();
            let requests = UnboundedReceiverStream::new(requests);
            if let Ok(answers) = env.client().publish_stream(requests).await {
                return (sender, answers.into_inner());
            }
        }
    })
    .await;
    sender.send(numbered(1, item("a"))).unwrap();
    env.receive().await.ack();
    assert_eq!(acks(&mut answers, 1).await.len(), 1);
}

#[tokio::test]
async fn a_drain_ends_streams_after_their_open_items() {
    let mut env = CallEnv::start(|_| {}).await;
    let (_silent_sender, mut silent) = open(env.client()).await;
    let (sender, mut answers) = open(env.client()).await;
    sender.send(numbered(1, item("a"))).unwrap();
    let held = env.receive().await;
    let mut health = HealthClient::new(env.channel.clone());
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let CallEnv { server, health: _health, .. } = env;

    let drain = tokio::spawn(server.shutdown(10 * PATIENCE));
    let status = within(silent.message()).await.unwrap_err();
    sender.send(numbered(2, item("a"))).unwrap();
    held.ack();

    assert_eq!(status.code(), Code::Unavailable);
    assert!(has_retry(&status));
    assert_eq!(acks(&mut answers, 1).await[0].0, 1);
    let status = within(answers.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "the second item is not acknowledged");
    while let Ok(Some(told)) = within(watched.message()).await {
        assert_eq!(told.status(), ServingStatus::NotServing);
    }
    within(drain).await.unwrap();
}
