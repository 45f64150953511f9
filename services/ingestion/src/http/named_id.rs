//! Ids that follow from what a client says about an item.

use sha1::{Digest as _, Sha1};
use uuid::{Builder, Uuid};

/// Namespace of these ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1c_6d0e_52c1_4f6b_9c0f_6a1d_0d8e_77b3);

/// Name of an item at its source.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name<'a> {
    /// `id` of the item.
    Id(&'a str),
    /// `Idempotency-Key` of its request, with the index of the item in a batch.
    Key(&'a str, Option<usize>),
}

/// Returns the id of an item whose source and key are known: a UUIDv5. The same item always gets the
/// same id.
pub(super) fn named_id(source_id: &str, name: Name<'_>) -> Uuid {
    let (kind, name, index) = match name {
        Name::Id(id) => ("id", id, None),
        Name::Key(key, index) => ("key", key, index),
    };
    // No part contains a zero byte.
    let mut hash = Sha1::new().chain_update(NAMESPACE.as_bytes());
    for part in [kind, source_id, name] {
        hash = hash.chain_update(part).chain_update([0]);
    }
    if let Some(index) = index {
        hash = hash.chain_update(index.to_string());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    Builder::from_sha1_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_follows_from_source_key_and_index_in_every_process() {
        let id = named_id("sensor-1", Name::Key("key", None));

        assert_eq!(id.get_version_num(), 5);
        assert_eq!(id, named_id("sensor-1", Name::Key("key", None)));
        let others = [
            named_id("sensor-2", Name::Key("key", None)),
            named_id("sensor-1", Name::Key("kez", None)),
            named_id("sensor-1", Name::Key("key", Some(0))),
            named_id("sensor-1", Name::Key("key", Some(1))),
            named_id("sensor-1", Name::Id("key")),
        ];
        assert!(!others.contains(&id));
        assert_ne!(others[2], others[3]);
    }
}
