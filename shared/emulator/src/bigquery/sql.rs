//! From BigQuery's SQL to SQLite's: names of tables, fields of records, lists, literals, casts.

use std::collections::{BTreeMap, HashSet};

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use serde_json::Value;

use super::catalog::{Table, TableName, missing};
use super::schema::{Kind, Mode};
use crate::status::Status;

/// A name, quoted for SQLite.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Adds the functions of BigQuery that SQLite lacks.
pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    let at = |json: Option<String>, path: String| -> Option<Value> {
        let json: Value = serde_json::from_str(&json?).ok()?;
        let pointer = path.strip_prefix('$')?.replace(['.', '['], "/").replace(']', "");
        json.pointer(&pointer).cloned().filter(|value| !value.is_null())
    };
    connection.create_scalar_function("JSON_VALUE", 2, flags, move |call| {
        Ok(at(call.get(0)?, call.get(1)?).and_then(|value| match value {
            Value::String(text) => Some(text),
            Value::Array(_) | Value::Object(_) => None,
            other => Some(other.to_string()),
        }))
    })?;
    connection.create_scalar_function("JSON_QUERY", 2, flags, move |call| {
        Ok(at(call.get(0)?, call.get(1)?).map(|value| value.to_string()))
    })?;
    connection.create_scalar_function("ARRAY_LENGTH", 1, flags, |call| {
        let json = call.get::<Option<String>>(0)?.unwrap_or_default();
        let list: Option<Vec<Value>> = serde_json::from_str(&json).ok();
        Ok(list.map(|list| i64::try_from(list.len()).unwrap_or(i64::MAX)))
    })
}

/// A query in SQLite's words.
///
/// # Errors
/// For tables that are not there, and for text that is no SQL.
pub(super) fn translate(
    query: &str,
    project: &str,
    dataset: Option<&str>,
    tables: &BTreeMap<TableName, Table>,
) -> Result<String, Status> {
    let tokens = tokens(query)?;
    let names = Names { project, dataset, tables };
    let mut translation =
        Translation { names, used: Vec::new(), lists: HashSet::new(), tokens: &tokens };
    translation.used = translation.find_tables();
    translation.lists = translation.find_lists();
    translation.write()
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// Words between dots.
    Name(Vec<String>),
    /// What stands between quotes.
    Text(String),
    /// Anything else, spaces and comments included.
    Other(String),
}

struct Names<'a> {
    project: &'a str,
    dataset: Option<&'a str>,
    tables: &'a BTreeMap<TableName, Table>,
}

impl Names<'_> {
    fn full(&self, parts: &[String]) -> Option<TableName> {
        match parts {
            [project, dataset, table] => {
                Some(TableName(project.clone(), dataset.clone(), table.clone()))
            }
            [dataset, table] => {
                Some(TableName(self.project.into(), dataset.clone(), table.clone()))
            }
            [table] => Some(TableName(self.project.into(), self.dataset?.into(), table.clone())),
            _ => None,
        }
    }

    fn table(&self, parts: &[String]) -> Option<TableName> {
        self.full(parts).filter(|name| self.tables.contains_key(name))
    }
}

struct Translation<'a> {
    names: Names<'a>,
    /// The tables that are read, under the names they have in the query.
    used: Vec<(String, &'a Table)>,
    /// Aliases of `UNNEST`.
    lists: HashSet<String>,
    tokens: &'a [Token],
}

/// Columns of SQLite's `json_each`, which must not hide those of a table.
const LIST_COLUMNS: [&str; 8] = ["atom", "fullkey", "id", "key", "parent", "path", "type", "value"];
/// Words that may follow a table's name and are no alias of it.
const CLAUSES: [&str; 16] = [
    "CROSS",
    "EXCEPT",
    "FULL",
    "GROUP",
    "HAVING",
    "INNER",
    "INTERSECT",
    "JOIN",
    "LEFT",
    "LIMIT",
    "ON",
    "ORDER",
    "RIGHT",
    "UNION",
    "USING",
    "WHERE",
];

impl<'a> Translation<'a> {
    fn find_tables(&self) -> Vec<(String, &'a Table)> {
        let tables = self.tokens.iter().enumerate().filter_map(|(at, token)| {
            let Token::Name(parts) = token else { return None };
            let table = self.names.tables.get(&self.names.table(parts)?)?;
            Some((self.alias(at).unwrap_or_else(|| last(parts).to_owned()), table))
        });
        tables.collect()
    }

