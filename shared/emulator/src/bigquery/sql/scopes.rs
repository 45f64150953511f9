//! Finds the SELECTs of a query, the rows that each one reads, and the columns that it returns.

use std::collections::HashMap;

use super::super::schema::{Field, FieldType, Mode};
use super::infer::{Types, new_field};
use super::lex::{Lexeme, Token};
use super::source::{alias, closing, is_any, last, split};

/// Words that end a FROM clause.
const ENDS: [&str; 10] = [
    "WHERE",
    "GROUP",
    "HAVING",
    "ORDER",
    "LIMIT",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "WINDOW",
    "SELECT",
];

/// A column with its type, as far as it is known.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub name: String,
    pub field: Option<Field>,
}

/// Source of rows in a FROM clause.
#[derive(Debug, Clone)]
struct Origin {
    alias: Option<String>,
    rows: OriginRows,
    /// Columns that `USING` joins with those of an earlier source.
    joined: Vec<String>,
}

#[derive(Debug, Clone)]
enum OriginRows {
    Columns(Vec<Column>),
    /// Items of a list, with their type.
    Items(Option<Field>),
    Unknown,
}

/// A SELECT.
#[derive(Debug, Default)]
struct SelectScope {
    select: usize,
    /// The SELECT around it.
    parent: Option<usize>,
    is_read: bool,
    origins: Vec<Origin>,
    outputs: Option<Vec<Column>>,
    /// Types of the items with an alias, by the alias in upper case.
    aliases: HashMap<String, Field>,
}

/// All SELECTs of a query.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    all: Vec<SelectScope>,
    /// SELECT that each token belongs to.
    of: Vec<Option<usize>>,
    /// First SELECT in each bracket, by the position of the bracket.
    first_in: HashMap<Option<usize>, usize>,
    /// Queries of WITH in upper case, with the positions of their brackets.
    named: HashMap<String, usize>,
}

/// Meaning of a name.
pub(super) enum Meaning<'a> {
    /// A column, with the index of the part of the name that is the column.
    Column(usize, Option<&'a Field>),
    /// An alias of an item.
    Alias(&'a Field),
}

impl Scopes {
    fn find(tokens: &[Lexeme]) -> Self {
        let mut scopes = Self::default();
        // Each open bracket with the SELECT around it and the last one within it.
        let mut open: Vec<(Option<usize>, Option<usize>, Option<usize>)> = vec![(None, None, None)];
        for (at, token) in tokens.iter().enumerate() {
            let (bracket, parent, current) = *open.last().unwrap_or(&(None, None, None));
            if token.is_word("SELECT") {
                let scope = scopes.all.len();
                scopes.all.push(SelectScope { select: at, parent, ..SelectScope::default() });
                scopes.first_in.entry(bracket).or_insert(scope);
                open.iter_mut().rev().take(1).for_each(|open| open.2 = Some(scope));
            } else if token.is_sign("(") {
                if at >= 2 && tokens[at - 1].is_word("AS") {
                    let name = tokens[at - 2].parts().map(|parts| last(parts).to_ascii_uppercase());
                    scopes.named.extend(name.map(|name| (name, at)));
                }
                open.push((Some(at), current.or(parent), None));
            } else if token.is_sign(")") && open.len() > 1 {
                open.pop();
            }
            let (_, parent, current) = *open.last().unwrap_or(&(None, None, None));
            scopes.of.push(current.or(parent));
        }
        scopes
    }

    /// Returns the columns of the outermost SELECT.
    pub(super) fn outputs(&self) -> Option<&[Column]> {
        let scope = self.all.get(*self.first_in.get(&None)?)?;
        scope.outputs.as_deref()
    }

    /// Returns the columns of the SELECT at `select`.
    pub(super) fn outputs_at(&self, select: usize) -> Option<&[Column]> {
        let scope = self.all.binary_search_by_key(&select, |scope| scope.select).ok()?;
        self.all[scope].outputs.as_deref()
    }

    /// Finds the meaning of the name at `at`: in its SELECT, or in one around it.
    pub(super) fn meaning(&self, parts: &[String], at: usize) -> Option<Meaning<'_>> {
        let mut next = self.of.get(at).copied().flatten();
        while let Some(scope) = next.and_then(|scope| self.all.get(scope)) {
            if let Some(found) = scope.column(parts) {
                return Some(found);
            }
            if let Some(field) = scope.aliases.get(&last(parts).to_ascii_uppercase()) {
                return Some(Meaning::Alias(field));
            }
            next = scope.parent;
        }
        None
    }
}

