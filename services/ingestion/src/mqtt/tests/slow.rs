//! Tests of slow sinks. At any speed, a sink gets every message once, over one connection.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncWriteExt as _, split};
use tokio::time::{Instant, sleep};

use super::broker::{Peer, Publish, Said, read};
use super::*;

/// Record of a broker that sends messages.
#[derive(Debug, Default)]
struct Seen {
    acks: usize,
    written_bytes: usize,
    took_us_for_dead: bool,
    has_ended: bool,
}

/// Sends messages, with at most `window` of them unacknowledged. Closes the connection to a client
/// that is silent for one and a half keep-alives.
fn send_all(
    peer: Peer,
    publish: Publish,
    count: usize,
    window: usize,
    keep_alive: Duration,
) -> Arc<Mutex<Seen>> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        let protocol = peer.protocol;
        let (mut from, mut to) = split(peer.stream);
        let (outbox, mut packets) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
        let written = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Some(packet) = packets.recv().await {
                for part in packet.chunks(4096) {
                    if to.write_all(part).await.is_err() {
                        return;
                    }
                    written.lock().unwrap().written_bytes += part.len();
                }
            }
        });
        let mut unacked = VecDeque::new();
        let mut sent = 0;
        loop {
            while unacked.len() < window && sent < count {
                sent += 1;
                let packet_id = u16::try_from(sent).unwrap();
                unacked.push_back(packet_id);
                let publish = Publish { packet_id: Some(packet_id), ..publish.clone() };
                outbox.send(publish.bytes(protocol)).unwrap();
            }
            let Ok(said) = timeout(keep_alive * 3 / 2, read(&mut from, protocol)).await else {
                shared.lock().unwrap().took_us_for_dead = true;
                return;
            };
            match said {
                Said::Ping => outbox.send(vec![0xD0, 0]).unwrap(),
                Said::Ack(id) => {
                    assert_eq!(Some(id), unacked.pop_front(), "in order");
                    shared.lock().unwrap().acks += 1;
                }
                Said::Disconnect | Said::Closed => {
                    shared.lock().unwrap().has_ended = true;
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
    });
    seen
}

fn slow(protocol: Protocol, payload_bytes: usize) -> (TestEnv, Publish) {
    let mut env = TestEnv::new(protocol);
    env.settings.keep_alive = Duration::from_secs(5);
    env.settings.max_bytes_in_flight = 1024 * 1024;
    (env, Publish::new(1, vec![b'x'; payload_bytes]))
}

