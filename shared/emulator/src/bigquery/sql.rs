//! Translates BigQuery's SQL to SQLite's.
//!
//! There is no grammar: tokens are replaced one by one.
//!
//! - [`lex`] finds the tokens.
//! - [`source`] finds the tables.
//! - [`write`](mod@write) writes the query in SQLite's SQL.
//! - [`calls`] writes function calls.
//! - [`operand`] finds where an operand ends.
//! - [`whole`] finds the items whose values are shown.
//! - [`scopes`] has the SELECTs and their columns, and [`selects`] reads them.
//! - [`known`] names the functions.
//! - [`coerce`] finds texts that are compared with times.
//! - [`times`] writes the functions and operators of times.
//! - [`infer`] derives the types of computed columns.

mod calls;
mod coerce;
mod dates;
mod functions;
mod infer;
mod information;
mod known;
pub(super) mod lex;
mod numbers;
mod operand;
mod parameters;
mod scalar;
mod scopes;
mod selects;
pub(super) mod source;
mod strings;
mod times;
mod whole;
mod write;

pub(super) use dates::parse as parse_time;
pub(super) use functions::register;
pub(super) use parameters::Parameters;

use super::catalog::Catalog;
use super::names::TableName;
use super::schema::Field;
use crate::status::Status;
use lex::Lexeme;

/// Context that gives names in a query their meaning.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub project: &'a str,
    /// Project and dataset of tables without a qualified name.
    pub dataset: Option<(&'a str, &'a str)>,
    pub catalog: &'a Catalog,
}

impl Scope<'_> {
    /// Returns the table of a name, which may leave out the project and the dataset.
    pub(super) fn full(&self, parts: &[String]) -> Option<TableName> {
        match parts {
            [project, dataset, table] => {
                Some(TableName(project.clone(), dataset.clone(), table.clone()))
            }
            [dataset, table] => {
                Some(TableName(self.project.into(), dataset.clone(), table.clone()))
            }
            [table] => {
                let (project, dataset) = self.dataset?;
                Some(TableName(project.into(), dataset.into(), table.clone()))
            }
            _ => None,
        }
    }
}

/// A query in SQLite's SQL.
#[derive(Debug)]
pub(super) struct Translated {
    pub text: String,
    /// Types of the columns, as far as they are known.
    pub columns: Columns,
    /// True if the query reads tables, and not only its own values.
    pub reads_tables: bool,
    /// Offsets in `text`, each with its offset in the query.
    places: Vec<(usize, usize)>,
}

/// Types of the items before the first star of a SELECT, and of those after the last star.
#[derive(Debug, Default, Clone)]
pub(super) struct Columns {
    pub before: Vec<Option<Field>>,
    pub after: Vec<Option<Field>>,
    /// Number of all columns, if it is known.
    pub count: Option<usize>,
}

impl Columns {
    /// Returns the type of column `at` of `count`.
    pub(super) fn at(&self, at: usize, count: usize) -> Option<&Field> {
        if self.count.is_some_and(|expected| expected != count) {
            return None;
        }
        let from_end = count.checked_sub(at + 1)?;
        let after = self.after.len().checked_sub(from_end + 1).and_then(|at| self.after.get(at));
        self.before.get(at).or(after).and_then(Option::as_ref)
    }
}

impl Translated {
    /// Returns the offset in the query for an offset in the translation.
    pub(super) fn source_of(&self, offset: usize) -> usize {
        let before = self.places.iter().take_while(|(out, _)| *out <= offset);
        before.last().map_or(0, |(_, source)| *source)
    }
}

/// Translates a query of one statement.
///
/// # Errors
/// Fails for missing tables, and for text that is not SQL.
pub(super) fn translate(query: &str, scope: &Scope<'_>) -> Result<Translated, Status> {
    translate_tokens(query, &lex::lex(query)?, scope)
}

/// Translates a query that is already split into tokens. `query` gives the positions in errors.
pub(super) fn translate_tokens(
    query: &str,
    tokens: &[Lexeme],
    scope: &Scope<'_>,
) -> Result<Translated, Status> {
    let sources = source::Sources::find(tokens, scope)?;
    let types = infer::Types::new(tokens, &sources);
    let columns = types.columns();
    if let Some(what) = &types.refused {
        return Err(Status::unimplemented(what));
    }
    let mut writer = write::Writer {
        query,
        tokens,
        sources: &sources,
        types: &types,
        intervals: <_>::default(),
        parts: <_>::default(),
        out: <_>::default(),
    };
    writer.range(0, tokens.len())?;
    let (text, places) = writer.out;
    let reads_tables = !sources.used.is_empty();
    Ok(Translated { text, columns, reads_tables, places })
}