impl SelectScope {
    fn column(&self, parts: &[String]) -> Option<Meaning<'_>> {
        let is_named = |origin: &&Origin| {
            origin.alias.as_ref().is_some_and(|alias| alias.eq_ignore_ascii_case(&parts[0]))
        };
        if let Some(origin) = self.origins.iter().find(is_named) {
            match (&origin.rows, parts.get(1)) {
                (OriginRows::Items(item), _) => return Some(Meaning::Column(0, item.as_ref())),
                (OriginRows::Columns(columns), Some(name)) => {
                    if let Some(column) = named(columns, name) {
                        return Some(Meaning::Column(1, column.field.as_ref()));
                    }
                }
                (OriginRows::Unknown, Some(_)) => return Some(Meaning::Column(1, None)),
                (OriginRows::Columns(_) | OriginRows::Unknown, _) => {}
            }
        }
        let column = self.origins.iter().find_map(|origin| match &origin.rows {
            OriginRows::Columns(columns) => named(columns, &parts[0]),
            OriginRows::Items(_) | OriginRows::Unknown => None,
        });
        column.map(|column| Meaning::Column(0, column.field.as_ref()))
    }

    /// Returns the columns of `*`, or of `alias.*`.
    fn star(&self, alias: Option<&str>) -> Option<Vec<Column>> {
        let mut all = Vec::new();
        for origin in &self.origins {
            let is_asked = alias.is_none_or(|alias| {
                origin.alias.as_ref().is_some_and(|one| one.eq_ignore_ascii_case(alias))
            });
            let OriginRows::Columns(columns) = &origin.rows else { return None };
            let is_joined = |column: &&Column| {
                alias.is_none()
                    && origin.joined.iter().any(|one| one.eq_ignore_ascii_case(&column.name))
            };
            let columns = columns.iter().filter(|column| is_asked && !is_joined(column));
            all.extend(columns.cloned());
        }
        Some(all)
    }
}

fn named<'a>(columns: &'a [Column], name: &str) -> Option<&'a Column> {
    columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
}