    /// The name that the query gives to the table whose name stands at `at`.
    fn alias(&self, at: usize) -> Option<String> {
        let mut after = self.solid().filter(|(place, _)| *place > at).map(|(_, token)| token);
        let next = after.next()?;
        let alias = if is_word(next, "AS") { after.next()? } else { next };
        match alias {
            Token::Name(parts) if parts.len() == 1 => {
                let is_clause = CLAUSES.iter().any(|clause| parts[0].eq_ignore_ascii_case(clause));
                (!is_clause).then(|| parts[0].clone())
            }
            Token::Name(_) | Token::Text(_) | Token::Other(_) => None,
        }
    }

    /// Words and signs without the space between them, with their places.
    fn solid(&self) -> impl Iterator<Item = (usize, &Token)> {
        let tokens = self.tokens.iter().enumerate();
        tokens.filter(|(_, token)| !matches!(token, Token::Other(text) if text.trim().is_empty()))
    }

    /// The aliases in `UNNEST(list) AS alias`.
    fn find_lists(&self) -> HashSet<String> {
        let solid: Vec<&Token> = self.solid().map(|(_, token)| token).collect();
        let mut lists = HashSet::new();
        for (at, token) in solid.iter().enumerate() {
            let closes = is_word(token, "UNNEST")
                .then(|| solid[at..].iter().position(|token| is_sign(token, ")")))
                .flatten();
            let Some(closes) = closes else { continue };
            let mut after = solid[at + closes + 1..].iter();
            let mut alias = after.next();
            if alias.is_some_and(|token| is_word(token, "AS")) {
                alias = after.next();
            }
            if let Some(Token::Name(parts)) = alias
                && let [alias] = parts.as_slice()
            {
                lists.insert(alias.clone());
            }
        }
        lists
    }

    fn write(&self) -> Result<String, Status> {
        let mut text = String::new();
        let (mut before, mut is_cast) = (String::new(), false);
        for (at, token) in self.tokens.iter().enumerate() {
            match token {
                Token::Other(other) => {
                    text.push_str(other);
                    if !other.trim().is_empty() {
                        before.clear();
                    }
                }
                Token::Text(content) => {
                    text.push('\'');
                    text.push_str(&content.replace('\'', "''"));
                    text.push('\'');
                }
                Token::Name(parts) => {
                    is_cast |= is_word(token, "CAST") || is_word(token, "SAFE_CAST");
                    let is_type = is_cast && before == "AS";
                    is_cast &= !is_type;
                    text.push_str(&self.name(parts, &before, is_type)?);
                    if self.names.table(parts).is_some() && self.alias(at).is_none() {
                        // In BigQuery a table without an alias goes by its id.
                        text.push_str(" AS ");
                        text.push_str(&quote(last(parts)));
                    }
                    before = parts.join(".").to_ascii_uppercase();
                }
            }
        }
        Ok(text)
    }

    fn name(&self, parts: &[String], before: &str, is_type: bool) -> Result<String, Status> {
        if let [word] = parts {
            let upper = word.to_ascii_uppercase();
            let replaced = match upper.as_str() {
                "STRING" if is_type => Some("TEXT"),
                "INT64" | "BOOL" if is_type => Some("INTEGER"),
                "FLOAT64" if is_type => Some("REAL"),
                "SAFE_CAST" => Some("CAST"),
                "UNNEST" => Some("json_each"),
                _ => None,
            };
            if let Some(replaced) = replaced {
                return Ok(replaced.into());
            }
            if self.lists.contains(word) && before != "AS" && before != "UNNEST" {
                return Ok(format!("{}.value", quote(word)));
            }
        }
        if let Some(name) = self.names.table(parts) {
            return Ok(name.quoted());
        }
        let is_table = matches!(before, "FROM" | "JOIN") && parts.len() > 1;
        if let Some(name) = self.names.full(parts).filter(|_| is_table) {
            return Err(missing("Table", &name.display()));
        }
        Ok(self.column(parts))
    }

