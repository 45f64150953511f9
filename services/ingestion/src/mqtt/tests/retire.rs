//! Tests of retirement: either all messages of the broker are carried, or the session stays.

use super::broker::{Peer, Publish, Said};
use super::*;
use crate::mqtt::connection::end_session;
use crate::mqtt::drain::LEAVE_TIMEOUT;

/// Returns a source that drains, and the broker's side after the UNSUBSCRIBE.
async fn draining(env: &mut TestEnv) -> (Source, Peer) {
    let source = env.source(Mode::Drain);
    let mut peer = env.broker.accept().await;
    peer.take(true).await;
    let (packet_id, filters) = peer.unasked().await;
    assert_eq!(filters, ["devices/+/up"]);
    peer.unsuback(packet_id, &[0]).await;
    (source, peer)
}

/// Acknowledges every message until the source ends. Each message takes `time`.
async fn carry(source: &mut Source, time: Duration) -> Result<usize, String> {
    let mut carried = 0;
    loop {
        let received = timeout(PATIENCE, source.receive()).await.expect("something in time");
        match received.map_err(|error| {
            format!("{error:#}: {:?}", std::error::Error::source(&error).map(ToString::to_string))
        })? {
            Some(delivery) => {
                tokio::time::sleep(time).await;
                delivery.ack();
                carried += 1;
            }
            None => return Ok(carried),
        }
    }
}

/// Sends the messages in windows, each `delay` after the last PUBACK.
async fn send_windows(mut peer: Peer, count: u16, window: u16, delay: Duration) -> usize {
    let mut acked = 0;
    for first in (1..=count).step_by(usize::from(window)) {
        // Pings are answered meanwhile.
        assert_eq!(peer.within(delay).await, None);
        let ids = first..(first + window).min(count + 1);
        for id in ids.clone() {
            peer.publish(&Publish::new(id, id.to_string())).await;
        }
        for id in ids {
            assert_eq!(peer.next().await, Said::Ack(id));
            acked += 1;
        }
    }
    assert_eq!(peer.next().await, Said::Disconnect);
    assert!(peer.pings > 0, "the end is asked for");
    acked
}

