//! Reads the SELECTs of a query: the rows that each one reads, and the columns that it returns.

use super::super::schema::{Field, FieldType, Mode, new_field};
use super::infer::Types;
use super::lex::Token;
use super::scopes::{Column, Origin, OriginRows, Scopes};
use super::source::{Source, alias, closing, is_any, last, split};

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
        if let Some(Source::List) = self.sources.at.get(&at) {
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
