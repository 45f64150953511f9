//! Tests of acknowledgements: after the outcome, in order, and on the connection that delivered the
//! message.

use super::broker::{Publish, Said};
use super::*;

const PROTOCOLS: [Protocol; 2] = [Protocol::V5, Protocol::V4];

#[tokio::test(start_paused = true)]
async fn a_message_is_acknowledged_when_it_is_safe_and_not_before() {
    for protocol in PROTOCOLS {
        let mut env = TestEnv::new(protocol);
        let (mut source, mut peer) = env.subscribed().await;
        peer.publish(&Publish::new(7, "one")).await;

        let delivery = next(&mut source).await;
        let before = peer.within(WHILE).await;
        delivery.ack();

        assert_eq!((before, peer.next().await), (None, Said::Ack(7)));
    }
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_leave_in_the_order_of_the_messages() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = env.subscribed().await;
    for id in [3, 1, 2] {
        peer.publish(&Publish::new(id, id.to_string())).await;
    }
    let mut deliveries = Vec::new();
    for expected in ["3", "1", "2"] {
        let delivery = next(&mut source).await;
        assert_eq!(text(&delivery), expected);
        deliveries.push(delivery);
    }

    deliveries.pop().unwrap().ack();
    deliveries.pop().unwrap().ack();
    let before = peer.within(WHILE).await;
    deliveries.pop().unwrap().ack();

    let after = [peer.next().await, peer.next().await, peer.next().await];
    assert_eq!((before, after), (None, [3, 1, 2].map(Said::Ack)));
}

#[tokio::test(start_paused = true)]
async fn a_nack_ends_the_connection_after_what_is_due_and_the_message_comes_again() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = env.subscribed().await;
    for id in [1, 2, 3] {
        peer.publish(&Publish::new(id, id.to_string())).await;
    }
    let (first, second, third) =
        (next(&mut source).await, next(&mut source).await, next(&mut source).await);

    first.ack();
    drop(second);
    third.ack();

    let said = [peer.next().await, peer.next().await, peer.next().await];
    assert_eq!(said, [Said::Ack(1), Said::Disconnect, Said::Closed]);
    drop(peer);
    let mut peer = env.accept_subscribed().await;
    peer.publish(&Publish::new(2, "2").again()).await;
    let again = next(&mut source).await;
    assert_eq!((text(&again).as_str(), again.message.attempts), ("2", 2));
    assert_eq!(env.metrics.reconnects.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_nack_takes_back_what_came_after_it_at_once() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = env.subscribed().await;
    for id in [1, 2, 3] {
        peer.publish(&Publish::new(id, id.to_string())).await;
    }
    let (first, second) = (next(&mut source).await, next(&mut source).await);
    assert!(second.is_current());

    first.nack();

    // The other messages would overtake the first one, which comes again.
    assert!(!second.is_current());
    second.nack();
    drop(peer);
    let mut peer = env.accept_subscribed().await;
    peer.publish(&Publish::new(1, "1").again()).await;
    let again = next(&mut source).await;
    assert!(again.is_current());
    assert_eq!(text(&again), "1", "the third one was taken back, too");
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_that_are_due_leave_though_a_cut_drain_drops_the_rest_first() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = env.subscribed().await;
    for id in [1, 2, 3] {
        peer.publish(&Publish::new(id, id.to_string())).await;
    }
    let (first, second, third) =
        (next(&mut source).await, next(&mut source).await, next(&mut source).await);

    // All three outcomes exist before the connection handles one.
    drop(third);
    first.ack();
    second.ack();

    let said = [peer.next().await, peer.next().await, peer.next().await];
    assert_eq!(said, [Said::Ack(1), Said::Ack(2), Said::Disconnect]);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_an_earlier_connection_is_not_acknowledged_on_a_later_one() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = env.subscribed().await;
    peer.publish(&Publish::new(1, "old")).await;
    let old = next(&mut source).await;
    drop(peer);
    let mut peer = env.accept_subscribed().await;
    peer.publish(&Publish::new(1, "new").again()).await;
    let new = next(&mut source).await;

    old.ack();
    let before = peer.within(WHILE).await;
    new.ack();

    assert_eq!((before, peer.next().await), (None, Said::Ack(1)));
}