/// Settles messages at this speed, one after the other. Returns once `count` of them are settled.
async fn settle_all(source: &mut Source, count: usize, bytes_per_second: usize) {
    let (queue, mut deliveries) = tokio::sync::mpsc::unbounded_channel::<Delivery>();
    let sink = tokio::spawn(async move {
        let mut settled = 0;
        while let Some(delivery) = deliveries.recv().await {
            let bytes = delivery.message.data.len();
            sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64)).await;
            delivery.ack();
            settled += 1;
            if settled == count {
                return;
            }
        }
    });
    let take_in = async {
        loop {
            queue.send(source.receive().await.unwrap().unwrap()).unwrap();
        }
    };
    tokio::select! {
        () = take_in => {}
        settled = sink => settled.unwrap(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_sink_is_confirmed_at_its_speed_over_one_connection() {
    for (protocol, payload_bytes, count, speed) in [
        (Protocol::V5, 1_000_000, 8, 20_000),
        (Protocol::V5, 1_000_000, 8, 50_000),
        (Protocol::V5, 1_000_000, 8, 140_000),
        (Protocol::V4, 1_000_000, 8, 20_000),
        (Protocol::V5, 100_000, 60, 20_000),
        (Protocol::V4, 100_000, 60, 140_000),
    ] {
        let case = format!("{protocol:?}, {count} of {payload_bytes} bytes at {speed}");
        let (mut env, publish) = slow(protocol, payload_bytes);
        let (mut source, peer) = env.subscribed().await;
        let seen = send_all(peer, publish, count, 1000, env.settings.keep_alive);
        let started = Instant::now();

        settle_all(&mut source, count, speed).await;
        sleep(Duration::from_secs(1)).await;

        let least = Duration::from_secs((count * payload_bytes / speed) as u64);
        assert!(started.elapsed() < least + Duration::from_secs(5), "{case}: no time is lost");
        let seen = seen.lock().unwrap();
        assert_eq!(seen.acks, count, "{case}: {seen:?}");
        assert!(!seen.took_us_for_dead && !seen.has_ended, "{case}: {seen:?}");
        assert_eq!(env.broker.connections, 1, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn topics_and_user_properties_count_as_bytes_in_flight() {
    let (mut env, mut publish) = slow(Protocol::V5, 1);
    publish.user_properties = (0..17).map(|n| (format!("p{n}"), "v".repeat(60_000))).collect();
    let (mut source, peer) = env.subscribed().await;
    let seen = send_all(peer, publish, 50, 1000, env.settings.keep_alive);

    sleep(Duration::from_secs(60)).await;

    // Two packets reach the limit, and parts of further ones are in buffers.
    let written = seen.lock().unwrap().written_bytes;
    assert!(written < 4 * 1024 * 1024, "{written} bytes were taken in");
    settle_all(&mut source, 50, 1_000_000_000).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_read_already_waits_too_once_the_bound_is_reached() {
    let mut env = TestEnv::new(Protocol::V5);
    env.settings.max_bytes_in_flight = 1;
    let (mut source, mut peer) = env.subscribed().await;
    let both = [Publish::new(1, "first"), Publish::new(2, "second")];
    peer.send(&both.map(|publish| publish.bytes(Protocol::V5)).concat()).await;

    let first = next(&mut source).await;
    assert!(is_silent(&mut source).await);
    first.ack();

    assert_eq!(text(&next(&mut source).await), "second");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_not_read_is_not_taken_for_dead() {
    let (mut env, publish) = slow(Protocol::V5, 2_000_000);
    let (mut source, peer) = env.subscribed().await;
    let seen = send_all(peer, publish, 3, 1000, env.settings.keep_alive);
    let first = next(&mut source).await;

    sleep(Duration::from_secs(600)).await;
    assert!(env.state().ready);
    first.ack();
    settle_all(&mut source, 2, 1_000_000_000).await;
    sleep(Duration::from_secs(1)).await;

    let seen = seen.lock().unwrap();
    assert!(seen.acks == 3 && !seen.took_us_for_dead && !seen.has_ended, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_says_nothing_is_left_after_one_and_a_half_keep_alives() {
    let mut env = TestEnv::new(Protocol::V5);
    let (_source, mut peer) = env.subscribed().await;
    let started = Instant::now();
    peer.answers_pings = false;

    assert_eq!(peer.next().await, Said::Ping);
    let pinged = started.elapsed();
    let mut again = env.accept_subscribed().await;

    assert!(pinged <= Duration::from_secs(45), "{pinged:?}");
    let left = started.elapsed();
    assert!(left >= Duration::from_secs(90) && left < Duration::from_secs(93), "{left:?}");
    // The connection to a broker that answers stays.
    assert_eq!(again.within(Duration::from_secs(1000)).await, None);
    assert!(again.pings >= 1000 / 45, "{}", again.pings);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_says_nothing_is_left_although_we_speak() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = env.subscribed().await;
    for packet_id in 1..=20 {
        peer.publish(&Publish::new(packet_id, "x")).await;
    }
    let mut deliveries = Vec::new();
    for _ in 1..=20 {
        deliveries.push(next(&mut source).await);
    }
    peer.answers_pings = false;
    let started = Instant::now();

    let acks = tokio::spawn(async move {
        for delivery in deliveries {
            sleep(Duration::from_secs(10)).await;
            delivery.ack();
        }
    });
    env.accept_subscribed().await;

    let left = started.elapsed();
    assert!(left >= Duration::from_secs(90) && left < Duration::from_secs(93), "{left:?}");
    acks.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_packet_is_read_whatever_pieces_it_comes_in() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = env.subscribed().await;
    let payload = "x".repeat(300);
    let bytes = Publish::new(1, payload.clone()).bytes(Protocol::V5);

    for byte in bytes {
        peer.send(&[byte]).await;
        tokio::task::yield_now().await;
    }

    assert_eq!(text(&next(&mut source).await), payload);
}

#[tokio::test(start_paused = true)]
async fn a_packet_above_the_limit_is_named_and_tried_again_less_and_less_often() {
    let mut env = TestEnv::new(Protocol::V4);
    env.settings.max_packet_bytes = 1024;
    let (mut source, mut peer) = env.subscribed().await;
    // This is the largest packet that is accepted: 16 bytes of topic and id, and 3 of header.
    peer.publish(&Publish::new(1, "x".repeat(1024 - 19))).await;
    next(&mut source).await.ack();
    assert_eq!(peer.next().await, Said::Ack(1));
    let started = Instant::now();

    for _ in 0..4 {
        peer.publish(&Publish::new(2, "x".repeat(1024 - 18))).await;
        env.until_it_says("a packet of 1025 bytes, above 1024 (mqtt.max_packet_bytes)").await;
        peer = env.broker.accept().await;
        peer.take(true).await;
    }

    assert!(started.elapsed() > Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_a_connection_that_lived_long_the_next_one_comes_soon() {
    let mut env = TestEnv::new(Protocol::V5);
    let (_source, mut peer) = env.subscribed().await;
    for _ in 0..8 {
        drop(peer);
        peer = env.accept_subscribed().await;
    }

    assert_eq!(peer.within(env.settings.reconnect.max + WHILE).await, None);
    drop(peer);
    let ended = Instant::now();
    env.accept_subscribed().await;

    assert!(ended.elapsed() <= env.settings.reconnect.min, "{:?}", ended.elapsed());
}

/// Each wait is between half of its length and all of it.
#[tokio::test(start_paused = true)]
async fn the_waits_between_first_connections_are_those_of_the_settings() {
    let mut env = TestEnv::new(Protocol::V5);
    let seconds = Duration::from_secs;
    (env.settings.reconnect.min, env.settings.reconnect.max) = (seconds(40), seconds(100));
    let _source = env.source(Mode::Run);
    drop(env.broker.accept().await);

    for longest in [40, 80, 100, 100] {
        let ended = Instant::now();
        drop(env.broker.accept().await);

        let waited = ended.elapsed();
        assert!((seconds(longest) / 2..=seconds(longest + 1)).contains(&waited), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_behind_messages_that_are_not_read_yet_is_not_late() {
    let (mut env, publish) = slow(Protocol::V5, 900_000);
    // No pings are answered in this test.
    env.settings.keep_alive = PATIENCE;
    let mut source = env.source(Mode::Run);
    let mut peer = env.broker.accept().await;
    peer.take(true).await;
    let (packet_id, _) = peer.asked().await;

    let broker = tokio::spawn(async move {
        for id in 1..=4 {
            peer.publish(&Publish { packet_id: Some(id), ..publish.clone() }).await;
        }
        peer.suback(packet_id, &[1]).await;
        peer
    });
    for _ in 0..4 {
        let delivery = next(&mut source).await;
        sleep(env.settings.connect_timeout * 3).await;
        delivery.ack();
    }

    env.until_it_says("ready").await;
    let mut peer = broker.await.unwrap();
    assert_eq!(peer.next().await, Said::Ack(1));
    assert_eq!(env.metrics.reconnects.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_still_sends_at_the_end_is_read_and_dropped() {
    let (mut env, publish) = slow(Protocol::V5, 2_000_000);
    let (source, mut peer) = env.subscribed().await;
    // The second message is not read, so most of it is still at the broker.
    let bytes = publish.bytes(Protocol::V5);
    peer.send(&bytes).await;
    let broker = tokio::spawn(async move {
        let sent = peer.stream.write_all(&bytes).await;
        (sent, peer)
    });
    sleep(Duration::from_secs(1)).await;

    let close = tokio::spawn(source.close());

    let (sent, mut peer) = broker.await.unwrap();
    sent.unwrap();
    assert_eq!(peer.next().await, Said::Disconnect);
    drop(peer);
    close.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn properties_beyond_the_bound_are_dropped_before_they_are_decoded() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = env.subscribed().await;
    for (count, length, is_within) in
        [(10_000, 0, true), (10_001, 0, false), (17, 60_000, true), (18, 60_000, false)]
    {
        let mut publish = Publish::new(1, "x");
        publish.user_properties = vec![(String::new(), "v".repeat(length)); count];
        let sending = async {
            peer.publish(&publish).await;
            peer.next().await
        };
        let taking = async {
            let delivery = next(&mut source).await;
            let attributes = delivery.message.attributes.clone();
            assert_eq!(text(&delivery), "x");
            delivery.ack();
            attributes
        };

        let (said, attributes) = tokio::join!(sending, taking);

        assert_eq!(said, Said::Ack(1));
        assert_eq!(attributes["mqtt_topic"], "devices/d/up");
        assert_eq!(attributes.contains_key(""), is_within, "{count} of {length}");
        assert_eq!(attributes.contains_key("mqtt_properties_dropped"), !is_within);
    }
}
