//! The wire format of protobuf.

use prost_types::field_descriptor_proto::Type;

/// A value in its wire format.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads the next field: its number and its value.
pub(super) fn next<'a>(rest: &mut &'a [u8]) -> Result<(i32, Raw<'a>), String> {
    let key = varint(rest)?;
    let number = i32::try_from(key >> 3).map_err(|_| "a field's number is out of range")?;
    let raw = match key & 7 {
        0 => Raw::Varint(varint(rest)?),
        1 => Raw::Fixed64(u64::from_le_bytes(array(rest)?)),
        2 => {
            let len = usize::try_from(varint(rest)?).map_err(|_| "a field is too long")?;
            Raw::Bytes(take(rest, len)?)
        }
        5 => Raw::Fixed32(u32::from_le_bytes(array(rest)?)),
        other => return Err(format!("the wire type {other} is not supported")),
    };
    Ok((number, raw))
}

/// Returns true if a list of this type may be packed: all values in one field.
pub(super) fn is_packable(kind: Type) -> bool {
    !matches!(kind, Type::String | Type::Bytes | Type::Message | Type::Group)
}

/// Reads the next value of a packed list.
pub(super) fn unpacked<'a>(kind: Type, rest: &mut &'a [u8]) -> Result<Raw<'a>, String> {
    Ok(match kind {
        Type::Double | Type::Fixed64 | Type::Sfixed64 => {
            Raw::Fixed64(u64::from_le_bytes(array(rest)?))
        }
        Type::Float | Type::Fixed32 | Type::Sfixed32 => {
            Raw::Fixed32(u32::from_le_bytes(array(rest)?))
        }
        _ => Raw::Varint(varint(rest)?),
    })
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let [byte] = array::<1>(rest)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number is too long".into())
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], String> {
    let (head, tail) = rest.split_at_checked(len).ok_or("the message ends too early")?;
    *rest = tail;
    Ok(head)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let bytes = take(rest, N)?;
    bytes.try_into().map_err(|_| "the message ends too early".into())
}
