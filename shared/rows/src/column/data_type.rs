//! Type of a column with its parameters, as in SQL: `STRING(10)`, `NUMERIC(10,2)`, `RANGE<DATE>`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Type with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Type {
    /// Type without its parameters.
    pub kind: Kind,
    /// Parameters. They fit the kind.
    pub limit: Limit,
}

/// Types of BigQuery, with their names in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Text.
    #[default]
    String,
    /// Bytes.
    Bytes,
    /// A whole number of 64 bits.
    Int64,
    /// A floating-point number of 64 bits.
    Float64,
    /// True or false.
    Bool,
    /// A point in time, to the microsecond.
    Timestamp,
    /// A day.
    Date,
    /// A time of day.
    Time,
    /// A day and a time of day, without a time zone.
    Datetime,
    /// An exact number: 29 digits before the point, 9 behind it.
    Numeric,
    /// An exact number: 38 digits before the point, 38 behind it.
    Bignumeric,
    /// Any JSON value.
    Json,
    /// Points, lines and areas on the earth.
    Geography,
    /// A span of months, days and microseconds.
    Interval,
    /// The span between two values of a type.
    Range(Element),
    /// A group of fields.
    Record,
}

/// Type of the two ends of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Days.
    Date,
    /// Days with times of day.
    Datetime,
    /// Points in time.
    Timestamp,
}

/// Parameters of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limit {
    /// No parameters.
    #[default]
    None,
    /// Maximum characters of a STRING, or maximum bytes of BYTES.
    Length(u64),
    /// Maximum digits of a NUMERIC or BIGNUMERIC.
    Digits {
        /// All digits.
        precision: u32,
        /// Digits behind the point.
        scale: u32,
    },
}

impl Element {
    /// Returns the type of one end.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Date => Kind::Date,
            Self::Datetime => Kind::Datetime,
            Self::Timestamp => Kind::Timestamp,
        }
    }
}

/// Names with their types. A type with several names is written with the first one.
const NAMES: [(&str, Kind); 24] = [
    ("STRING", Kind::String),
    ("BYTES", Kind::Bytes),
    ("INT64", Kind::Int64),
    ("FLOAT64", Kind::Float64),
    ("BOOL", Kind::Bool),
    ("TIMESTAMP", Kind::Timestamp),
    ("DATE", Kind::Date),
    ("TIME", Kind::Time),
    ("DATETIME", Kind::Datetime),
    ("NUMERIC", Kind::Numeric),
    ("BIGNUMERIC", Kind::Bignumeric),
    ("JSON", Kind::Json),
    ("GEOGRAPHY", Kind::Geography),
    ("INTERVAL", Kind::Interval),
    ("RANGE<DATE>", Kind::Range(Element::Date)),
    ("RANGE<DATETIME>", Kind::Range(Element::Datetime)),
    ("RANGE<TIMESTAMP>", Kind::Range(Element::Timestamp)),
    ("RECORD", Kind::Record),
    ("INTEGER", Kind::Int64),
    ("FLOAT", Kind::Float64),
    ("BOOLEAN", Kind::Bool),
    ("STRUCT", Kind::Record),
    ("DECIMAL", Kind::Numeric),
    ("BIGDECIMAL", Kind::Bignumeric),
];

impl Kind {
    /// Returns the name of the type in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// Returns the maximum digits before the point and behind it.
    pub fn digits(self) -> Option<(u32, u32)> {
        match self {
            Self::Numeric => Some((29, 9)),
            Self::Bignumeric => Some((38, 38)),
            _ => None,
        }
    }
}

impl From<Kind> for Type {
    fn from(kind: Kind) -> Self {
        Self { kind, limit: Limit::None }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        match self.limit {
            Limit::None => Ok(()),
            Limit::Length(length) => write!(f, "({length})"),
            Limit::Digits { precision, scale: 0 } => write!(f, "({precision})"),
            Limit::Digits { precision, scale } => write!(f, "({precision},{scale})"),
        }
    }
}

