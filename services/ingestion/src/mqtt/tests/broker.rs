//! Broker under the control of its test. Streams are in memory, and packets are written and read by
//! hand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::PATIENCE;
use crate::config::{Mqtt, Protocol};
use crate::mqtt::dial::{Dial, Dialing};
use crate::mqtt::wire::Stream;

/// Capacity of a socket whose data is not read.
pub(super) const SOCKET_BYTES: usize = 64 * 1024;

pub(super) struct TestBroker {
    protocol: Protocol,
    dialer: Arc<Dialer>,
    streams: mpsc::UnboundedReceiver<DuplexStream>,
    /// Number of accepted connections.
    pub connections: usize,
}

struct Dialer(mpsc::UnboundedSender<DuplexStream>);

impl Dial for Dialer {
    fn dial<'a>(&'a self, _settings: &'a Mqtt) -> Dialing<'a> {
        let (client, broker) = duplex(SOCKET_BYTES);
        Box::pin(async move {
            self.0.send(broker).map_err(|_| "the broker is gone")?;
            Ok(Box::new(client) as Stream)
        })
    }
}

impl TestBroker {
    pub(super) fn new(protocol: Protocol) -> Self {
        let (sender, streams) = mpsc::unbounded_channel();
        Self { protocol, dialer: Arc::new(Dialer(sender)), streams, connections: 0 }
    }

    pub(super) fn dial(&self) -> Arc<dyn Dial> {
        Arc::<Dialer>::clone(&self.dialer)
    }

    /// Accepts the next connection.
    pub(super) async fn accept(&mut self) -> Peer {
        let stream = timeout(PATIENCE, self.streams.recv()).await.expect("a connection in time");
        self.connections += 1;
        Peer::new(stream.unwrap(), self.protocol)
    }

    /// Returns whether no client connects for this long.
    pub(super) async fn is_left_alone(&mut self, time: Duration) -> bool {
        timeout(time, self.streams.recv()).await.is_err()
    }
}

/// Packet from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Connect { client_id: String, is_clean: bool, keep_alive: u16, expiry: Option<u32> },
    Subscribe { packet_id: u16, filters: Vec<(String, u8)> },
    Unsubscribe { packet_id: u16, filters: Vec<String> },
    Ack(u16),
    Ping,
    Disconnect,
    Closed,
}

/// Message as a broker sends it.
#[derive(Debug, Clone)]
pub(super) struct Publish {
    pub topic: String,
    pub payload: Vec<u8>,
    /// Id of the packet; `None` for QoS 0.
    pub packet_id: Option<u16>,
    pub is_repeated: bool,
    pub is_retained: bool,
    pub user_properties: Vec<(String, String)>,
}

impl Publish {
    pub(super) fn new(packet_id: u16, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            topic: "devices/d/up".into(),
            payload: payload.into(),
            packet_id: Some(packet_id),
            is_repeated: false,
            is_retained: false,
            user_properties: Vec::new(),
        }
    }

    pub(super) fn qos0(payload: impl Into<Vec<u8>>) -> Self {
        Self { packet_id: None, ..Self::new(0, payload) }
    }

    pub(super) fn again(self) -> Self {
        Self { is_repeated: true, ..self }
    }

    pub(super) fn retained(self) -> Self {
        Self { is_retained: true, ..self }
    }

    pub(super) fn bytes(&self, protocol: Protocol) -> Vec<u8> {
        let mut body = text(&self.topic);
        body.extend(self.packet_id.iter().flat_map(|id| id.to_be_bytes()));
        if protocol == Protocol::V5 {
            let properties = self.user_properties.iter();
            let properties: Vec<_> = properties
                .flat_map(|(name, value)| [vec![0x26], text(name), text(value)].concat())
                .collect();
            body.extend(varint(properties.len()));
            body.extend(properties);
        }
        body.extend(&self.payload);
        let qos = u8::from(self.packet_id.is_some());
        let flags = u8::from(self.is_repeated) << 3 | qos << 1 | u8::from(self.is_retained);
        packet(0x30 | flags, &body)
    }
}

/// Broker's side of one connection. It answers pings by default.
pub(super) struct Peer {
    pub stream: DuplexStream,
    pub protocol: Protocol,
    pub answers_pings: bool,
    pub pings: usize,
    put_back: VecDeque<Said>,
}

impl Peer {
    fn new(stream: DuplexStream, protocol: Protocol) -> Self {
        Self { stream, protocol, answers_pings: true, pings: 0, put_back: VecDeque::new() }
    }

    /// Returns the next packet from the client, except pings that are answered.
    pub(super) async fn next(&mut self) -> Said {
        self.within(PATIENCE).await.expect("the client says something")
    }

    /// Like [`Peer::next`], but returns `None` if no packet comes for this long.
    pub(super) async fn within(&mut self, time: Duration) -> Option<Said> {
        if let Some(said) = self.put_back.pop_front() {
            return Some(said);
        }
        let said = async {
            loop {
                match self.read().await {
                    Said::Ping if self.answers_pings => {
                        self.pings += 1;
                        self.send(&[0xD0, 0]).await;
                    }
                    said => return said,
                }
            }
        };
        timeout(time, said).await.ok()
    }

    /// Reads a packet. Not cancel safe in the middle of a packet. Clients write a packet in one
    /// piece.
    pub(super) async fn read(&mut self) -> Said {
        read(&mut self.stream, self.protocol).await
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        // The client may have gone. The test notices that at its next read.
        drop(self.stream.write_all(bytes).await);
    }

