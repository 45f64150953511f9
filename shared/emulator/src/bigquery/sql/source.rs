//! Finds the tables, aliases and lists that a query reads from.

use std::collections::{HashMap, HashSet};

use super::super::names::{TableName, missing};
use super::super::schema::Field;
use super::lex::{Lexeme, Token};
use super::{Scope, information};
use crate::status::Status;

/// Source of rows in a FROM clause.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A table or view.
    Table(TableName),
    /// A view of the metadata, in SQLite's SQL.
    Information(String),
    /// A list in a table that is named earlier in the clause.
    List,
}

/// All sources of a query.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Sources by the position of their names.
    pub at: HashMap<usize, Source>,
    /// Columns of tables by the position of their names.
    pub columns: HashMap<usize, Vec<Field>>,
    /// Columns of tables, by the name of the table in the query.
    pub used: Vec<(String, Vec<Field>)>,
    /// Aliases of `UNNEST`.
    pub lists: HashSet<String>,
    /// Aliases of `WITH OFFSET`, each with its list.
    pub offsets: HashMap<String, String>,
}

/// Words that may follow the name of a table and are not its alias.
const CLAUSES: [&str; 23] = [
    "AND",
    "CROSS",
    "EXCEPT",
    "FOR",
    "FULL",
    "GROUP",
    "HAVING",
    "INNER",
    "INTERSECT",
    "JOIN",
    "LEFT",
    "LIMIT",
    "OFFSET",
    "ON",
    "ORDER",
    "QUALIFY",
    "RIGHT",
    "TABLESAMPLE",
    "UNION",
    "USING",
    "WHERE",
    "WINDOW",
    "WITH",
];
/// Words after which a comma is not followed by a table.
const ENDS_OF_FROM: [&str; 13] = [
    "SELECT",
    "WHERE",
    "GROUP",
    "HAVING",
    "ORDER",
    "LIMIT",
    "ON",
    "USING",
    "UNION",
    "EXCEPT",
    "INTERSECT",
    "WINDOW",
    "SET",
];

impl Sources {
    /// Finds all sources of a query.
    ///
    /// # Errors
    /// Fails for a missing table.
    pub(super) fn find(tokens: &[Lexeme], scope: &Scope<'_>) -> Result<Self, Status> {
        let mut sources = Self::default();
        let local = with_names(tokens);
        for place in table_places(tokens) {
            let Some(parts) = tokens[place].parts() else { continue };
            if tokens.get(place + 1).is_some_and(|next| next.is_sign("(")) {
                continue;
            }
            if let [name] = parts
                && local.contains(&name.to_ascii_uppercase())
            {
                continue;
            }
            let alias = alias(tokens, place).unwrap_or_else(|| last(parts).to_owned());
            if let Some((text, fields)) = information::view(parts, scope)? {
                sources.columns.insert(place, fields);
                sources.at.insert(place, Source::Information(text));
                continue;
            }
            let Some(name) = scope.full(parts) else {
                if sources.reaches_into_list(parts) {
                    sources.add_list(place, alias);
                    continue;
                }
                let text =
                    format!("Table \"{}\" must be qualified with a dataset", parts.join("."));
                return Err(Status::invalid(format!("{text} (e.g. dataset.table).")));
            };
            match scope.catalog.tables().get(&name) {
                Some(table) => {
                    // A view without columns is of an earlier version: they are not known.
                    if !table.schema.fields.is_empty() {
                        sources.columns.insert(place, table.schema.fields.clone());
                    }
                    sources.used.push((alias, table.schema.fields.clone()));
                    sources.at.insert(place, Source::Table(name));
                }
                None if sources.reaches_into_list(parts) => sources.add_list(place, alias),
                None => {
                    let text = format!("{} was not found in location US", name.display());
                    return Err(missing("Table", &text));
                }
            }
        }
        sources.find_lists(tokens);
        Ok(sources)
    }

    /// Returns true if a name after a comma is a list in an earlier table.
    fn reaches_into_list(&self, parts: &[String]) -> bool {
        self.used.iter().any(|(alias, _)| parts.len() > 1 && alias.eq_ignore_ascii_case(&parts[0]))
    }

    fn add_list(&mut self, place: usize, alias: String) {
        self.at.insert(place, Source::List);
        self.lists.insert(alias);
    }

