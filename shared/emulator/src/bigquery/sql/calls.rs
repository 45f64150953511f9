//! Writes function calls, records and lists in SQLite's SQL.

use super::super::schema::{Field, FieldType, Mode, kind_named, new_field};
use super::super::sqlite::literal;
use super::infer::{is_bool, is_bytes, is_exact};
use super::known::{KEYWORDS, OF_ANY_TYPE, is_missing, is_supported};
use super::lex::Token;
use super::source::{is_any, last, split};
use super::write::{Writer, as_number};
use crate::status::Status;

/// Functions that have another name in SQLite.
const RENAMED: [(&str, &str); 18] = [
    ("ANY_VALUE", "max"),
    ("ARRAY_AGG", "json_group_array"),
    ("BYTE_LENGTH", "octet_length"),
    ("CEILING", "CEIL"),
    ("CHARACTER_LENGTH", "length"),
    ("CHAR_LENGTH", "length"),
    ("GREATEST", "max"),
    ("IF", "iif"),
    ("JSON_EXTRACT", "JSON_QUERY"),
    ("JSON_EXTRACT_SCALAR", "JSON_VALUE"),
    ("LEAST", "min"),
    ("LOGICAL_AND", "min"),
    ("LOGICAL_OR", "max"),
    ("OCTET_LENGTH", "octet_length"),
    ("POWER", "POW"),
    ("STRING_AGG", "group_concat"),
    ("STRPOS", "instr"),
    ("SUBSTRING", "SUBSTR"),
];
/// Rest of a CASE that converts a BOOL to JSON.
const JSON_OF_BOOL: &str = ") WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE 'null' END)";

