//! Reads templates, and names the place of what is wrong.

use std::fmt;

use super::decimal::Decimals;
use super::{NAMES, Part, Value, Walk};

/// Most characters of a line that an error shows on each side of its place.
const SHOWN: usize = 40;
/// Most digits of a `pad`.
const MAX_PAD: usize = 10_000_000;

/// Fault of a template, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrongTemplate {
    line: usize,
    column: usize,
    /// Part of the line around the place.
    shown: String,
    /// Characters of `shown` before the place.
    before: usize,
    why: String,
}

impl WrongTemplate {
    fn at(text: &str, place: usize, why: impl Into<String>) -> Self {
        let (above, rest) = text.split_at(place);
        let start = above.rfind('\n').map_or(0, |end| end + 1);
        let before: Vec<_> = above[start..].chars().collect();
        let after = rest.lines().next().unwrap_or_default().chars().take(SHOWN);
        let near = &before[before.len().saturating_sub(SHOWN)..];
        Self {
            line: above.matches('\n').count() + 1,
            column: before.len() + 1,
            shown: near.iter().copied().chain(after).collect(),
            before: near.len(),
            why: why.into(),
        }
    }
}

impl fmt::Display for WrongTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, shown, before, why } = self;
        write!(f, "line {line}, column {column}: {why}\n    {shown}\n    {:before$}^", "")
    }
}

impl std::error::Error for WrongTemplate {}

/// Returns the parts of a template.
pub(super) fn parts(text: &str) -> Result<Vec<Part>, WrongTemplate> {
    let mut parts = Vec::new();
    let (mut from, mut walks) = (0, 0);
    while let Some(open) = text[from..].find("{{").map(|open| from + open) {
        let inner = open + 2;
        let Some(close) = text[inner..].find("}}").map(|close| inner + close) else {
            return Err(WrongTemplate::at(text, open, "this placeholder has no end: add }}"));
        };
        push_text(&mut parts, &text[from..open]);
        match value(&text[inner..close], walks) {
            Ok(Some(value)) => {
                walks += usize::from(matches!(value, Value::Walk(_)));
                parts.push(Part::Value(value));
            }
            Ok(None) => push_text(&mut parts, "{{"),
            Err(why) => return Err(WrongTemplate::at(text, open, why)),
        }
        from = close + 2;
    }
    push_text(&mut parts, &text[from..]);
    Ok(parts)
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(before)) => before.push_str(text),
        Some(Part::Value(_)) | None => parts.push(Part::Text(text.to_owned())),
    }
}

/// Returns the value of a placeholder, or `None` for two literal braces.
fn value(inner: &str, slot: usize) -> Result<Option<Value>, String> {
    let words: Vec<_> = inner.split_whitespace().collect();
    let Some((&name, given)) = words.split_first() else {
        return Err(format!("a placeholder needs a name: {}", NAMES.join(", ")));
    };
    let value = match (name, given) {
        ("open", []) => return Ok(None),
        ("device", []) => Value::Device,
        ("index", []) => Value::Index,
        ("number", []) => Value::Number,
        ("now", []) => Value::Now,
        ("now", ["ms"]) => Value::NowMs,
        ("uuid", []) => Value::Uuid,
        ("run", []) => Value::Run,
        ("seq", _) => seq(given)?,
        ("walk", _) => walk(given, slot)?,
        ("random", _) => random(given)?,
        ("pick", [_, ..]) => Value::Pick(given.iter().map(|word| (*word).to_owned()).collect()),
        ("pick", []) => return Err("pick needs words, such as {{pick red green}}".into()),
        ("pad", [digits]) => match digits.parse() {
            Ok(digits) if digits <= MAX_PAD => Value::Pad(digits),
            _ => return Err(format!("pad takes a number of digits up to {MAX_PAD}")),
        },
        ("pad", _) => return Err("pad takes one number, such as {{pad 100}}".into()),
        ("now", _) => return Err("now takes nothing, or ms: {{now}}, {{now ms}}".into()),
        _ if NAMES.contains(&name) => return Err(format!("{name} takes nothing: {{{{{name}}}}}")),
        _ => return Err(format!("{name} is no placeholder; there are {}", NAMES.join(", "))),
    };
    Ok(Some(value))
}