    fn find_lists(&mut self, tokens: &[Lexeme]) {
        for at in 0..tokens.len() {
            if !tokens[at].is_word("UNNEST") {
                continue;
            }
            let Some(closes) = closing(tokens, at + 1) else { continue };
            let Some(alias) = alias(tokens, closes) else { continue };
            let mut after = closes + 1;
            after += usize::from(tokens.get(after).is_some_and(|next| next.is_word("AS"))) + 1;
            if let Some(name) = offset_alias(tokens, after) {
                self.offsets.insert(name, alias.clone());
            }
            self.lists.insert(alias);
        }
    }
}

/// Returns the alias of `WITH OFFSET [AS alias]` that starts at `at`.
fn offset_alias(tokens: &[Lexeme], at: usize) -> Option<String> {
    let is_offset = tokens.get(at)?.is_word("WITH") && tokens.get(at + 1)?.is_word("OFFSET");
    is_offset.then(|| alias(tokens, at + 1).unwrap_or_else(|| "offset".into()))
}

/// Returns the names of the queries in WITH clauses, in upper case.
fn with_names(tokens: &[Lexeme]) -> HashSet<String> {
    let named = tokens.windows(3).filter(|three| {
        three[1].is_word("AS") && three[2].is_sign("(") && three[0].word().is_some()
    });
    named.filter_map(|three| Some(three[0].word()?.to_ascii_uppercase())).collect()
}

/// Returns the positions where the name of a table is expected.
fn table_places(tokens: &[Lexeme]) -> Vec<usize> {
    let mut places = Vec::new();
    // One state per open bracket: inside a FROM clause or not, and inside EXTRACT or not.
    let mut states = vec![(false, false)];
    let mut expects = false;
    for (at, token) in tokens.iter().enumerate() {
        let is_expected = std::mem::take(&mut expects);
        let Some(state) = states.last_mut() else { break };
        if token.is_sign("(") {
            let is_extract = at > 0 && tokens[at - 1].is_word("EXTRACT");
            expects = is_expected;
            states.push((is_expected, is_extract));
        } else if token.is_sign(")") {
            states.pop();
        } else if token.is_sign(",") {
            expects = state.0;
        } else if token.is_word("FROM") || token.is_word("JOIN") {
            state.0 = !state.1;
            expects = state.0;
        } else if token.word().is_some_and(|word| is_any(word, &ENDS_OF_FROM)) {
            state.0 = false;
        } else if is_expected && token.parts().is_some() {
            places.push(at);
        }
    }
    places
}

/// Returns the alias after the source that ends at `at`.
pub(super) fn alias(tokens: &[Lexeme], at: usize) -> Option<String> {
    let mut next = tokens.get(at + 1)?;
    if next.is_word("AS") {
        next = tokens.get(at + 2)?;
    }
    match &next.token {
        Token::Name(parts, _) if parts.len() == 1 => {
            let is_clause = next.word().is_some_and(|word| is_any(word, &CLAUSES));
            (!is_clause).then(|| parts[0].clone())
        }
        _ => None,
    }
}

/// Returns the position of the bracket that closes the one at `open`.
pub(in super::super) fn closing(tokens: &[Lexeme], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if token.is_sign("(") || token.is_sign("[") {
            depth += 1;
        } else if token.is_sign(")") || token.is_sign("]") {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some(at);
            }
        } else if depth == 0 {
            return None;
        }
    }
    None
}

/// Returns the ranges between commas outside of brackets.
pub(in super::super) fn split(tokens: &[Lexeme], from: usize, to: usize) -> Vec<(usize, usize)> {
    let (mut parts, mut start, mut depth) = (Vec::new(), from, 0_i32);
    for (at, token) in tokens.iter().enumerate().take(to).skip(from) {
        if token.is_sign("(") || token.is_sign("[") {
            depth += 1;
        } else if token.is_sign(")") || token.is_sign("]") {
            depth -= 1;
        } else if depth == 0 && token.is_sign(",") {
            parts.push((start, at));
            start = at + 1;
        }
    }
    if start < to {
        parts.push((start, to));
    }
    parts
}

pub(super) fn is_any(word: &str, words: &[&str]) -> bool {
    words.iter().any(|one| one.eq_ignore_ascii_case(word))
}

pub(super) fn last(parts: &[String]) -> &str {
    parts.last().map_or("", String::as_str)
}
