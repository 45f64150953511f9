//! The SELECTs of a query, the rows that each one reads, and the columns that it returns.

use std::collections::HashMap;

use super::super::schema::Field;
use super::lex::Lexeme;
use super::source::last;

/// A column with its type, as far as it is known.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub name: String,
    pub field: Option<Field>,
}

/// Source of rows in a FROM clause.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub alias: Option<String>,
    pub rows: OriginRows,
    /// Columns that `USING` joins with those of an earlier source.
    pub joined: Vec<String>,
}

/// Rows of a source, as far as they are known.
#[derive(Debug, Clone)]
pub(super) enum OriginRows {
    Columns(Vec<Column>),
    /// Items of a list, with their type.
    Items(Option<Field>),
    Unknown,
}

/// A SELECT.
#[derive(Debug, Default)]
pub(super) struct SelectScope {
    pub select: usize,
    /// The SELECT around it.
    pub parent: Option<usize>,
    pub is_read: bool,
    pub origins: Vec<Origin>,
    pub outputs: Option<Vec<Column>>,
    /// Types of the items with an alias, by the alias in upper case.
    pub aliases: HashMap<String, Field>,
}

/// All SELECTs of a query.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    pub all: Vec<SelectScope>,
    /// SELECT that each token belongs to.
    pub of: Vec<Option<usize>>,
    /// First SELECT in each bracket, by the position of the bracket.
    pub first_in: HashMap<Option<usize>, usize>,
    /// Queries of WITH in upper case, with the positions of their brackets.
    pub named: HashMap<String, usize>,
}

/// Column or alias that a name stands for.
pub(super) enum ResolvedName<'a> {
    /// A column, with the index of the part of the name that is the column.
    Column(usize, Option<&'a Field>),
    /// An alias of an item.
    Alias(&'a Field),
}

impl Scopes {
    /// Finds the SELECTs, which are not read yet.
    pub(super) fn find(tokens: &[Lexeme]) -> Self {
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

    /// Resolves the name at `at`: in its SELECT, or in one around it.
    pub(super) fn resolve(&self, parts: &[String], at: usize) -> Option<ResolvedName<'_>> {
        let mut next = self.of.get(at).copied().flatten();
        while let Some(scope) = next.and_then(|scope| self.all.get(scope)) {
            if let Some(found) = scope.column(parts) {
                return Some(found);
            }
            if let Some(field) = scope.aliases.get(&last(parts).to_ascii_uppercase()) {
                return Some(ResolvedName::Alias(field));
            }
            next = scope.parent;
        }
        None
    }
}

impl SelectScope {
    fn column(&self, parts: &[String]) -> Option<ResolvedName<'_>> {
        let is_named = |origin: &&Origin| {
            origin.alias.as_ref().is_some_and(|alias| alias.eq_ignore_ascii_case(&parts[0]))
        };
        if let Some(origin) = self.origins.iter().find(is_named) {
            match (&origin.rows, parts.get(1)) {
                (OriginRows::Items(item), _) => {
                    return Some(ResolvedName::Column(0, item.as_ref()));
                }
                (OriginRows::Columns(columns), Some(name)) => {
                    if let Some(column) = named(columns, name) {
                        return Some(ResolvedName::Column(1, column.field.as_ref()));
                    }
                }
                (OriginRows::Unknown, Some(_)) => return Some(ResolvedName::Column(1, None)),
                (OriginRows::Columns(_) | OriginRows::Unknown, _) => {}
            }
        }
        let column = self.origins.iter().find_map(|origin| match &origin.rows {
            OriginRows::Columns(columns) => named(columns, &parts[0]),
            OriginRows::Items(_) | OriginRows::Unknown => None,
        });
        column.map(|column| ResolvedName::Column(0, column.field.as_ref()))
    }

    /// Returns the columns of `*`, or of `alias.*`.
    pub(super) fn star(&self, alias: Option<&str>) -> Option<Vec<Column>> {
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