fn seq(given: &[&str]) -> Result<Value, String> {
    let whole = |text: &str| text.parse().map_err(|_| format!("{text} is no whole number"));
    match given {
        [] => Ok(Value::Seq { start: 0, step: 1 }),
        [start] => Ok(Value::Seq { start: whole(start)?, step: 1 }),
        [start, step] => Ok(Value::Seq { start: whole(start)?, step: whole(step)? }),
        _ => Err("seq takes a start and a step, such as {{seq 100 5}}".into()),
    }
}

fn walk(given: &[&str], slot: usize) -> Result<Value, String> {
    let (decimals, numbers) = numbers(given)?;
    let (start, step, min, max) = match numbers[..] {
        [start, step] => (start, step, i64::MIN, i64::MAX),
        [start, step, min, max] => (start, step, min, max),
        _ => {
            return Err("walk takes a start and a step, and then a least and a greatest value: \
                {{walk 20 0.5}}, {{walk 20 0.5 0 40}}"
                .into());
        }
    };
    if step < 0 {
        return Err("the step of a walk must not be below 0".into());
    }
    if !(min..=max).contains(&start) {
        return Err("a walk must start within its bounds".into());
    }
    Ok(Value::Walk(Walk { slot, start, step, min, max, decimals }))
}

fn random(given: &[&str]) -> Result<Value, String> {
    match numbers(given)? {
        (decimals, numbers) if numbers.len() == 2 && numbers[0] <= numbers[1] => {
            Ok(Value::Random { from: numbers[0], to: numbers[1], decimals })
        }
        _ => Err("random takes a least and a greatest value, such as {{random 1 6}}".into()),
    }
}

fn numbers(given: &[&str]) -> Result<(Decimals, Vec<i64>), String> {
    Decimals::read(given).map_err(|wrong| format!("{wrong} is no number such as 20 or -0.25"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        parts(text).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_placeholder_is_shown_at_its_place() {
        let said = wrong("{\n  \"ü\": {{sqe}}}");

        let expected = "line 2, column 8: sqe is no placeholder; there are device, index, seq, number, \
            walk, random, pick, now, uuid, run, pad, open\n      \"ü\": {{sqe}}}\n           ^";
        assert_eq!(said, expected);
    }

    #[test]
    fn a_long_line_is_shown_around_the_place() {
        let said = wrong(&format!("{}{{{{x}}}}{}", "a".repeat(1000), "b".repeat(1000)));

        let lines: Vec<_> = said.lines().collect();
        assert!(lines[0].starts_with("line 1, column 1001: "), "{said}");
        assert_eq!(lines[1].trim(), format!("{}{{{{x}}}}{}", "a".repeat(40), "b".repeat(35)));
        assert_eq!(lines[2].len(), 4 + 40 + 1);
    }

    #[test]
    fn each_fault_says_what_would_be_right() {
        for (text, right) in [
            ("a {{device", "add }}"),
            ("{{}}", "needs a name"),
            ("{{device 1}}", "device takes nothing: {{device}}"),
            ("{{seq 1.5}}", "1.5 is no whole number"),
            ("{{seq 1 2 3}}", "{{seq 100 5}}"),
            ("{{walk}}", "{{walk 20 0.5}}"),
            ("{{walk 20 x}}", "x is no number"),
            ("{{walk 20 -1}}", "must not be below 0"),
            ("{{walk 20 1 0 10}}", "within its bounds"),
            ("{{random 6 1}}", "{{random 1 6}}"),
            ("{{pick}}", "{{pick red green}}"),
            ("{{pad many}}", "number of digits"),
            ("{{pad}}", "{{pad 100}}"),
            ("{{now s}}", "{{now ms}}"),
        ] {
            let said = wrong(text);
            assert!(said.contains(right), "{text}: {said}");
        }
    }

    #[test]
    fn braces_of_json_are_text() {
        let text = r#"{"a":{"b":{{seq}}}}"#;

        let expected = [
            Part::Text(r#"{"a":{"b":"#.into()),
            Part::Value(Value::Seq { start: 0, step: 1 }),
            Part::Text("}}".into()),
        ];
        assert_eq!(parts(text).unwrap(), expected);
    }
}
