//! The end of a listener.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::env::{PATIENCE, SHORT, TestEnv, within};

const REQUEST: &str = "GET /waits HTTP/1.1\r\nhost: localhost\r\n\r\n";
const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[tokio::test]
async fn a_request_under_way_is_answered_and_new_ones_are_refused() {
    let env = TestEnv::start().await;
    let mut client = env.write(REQUEST).await;
    env.wait.begun().await;
    let mut idle = env.write(HELLO).await;
    idle.until("hello").await;

    let drain = tokio::spawn(env.server.shutdown(PATIENCE));
    // The idle connection ends when the drain has begun.
    assert_eq!(idle.rest().await, "");
    let refused = within(async {
        while TcpStream::connect(env.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    refused.await;
    client.write(HELLO).await;
    env.wait.may_answer.add_permits(1);
    let answer = client.rest().await;

    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("waited"), "the next request is not answered: {answer}");
    within(drain).await.unwrap();
}

#[tokio::test]
async fn a_body_under_way_is_read_and_answered() {
    let env = TestEnv::start().await;
    let head = "POST /length HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";
    let mut client = env.write(head).await;
    // The handler has begun to read.
    client.until("100 Continue\r\n\r\n").await;

    let drain = tokio::spawn(env.server.shutdown(PATIENCE));
    client.write("four").await;
    let answer = client.rest().await;

    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("4"), "{answer}");
    within(drain).await.unwrap();
}

#[tokio::test]
async fn what_is_not_answered_in_time_is_cut() {
    let env = TestEnv::start().await;
    let mut client = env.write(REQUEST).await;
    env.wait.begun().await;

    let begun = Instant::now();
    within(env.server.shutdown(SHORT)).await;

    assert!(begun.elapsed() >= SHORT);
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn idle_and_half_sent_connections_end_at_once() {
    let env = TestEnv::start().await;
    let mut used = env.write(HELLO).await;
    used.until("hello").await;
    used.write("GET /hel").await;
    let (mut silent, mut half) = (env.write("").await, env.write("GET /hello HTTP/1.1\r\n").await);
    // All connections before this one have been accepted.
    env.get("/hello").await;

    let begun = Instant::now();
    within(env.server.shutdown(Duration::from_secs(3600))).await;

    assert!(begun.elapsed() < PATIENCE);
    for client in [&mut used, &mut silent, &mut half] {
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn a_server_that_is_dropped_cuts_everything() {
    let env = TestEnv::start().await;
    let mut client = env.write(REQUEST).await;
    env.wait.begun().await;

    drop(env.server);

    assert_eq!(client.rest().await, "");
}