impl FromStr for Type {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, parameters) = match text.split_once('(') {
            Some((name, parameters)) => (name, parameters.strip_suffix(')').ok_or(unknown(text))?),
            None => (text, ""),
        };
        let found = NAMES.iter().find(|(known, _)| *known == name.trim_end());
        let (_, kind) = found.ok_or_else(|| unknown(text))?;
        if parameters.is_empty() {
            return if text == name { Ok((*kind).into()) } else { Err(unknown(text)) };
        }
        let numbers: Result<Vec<u64>, _> =
            parameters.split(',').map(|number| number.trim().parse::<u64>()).collect();
        let numbers = numbers.map_err(|_| unknown(text))?;
        let limit = match (kind, kind.digits(), numbers.as_slice()) {
            (Kind::String | Kind::Bytes, _, [length]) => {
                let is_right = (1..=i64::MAX.unsigned_abs()).contains(length);
                is_right.then_some(Limit::Length(*length)).ok_or("the length must be above zero")
            }
            (_, Some(most), [precision]) => digits(most, *precision, 0),
            (_, Some(most), [precision, scale]) => digits(most, *precision, *scale),
            _ => Err("this type does not take such parameters"),
        };
        Ok(Self { kind: *kind, limit: limit.map_err(|why| format!("`{text}`: {why}"))? })
    }
}

/// Checks parameters against the limits of BigQuery:
/// <https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#parameterized_decimal_type>.
fn digits((whole, behind): (u32, u32), precision: u64, scale: u64) -> Result<Limit, &'static str> {
    let scale = u32::try_from(scale).ok().filter(|scale| *scale <= behind);
    let precision = u32::try_from(precision).ok();
    match (precision, scale) {
        (Some(precision), Some(scale)) if (scale.max(1)..=scale + whole).contains(&precision) => {
            Ok(Limit::Digits { precision, scale })
        }
        _ if behind == 9 => {
            Err("NUMERIC(P,S) takes S from 0 to 9, and P from S, at least 1, to S + 29")
        }
        _ => Err("BIGNUMERIC(P,S) takes S from 0 to 38, and P from S, at least 1, to S + 38"),
    }
}

fn unknown(text: &str) -> String {
    let names: Vec<_> = NAMES[..18].iter().map(|(name, _)| *name).collect();
    format!(
        "`{text}` is no type: must be one of {}; some take parameters, as in STRING(10), BYTES(16), \
         NUMERIC(10,2) and BIGNUMERIC(40,10)",
        names.join(", ")
    )
}

impl JsonSchema for Type {
    fn schema_name() -> Cow<'static, str> {
        "Type".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
        json_schema!({
            "description": "A type of BigQuery, such as STRING, STRING(10), NUMERIC(10,2), RANGE<DATE>",
            "type": "string",
            "pattern": format!("^({})( *\\([0-9, ]+\\))?$", names.join("|")),
        })
    }
}

impl Serialize for Type {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Type {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Type, String> {
        text.parse()
    }

    #[test]
    fn types_are_read_as_they_are_written() {
        for (name, _) in &NAMES[..18] {
            assert_eq!(parsed(name).unwrap().to_string(), *name);
        }
        for (text, written) in [
            ("STRING(10)", "STRING(10)"),
            ("BYTES( 16 )", "BYTES(16)"),
            ("NUMERIC(10,2)", "NUMERIC(10,2)"),
            ("NUMERIC(10, 0)", "NUMERIC(10)"),
            ("DECIMAL(29)", "NUMERIC(29)"),
            ("BIGNUMERIC(76, 38)", "BIGNUMERIC(76,38)"),
            ("INTEGER", "INT64"),
            ("STRUCT", "RECORD"),
        ] {
            assert_eq!(parsed(text).unwrap().to_string(), written, "{text}");
        }
    }

    #[test]
    fn parameters_beyond_the_limits_are_refused_with_what_is_right() {
        for (text, why) in [
            ("STRING(0)", "the length must be above zero"),
            ("STRING(9223372036854775808)", "above zero"),
            ("NUMERIC(39,9)", "S from 0 to 9, and P from S, at least 1, to S + 29"),
            ("NUMERIC(10,10)", "S from 0 to 9"),
            ("NUMERIC(1,2)", "P from S"),
            ("NUMERIC(0)", "at least 1"),
            ("NUMERIC(30)", "S + 29"),
            ("BIGNUMERIC(39)", "BIGNUMERIC(P,S) takes S from 0 to 38"),
            ("INT64(3)", "does not take such parameters"),
            ("STRING(1,2)", "does not take such parameters"),
            ("STRING()", "is no type"),
            ("STRING(x)", "is no type"),
            ("STRING(1", "is no type"),
            ("RANGE<INT64>", "RANGE<TIMESTAMP>"),
            ("string", "must be one of STRING, BYTES"),
            ("", "is no type"),
        ] {
            let refused = parsed(text).unwrap_err();
            assert!(refused.contains(why) && refused.contains(text), "{text}: {refused}");
        }
    }
}
