//! Limit on the properties of a PUBLISH (MQTT 5). It is enforced before they are decoded, because
//! an empty property has 5 bytes in a packet and needs many times that in memory.

use bytes::{Buf as _, Bytes, BytesMut};

use super::client::{PROPERTY_OVERHEAD, Published};

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