impl Types<'_> {
    /// Reads all SELECTs of the query.
    pub(super) fn read_scopes(&mut self) {
        self.scopes = Scopes::find(self.tokens);
        for scope in 0..self.scopes.all.len() {
            self.read_scope(scope);
        }
    }

    /// Reads a SELECT. Those in its FROM clause and in its items are read before its items.
    fn read_scope(&mut self, scope: usize) {
        if std::mem::replace(&mut self.scopes.all[scope].is_read, true) {
            return;
        }
        let items = self.items(self.scopes.all[scope].select);
        self.read_from(scope);
        let (first, end) =
            (items.first().map_or(0, |item| item.0), items.last().map_or(0, |item| item.1));
        let place = |at: usize| self.scopes.all.partition_point(|scope| scope.select < at);
        for inner in place(first)..place(end) {
            self.read_scope(inner);
        }
        let mut outputs = Some(Vec::new());
        for (from, to) in items {
            let columns = self.outputs_of(scope, from, to);
            outputs =
                outputs.zip(columns).map(|(all, columns): (Vec<_>, _)| [all, columns].concat());
        }
        self.scopes.all[scope].outputs = outputs;
    }

    /// Returns the columns of an item of a SELECT, and remembers the type of its alias.
    fn outputs_of(&mut self, scope: usize, from: usize, to: usize) -> Option<Vec<Column>> {
        if self.tokens[to - 1].is_sign("*") {
            let alias = match &self.tokens[from].token {
                Token::Name(parts, _) if to == from + 3 => Some(last(parts)),
                _ => None,
            };
            return if to == from + 1 || alias.is_some() {
                self.scopes.all[scope].star(alias)
            } else {
                None
            };
        }
        let field = self.of_range(from, to);
        let end = self.without_alias(from, to);
        // A name alone is its own alias.
        let named = (end < to || end == from + 1).then(|| self.tokens[to - 1].parts()).flatten();
        let name = named.map(last).unwrap_or_default().to_owned();
        if let Some(field) = field.clone().filter(|_| end < to && !name.is_empty()) {
            self.scopes.all[scope].aliases.insert(name.to_ascii_uppercase(), field);
        }
        Some(vec![Column { name, field }])
    }

    /// Reads the FROM clause of a SELECT.
    fn read_from(&mut self, scope: usize) {
        let mut at = self.scopes.all[scope].select + 1;
        let (mut is_from, mut expects, mut depth) = (false, false, 0_usize);
        while let Some(token) = self.tokens.get(at) {
            let is_source = std::mem::take(&mut expects);
            let is_end = token.word().is_some_and(|word| is_any(word, &ENDS));
            if token.is_sign(")") && depth == 0 || is_end {
                return;
            }
            depth -= usize::from(token.is_sign(")"));
            at = if token.is_word("FROM")
                || is_from && (token.is_word("JOIN") || token.is_sign(","))
            {
                (is_from, expects) = (true, true);
                at + 1
            } else if is_source && token.is_sign("(") && !self.is_query(at + 1) {
                // Brackets around joins.
                (expects, depth) = (true, depth + 1);
                at + 1
            } else if is_source {
                self.read_origin(scope, at)
            } else {
                if token.is_word("USING") {
                    self.join(scope, at + 1);
                }
                let skips = token.is_sign("(") || token.is_sign("[");
                let close = if skips { closing(self.tokens, at) } else { Some(at) };
                close.unwrap_or(self.tokens.len()) + 1
            };
        }
    }

    fn is_query(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_word("SELECT") || token.is_word("WITH"))
    }

    /// Reads the source of rows at `at`, and returns the position after it.
    fn read_origin(&mut self, scope: usize, at: usize) -> usize {
        let token = &self.tokens[at];
        let is_list = token.is_word("UNNEST");
        let open = if is_list { at + 1 } else { at };
        let end = closing(self.tokens, open).unwrap_or(open);
        let rows = if is_list {
            OriginRows::Items(
                self.of_range(open + 1, end).filter(|list| list.mode == Mode::Repeated),
            )
        } else if token.is_sign("(") {
            self.rows_in(at)
        } else {
            self.rows_named(token.parts().unwrap_or_default(), at)
        };
        let rows = match rows {
            OriginRows::Items(item) => {
                OriginRows::Items(item.map(|item| Field { mode: Mode::Nullable, ..item }))
            }
            rows => rows,
        };
        let alias = alias(self.tokens, end).or_else(|| Some(last(token.parts()?).to_owned()));
        let offset = self.sources.offsets.iter().find(|(_, list)| alias.as_ref() == Some(*list));
        let offset = offset.map(|(name, _)| Column {
            name: name.clone(),
            field: Some(new_field("", FieldType::Integer)),
        });
        let origins = &mut self.scopes.all[scope].origins;
        origins.push(Origin { alias, rows, joined: Vec::new() });
        origins.extend(offset.map(|offset| Origin {
            alias: None,
            rows: OriginRows::Columns(vec![offset]),
            joined: Vec::new(),
        }));
        end + 1
    }

    /// Returns the rows of the query in the bracket at `open`.
    fn rows_in(&mut self, open: usize) -> OriginRows {
        let Some(inner) = self.scopes.first_in.get(&Some(open)).copied() else {
            return OriginRows::Unknown;
        };
        self.read_scope(inner);
        self.scopes.all[inner].outputs.clone().map_or(OriginRows::Unknown, OriginRows::Columns)
    }

    fn rows_named(&mut self, parts: &[String], at: usize) -> OriginRows {
        if let Some(fields) = self.sources.columns.get(&at) {
            let columns = fields.iter();
            let columns = columns
                .map(|field| Column { name: field.name.clone(), field: Some(field.clone()) });
            return OriginRows::Columns(columns.collect());
        }
        if let Some(super::source::Source::List) = self.sources.at.get(&at) {
            return OriginRows::Items(self.of_name(parts, at));
        }
        // A query of WITH that comes later would be recursive.
        let named = self.scopes.named.get(&last(parts).to_ascii_uppercase()).copied();
        match named
            .filter(|open| *open < at && closing(self.tokens, *open).is_some_and(|end| end < at))
        {
            Some(open) if parts.len() == 1 => self.rows_in(open),
            _ => OriginRows::Unknown,
        }
    }

    /// Reads the columns of `USING (...)`.
    fn join(&mut self, scope: usize, open: usize) {
        let close = closing(self.tokens, open).unwrap_or(open);
        let names = split(self.tokens, open + 1, close).into_iter();
        let names = names.filter_map(|(from, _)| Some(last(self.tokens[from].parts()?).to_owned()));
        let names: Vec<String> = names.collect();
        if let Some(origin) = self.scopes.all[scope].origins.last_mut() {
            origin.joined = names;
        }
    }
}
