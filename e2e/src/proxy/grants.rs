//! Simulates a broker that grants less than requested, by rewriting the answers of an MQTT 5
//! broker.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Part of the grant that is reduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Subscriptions get QoS 0, whatever was requested.
    QosZero,
    /// The broker keeps the session for one minute only.
    ShortSession,
    /// The server keep-alive is 0: the broker wants no pings.
    NoKeepAlive,
    /// SUBSCRIBE gets no answer.
    NoAnswer,
}

const CONNACK: u8 = 2;
const SUBACK: u8 = 9;
/// Property "Session Expiry Interval", in seconds.
const SESSION_EXPIRY: [u8; 5] = [0x11, 0, 0, 0, 60];
/// Property "Server Keep Alive", in seconds.
const SERVER_KEEP_ALIVE: [u8; 3] = [0x13, 0, 0];

/// Rewrites the bytes that a broker sends on one connection.
#[derive(Debug)]
pub(super) struct Rewriter {
    grant: Grant,
    buffer: BytesMut,
}

impl Rewriter {
    pub(super) fn new(grant: Grant) -> Self {
        Self { grant, buffer: BytesMut::new() }
    }

    /// Takes bytes in any portions, and returns the complete packets, rewritten.
    pub(super) fn rewrite(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.buffer.extend_from_slice(bytes);
        let mut rewritten = Vec::new();
        while let Some((first, body)) = packet(&mut self.buffer) {
            let body = match (first >> 4, self.grant) {
                (SUBACK, Grant::NoAnswer) => continue,
                (SUBACK, Grant::QosZero) => downgraded(body),
                (CONNACK, Grant::ShortSession) => with_property(&body, &SESSION_EXPIRY),
                (CONNACK, Grant::NoKeepAlive) => with_property(&body, &SERVER_KEEP_ALIVE),
                _ => body,
            };
            rewritten.push(first);
            put_length(&mut rewritten, body.len());
            rewritten.extend_from_slice(&body);
        }
        rewritten
    }
}

/// Splits off the first packet. Returns its first byte and its content after the length.
fn packet(buffer: &mut BytesMut) -> Option<(u8, Bytes)> {
    let (length, width) = length(buffer.get(1..)?)?;
    if buffer.len() < 1 + width + length {
        return None;
    }
    let first = buffer.get_u8();
    buffer.advance(width);
    Some((first, buffer.split_to(length).freeze()))
}

/// Reads a variable byte integer. Returns its value and its width in bytes.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

fn put_length(out: &mut impl bytes::BufMut, mut value: usize) {
    loop {
        let byte = u8::try_from(value % 128).unwrap_or(0);
        value /= 128;
        out.put_u8(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return;
        }
    }
}

/// Sets every granted QoS in a SUBACK (packet id, properties, reason codes) to 0.
fn downgraded(body: Bytes) -> Bytes {
    let mut body = BytesMut::from(body);
    let codes = body.get(2..).and_then(length).map(|(properties, width)| 2 + width + properties);
    for code in codes.and_then(|codes| body.get_mut(codes..)).into_iter().flatten() {
        if *code <= 2 {
            *code = 0;
        }
    }
    body.freeze()
}

/// Adds a property to a CONNACK (flags, reason, properties).
fn with_property(body: &Bytes, property: &[u8]) -> Bytes {
    let Some((known, width)) = body.get(2..).and_then(length) else { return body.clone() };
    let mut extended = BytesMut::from(&body[..2]);
    put_length(&mut extended, known + property.len());
    extended.put_slice(&body[2 + width..]);
    extended.put_slice(property);
    extended.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_rewritten_wherever_packets_are_cut_and_the_rest_stays() {
        let publish = [0x30, 4, 0, 1, b't', b'x'];
        let mut bytes = vec![0x20, 3, 0, 0, 0];
        bytes.extend(publish);
        bytes.extend([0x90, 5, 0, 1, 0, 1, 0x87]);
        let rewritten = |grant| {
            let mut rewriter = Rewriter::new(grant);
            bytes.chunks(3).flat_map(|chunk| rewriter.rewrite(chunk)).collect::<Vec<_>>()
        };

        let suback_of = |codes: [u8; 2]| [0x90, 5, 0, 1, 0, codes[0], codes[1]];
        let connack = [0x20, 3, 0, 0, 0];
        let parts = [&connack[..], &publish, &suback_of([0, 0x87])].concat();
        assert_eq!(rewritten(Grant::QosZero), parts);
        let connack = [0x20, 8, 0, 0, 5, 0x11, 0, 0, 0, 60];
        let parts = [&connack[..], &publish, &suback_of([1, 0x87])].concat();
        assert_eq!(rewritten(Grant::ShortSession), parts);
        let parts = [&[0x20, 3, 0, 0, 0][..], &publish].concat();
        assert_eq!(rewritten(Grant::NoAnswer), parts);
    }
}