impl Writer<'_> {
    /// Writes a function call.
    pub(super) fn call(&mut self, parts: &[String], at: usize) -> Result<usize, Status> {
        let (open, close) = (at + 1, self.closing(at + 1)?);
        let [word] = parts else {
            return Err(Status::unimplemented(&format!("the function {}", parts.join("."))));
        };
        let upper = word.to_ascii_uppercase();
        if is_any(word, &KEYWORDS) && !is_missing(&upper) {
            return Ok(self.push(word, open));
        }
        if let Some(next) = self.time_call(&upper, open, close)? {
            return Ok(next);
        }
        match upper.as_str() {
            "CAST" | "SAFE_CAST" => self.cast(&upper, open, close),
            "EXTRACT" => self.extract(open, close),
            "UNNEST" if self.before(at).is_some_and(|before| before.is_word("IN")) => {
                let item = self.types.of_range(open + 1, close);
                let item = item.map(|field| Field { mode: Mode::Nullable, ..field });
                let value =
                    if is_exact(item.as_ref()) { as_number("value") } else { "value".into() };
                self.push(&format!("(SELECT {value} FROM json_each ("), open);
                self.range(open + 1, close)?;
                Ok(self.push("))", close + 1))
            }
            "UNNEST" => Ok(self.push("json_each", open)),
            "APPROX_COUNT_DISTINCT" => {
                self.push("COUNT (DISTINCT", open);
                self.range(open + 1, close)?;
                Ok(self.push(")", close + 1))
            }
            "COUNTIF" => {
                self.push("COUNT (CASE WHEN", open);
                self.range(open + 1, close)?;
                Ok(self.push("THEN 1 END)", close + 1))
            }
            "STRUCT" => self.structure(open, close),
            "TO_JSON" | "TO_JSON_STRING"
                if is_bool(self.types.of_range(open + 1, close).as_ref()) =>
            {
                self.push("(CASE (", open);
                self.range(open + 1, close)?;
                Ok(self.push(JSON_OF_BOOL, close + 1))
            }
            "ARRAY" => Err(Status::unimplemented("ARRAY over a subquery")),
            _ => self.named_call(&upper, at, open, close),
        }
    }

    /// Writes `CAST(value AS type)` or `SAFE_CAST(value AS type)`.
    fn cast(&mut self, name: &str, open: usize, close: usize) -> Result<usize, Status> {
        let at = open - 1;
        let is_as = |place: &usize| self.tokens[*place].is_word("AS");
        let Some(as_at) = (open..close).rev().find(is_as) else {
            return Err(self.wrong(at, "Syntax error: Expected keyword AS"));
        };
        let kind = self.tokens[as_at + 1].word().unwrap_or_default().to_ascii_uppercase();
        let Some(kind) =
            kind_named(&kind).filter(|_| as_at + 2 == close || self.tokens[as_at + 2].is_sign("("))
        else {
            return Err(Status::unimplemented(&format!("CAST to {kind}")));
        };
        let field = new_field("", kind);
        let is_number = self.types.needs_number(Some(&field), at, close + 1);
        self.push(if is_number { "CAST ( BQ_CAST (" } else { "BQ_CAST (" }, open);
        self.range(open + 1, as_at)?;
        let is_safe = i32::from(name == "SAFE_CAST");
        let given = self.types.of_range(open + 1, as_at);
        let given = match given.as_ref() {
            given if is_bool(given) => literal("Boolean"),
            given if is_exact(given) => literal("Numeric"),
            Some(given) if is_bytes(given) => literal("Bytes"),
            _ => "''".to_owned(),
        };
        self.push(&format!(", '{kind:?}', {is_safe}, {given})"), close + 1);
        Ok(self.push(if is_number { "AS REAL)" } else { "" }, close + 1))
    }

    /// Writes a call of a function that SQLite has, or that is registered there.
    ///
    /// # Errors
    /// Fails for any other function, and for arguments of a type that the function would misread.
    fn named_call(
        &mut self,
        name: &str,
        at: usize,
        open: usize,
        close: usize,
    ) -> Result<usize, Status> {
        if is_missing(name) {
            return Err(Status::unimplemented(&format!("the function {name}")));
        }
        if !is_supported(name) {
            return Err(self.wrong(at, &format!("Function not found: {name}")));
        }
        let arguments = split(self.tokens, open + 1, close);
        let is_bytes = |(from, to): &(usize, usize)| {
            self.types.of_range(*from, *to).is_some_and(|field| is_bytes(&field))
        };
        if !OF_ANY_TYPE.contains(&name) && arguments.iter().any(is_bytes) {
            return Err(Status::unimplemented(&format!("{name} of BYTES")));
        }
        let is_single = ["GREATEST", "LEAST"].contains(&name) && arguments.len() == 1;
        if is_single {
            return Ok(open);
        }
        if ["MAX", "MIN"].contains(&name) && arguments.len() != 1 {
            let why = format!("Number of arguments does not match for aggregate function {name}");
            return Err(self.wrong(at, &why));
        }
        let renamed = RENAMED.iter().find(|(from, _)| *from == name);
        Ok(self.push(renamed.map_or(name, |(_, to)| to), open))
    }

    /// Writes `[value, ...]`.
    pub(super) fn list(&mut self, open: usize, close: usize) -> Result<usize, Status> {
        self.push("json_array (", open);
        for (index, (from, to)) in split(self.tokens, open + 1, close).into_iter().enumerate() {
            self.push(if index > 0 { "," } else { "" }, from);
            self.json_item(from, to)?;
        }
        Ok(self.push(")", close + 1))
    }

    /// Writes a value of a list or record. SQLite would keep a BOOL as a number, and a list or
    /// record of a table as text.
    fn json_item(&mut self, from: usize, to: usize) -> Result<usize, Status> {
        let (before, after) = match self.types.of_range(from, to) {
            Some(field) if is_bool(Some(&field)) => ("json (CASE (", JSON_OF_BOOL),
            Some(Field { mode: Mode::Repeated, .. } | Field { kind: FieldType::Record, .. }) => {
                ("json (", ")")
            }
            _ => ("", ""),
        };
        self.push(before, from);
        self.range(from, to)?;
        Ok(self.push(after, to))
    }

    /// Writes `STRUCT(value AS name, ...)`.
    fn structure(&mut self, open: usize, close: usize) -> Result<usize, Status> {
        self.push("json_object (", open);
        for (index, (from, to)) in split(self.tokens, open + 1, close).into_iter().enumerate() {
            let has_as = to > from + 2 && self.tokens[to - 2].is_word("AS");
            let name = match &self.tokens[to - 1].token {
                Token::Name(parts, _) => last(parts).to_owned(),
                _ => format!("_field_{}", index + 1),
            };
            let comma = if index > 0 { ", " } else { "" };
            self.push(&format!("{comma}{},", literal(&name)), from);
            self.json_item(from, if has_as { to - 2 } else { to })?;
        }
        Ok(self.push(")", close + 1))
    }

    /// Writes `ARRAY<T>[...]` and `STRUCT<T>(...)` without their types.
    pub(super) fn typed(&mut self, word: &str, at: usize) -> Result<usize, Status> {
        let (mut depth, mut end) = (0_i32, at + 1);
        while let Some(token) = self.tokens.get(end) {
            depth += match &token.token {
                Token::Sign(sign) if sign == "<" => 1,
                Token::Sign(sign) if sign == ">" => -1,
                Token::Sign(sign) if sign == ">>" => -2,
                _ => 0,
            };
            end += 1;
            if depth <= 0 {
                break;
            }
        }
        match self.tokens.get(end) {
            Some(open) if open.is_sign("[") => {
                let close = self.closing(end)?;
                self.list(end, close)
            }
            Some(_) => Err(Status::unimplemented(&format!("{word}<...> with types of its fields"))),
            None => Err(self.wrong(at, "Syntax error: Unexpected end of script")),
        }
    }
}
