//! Tests of sessions that the broker lost, never had, or that hold outdated filters.

use super::broker::Said;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_counted_once_whenever_it_was_lost() {
    let mut env = TestEnv::new(Protocol::V5);
    let (_source, peer) = env.subscribed().await;
    drop(peer);
    // The session still exists, but the connection ends before the subscription.
    let mut early = env.broker.accept().await;
    early.take(true).await;
    drop(early);
    for _ in 0..2 {
        let mut early = env.broker.accept().await;
        early.take(false).await;
        early.asked().await;
        drop(early);
    }
    let mut last = env.broker.accept().await;
    last.take(false).await;
    last.grant().await;
    env.until_it_says("ready").await;

    assert_eq!(env.metrics.possible_gaps.get(), 1);
    drop(last);
    let mut again = env.broker.accept().await;
    again.take(false).await;
    again.grant().await;
    env.until_it_says("ready").await;
    assert_eq!(env.metrics.possible_gaps.get(), 2);
    assert_eq!(env.metrics.absent_sessions.get(), 0, "there was one at the start");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_there_again_is_no_gap() {
    let mut env = TestEnv::new(Protocol::V5);
    let (_source, peer) = env.subscribed().await;
    drop(peer);
    env.accept_subscribed().await;

    assert_eq!(env.metrics.possible_gaps.get(), 0);
    assert_eq!(env.metrics.absent_sessions.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_session_at_the_start_is_counted_apart() {
    let mut env = TestEnv::new(Protocol::V5);
    let _source = env.source(Mode::Run);
    let mut peer = env.broker.accept().await;
    peer.take(false).await;
    peer.grant().await;
    env.until_it_says("ready").await;

    assert_eq!((env.metrics.absent_sessions.get(), env.metrics.possible_gaps.get()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn with_3_1_1_a_session_that_has_the_filters_is_not_subscribed_to_again() {
    let mut env = TestEnv::new(Protocol::V4);
    env.filters.push(subscription("$share/g/x", 1));
    let (_source, peer) = env.subscribed().await;
    drop(peer);

    // Brokers forget shared groups, so that filter is subscribed again. The other filter would
    // bring all its retained messages again.
    let mut peer = env.broker.accept().await;
    peer.take(true).await;
    assert_eq!(peer.grant().await, [("$share/g/x".to_owned(), 1)]);
    drop(peer);
    // A lost session has no filters, even if a session exists at the next connection.
    let mut lost = env.broker.accept().await;
    lost.take(false).await;
    lost.asked().await;
    drop(lost);
    let mut peer = env.broker.accept().await;
    peer.take(true).await;

    assert_eq!(peer.grant().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn filters_of_removed_routes_are_unsubscribed_from_a_session_that_is_there() {
    let mut env = TestEnv::new(Protocol::V5);
    env.settings.unsubscribe = vec!["old/#".into()];
    let _source = env.source(Mode::Run);
    let mut peer = env.broker.accept().await;
    peer.take(true).await;

    let (packet_id, filters) = peer.unasked().await;
    peer.unsuback(packet_id, &[0x87]).await;
    peer.grant().await;
    env.until_it_says("ready").await;

    assert_eq!(filters, ["old/#"]);
    drop(peer);
    let mut peer = env.broker.accept().await;
    peer.take(false).await;
    assert!(matches!(peer.next().await, Said::Subscribe { .. }), "a new session has none");
}

/// Prints client ids of this host. The test below runs it in processes of hosts with other names.
#[test]
fn client_ids_of_this_host() {
    let [of_host, of_settings] = [None, Some(7)].map(|ordinal| {
        let mqtt = Mqtt { name: "mine".into(), ordinal, ..Mqtt::default() };
        mqtt.client_id(1)
    });
    println!("{of_host} {of_settings}");
}

#[test]
fn the_session_is_that_of_the_ordinal_of_the_host_unless_the_settings_have_one() {
    for (host, expected) in [("ingestion-2", "mine-2-1 mine-7-1"), ("laptop", "mine-0-1 mine-7-1")]
    {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let name = "mqtt::tests::sessions::client_ids_of_this_host";
        command.args(["--exact", name, "--nocapture"]).env("HOSTNAME", host);

        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();

        assert!(said.contains(expected), "{host}: {said}");
    }
}