#[tokio::test(start_paused = true)]
async fn what_waits_of_an_ended_connection_is_not_handed_out() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = env.subscribed().await;
    peer.publish(&Publish::new(1, "once")).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(peer);
    let mut peer = env.accept_subscribed().await;
    peer.publish(&Publish::new(1, "once").again()).await;

    let delivery = next(&mut source).await;

    assert_eq!(delivery.message.attempts, 2, "the one that can be acknowledged");
    assert!(is_silent(&mut source).await);
    drop(delivery);
}

#[tokio::test(start_paused = true)]
async fn a_close_sends_what_is_due_and_disconnects() {
    for protocol in PROTOCOLS {
        let mut env = TestEnv::new(protocol);
        let (mut source, mut peer) = env.subscribed().await;
        peer.publish(&Publish::new(1, "one")).await;
        next(&mut source).await.ack();

        let close = tokio::spawn(source.close());

        let said = [peer.next().await, peer.next().await, peer.next().await];
        assert_eq!(said, [Said::Ack(1), Said::Disconnect, Said::Closed]);
        drop(peer);
        close.await.unwrap().unwrap();
        assert!(env.broker.is_left_alone(PATIENCE).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_does_not_wait_forever_for_a_broker_that_stays_open() {
    let mut env = TestEnv::new(Protocol::V5);
    let (source, _peer) = env.subscribed().await;

    timeout(Duration::from_secs(6), source.close()).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn qos_0_messages_beyond_the_bound_are_dropped_and_counted() {
    let mut env = TestEnv::new(Protocol::V5);
    env.settings.max_qos0_waiting = 2;
    let (mut source, mut peer) = env.subscribed().await;
    for payload in ["1", "2", "3"] {
        peer.publish(&Publish::qos0(payload)).await;
    }
    peer.publish(&Publish::new(9, "confirmed")).await;

    let (first, second) = (next(&mut source).await, next(&mut source).await);
    assert_eq!((text(&first), text(&second)), ("1".into(), "2".into()));
    assert_eq!(text(&next(&mut source).await), "confirmed");
    assert_eq!(env.metrics.qos0_dropped.get(), 1);
    first.ack();
    second.ack();
    let mut peer = env.accept_subscribed().await;
    for payload in ["4", "5"] {
        peer.publish(&Publish::qos0(payload)).await;
    }

    let (fourth, fifth) = (next(&mut source).await, next(&mut source).await);

    assert_eq!((text(&fourth), text(&fifth)), ("4".into(), "5".into()));
    assert_eq!(env.metrics.qos0_dropped.get(), 1);
    fourth.ack();
    fifth.ack();
}

#[tokio::test(start_paused = true)]
async fn qos_0_messages_that_wait_at_the_end_are_counted() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = env.subscribed().await;
    for payload in ["sent", "nacked", "waits"] {
        peer.publish(&Publish::qos0(payload)).await;
    }
    next(&mut source).await.ack();
    drop(next(&mut source).await);
    drop(peer);

    source.close().await.unwrap();

    assert_eq!(env.metrics.qos0_dropped.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retained_message_says_so() {
    for protocol in PROTOCOLS {
        let mut env = TestEnv::new(protocol);
        let (mut source, mut peer) = env.subscribed().await;
        peer.publish(&Publish::new(1, "kept").retained()).await;
        peer.publish(&Publish::new(2, "new")).await;

        let (kept, new) = (next(&mut source).await, next(&mut source).await);

        assert_eq!(kept.message.attributes["mqtt_retain"], "true");
        assert!(!new.message.attributes.contains_key("mqtt_retain"));
        kept.ack();
        new.ack();
    }
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_that_are_due_leave_before_a_connection_is_given_up() {
    let mut env = TestEnv::new(Protocol::V5);
    env.settings.max_packet_bytes = 1024;
    let (mut source, mut peer) = env.subscribed().await;
    peer.publish(&Publish::new(1, "one")).await;
    let one = next(&mut source).await;

    peer.publish(&Publish::new(2, "x".repeat(1024))).await;
    one.ack();

    let said = [peer.next().await, peer.next().await];
    assert_eq!(said, [Said::Ack(1), Said::Disconnect]);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_qos_2_is_never_acknowledged_and_the_connection_says_why() {
    for protocol in PROTOCOLS {
        let mut env = TestEnv::new(protocol);
        let (_source, mut peer) = env.subscribed().await;
        let mut exactly_once = Publish::new(1, "x").bytes(protocol);
        exactly_once[0] = 0x34;

        peer.send(&exactly_once).await;

        env.until_it_says("the broker sends a message with QoS 2").await;
        assert_eq!([peer.next().await, peer.next().await], [Said::Disconnect, Said::Closed]);
    }
}
