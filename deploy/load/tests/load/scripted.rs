//! Tests with a broker and an ingest whose answers are a script.

use std::net::Ipv4Addr;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode, Packet, PubAck, Publish};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::env::{PATIENCE, run};

/// Connection of a device, as the broker sees it.
pub(crate) struct Peer {
    stream: TcpStream,
    inbox: BytesMut,
}

/// Starts to listen on a free port.
pub(crate) async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

impl Peer {
    /// Accepts a connection, with or without a session of an earlier one.
    pub(crate) async fn accept(listener: &TcpListener, session_present: bool) -> Self {
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let mut peer = Self { stream, inbox: BytesMut::new() };
        let Packet::Connect(connect, ..) = peer.read().await else { panic!("no CONNECT") };
        assert!(!connect.clean_start, "the session persists");
        let code = ConnectReturnCode::Success;
        peer.write(Packet::ConnAck(ConnAck { session_present, code, properties: None })).await;
        peer
    }

    pub(crate) async fn read(&mut self) -> Packet {
        loop {
            if let Ok(packet) = Packet::read(&mut self.inbox, None) {
                return packet;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.inbox)).await;
            assert_ne!(read.unwrap().unwrap(), 0, "the device has closed the connection");
        }
    }

    pub(crate) async fn publish(&mut self) -> Publish {
        match self.read().await {
            Packet::Publish(publish) => publish,
            other => panic!("no PUBLISH: {other:?}"),
        }
    }

    pub(crate) async fn write(&mut self, packet: Packet) {
        let mut outbox = BytesMut::new();
        packet.write(&mut outbox, None).unwrap();
        self.stream.write_all(&outbox).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_without_a_puback_is_sent_again_with_dup_in_the_same_session() {
    let (listener, port) = listen().await;
    let url = format!("mqtt://127.0.0.1:{port}");
    let options = [&*url, "--devices=1", "--messages=2", "--template={{seq}}"];
    let broker = async {
        let mut first = Peer::accept(&listener, false).await;
        let sent = [first.publish().await, first.publish().await];
        first.write(Packet::PubAck(PubAck::new(sent[0].pkid, None))).await;
        drop(first);
        let mut second = Peer::accept(&listener, true).await;
        let again = second.publish().await;
        drop(second);
        // This broker has lost the session.
        let mut third = Peer::accept(&listener, false).await;
        let last = third.publish().await;
        third.write(Packet::PubAck(PubAck::new(last.pkid, None))).await;
        let Packet::Disconnect(end) = third.read().await else { panic!("no DISCONNECT") };
        (sent, again, last, end)
    };

    let (ended, (sent, again, last, end)) = tokio::join!(run(&options), broker);

    assert_eq!(sent.each_ref().map(|publish| publish.dup), [false, false]);
    assert_eq!(again, Publish { dup: true, ..sent[1].clone() });
    assert_eq!(last, sent[1], "a new session knows no first attempt");
    assert_eq!(end.properties.unwrap().session_expiry_interval, Some(0), "the session ends");
    ended.assert(0, &[("confirmed", 2), ("resent", 2), ("reconnects", 2)]);
}

#[tokio::test]
async fn no_more_messages_are_in_flight_than_allowed_and_late_ones_count_from_their_plan() {
    let (listener, port) = listen().await;
    let url = format!("mqtt://127.0.0.1:{port}");
    let options =
        [&*url, "--devices=1", "--messages=4", "--rate=1000", "--max-in-flight=2", "--template=x"];
    let broker = async {
        let mut peer = Peer::accept(&listener, false).await;
        let first = [peer.publish().await, peer.publish().await];
        // A third PUBLISH would come now. Time passes instead, and so the messages after it are late.
        let third = timeout(std::time::Duration::from_millis(500), peer.read()).await;
        assert!(third.is_err(), "{third:?}");
        for publish in first {
            peer.write(Packet::PubAck(PubAck::new(publish.pkid, None))).await;
            let next = peer.publish().await;
            peer.write(Packet::PubAck(PubAck::new(next.pkid, None))).await;
        }
        peer.read().await
    };

    let (ended, _) = tokio::join!(run(&options), broker);

    ended.assert(0, &[("confirmed", 4)]);
    let late = ended.report["from_plan"]["max_ms"].as_f64().unwrap();
    assert!(late >= 497.0, "{}", ended.report);
    // The last two were sent late, and answered at once: none but the first two waited half a second.
    let rows = ended.report["histogram"].as_array().unwrap();
    let slow = |name: &str| -> u64 {
        let slow =
            rows.iter().filter(|row| row["up_to_ms"].as_f64().is_none_or(|end| end >= 500.0));
        slow.map(|row| row[name].as_u64().unwrap()).sum()
    };
    assert_eq!(slow("from_plan"), 4, "{}", ended.report);
    assert!(slow("from_send") >= 2, "{}", ended.report);
    assert_eq!(ended.report["is_rate_kept"], false);
    assert!(ended.out.contains("THE PLANNED RATE OF 1000.000/s WAS NOT KEPT"), "{}", ended.out);
}

/// Answers requests in the order of a script, and returns the headers and the body of each.
async fn ingest(listener: TcpListener, answers: &[&str]) -> Vec<(String, String)> {
    let mut requests = Vec::new();
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    for answer in answers {
        let mut text = Vec::new();
        let (head, body) = loop {
            let request = String::from_utf8(text.clone()).unwrap();
            if let Some((head, body)) = request.split_once("\r\n\r\n") {
                let head = head.to_lowercase();
                let length = head.split_once("content-length: ").unwrap().1;
                let length: usize = length.lines().next().unwrap().parse().unwrap();
                if body.len() == length {
                    break (head, body.to_owned());
                }
            }
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "the connection is kept");
        };
        requests.push((head, body));
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    requests
}

#[tokio::test]
async fn a_request_that_may_have_failed_is_repeated_with_the_same_key_on_the_same_connection() {
    let (listener, port) = listen().await;
    let url = format!("http://127.0.0.1:{port}/ingest");
    let away = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n";
    let taken = "HTTP/1.1 202 Accepted\r\ncontent-length: 10\r\n\r\n{\"id\":\"1\"}";
    let options = [&*url, "--devices=1", "--messages=2", "--max-in-flight=1", "--template={{seq}}"];

    let answers = [away, taken, taken];
    let (ended, requests) = tokio::join!(run(&options), ingest(listener, &answers));

    ended.assert(0, &[("sent", 2), ("confirmed", 2), ("resent", 1)]);
    let answers = serde_json::json!({ "202 Accepted": 2, "503 Service Unavailable": 1 });
    assert_eq!(ended.report["answers"], answers);
    let key = |request: &(String, String)| {
        let (_, key) = request.0.split_once("idempotency-key: ").unwrap();
        key.lines().next().unwrap().to_owned()
    };
    let keys: Vec<_> = requests.iter().map(key).collect();
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[1], keys[2]);
    assert_eq!(requests[0].1, r#"{"sourceId":"device-00000","payload":0}"#);
    assert_eq!(requests[0].1, requests[1].1);
}
