//! Items of a message.

use prost::DecodeError;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use time::OffsetDateTime;

use crate::http::item::{Item, Time, check_id, check_source, required};
use crate::http::refusal::Refusal;
use crate::proto;

/// Number of the field with items in a request.
const ITEMS: u32 = 1;
/// Name of the field with the time.
const TIMESTAMP: &str = "timestamp";

/// Checks an item.
pub(super) fn read(item: proto::Item) -> Result<Item, Refusal> {
    let proto::Item { source_id, payload, timestamp, id } = item;
    Ok(Item {
        source_id: check_source("source_id", (!source_id.is_empty()).then_some(source_id))?,
        time: timestamp.map(read_time).transpose()?,
        payload: payload.ok_or_else(|| required("payload"))?.into(),
        id: id.map(|id| check_id("id", id)).transpose()?,
        attributes: Vec::new(),
    })
}

fn read_time(given: prost_types::Timestamp) -> Result<Time, Refusal> {
    let nanos = u32::try_from(given.nanos).ok();
    let time = OffsetDateTime::from_unix_timestamp(given.seconds).ok();
    let time = time.zip(nanos).and_then(|(time, nanos)| time.replace_nanosecond(nanos).ok());
    let time = time.and_then(message::timestamp::in_utc);
    let right = "timestamp must lie in the years 0 to 9999, with 0 to 999,999,999 nanos";
    let time = time.ok_or_else(|| Refusal::invalid(TIMESTAMP, right))?;
    Ok(Time { field: TIMESTAMP, time })
}

/// Counts the items of a request before they are decoded, up to one more than `max`. Two bytes can
/// be an item that takes a hundred in memory.
pub(super) fn count(mut message: &[u8], max: usize) -> Result<usize, DecodeError> {
    let mut count = 0;
    while !message.is_empty() && count <= max {
        let (field, kind) = decode_key(&mut message)?;
        count += usize::from(field == ITEMS);
        skip_field(kind, field, &mut message, DecodeContext::default())?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use time::macros::datetime;

    use super::*;

    fn item() -> proto::Item {
        let payload = Some(b"\xff\x00".to_vec());
        proto::Item { source_id: "a".into(), payload, ..Default::default() }
    }

    fn at(seconds: i64, nanos: i32) -> proto::Item {
        let timestamp = Some(prost_types::Timestamp { seconds, nanos });
        proto::Item { timestamp, ..item() }
    }

    #[test]
    fn any_bytes_are_a_payload_and_a_time_keeps_its_nanoseconds() {
        let read_item = read(at(1_744_372_800, 7)).unwrap();

        assert_eq!(read_item.payload, b"\xff\x00".as_slice());
        assert_eq!(read_item.time.unwrap().time, datetime!(2025-04-11 12:00:00.000_000_007 UTC));
        let empty = proto::Item { payload: Some(Vec::new()), ..item() };
        assert!(read(empty).unwrap().payload.is_empty());
    }

    #[test]
    fn the_wrong_field_of_a_message_is_named() {
        for (item, field) in [
            (proto::Item { source_id: String::new(), ..item() }, "source_id"),
            (proto::Item { source_id: "a\0".into(), ..item() }, "source_id"),
            (proto::Item { source_id: "x".repeat(1025), ..item() }, "source_id"),
            (proto::Item { payload: None, ..item() }, "payload"),
            (proto::Item { id: Some(String::new()), ..item() }, "id"),
            (at(0, -1), "timestamp"),
            (at(0, 1_000_000_000), "timestamp"),
            (at(i64::MAX, 0), "timestamp"),
            (at(253_402_300_800, 0), "timestamp"),
            (at(-62_167_219_201, 0), "timestamp"),
        ] {
            assert_eq!(read(item).unwrap_err().field.as_deref(), Some(field));
        }
    }

    #[test]
    fn items_are_counted_without_decoding_them() {
        let request = |count| proto::PublishRequest {
            items: vec![item(); count],
            idempotency_key: Some("k".into()),
        };

        assert_eq!(count(&request(3).encode_to_vec(), 10).unwrap(), 3);
        assert_eq!(count(&[0x0a, 0].repeat(1_000_000), 1000).unwrap(), 1001);
        assert!(count(&[0x0a, 9, 1], 10).is_err());
        assert_eq!(count(&[], 10).unwrap(), 0);
    }
}
