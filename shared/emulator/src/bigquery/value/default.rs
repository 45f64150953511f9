//! Default values. Supported are literals and functions such as `CURRENT_TIMESTAMP()`.

use serde_json::{Map, Number, Value};
use time::OffsetDateTime;

use super::{lookup_given, normal, write_date, write_datetime, write_time, write_timestamp};
use crate::bigquery::schema::{DEFAULT, Field, Mode};

/// Fills fields that a row lacks with their defaults. A field that is `null` stays `null`.
///
/// # Errors
/// Fails for a default that this emulator cannot evaluate, and names it.
pub(in super::super) fn fill<'a>(
    fields: impl IntoIterator<Item = &'a Field>,
    row: &mut Map<String, Value>,
) -> Result<(), String> {
    for field in fields {
        let default = field.attributes.get(DEFAULT).and_then(Value::as_str);
        if let (Some(default), None) = (default, lookup_given(row, &field.name)) {
            let value = evaluate(default).ok_or_else(|| {
                format!("this emulator does not support the default {default} of {}", field.name)
            })?;
            row.insert(field.name.clone(), value);
        }
    }
    Ok(())
}

/// Refuses defaults that are not values of their fields. Expressions that this emulator cannot
/// evaluate are accepted.
pub(in super::super) fn check(fields: &[Field]) -> Result<(), String> {
    for field in fields {
        check_one(field)?;
        check(&field.fields)?;
    }
    Ok(())
}

fn check_one(field: &Field) -> Result<(), String> {
    let default = field.attributes.get(DEFAULT).and_then(Value::as_str);
    let Some((default, value)) = default.and_then(|text| Some((text, evaluate(text)?))) else {
        return Ok(());
    };
    let one = Field { mode: Mode::Nullable, ..field.clone() };
    let fits = normal(&one, &value, false, &field.name);
    fits.map(drop).map_err(|fault| {
        format!(
            "Invalid default value expression {default} of field {}: {}",
            field.name, fault.message
        )
    })
}

fn evaluate(expression: &str) -> Option<Value> {
    let expression = expression.trim();
    let upper = expression.to_ascii_uppercase();
    let now = OffsetDateTime::now_utc();
    match upper.trim_end_matches("()") {
        "NULL" => return Some(Value::Null),
        "TRUE" => return Some(true.into()),
        "FALSE" => return Some(false.into()),
        "CURRENT_TIMESTAMP" => return Some(write_timestamp(now).into()),
        "CURRENT_DATETIME" => return Some(write_datetime(now).into()),
        "CURRENT_DATE" => return Some(write_date(now.date()).into()),
        "CURRENT_TIME" => return Some(write_time(now.time()).into()),
        "GENERATE_UUID" => return Some(uuid::Uuid::new_v4().to_string().into()),
        _ => {}
    }
    if let Ok(number) = serde_json::from_str::<Number>(expression) {
        return Some(Value::Number(number));
    }
    // A literal, or a literal after the name of its type.
    let (kind, quoted) = expression.split_at(expression.find(['\'', '"'])?);
    let quote = quoted.chars().next()?;
    let content = quoted.strip_prefix(quote)?.strip_suffix(quote)?;
    let is_plain = !content.contains([quote, '\\']);
    let is_type = kind.trim().chars().all(|char| char.is_ascii_alphabetic());
    (is_plain && is_type).then(|| content.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_are_not_given_have_their_defaults() {
        let field = |name: &str, default: Option<&str>| {
            let mut field = json!({ "name": name, "type": "STRING" });
            field[DEFAULT] = default.map_or(Value::Null, Value::from);
            serde_json::from_value::<Field>(field).expect("a field")
        };
        let fields = [
            field("literal", Some("'x'")),
            field("number", Some("-7")),
            field("none", None),
            field("given", Some("'x'")),
            field("nothing", Some("'x'")),
            field("now", Some("CURRENT_DATE()")),
        ];
        let mut row = json!({ "GIVEN": "y", "nothing": null });
        let row = row.as_object_mut().expect("a row");

        assert_eq!(fill(&fields, row), Ok(()));

        let now = row.remove("now").expect("a day");
        assert!(now.as_str().is_some_and(|day| day.len() == 10), "{now}");
        let expected = json!({ "literal": "x", "number": -7, "GIVEN": "y", "nothing": null });
        assert_eq!(Value::from(row.clone()), expected);
        assert!(fill(&[field("f", Some("'a' || 'b'"))], &mut Map::new()).is_err());
    }
}