    /// A column, or a field within a record.
    fn column(&self, parts: &[String]) -> String {
        let quoted = |parts: &[String]| match parts {
            // Keywords must stay bare.
            [word] if self.lists.is_empty() || !LIST_COLUMNS.contains(&word.as_str()) => {
                word.clone()
            }
            [word] => {
                let holder = self.used.iter().find(|(_, table)| table.schema.find(word).is_some());
                let holder = holder.map(|(alias, _)| format!("{}.", quote(alias)));
                format!("{}{}", holder.unwrap_or_default(), quote(word))
            }
            parts => parts.iter().map(|part| quote(part)).collect::<Vec<_>>().join("."),
        };
        let within = |path: &[String]| format!("'$.{}'", path.join(".").replace('\'', "''"));
        if parts.len() > 1 && self.lists.contains(&parts[0]) {
            return format!("json_extract({}.value, {})", quote(&parts[0]), within(&parts[1..]));
        }
        let is_record = |name: &str| {
            let found = self.used.iter().find_map(|(_, table)| table.schema.find(name));
            found.is_some_and(|field| {
                field.mode != Mode::Repeated && matches!(field.kind, Kind::Record | Kind::Json)
            })
        };
        let at = parts.iter().take(2).position(|part| is_record(part));
        match at {
            Some(at) if at + 1 < parts.len() => {
                let column = quoted(&parts[..=at]);
                format!("json_extract({column}, {})", within(&parts[at + 1..]))
            }
            _ => quoted(parts),
        }
    }
}

fn last(parts: &[String]) -> &str {
    parts.last().map_or("", String::as_str)
}

fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Name(parts) if parts.len() == 1 && parts[0].eq_ignore_ascii_case(word))
}

fn is_sign(token: &Token, sign: &str) -> bool {
    matches!(token, Token::Other(text) if text.trim() == sign)
}

fn tokens(query: &str) -> Result<Vec<Token>, Status> {
    let mut tokens = Vec::new();
    let mut rest = query;
    while let Some(first) = rest.chars().next() {
        let (token, len) = match first {
            '\'' | '"' => text(rest, first)?,
            '-' if rest.starts_with("--") => comment(rest, "\n"),
            '#' => comment(rest, "\n"),
            '/' if rest.starts_with("/*") => comment(rest, "*/"),
            '`' => name(rest)?,
            char if char.is_alphabetic() || char == '_' => name(rest)?,
            char if char.is_ascii_digit() => {
                let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.');
                let len = len.unwrap_or(rest.len());
                (Token::Other(rest[..len].into()), len)
            }
            char => (Token::Other(char.into()), char.len_utf8()),
        };
        tokens.push(token);
        rest = &rest[len..];
    }
    Ok(tokens)
}

fn comment(rest: &str, end: &str) -> (Token, usize) {
    let len = rest.find(end).map_or(rest.len(), |at| at + end.len());
    (Token::Other(" ".into()), len)
}

/// A literal, with its escapes resolved.
fn text(rest: &str, quote: char) -> Result<(Token, usize), Status> {
    let mut content = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        match char {
            char if char == quote => return Ok((Token::Text(content), at + 1)),
            '\\' => match chars.next() {
                Some((_, 'n')) => content.push('\n'),
                Some((_, 't')) => content.push('\t'),
                Some((_, other)) => content.push(other),
                None => break,
            },
            other => content.push(other),
        }
    }
    Err(Status::invalid("Syntax error: Unclosed string literal"))
}

/// Words between dots; a word in backticks may hold several.
fn name(rest: &str) -> Result<(Token, usize), Status> {
    let (mut parts, mut at) = (Vec::new(), 0);
    loop {
        let here = &rest[at..];
        if let Some(quoted) = here.strip_prefix('`') {
            let end = quoted.find('`');
            let end = end.ok_or_else(|| Status::invalid("Syntax error: Unclosed identifier"))?;
            parts.extend(quoted[..end].split('.').map(str::to_owned));
            at += end + 2;
        } else {
            // Projects have hyphens in their names, and may stand unquoted before a dot.
            let len = here.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(here.len());
            parts.push(here[..len].to_owned());
            at += len;
        }
        let after = rest[at..].strip_prefix('.');
        let goes_on = after.is_some_and(|after| {
            after.starts_with(|c: char| c.is_alphabetic() || "_`".contains(c))
        });
        if !goes_on {
            return Ok((Token::Name(parts), at));
        }
        at += 1;
    }
}
