//! Default of a column: an SQL expression. The service itself fills in a default that is a literal.

use serde_json::Value;

use super::{Column, Kind, Mode};
use crate::cell::Cell;
use crate::convert::convert;

impl Column {
    /// Returns the value that replaces a missing one, if the default is a literal of the column's
    /// type.
    pub fn default_cell(&self) -> Option<Cell> {
        let value = literal(self.default.as_deref()?)?;
        let one = Self { mode: Mode::Nullable, default: None, ..self.clone() };
        convert(&one, Some(&value)).ok().filter(|cell| *cell != Cell::Null)
    }

    /// Returns true if only BigQuery can evaluate the default.
    pub fn needs_bigquery(&self) -> bool {
        let is_null =
            self.default.as_deref().and_then(literal).is_some_and(|value| value.is_null());
        self.default.is_some() && !is_null && self.default_cell().is_none()
    }

    /// Returns the reason why the column must not have the default that it has.
    pub(super) fn default_fault(&self, depth: usize) -> Option<&'static str> {
        self.default.as_ref()?;
        match (depth, self.kind(), self.mode) {
            (1.., ..) => {
                Some("must not be there: fields of a record have no defaults of their own")
            }
            (_, Kind::Record, _) => Some("must not be there: a RECORD has no default"),
            (_, _, Mode::Repeated) => {
                Some("must not be there: the default of a list is an empty one")
            }
            _ => None,
        }
    }
}

/// Parses an SQL literal. Returns `None` for any other expression.
fn literal(text: &str) -> Option<Value> {
    let text = text.trim();
    match text.to_ascii_uppercase().as_str() {
        "NULL" => return Some(Value::Null),
        "TRUE" => return Some(true.into()),
        "FALSE" => return Some(false.into()),
        _ => {}
    }
    if text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return message::json::parse(text.as_bytes()).ok();
    }
    let quote = text.find(['\'', '"'])?;
    let (kind, quoted) = text.split_at(quote);
    let content = unquote(quoted)?;
    match kind.trim().to_ascii_uppercase().as_str() {
        "" | "DATE" | "TIME" | "DATETIME" | "TIMESTAMP" | "NUMERIC" | "BIGNUMERIC" => {
            Some(content.into())
        }
        "JSON" => message::json::parse(content.as_bytes()).ok(),
        _ => None,
    }
}

/// Returns the text between quotes, or `None` if it has escapes: only BigQuery evaluates those.
fn unquote(text: &str) -> Option<&str> {
    let quote = text.chars().next()?;
    let content = text.strip_prefix(quote)?.strip_suffix(quote)?;
    (!content.contains([quote, '\\'])).then_some(content)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn column(kind: Kind, default: &str) -> Column {
        Column { default: Some(default.into()), ..Column::new("c", kind) }
    }

    #[test]
    fn literals_are_values_and_other_expressions_are_not() {
        for (text, expected) in [
            ("0", Some(json!(0))),
            ("-1.5", Some(json!(-1.5))),
            ("1234567890123456.789", Some(json!("1234567890123456.789"))),
            ("JSON '[89490200001234567890]'", Some(json!(["89490200001234567890"]))),
            ("1 + 1", None),
            (" true ", Some(json!(true))),
            ("'none'", Some(json!("none"))),
            ("\"it's\"", Some(json!("it's"))),
            ("DATE '2025-01-01'", Some(json!("2025-01-01"))),
            ("NUMERIC '1.50'", Some(json!("1.50"))),
            ("JSON '{\"a\": 1}'", Some(json!({ "a": 1 }))),
            ("null", Some(Value::Null)),
            ("CURRENT_TIMESTAMP()", None),
            ("'a' || 'b'", None),
            ("'a\\n'", None),
            ("b'aa'", None),
            ("'", None),
            ("", None),
        ] {
            assert_eq!(literal(text), expected, "{text}");
        }
    }

    #[test]
    fn a_literal_of_the_type_is_the_cell_of_a_missing_value() {
        let at = column(Kind::Timestamp, "TIMESTAMP '1970-01-01 00:00:01 UTC'");
        assert_eq!(at.default_cell(), Some(Cell::Micros(1_000_000)));
        assert!(!at.needs_bigquery());
        for (kind, default, needs_bigquery) in [
            (Kind::Int64, "'x'", true),
            (Kind::Timestamp, "CURRENT_TIMESTAMP()", true),
            (Kind::Int64, "NULL", false),
        ] {
            let column = column(kind, default);
            assert_eq!(column.default_cell(), None);
            assert_eq!(column.needs_bigquery(), needs_bigquery, "{default}");
        }
        assert!(!Column::new("c", Kind::Int64).needs_bigquery());
    }
}