    pub(super) async fn publish(&mut self, publish: &Publish) {
        let bytes = publish.bytes(self.protocol);
        self.send(&bytes).await;
    }

    /// Reads the CONNECT and accepts the client.
    pub(super) async fn take(&mut self, session_present: bool) -> Said {
        self.take_with(session_present, &[]).await
    }

    /// Like [`Peer::take`], with MQTT 5 properties.
    pub(super) async fn take_with(&mut self, session_present: bool, properties: &[u8]) -> Said {
        let connect = self.next().await;
        assert!(matches!(connect, Said::Connect { .. }), "{connect:?}");
        let mut body = vec![u8::from(session_present), 0];
        if self.protocol == Protocol::V5 {
            body.extend(varint(properties.len()));
            body.extend(properties);
        }
        self.send(&packet(0x20, &body)).await;
        connect
    }

    /// Reads one SUBSCRIBE and grants all its filters.
    pub(super) async fn grant(&mut self) -> Vec<(String, u8)> {
        let (packet_id, filters) = self.asked().await;
        let codes: Vec<_> = filters.iter().map(|(_, qos)| *qos).collect();
        self.suback(packet_id, &codes).await;
        filters
    }

    /// Reads one SUBSCRIBE.
    pub(super) async fn asked(&mut self) -> (u16, Vec<(String, u8)>) {
        match self.next().await {
            Said::Subscribe { packet_id, filters } => (packet_id, filters),
            other => panic!("{other:?} instead of SUBSCRIBE"),
        }
    }

    pub(super) async fn suback(&mut self, packet_id: u16, codes: &[u8]) {
        let properties: &[u8] = if self.protocol == Protocol::V5 { &[0] } else { &[] };
        let body = [&packet_id.to_be_bytes(), properties, codes].concat();
        self.send(&packet(0x90, &body)).await;
    }

    /// Reads one UNSUBSCRIBE.
    pub(super) async fn unasked(&mut self) -> (u16, Vec<String>) {
        match self.next().await {
            Said::Unsubscribe { packet_id, filters } => (packet_id, filters),
            other => panic!("{other:?} instead of UNSUBSCRIBE"),
        }
    }

    pub(super) async fn unsuback(&mut self, packet_id: u16, codes: &[u8]) {
        let (properties, codes): (&[u8], &[u8]) =
            if self.protocol == Protocol::V5 { (&[0], codes) } else { (&[], &[]) };
        let body = [&packet_id.to_be_bytes(), properties, codes].concat();
        self.send(&packet(0xB0, &body)).await;
    }

    /// Ends the connection in the way of brokers whose session was taken over by another client.
    pub(super) async fn take_over(mut self) {
        if self.protocol == Protocol::V5 {
            // This is the shortest form, without properties.
            self.send(&[0xE0, 1, 0x8E]).await;
        }
    }
}

pub(super) async fn read(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
    protocol: Protocol,
) -> Said {
    let Ok(kind) = stream.read_u8().await else { return Said::Closed };
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.expect("a whole packet");
        length |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("a whole packet");
    let is_v5 = protocol == Protocol::V5;
    let mut body = Body(&body);
    match kind {
        0x10 => connect(body, is_v5),
        0x82 => {
            let packet_id = body.number();
            body.skip(usize::from(is_v5));
            let mut filters = Vec::new();
            while !body.0.is_empty() {
                filters.push((body.text(), body.byte() & 3));
            }
            Said::Subscribe { packet_id, filters }
        }
        0xA2 => {
            let packet_id = body.number();
            body.skip(usize::from(is_v5));
            let mut filters = Vec::new();
            while !body.0.is_empty() {
                filters.push(body.text());
            }
            Said::Unsubscribe { packet_id, filters }
        }
        0x40 => Said::Ack(body.number()),
        0xC0 => Said::Ping,
        0xE0 => Said::Disconnect,
        other => panic!("a client never sends {other:x}"),
    }
}

fn connect(mut body: Body<'_>, is_v5: bool) -> Said {
    assert_eq!((body.text().as_str(), body.byte()), ("MQTT", if is_v5 { 5 } else { 4 }));
    let flags = body.byte();
    let keep_alive = body.number();
    let mut expiry = None;
    if is_v5 {
        let mut properties = Body(&body.0[1..=usize::from(body.0[0])]);
        body.skip(1 + usize::from(body.0[0]));
        while !properties.0.is_empty() {
            match properties.byte() {
                0x11 => {
                    let high = u32::from(properties.number());
                    expiry = Some(high << 16 | u32::from(properties.number()));
                }
                0x21 | 0x22 => properties.skip(2),
                0x27 => properties.skip(4),
                other => panic!("a property {other:x} that tests do not know"),
            }
        }
    }
    Said::Connect { client_id: body.text(), is_clean: flags & 2 != 0, keep_alive, expiry }
}

struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn byte(&mut self) -> u8 {
        let byte = self.0[0];
        self.skip(1);
        byte
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn text(&mut self) -> String {
        let length = usize::from(self.number());
        let text = String::from_utf8(self.0[..length].to_vec()).unwrap();
        self.skip(length);
        text
    }

    fn skip(&mut self, count: usize) {
        self.0 = &self.0[count..];
    }
}

pub(super) fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], varint(body.len()).as_slice(), body].concat()
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap();
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (value % 128) as u8;
        value /= 128;
        bytes.push(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return bytes;
        }
    }
}