#[tokio::test(start_paused = true)]
async fn all_that_the_broker_holds_is_carried_however_slow_the_sink_is() {
    for protocol in [Protocol::V5, Protocol::V4] {
        for seconds in [0, 4, 100] {
            let mut env = TestEnv::new(protocol);
            let (mut source, peer) = draining(&mut env).await;
            let broker = tokio::spawn(send_windows(peer, 60, 20, Duration::ZERO));

            let carried = carry(&mut source, Duration::from_secs(seconds)).await;

            assert_eq!((carried, broker.await.unwrap()), (Ok(60), 60), "{seconds} s each");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_sends_some_time_after_an_acknowledgement_is_waited_for() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, peer) = draining(&mut env).await;
    let broker = tokio::spawn(send_windows(peer, 6, 2, Duration::from_millis(2_900)));

    let carried = carry(&mut source, Duration::ZERO).await;

    assert_eq!((carried, broker.await.unwrap()), (Ok(6), 6));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_overtakes_the_answer_to_the_ping_is_carried() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = draining(&mut env).await;
    peer.answers_pings = false;
    assert_eq!(peer.next().await, Said::Ping);
    peer.publish(&Publish::new(1, "late")).await;
    peer.send(&[0xD0, 0]).await;

    next(&mut source).await.ack();

    assert_eq!(peer.next().await, Said::Ack(1));
    assert_eq!(peer.within(Duration::from_secs(2)).await, None, "that answer was not the end");
    assert_eq!(peer.next().await, Said::Ping);
    assert_eq!(peer.within(WHILE).await, None, "not before the answer");
    peer.send(&[0xD0, 0]).await;
    assert_eq!(peer.next().await, Said::Disconnect);
    assert_eq!(carry(&mut source, Duration::ZERO).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lives_gets_its_session_back_untouched() {
    for protocol in [Protocol::V5, Protocol::V4] {
        let mut env = TestEnv::new(protocol);
        let mut source = env.source(Mode::Drain);
        let mut peer = env.broker.accept().await;
        peer.take(true).await;
        // The replica was in its longest wait, and reconnects as late as possible.
        let Mqtt { reconnect, connect_timeout, .. } = &env.settings;
        let wait = reconnect.max + *connect_timeout + LEAVE_TIMEOUT;
        assert_eq!(peer.within(wait - Duration::from_millis(1)).await, None);
        peer.take_over().await;
        if protocol == Protocol::V4 {
            // One ended connection could be a take-over or a network failure.
            let mut peer = env.broker.accept().await;
            peer.take(true).await;
            peer.take_over().await;
        }

        let ended = carry(&mut source, Duration::ZERO).await.unwrap_err();

        assert!(ended.contains("the replica seems to be alive"), "{ended}");
        if protocol == Protocol::V5 {
            assert!(ended.contains("SessionTakenOver"), "{ended}");
        }
        assert!(env.broker.is_left_alone(PATIENCE).await, "and is not taken over again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_fails_is_opened_again_and_watched_again() {
    let mut env = TestEnv::new(Protocol::V4);
    let mut source = env.source(Mode::Drain);
    for _ in 0..2 {
        let mut watched = env.broker.accept().await;
        watched.take(true).await;
        drop(watched);
        let mut touched = env.broker.accept().await;
        touched.take(true).await;
        let (packet_id, _) = touched.unasked().await;
        touched.unsuback(packet_id, &[]).await;
        drop(touched);
    }
    let mut peer = env.broker.accept().await;
    peer.take(true).await;
    let (packet_id, _) = peer.unasked().await;
    peer.unsuback(packet_id, &[]).await;
    let broker = tokio::spawn(send_windows(peer, 3, 2, Duration::ZERO));

    assert_eq!(carry(&mut source, Duration::ZERO).await, Ok(3));
    assert_eq!(broker.await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_comes_back_too_late_is_told_to_be_restarted() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, peer) = draining(&mut env).await;
    peer.take_over().await;

    let ended = carry(&mut source, Duration::ZERO).await.unwrap_err();

    assert!(ended.contains("lost its subscriptions: restart it"), "{ended}");
    assert!(env.broker.is_left_alone(PATIENCE).await);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_could_not_be_carried_is_carried_again() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = draining(&mut env).await;
    peer.publish(&Publish::new(1, "poison")).await;

    drop(next(&mut source).await);

    let said = [peer.next().await, peer.next().await];
    assert_eq!(said, [Said::Disconnect, Said::Closed]);
    drop(peer);
    let mut peer = env.broker.accept().await;
    peer.take(true).await;
    peer.publish(&Publish::new(1, "poison").again()).await;
    assert_eq!(next(&mut source).await.message.attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn an_unsubscription_that_is_refused_or_not_answered_is_tried_again() {
    for answer in [Some(0x87), None] {
        let mut env = TestEnv::new(Protocol::V5);
        let mut source = env.source(Mode::Drain);
        let mut peer = env.broker.accept().await;
        peer.take(true).await;
        let (packet_id, _) = peer.unasked().await;
        if let Some(code) = answer {
            peer.unsuback(packet_id, &[code]).await;
        }
        assert_eq!(peer.next().await, Said::Disconnect);
        drop(peer);

        let expected = match answer {
            Some(_) => "refused to unsubscribe: NotAuthorized",
            None => "has not answered UNSUBSCRIBE",
        };
        env.until_it_says(expected).await;
        let mut peer = env.broker.accept().await;
        peer.take(true).await;
        assert_eq!(peer.unasked().await.1, ["devices/+/up"]);
        assert!(is_silent(&mut source).await, "it is not drained");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_session_there_is_nothing_to_carry() {
    let mut env = TestEnv::new(Protocol::V5);
    let mut source = env.source(Mode::Drain);
    let mut peer = env.broker.accept().await;
    peer.take(false).await;

    assert_eq!(peer.next().await, Said::Disconnect);
    drop(peer);
    assert_eq!(carry(&mut source, Duration::ZERO).await, Ok(0));
    assert_eq!(env.metrics.absent_sessions.get(), 1, "and that is told");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_found_was_there() {
    let mut env = TestEnv::new(Protocol::V5);
    let mut source = env.source(Mode::Drain);
    let mut peer = env.broker.accept().await;
    peer.take(true).await;
    drop(peer);
    let mut peer = env.broker.accept().await;
    peer.take(false).await;
    drop(peer);

    assert_eq!(carry(&mut source, Duration::ZERO).await, Ok(0));
    assert_eq!(env.metrics.absent_sessions.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_is_waited_for() {
    let mut env = TestEnv::new(Protocol::V5);
    let mut source = env.source(Mode::Drain);
    drop(env.broker.accept().await);
    let mut peer = env.broker.accept().await;
    peer.take(false).await;
    drop(peer);

    assert_eq!(carry(&mut source, Duration::ZERO).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn filters_of_removed_routes_end_too() {
    let mut env = TestEnv::new(Protocol::V5);
    env.settings.unsubscribe = vec!["old/#".into()];
    let _source = env.source(Mode::Drain);
    let mut peer = env.broker.accept().await;
    peer.take(true).await;

    assert_eq!(peer.unasked().await.1, ["devices/+/up", "old/#"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_a_clean_connection_that_leaves() {
    let mut env = TestEnv::new(Protocol::V5);
    let (dial, settings) = (env.broker.dial(), env.settings.clone());
    let ended = tokio::spawn(async move { end_session(&*dial, &settings, 0).await });
    let mut peer = env.broker.accept().await;

    let Said::Connect { is_clean, expiry, .. } = peer.take(false).await else { panic!() };

    assert_eq!((is_clean, expiry), (true, Some(0)));
    assert_eq!([peer.next().await, peer.next().await], [Said::Disconnect, Said::Closed]);
    drop(peer);
    ended.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_late_answer_to_an_earlier_ping_is_not_the_end() {
    let mut env = TestEnv::new(Protocol::V5);
    // The replica is watched for 16 s. The first ping is sent after 12 s.
    env.settings.reconnect.max = env.settings.reconnect.min;
    env.settings.keep_alive = Duration::from_secs(16);
    let mut source = env.source(Mode::Drain);
    let mut peer = env.broker.accept().await;
    peer.answers_pings = false;
    peer.take(true).await;
    assert_eq!(peer.next().await, Said::Ping);
    let (packet_id, _) = peer.unasked().await;
    peer.unsuback(packet_id, &[0]).await;
    assert_eq!(peer.next().await, Said::Ping, "the end is asked for");

    peer.send(&[0xD0, 0]).await;
    let early = peer.within(Duration::from_secs(5)).await;
    peer.send(&[0xD0, 0]).await;

    assert_eq!((early, peer.next().await), (None, Said::Disconnect));
    drop(peer);
    assert_eq!(carry(&mut source, Duration::ZERO).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn the_end_is_not_asked_for_while_a_message_is_not_acknowledged() {
    let mut env = TestEnv::new(Protocol::V5);
    let (mut source, mut peer) = draining(&mut env).await;
    peer.answers_pings = false;
    peer.publish(&Publish::new(1, "slow")).await;
    let slow = next(&mut source).await;

    assert_eq!(peer.next().await, Said::Ping, "to keep the connection alive");
    tokio::time::sleep(Duration::from_secs(5)).await;
    peer.send(&[0xD0, 0]).await;
    let asked = peer.within(WHILE).await;
    slow.ack();

    assert_eq!((asked, peer.next().await), (None, Said::Ack(1)));
    assert_eq!(peer.next().await, Said::Ping);
}

/// Without this error, a retirement would report that nothing is left.
#[tokio::test]
async fn sessions_that_cannot_be_ended_are_an_error() {
    service::install_crypto();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = Mqtt { url: format!("mqtt://{closed}").into(), ..Mqtt::default() };

    let error = Source::end_sessions(&settings).await.unwrap_err().to_string();

    assert!(error.starts_with(&format!("end the session at mqtt://{closed}: ")), "{error}");
}
