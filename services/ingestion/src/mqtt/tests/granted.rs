//! Tests that status and guarantees follow the broker's grants, and that unanswered requests are
//! repeated.

use tokio::time::Instant;

use super::broker::Said;
use super::*;
use crate::mqtt::requests::MAX_POSTPONEMENTS;

#[tokio::test(start_paused = true)]
async fn a_lower_qos_than_asked_is_not_ready_until_it_is_granted() {
    let mut env = TestEnv::new(Protocol::V5);
    let source = env.source(Mode::Run);
    let mut peer = env.broker.accept().await;
    peer.take(true).await;
    let (packet_id, filters) = peer.asked().await;
    assert_eq!(filters, [("devices/+/up".to_owned(), 1)]);

    peer.suback(packet_id, &[0]).await;

    env.until_it_says("devices/+/up: the broker grants QoS 0, QoS 1 was asked for").await;
    let grants = source.grants();
    assert!(grants.borrow()[&0].short.contains_key("devices/+/up"));
    assert_eq!(peer.grant().await, filters, "it is asked for again");
    env.until_it_says("ready").await;
    assert!(grants.borrow()[&0].short.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_filter_is_asked_for_again_while_the_others_bring_messages() {
    for protocol in [Protocol::V5, Protocol::V4] {
        let mut env = TestEnv::new(protocol);
        env.filters = vec![subscription("a", 1), subscription("b", 0)];
        let mut source = env.source(Mode::Run);
        let mut peer = env.broker.accept().await;
        peer.take(false).await;
        let (packet_id, _) = peer.asked().await;

        peer.suback(packet_id, &[1, if protocol == Protocol::V5 { 0x87 } else { 0x80 }]).await;

        env.until_it_says("b: the broker refuses the subscription").await;
        peer.publish(&super::broker::Publish::new(1, "from a")).await;
        next(&mut source).await.ack();
        assert_eq!(peer.next().await, Said::Ack(1));
        assert_eq!(peer.grant().await, [("b".to_owned(), 0)]);
        env.until_it_says("ready").await;
        assert_eq!(env.broker.connections, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn subscriptions_go_out_in_eights_and_answers_are_matched_by_packet_id() {
    let mut env = TestEnv::new(Protocol::V5);
    env.filters = (0..20).map(|n| subscription(&format!("f{n}"), 1)).collect();
    let _source = env.source(Mode::Run);
    let mut peer = env.broker.accept().await;
    peer.take(false).await;

    let mut asked = vec![peer.asked().await, peer.asked().await, peer.asked().await];
    let sizes: Vec<_> = asked.iter().map(|(_, filters)| filters.len()).collect();
    asked.reverse();
    peer.suback(999, &[0x80]).await;
    for (index, (packet_id, filters)) in asked.into_iter().enumerate() {
        assert!(!env.state().ready);
        let mut codes = vec![1; filters.len()];
        // This is the last but one of `f8` to `f15`.
        codes[filters.len() - 2] = u8::from(index != 1);
        peer.suback(packet_id, &codes).await;
    }

    assert_eq!(sizes, [8, 8, 4]);
    env.until_it_says("f14: the broker grants QoS 0").await;
    assert_eq!(peer.grant().await, [("f14".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_cut_short_is_told_with_all_else_that_is_less() {
    let mut env = TestEnv::new(Protocol::V5);
    env.filters = vec![subscription("$share/g/devices/+/up", 1)];
    let source = env.source(Mode::Run);
    let mut peer = env.broker.accept().await;
    let expiry = [0x11, 0, 0, 0, 60];
    let others = [0x21, 0, 9, 0x24, 0, 0x27, 0, 0, 4, 0, 0x28, 0, 0x2A, 0, 0x12, 0, 1, b'z'];

    let connect = peer.take_with(false, &[&expiry[..], &others].concat()).await;
    peer.grant().await;
    env.until_it_says("ready").await;

    let asked = 7 * 24 * 3600;
    let client_id = "ingestion-0-0".into();
    let expected =
        Said::Connect { client_id, is_clean: false, keep_alive: 60, expiry: Some(asked) };
    assert_eq!(connect, expected);
    let granted = source.grants().borrow()[&0].clone();
    assert_eq!(granted.session_expiry, Some(Duration::from_secs(60)));
    assert_eq!((granted.receive_maximum, granted.max_packet_bytes), (Some(9), Some(1024)));
    let warnings = granted.warnings(&env.settings, &env.filters);
    assert!(warnings[0].contains("for 1m, not 7days"), "{warnings:?}");
    assert!(warnings[1].contains("calls us z"), "{warnings:?}");
    assert!(warnings[2].contains("QoS 0 at most, routes ask for QoS 1"), "{warnings:?}");
    assert!(warnings[3].contains("wildcards") && warnings[4].contains("shared"), "{warnings:?}");
    assert_eq!(warnings.len(), 5);
    let plain = [subscription("a", 0)];
    assert_eq!(granted.warnings(&env.settings, &plain).len(), 2, "the others do not matter here");
    assert!(super::super::Negotiated::default().warnings(&env.settings, &env.filters).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_keep_alive_of_the_broker_counts_and_none_of_its_own_ends_nothing() {
    for (server_seconds, asked_seconds, least, most) in
        [(0, 60, 12, 14), (8, 60, 99, 101), (120, 60, 6, 7)]
    {
        let mut env = TestEnv::new(Protocol::V5);
        env.settings.keep_alive = Duration::from_secs(asked_seconds);
        let _source = env.source(Mode::Run);
        let mut peer = env.broker.accept().await;
        peer.take_with(true, &[0x13, 0, server_seconds]).await;
        peer.grant().await;

        assert_eq!(peer.within(Duration::from_secs(600)).await, None);

        assert!((least..=most).contains(&peer.pings), "{} pings for {server_seconds}", peer.pings);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_answer_is_left_and_asked_again() {
    let mut env = TestEnv::new(Protocol::V5);
    let _source = env.source(Mode::Run);
    let started = Instant::now();

    let mut mute = env.broker.accept().await;
    assert!(matches!(mute.next().await, Said::Connect { .. }));
    assert_eq!(mute.next().await, Said::Closed);
    assert_eq!(started.elapsed().as_secs(), 10);
    assert!(env.state().reason.contains("has not answered CONNECT in 10s"), "{:?}", env.state());
    let mut deaf = env.broker.accept().await;
    deaf.take(true).await;
    deaf.asked().await;
    // Messages show that the broker is busy, so the time limit restarts.
    tokio::time::sleep(Duration::from_secs(9)).await;
    deaf.publish(&super::broker::Publish::qos0("x")).await;
    let asked = Instant::now();
    assert_eq!(deaf.next().await, Said::Disconnect);
    drop(deaf);

    assert_eq!(asked.elapsed().as_secs(), 10);
    env.until_it_says("has not answered SUBSCRIBE").await;
    let _peer = env.accept_subscribed().await;
    env.until_it_says("ready").await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_refuses_says_why() {
    for (protocol, code, reason) in
        [(Protocol::V5, 0x87, "NotAuthorized"), (Protocol::V4, 4, "BadUserName")]
    {
        let mut env = TestEnv::new(protocol);
        let _source = env.source(Mode::Run);
        let mut peer = env.broker.accept().await;
        peer.next().await;

        let body: &[u8] = if protocol == Protocol::V5 { &[0, code, 0] } else { &[0, code] };
        peer.send(&super::broker::packet(0x20, body)).await;

        env.until_it_says(reason).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_disconnects_says_why() {
    for (packet, reason) in [
        (&[0xE0, 0][..], "the broker disconnects"),
        (&[0xE0, 1, 0x8B], "the broker disconnects: ServerShuttingDown"),
        (&[0xE0, 2, 0x8B, 0], "the broker disconnects: ServerShuttingDown"),
        (&[0xE0, 6, 0x8B, 4, 0x1F, 0, 1, b'z'], "ServerShuttingDown: z"),
        (&[0xE0, 1, 0x8E], "another client took the session over"),
        (&[0x20, 3, 0, 0, 0], "the broker says CONNACK again"),
        (&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], "something else than MQTT"),
    ] {
        let mut env = TestEnv::new(Protocol::V5);
        let (_source, mut peer) = env.subscribed().await;
        env.until_it_says("ready").await;

        peer.send(packet).await;
        drop(peer);

        env.until_it_says(reason).await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_3_1_1_a_lower_qos_is_not_asked_again_as_that_brings_all_retained_messages() {
    let mut env = TestEnv::new(Protocol::V4);
    env.filters = vec![subscription("a", 1), subscription("b", 1), subscription("$share/g/c", 1)];
    let _source = env.source(Mode::Run);
    let mut peer = env.broker.accept().await;
    peer.take(false).await;
    let (packet_id, _) = peer.asked().await;

    peer.suback(packet_id, &[0, 0x80, 0]).await;

    let again = [("b".to_owned(), 1), ("$share/g/c".to_owned(), 1)];
    assert_eq!(peer.grant().await, again, "a refused filter and one without retained messages");
    assert_eq!(peer.within(PATIENCE).await, None);
    env.until_it_says("a: the broker grants QoS 0, QoS 1 was asked for").await;
    drop(peer);
    let mut peer = env.broker.accept().await;
    peer.take(true).await;
    assert_eq!(peer.grant().await.len(), 3, "a new connection asks for all");
    env.until_it_says("ready").await;
}

#[tokio::test(start_paused = true)]
async fn messages_put_off_the_time_for_an_answer_but_not_without_end() {
    let mut env = TestEnv::new(Protocol::V5);
    let mut source = env.source(Mode::Run);
    let mut peer = env.broker.accept().await;
    peer.take(true).await;
    peer.asked().await;
    let asked = Instant::now();

    let deaf = tokio::spawn(async move {
        loop {
            peer.publish(&super::broker::Publish::qos0("x")).await;
            match peer.within(Duration::from_secs(9)).await {
                None => {}
                Some(said) => return said,
            }
        }
    });
    let again = tokio::select! {
        again = env.broker.accept() => again,
        () = async { loop { next(&mut source).await.ack() } } => unreachable!(),
    };

    assert_eq!(deaf.await.unwrap(), Said::Disconnect);
    let most = env.settings.connect_timeout * MAX_POSTPONEMENTS;
    let taken = asked.elapsed();
    assert!(taken >= most && taken < most + Duration::from_secs(10), "{taken:?}");
    drop(again);
}
