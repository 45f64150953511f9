//! Functions of texts that SQLite lacks, or that have another meaning there.

use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::Value as Sql;

use super::scalar::{FunctionResult, add, failed, text};

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    add(connection, "like", 2, like)?;
    add(connection, "LOWER", 1, |call| change(call, str::to_lowercase))?;
    add(connection, "UPPER", 1, |call| change(call, str::to_uppercase))?;
    add(connection, "TRIM", 1, |call| change(call, |text| text.trim().into()))?;
    add(connection, "LTRIM", 1, |call| change(call, |text| text.trim_start().into()))?;
    add(connection, "RTRIM", 1, |call| change(call, |text| text.trim_end().into()))?;
    add(connection, "SUBSTR", 2, substring)?;
    add(connection, "SUBSTR", 3, substring)
}

fn change(call: &Context<'_>, change: fn(&str) -> String) -> FunctionResult {
    Ok(call.get::<Option<String>>(0)?.map(|given| text(change(&given))))
}

/// Returns a part of a text. Position 0 means 1, and negative positions count from the end.
fn substring(call: &Context<'_>) -> FunctionResult {
    let (Some(given), Some(position)) =
        (call.get::<Option<String>>(0)?, call.get::<Option<i64>>(1)?)
    else {
        return Ok(None);
    };
    let length = if call.len() > 2 {
        let Some(length) = call.get::<Option<i64>>(2)? else { return Ok(None) };
        usize::try_from(length)
            .map_err(|_| failed("Third argument in SUBSTR() cannot be negative"))?
    } else {
        usize::MAX
    };
    let skipped = match usize::try_from(position) {
        Ok(position) => position.saturating_sub(1),
        Err(_) => {
            let back = usize::try_from(position.unsigned_abs()).unwrap_or(usize::MAX);
            given.chars().count().saturating_sub(back)
        }
    };
    Ok(Some(text(given.chars().skip(skipped).take(length).collect())))
}

/// PatternPart of a pattern of LIKE.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PatternPart {
    Char(char),
    One,
    Any,
}

/// Executes `value LIKE pattern`. Its arguments are the pattern and the value.
fn like(call: &Context<'_>) -> FunctionResult {
    let (Some(pattern), Some(value)) = (as_text(call.get::<Sql>(0)?), as_text(call.get::<Sql>(1)?))
    else {
        return Ok(None);
    };
    let mut parts = Vec::new();
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        parts.push(match char {
            '%' => PatternPart::Any,
            '_' => PatternPart::One,
            '\\' => {
                let escaped = chars.next();
                PatternPart::Char(
                    escaped.ok_or_else(|| failed("LIKE pattern ends with a backslash"))?,
                )
            }
            char => PatternPart::Char(char),
        });
    }
    let value: Vec<char> = value.chars().collect();
    Ok(Some(Sql::Integer(fits(&value, &parts).into())))
}

fn as_text(value: Sql) -> Option<String> {
    match value {
        Sql::Null => None,
        Sql::Integer(number) => Some(number.to_string()),
        Sql::Real(number) => Some(number.to_string()),
        Sql::Text(text) => Some(text),
        Sql::Blob(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// Compares a value with a pattern. After a failure it goes back to the last `%` only.
fn fits(value: &[char], parts: &[PatternPart]) -> bool {
    let (mut at, mut part) = (0, 0);
    let mut last_any = None;
    while at < value.len() {
        match parts.get(part) {
            Some(PatternPart::Any) => {
                last_any = Some((at, part));
                part += 1;
                continue;
            }
            Some(PatternPart::One) => {}
            Some(PatternPart::Char(char)) if *char == value[at] => {}
            Some(PatternPart::Char(_)) | None => {
                let Some((from, any)) = last_any else { return false };
                last_any = Some((from + 1, any));
                (at, part) = (from + 1, any + 1);
                continue;
            }
        }
        (at, part) = (at + 1, part + 1);
    }
    parts[part.min(parts.len())..].iter().all(|part| *part == PatternPart::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_values() {
        let fits =
            |value: &str, parts: &[PatternPart]| fits(&value.chars().collect::<Vec<_>>(), parts);
        let (any, one, b) = (PatternPart::Any, PatternPart::One, PatternPart::Char('b'));

        assert!(fits("", &[]) && fits("", &[any]) && fits("abab", &[any, b]));
        assert!(fits("aab", &[any, one, b]) && fits("b", &[b, any]));
        assert!(!fits("", &[one]) && !fits("ba", &[b]) && !fits("b", &[any, one, b]));
    }
}
