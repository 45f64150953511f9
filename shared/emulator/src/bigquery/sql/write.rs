//! Writes the tokens of a query in SQLite's SQL, one after another.

use std::collections::HashSet;

use time::OffsetDateTime;

use super::super::schema::{Field, FieldType, kind_named, new_field};
use super::super::sqlite::{literal, quote};
use super::super::value;
use super::infer::{Shown, Types, is_exact};
use super::lex::{Lexeme, Quoted, Token, syntax};
use super::operand::end_of_operand;
use super::scalar::convert;
use super::source::{Source, Sources, alias, closing, is_any, last};
use crate::status::Status;

/// Columns of SQLite's `json_each`. They must not hide columns of a table.
const LIST_COLUMNS: [&str; 8] = ["atom", "fullkey", "id", "key", "parent", "path", "type", "value"];
/// Words that SQLite would misread or ignore.
const REFUSED: [&str; 6] = ["PIVOT", "QUALIFY", "SYSTEM_TIME", "TABLESAMPLE", "UNPIVOT", "WITHIN"];
/// Keywords of SQLite that may be names in BigQuery.
const NAMES: [&str; 44] = [
    "ABORT",
    "ACTION",
    "ADD",
    "AFTER",
    "ALTER",
    "ANALYZE",
    "ATTACH",
    "BEFORE",
    "CASCADE",
    "CHECK",
    "COLUMN",
    "COMMIT",
    "CONFLICT",
    "CONSTRAINT",
    "DATABASE",
    "DEFERRED",
    "DELETE",
    "DETACH",
    "DO",
    "DROP",
    "EACH",
    "EXCLUSIVE",
    "EXPLAIN",
    "FAIL",
    "FOREIGN",
    "GENERATED",
    "GLOB",
    "INDEX",
    "INITIALLY",
    "KEY",
    "MATCH",
    "NOTHING",
    "PLAN",
    "PRIMARY",
    "QUERY",
    "REFERENCES",
    "REGEXP",
    "RELEASE",
    "TABLE",
    "TEMP",
    "TRANSACTION",
    "TRIGGER",
    "UNIQUE",
    "VIEW",
];
pub(super) struct Writer<'a> {
    pub query: &'a str,
    pub tokens: &'a [Lexeme],
    pub sources: &'a Sources,
    pub types: &'a Types<'a>,
    /// Places of INTERVAL in functions that add it.
    pub intervals: HashSet<usize>,
    /// Places of parts of dates, such as DAY.
    pub parts: HashSet<usize>,
    /// Text so far, and its offsets with those of the query.
    pub out: (String, Vec<(usize, usize)>),
}

