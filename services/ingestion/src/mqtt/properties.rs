//! Limit on the properties of a PUBLISH (MQTT 5). It is enforced before they are decoded, because
//! an empty property has 5 bytes in a packet and needs many times that in memory.

use bytes::{Buf as _, Bytes, BytesMut};

use super::published::{PROPERTY_OVERHEAD, Published};

/// Maximum number of properties of a message that are decoded.
const MAX_PROPERTIES: usize = 10_000;
/// Maximum bytes of properties, as sent, that are decoded.
const MAX_PROPERTIES_BYTES: usize = 1024 * 1024;
/// Maximum memory of one message's properties in addition to their bytes.
pub(crate) const MAX_MEMORY_BYTES: usize = MAX_PROPERTIES * PROPERTY_OVERHEAD;
/// Packet type of a PUBLISH.
const PUBLISH: u8 = 3;

/// Reads a PUBLISH without its properties if they exceed the limit. `header` is the length of the
/// fixed header. Returns `None` in all other cases, including malformed packets.
pub(super) fn read_without(frame: &BytesMut, header: usize) -> Option<Published> {
    let first = *frame.first()?;
    let qos = first >> 1 & 3;
    // Other packets are left to the decoder. A PUBLISH of QoS 2 ends the connection there.
    if first >> 4 != PUBLISH || qos > 1 {
        return None;
    }
    let mut rest = frame.get(header..)?;
    let topic = take_text(&mut rest)?;
    let packet_id = if qos == 1 { Some(rest.try_get_u16().ok()?) } else { None };
    let length = take_varint(&mut rest)?;
    let (properties, payload) = rest.split_at_checked(length)?;
    let excess = excess(properties)?;
    (packet_id != Some(0)).then(|| Published {
        topic: Bytes::copy_from_slice(topic),
        payload: Bytes::copy_from_slice(payload),
        is_retained: first & 1 != 0,
        is_repeated: first & 8 != 0,
        packet_id,
        properties: None,
        dropped_properties: Some(excess),
    })
}

/// Returns which limit the properties exceed. Returns `None` if they are within both limits.
fn excess(mut properties: &[u8]) -> Option<String> {
    let size = properties.len();
    if size > MAX_PROPERTIES_BYTES {
        return Some(format!("{size} bytes of properties, at most {MAX_PROPERTIES_BYTES}"));
    }
    let mut count = 0;
    while !properties.is_empty() {
        count += 1;
        if count > MAX_PROPERTIES {
            return Some(format!("more than {MAX_PROPERTIES} properties"));
        }
        match properties.try_get_u8().ok()? {
            0x01 => properties = properties.get(1..)?,
            0x02 => properties = properties.get(4..)?,
            0x23 => properties = properties.get(2..)?,
            0x03 | 0x08 | 0x09 => drop(take_text(&mut properties)?),
            0x0B => drop(take_varint(&mut properties)?),
            0x26 => {
                take_text(&mut properties)?;
                take_text(&mut properties)?;
            }
            // The decoder refuses the packet at this point.
            _ => return None,
        }
    }
    None
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = bytes.try_get_u16().ok()?;
    let (text, rest) = bytes.split_at_checked(length.into())?;
    *bytes = rest;
    Some(text)
}

fn take_varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for index in 0..4 {
        let byte = bytes.try_get_u8().ok()?;
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_USER_PROPERTY: [u8; 5] = [0x26, 0, 0, 0, 0];

    /// Returns a packet of this kind with the topic `t`, and the length of its fixed header. A
    /// packet of QoS 1 has the id 7.
    fn packet(first: u8, properties: &[u8]) -> (BytesMut, usize) {
        let mut length = properties.len();
        let mut varint = Vec::new();
        while length > 0 {
            varint.push((length & 0x7F) as u8 | if length > 0x7F { 0x80 } else { 0 });
            length >>= 7;
        }
        let packet_id: &[u8] = if first >> 1 & 3 == 1 { &[0, 7] } else { &[] };
        let header = [first, 0];
        let frame = [&header[..], &[0, 1, b't'], packet_id, &varint, properties, b"payload"];
        (BytesMut::from(&*frame.concat()), header.len())
    }

    fn read(first: u8, properties: &[u8]) -> Option<Published> {
        let (frame, header) = packet(first, properties);
        read_without(&frame, header)
    }

    fn too_many() -> Vec<u8> {
        EMPTY_USER_PROPERTY.repeat(MAX_PROPERTIES + 1)
    }

    #[test]
    fn a_message_keeps_its_flags_without_its_properties() {
        let table = [
            (0x30, false, false, None),
            (0x31, true, false, None),
            (0x32, false, false, Some(7)),
            (0x3A, false, true, Some(7)),
            (0x3B, true, true, Some(7)),
        ];
        for (first, is_retained, is_repeated, packet_id) in table {
            let read = read(first, &too_many()).unwrap();

            let flags = (read.is_retained, read.is_repeated, read.packet_id);
            assert_eq!(flags, (is_retained, is_repeated, packet_id), "{first:x}");
            assert_eq!((&*read.topic, &*read.payload), (&b"t"[..], &b"payload"[..]));
        }
    }

    #[test]
    fn only_messages_of_quality_0_and_1_are_read() {
        // QoS 2, no valid QoS, SUBACK, CONNECT.
        for first in [0x34, 0x36, 0x90, 0x10] {
            assert!(read(first, &too_many()).is_none(), "{first:x}");
        }
    }

    #[test]
    fn properties_of_every_kind_are_counted() {
        let kinds: [&[u8]; 8] = [
            &[0x01, 1],
            &[0x02, 0, 0, 0, 9],
            &[0x23, 0, 3],
            &[0x03, 0, 1, b'j'],
            &[0x08, 0, 0],
            &[0x09, 0, 2, 1, 2],
            &[0x0B, 0xFF, 0x01],
            &[0x26, 0, 1, b'n', 0, 1, b'v'],
        ];
        for kind in kinds {
            let with = |count| [kind, &EMPTY_USER_PROPERTY.repeat(count)].concat();
            assert!(read(0x30, &with(MAX_PROPERTIES - 1)).is_none(), "{kind:x?}");
            let read = read(0x30, &with(MAX_PROPERTIES)).unwrap();
            let excess = read.dropped_properties.unwrap();
            assert_eq!(excess, "more than 10000 properties", "{kind:x?}");
        }
        let unknown = [&[0x7F][..], &too_many()].concat();
        assert!(read(0x30, &unknown).is_none());
    }

    #[test]
    fn properties_may_have_as_many_bytes_as_the_limit() {
        const SIZE: usize = 64 * 1024;
        let value = SIZE - EMPTY_USER_PROPERTY.len();
        let property = [&[0x26, 0, 0][..], &(value as u16).to_be_bytes(), &vec![b'v'; value]];
        let properties = property.concat().repeat(MAX_PROPERTIES_BYTES / SIZE);

        assert!(read(0x30, &properties).is_none());
        let one_more = [&properties[..], &[0x01, 1]].concat();
        let excess = read(0x30, &one_more).unwrap().dropped_properties.unwrap();
        assert_eq!(excess, "1048578 bytes of properties, at most 1048576");
    }
}
