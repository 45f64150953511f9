//! Token of the next page: the place of the last row. Callers must not read anything into it.

use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// Longest token that is read.
const MAX_BYTES: usize = 4096;

/// Microseconds of the years 1 to 9999, which every row has.
const MICROS: RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

/// Place of a row in the order of rows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Time of the row, in microseconds since 1970-01-01.
    #[serde(rename = "t")]
    pub micros: i64,
    /// Id of the row.
    #[serde(rename = "i")]
    pub ingest_id: String,
}

impl Place {
    /// Writes the token.
    pub(crate) fn token(&self) -> String {
        // Numbers and text always have a form in JSON.
        let json = serde_json::to_vec(self).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(json)
    }

    /// Reads a token.
    pub(crate) fn read(token: &str) -> Option<Self> {
        if token.len() > MAX_BYTES {
            return None;
        }
        let json = URL_SAFE_NO_PAD.decode(token).ok()?;
        let place: Self = serde_json::from_slice(&json).ok()?;
        let is_right = MICROS.contains(&place.micros) && !place.ingest_id.contains('\0');
        is_right.then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let place = Place { micros: -1, ingest_id: "a/b=ü".into() };

        assert_eq!(Place::read(&place.token()), Some(place));
        for wrong in ["", "x", "e30", "bnVsbA", &"a".repeat(5000)] {
            assert_eq!(Place::read(wrong), None, "{wrong}");
        }
        let far = Place { micros: i64::MIN, ingest_id: "1".into() };
        assert_eq!(Place::read(&far.token()), None);
        let nul = Place { micros: 0, ingest_id: "\0".into() };
        assert_eq!(Place::read(&nul.token()), None, "PostgreSQL cannot hold it");
    }
}