impl Writer<'_> {
    /// Writes the tokens from `at` to `to`.
    pub(super) fn range(&mut self, mut at: usize, to: usize) -> Result<(), Status> {
        while at < to {
            let token = &self.tokens[at];
            self.out.1.push((self.out.0.len(), token.at));
            if let Some(next) = self.date_arithmetic(at, to)? {
                at = next;
                continue;
            }
            at = match &token.token {
                Token::Sign(sign) => self.sign(sign, at)?,
                Token::Number(number) => {
                    if is_exact(self.types.ordinal(at)) {
                        let what = "ORDER BY the number of a NUMERIC column: write its name";
                        return Err(Status::unimplemented(what));
                    }
                    self.push(number, at + 1)
                }
                Token::Literal(text, field) => self.literal(text, field, at)?,
                Token::Text(content) => self.text(content, at)?,
                Token::Name(parts, quoted) => self.name(parts, *quoted, at)?,
                Token::Parameter(..) => {
                    return Err(self.wrong(at, "Query parameter has no value"));
                }
            };
        }
        Ok(())
    }

    pub(super) fn push(&mut self, text: &str, next: usize) -> usize {
        self.out.0.push_str(text);
        self.out.0.push(' ');
        next
    }

    fn literal(&mut self, text: &str, field: &Field, at: usize) -> Result<usize, Status> {
        let quoted = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
        if let Some(content) = quoted.filter(|_| self.types.time_of(at).is_some()) {
            return self.text(&content.replace("''", "'"), at);
        }
        if self.types.needs_number(Some(field), at, at + 1) {
            return Ok(self.push(&as_number(text), at + 1));
        }
        Ok(self.push(text, at + 1))
    }

    pub(super) fn wrong(&self, at: usize, why: &str) -> Status {
        syntax(self.query, self.tokens[at].at, why)
    }

    pub(super) fn before(&self, at: usize) -> Option<&Lexeme> {
        self.tokens.get(at.checked_sub(1)?)
    }

    pub(super) fn closing(&self, open: usize) -> Result<usize, Status> {
        let open = open.min(self.tokens.len() - 1);
        closing(self.tokens, open)
            .ok_or_else(|| self.wrong(open, "Syntax error: Expected matching brackets"))
    }

    fn sign(&mut self, sign: &str, at: usize) -> Result<usize, Status> {
        if let Some((left, right)) = self.types.mismatch(at) {
            return Err(self.mismatched(sign, *left, *right, at));
        }
        match sign {
            "/" => {
                // Division never truncates to whole numbers, and fails for a divisor of 0.
                let end = self.operand(at + 1)?;
                self.push("* 1.0 / BQ_DIVISOR (", at);
                self.range(at + 1, end)?;
                Ok(self.push(")", end))
            }
            "[" => {
                let before = self.before(at);
                let is_subscript = before.is_some_and(|token| {
                    token.is_sign(")")
                        || token.is_sign("]")
                        || token.parts().is_some()
                            && !token.is_word("IN")
                            && !token.word().is_some_and(|word| {
                                is_any(word, &["SELECT", "THEN", "ELSE", "AND", "OR"])
                            })
                });
                if is_subscript {
                    return Err(Status::unimplemented("subscripts of arrays"));
                }
                let end = self.closing(at)?;
                self.list(at, end)
            }
            ";" if at + 1 == self.tokens.len() => Ok(at + 1),
            ";" => Err(Status::unimplemented("scripts of several statements")),
            "+" | "-" if self.adds_time(at) => {
                Err(Status::unimplemented(&format!("a date or time after {sign}")))
            }
            "*" if self.is_star_of_list(at) => Err(Status::unimplemented("SELECT * over UNNEST")),
            other => Ok(self.push(other, at + 1)),
        }
    }

    fn is_star_of_list(&self, at: usize) -> bool {
        let before = self.before(at);
        let is_star =
            before.is_some_and(|token| token.is_word("SELECT") || token.is_word("DISTINCT"));
        is_star && !self.sources.lists.is_empty()
    }

    /// Returns the end of the operand that starts at `at`.
    pub(super) fn operand(&self, at: usize) -> Result<usize, Status> {
        end_of_operand(self.tokens, at).ok_or_else(|| match self.tokens.get(at) {
            None => self.wrong(at - 1, "Syntax error: Unexpected end of script"),
            Some(_) => self.wrong(at, "Syntax error: Expected an expression"),
        })
    }

    /// Writes a text. Compared with a time, it is converted to the type of the time.
    fn text(&mut self, content: &str, at: usize) -> Result<usize, Status> {
        let text = match self.types.time_of(at) {
            Some(kind) => self.normal(kind, content, at)?,
            None => content.to_owned(),
        };
        Ok(self.push(&literal(&text), at + 1))
    }

    /// Returns a literal of a type in its normal form.
    pub(super) fn normal(
        &self,
        kind: FieldType,
        content: &str,
        at: usize,
    ) -> Result<String, Status> {
        convert(kind, content.into()).map_err(|why| self.wrong(at, &why)).map(|value| match value {
            rusqlite::types::Value::Text(text) => text,
            _ => content.to_owned(),
        })
    }

    fn name(&mut self, parts: &[String], quoted: Quoted, at: usize) -> Result<usize, Status> {
        if let Some(source) = self.sources.at.get(&at) {
            let text = match source {
                Source::Table(name) => name.quoted(),
                Source::Information(text) => text.clone(),
                Source::List => format!("json_each ({})", self.column(parts, at)),
            };
            self.push(&text, at);
            if alias(self.tokens, at).is_none() {
                // In BigQuery a table without an alias has its id as alias.
                self.push(&format!("AS {}", quote(last(parts))), at);
            }
            return Ok(at + 1);
        }
        if self.before(at).is_some_and(|before| before.is_word("AS"))
            && !self.tokens.get(at + 1).is_some_and(|next| next.is_sign("("))
            && let [word] = parts
            && !is_any(word, &["SELECT", "STRUCT"])
        {
            return Ok(self.push(&quote(word), at + 1));
        }
        let is_call = self.tokens.get(at + 1).is_some_and(|next| next.is_sign("("));
        if let ([word], Quoted::No) = (parts, quoted)
            && let Some(next) = self.keyword(word, at, is_call)?
        {
            return Ok(next);
        }
        if is_call && quoted == Quoted::No {
            return self.call(parts, at);
        }
        let is_bare = quoted == Quoted::No && self.types.of_name(parts, at).is_none();
        let text = match parts {
            [word] if self.sources.offsets.contains_key(word) => self.offset(word),
            [word] if is_bare && is_any(word, &NAMES) => quote(word),
            [word] if is_bare && !self.sources.lists.contains(word) => word.clone(),
            parts => self.column(parts, at),
        };
        let field = self.types.of_name(parts, at);
        let is_number = self.types.needs_number(field.as_ref(), at, at + 1);
        let text = if is_number { as_number(&text) } else { text };
        let text = match self.types.shown(at) {
            // SQLite would derive the name from the expression.
            Some(Shown::Unnamed) if text != last(parts) && text != quote(last(parts)) => {
                format!("{text} AS {}", quote(last(parts)))
            }
            _ => text,
        };
        Ok(self.push(&text, at + 1))
    }

    /// Writes the alias of `WITH OFFSET`.
    fn offset(&self, word: &str) -> String {
        self.sources
            .offsets
            .get(word)
            .map_or_else(String::new, |list| format!("{}.key", quote(list)))
    }

    /// Writes a keyword. Returns the position of the next token, or `None` if the word is a name.
    fn keyword(&mut self, word: &str, at: usize, is_call: bool) -> Result<Option<usize>, Status> {
        let upper = word.to_ascii_uppercase();
        let next = self.tokens.get(at + 1);
        if is_any(word, &REFUSED) && !self.types.has_column(word) {
            return Err(Status::unimplemented(&upper));
        }
        match upper.as_str() {
            "CURRENT_TIMESTAMP" | "CURRENT_DATE" | "CURRENT_DATETIME" | "CURRENT_TIME" => {
                let end = if is_call { self.closing(at + 1)? + 1 } else { at + 1 };
                if end > at + 3 {
                    self.check_zone(at + 2, end - 1)?;
                }
                self.push(&literal(&now(&upper)), at);
                return Ok(Some(end));
            }
            "UNION" | "INTERSECT" | "EXCEPT"
                if next.is_some_and(|next| next.is_word("DISTINCT")) =>
            {
                return Ok(Some(self.push(word, at + 2)));
            }
            "EXCEPT" | "REPLACE"
                if is_call && self.before(at).is_some_and(|one| one.is_sign("*")) =>
            {
                return Err(Status::unimplemented(&format!("SELECT * {upper}")));
            }
            "WITH" if next.is_some_and(|next| next.is_word("OFFSET")) => {
                let named = alias(self.tokens, at + 1).is_some();
                let has_as = self.tokens.get(at + 2).is_some_and(|token| token.is_word("AS"));
                return Ok(Some(at + 2 + usize::from(named) + usize::from(has_as)));
            }
            "INTERVAL" if self.intervals.contains(&at) => return Ok(Some(at + 1)),
            "INTERVAL" => {
                return Err(Status::unimplemented("INTERVAL outside of ..._ADD and ..._SUB"));
            }
            "ARRAY" | "STRUCT" if next.is_some_and(|next| next.is_sign("<")) => {
                return self.typed(&upper, at).map(Some);
            }
            _ => {}
        }
        if let (Some(kind), Some(Token::Text(content))) =
            (kind_named(&upper), next.map(|next| &next.token))
        {
            let text = literal(&self.normal(kind, content, at + 1)?);
            let field = new_field("", kind);
            let is_number = self.types.needs_number(Some(&field), at, at + 2);
            let text = if is_number { as_number(&text) } else { text };
            return Ok(Some(self.push(&text, at + 2)));
        }
        if self.parts.contains(&at) {
            let follows = self.before(at).is_some_and(|before| before.is_sign(","));
            let comma = if follows { "" } else { ", " };
            return Ok(Some(self.push(&format!("{comma}'{upper}'"), at + 1)));
        }
        Ok(None)
    }

    /// Writes a column, or a field within a record.
    fn column(&self, parts: &[String], at: usize) -> String {
        let within = |path: &[String]| literal(&format!("$.{}", path.join(".")));
        if self.sources.lists.contains(&parts[0]) {
            let value = format!("{}.value", quote(&parts[0]));
            return match &parts[1..] {
                [] => value,
                path => format!("json_extract({value}, {})", within(path)),
            };
        }
        let quoted = |parts: &[String]| match parts {
            [word] if LIST_COLUMNS.contains(&word.as_str()) && !self.sources.lists.is_empty() => {
                let mut used = self.sources.used.iter();
                let holder =
                    used.find(|(_, fields)| super::super::schema::find(fields, word).is_some());
                let holder = holder.map(|(alias, _)| format!("{}.", quote(alias)));
                format!("{}{}", holder.unwrap_or_default(), quote(word))
            }
            parts => parts.iter().map(|part| quote(part)).collect::<Vec<_>>().join("."),
        };
        match self.types.place_of_column(parts, at) {
            Some(place) if place + 1 < parts.len() => {
                format!(
                    "json_extract({}, {})",
                    quoted(&parts[..=place]),
                    within(&parts[place + 1..])
                )
            }
            _ => quoted(parts),
        }
    }
}

/// Writes an exact number, which is stored as text, as a number.
pub(super) fn as_number(text: &str) -> String {
    format!("CAST({text} AS REAL)")
}

fn now(word: &str) -> String {
    let now = OffsetDateTime::now_utc();
    match word {
        "CURRENT_DATE" => value::write_date(now.date()),
        "CURRENT_TIME" => value::write_time(now.time()),
        "CURRENT_DATETIME" => value::write_datetime(now),
        _ => value::write_timestamp(now),
    }
}
