//! Reads rows of tables and queries.

use std::collections::BTreeMap;

use rusqlite::ErrorCode;
use rusqlite::types::Value as Sql;
use serde_json::{Map, Value, json};
use tonic::Code;

use super::catalog::Catalog;
use super::deadline::MAX_TIME;
use super::filter;
use super::names::TableName;
use super::rows::{Page, Rows, cells, selected};
use super::schema::{Field, FieldType, Mode, new_field};
use super::sql::lex::{Lexeme, syntax};
use super::sql::{self, Scope};
use super::sqlite::{failed, quote};
use crate::status::Status;

/// Default number of rows in a page.
const PAGE: usize = 10_000;
/// Most values of a result, which is kept in memory.
const MAX_CELLS: usize = 20_000_000;

/// Least floating-point number that is no INT64: SQLite continues with it after an overflow.
const OVERFLOW: f64 = i64::MAX as f64;
/// Most rows that show the types of a view's columns.
const SAMPLE: usize = 100;

impl Catalog {
    /// Returns a page of the rows of a table.
    pub(super) fn list_rows(&self, name: &TableName, page: &Page) -> Result<Value, Status> {
        let mut answer = json!({ "kind": "bigquery#tableDataList", "etag": "" });
        if let Some(result) = self.jobs.result_of(name) {
            let rows = result
                .only(&page.selected)?
                .page(&Page { max_rows: Some(page.max_rows.unwrap_or(PAGE)), ..page.clone() });
            answer.as_object_mut().into_iter().for_each(|answer| answer.extend(rows.clone()));
            return Ok(answer);
        }
        let table = self.table(name)?;
        if table.view().is_some() {
            let text = format!("Cannot list a table of type VIEW: {}", name.display());
            return Err(Status::invalid(text));
        }
        let most = page.max_rows.unwrap_or(PAGE).min(PAGE);
        let fields = selected(&table.schema, &page.selected)?;
        let row_id = table.schema.row_id();
        let columns: Vec<_> = fields.iter().map(|field| quote(&field.name)).collect();
        let columns = if columns.is_empty() { "NULL".into() } else { columns.join(", ") };
        // Row ids have no gaps (see `dml`), so a page is found without reading the rows before it.
        let statement = format!(
            "SELECT {columns} FROM {} WHERE {row_id} > {} ORDER BY {row_id} LIMIT {most}",
            name.quoted(),
            page.start,
        );
        let mut prepared = self.connection.prepare(&statement).map_err(|error| failed(&error))?;
        let found = prepared.query_map([], |row| {
            let row =
                (0..fields.len()).map(|at| row.get(at)).collect::<rusqlite::Result<Vec<Sql>>>()?;
            Ok(cells(&fields, &row, page.times))
        });
        let rows: Result<Vec<Value>, _> = found.map_err(|error| failed(&error))?.collect();
        let rows = rows.map_err(|error| failed(&error))?;
        let total = self.last_row(name)?;
        let next = page.start + rows.len();
        answer["totalRows"] = total.to_string().into();
        answer["rows"] = rows.into();
        if i64::try_from(next).unwrap_or(i64::MAX) < total && most > 0 {
            answer["pageToken"] = next.to_string().into();
        }
        Ok(answer)
    }

    /// Returns the id of the last row, which is also the number of rows.
    pub(super) fn last_row(&self, name: &TableName) -> Result<i64, Status> {
        let row_id = self.table(name)?.schema.row_id();
        let count = format!("SELECT COALESCE(MAX({row_id}), 0) FROM {}", name.quoted());
        self.connection.query_row(&count, [], |row| row.get(0)).map_err(|error| failed(&error))
    }

    /// Returns all rows of a query, which must be one statement that writes nothing.
    pub(super) fn select(
        &self,
        query: &str,
        tokens: &[Lexeme],
        scope: &Scope<'_>,
    ) -> Result<Rows, Status> {
        filter::check(query, self.tables())?;
        let translated = sql::translate_tokens(query, tokens, scope)?;
        if translated.reads_tables {
            self.allow("bigquery.tables.getData")?;
        }
        let wrong = |error: &rusqlite::Error| query_fault(query, &translated, error);
        let mut prepared =
            self.connection.prepare(&translated.text).map_err(|error| wrong(&error))?;
        if !prepared.readonly() {
            return Err(Status::unimplemented("queries that write"));
        }
        let count = prepared.column_count();
        let known = self.known_fields(&prepared);
        let names: Vec<String> = prepared.column_names().map(str::to_owned).collect();
        let _running = self.deadline.start();
        let found = prepared.query_map([], |row| (0..count).map(|at| row.get(at)).collect());
        let found = found.map_err(|error| wrong(&error))?;
        let most = MAX_CELLS / count.max(1);
        let found: Result<Vec<Vec<Sql>>, _> = found.take(most + 1).collect();
        let rows = found.map_err(|error| wrong(&error))?;
        if rows.len() > most {
            return Err(too_large(most));
        }
        let fields = result_fields(&names, &known, &translated.columns, &rows);
        check_overflow(&fields, &rows)?;
        Ok(Rows { fields, rows })
    }

    /// Returns the columns of a query without running it to its end.
    pub(super) fn columns_of(&self, query: &str, scope: &Scope<'_>) -> Result<Vec<Field>, Status> {
        let translated = sql::translate(query, scope)?;
        let wrong = |error: &rusqlite::Error| query_fault(query, &translated, error);
        let mut prepared =
            self.connection.prepare(&translated.text).map_err(|error| wrong(&error))?;
        let count = prepared.column_count();
        let known = self.known_fields(&prepared);
        let names: Vec<String> = prepared.column_names().map(str::to_owned).collect();
        let _running = self.deadline.start();
        let found = prepared.query_map([], |row| (0..count).map(|at| row.get(at)).collect());
        // Rows only show the types that nothing else shows. A row that fails shows none.
        let rows = found.map_err(|error| wrong(&error))?.map_while(Result::ok);
        let rows: Vec<Vec<Sql>> = rows.take(SAMPLE).collect();
        Ok(result_fields(&names, &known, &translated.columns, &rows))
    }

    /// Returns the table column behind each column of a query, if there is exactly one.
    fn known_fields(&self, prepared: &rusqlite::Statement<'_>) -> Vec<Option<Field>> {
        let names: BTreeMap<String, &TableName> = self
            .tables()
            .keys()
            .map(|name| (format!("{}.{}.{}", name.0, name.1, name.2), name))
            .collect();
        let columns = prepared.columns_with_metadata();
        columns
            .map(|column| {
                let (table, origin) = (column.table_name()?, column.origin_name()?);
                self.tables().get(*names.get(table)?)?.schema.find(origin).cloned()
            })
            .collect()
    }
}

/// Returns the columns of a result: from tables, from the query, or by the first values.
fn result_fields(
    names: &[String],
    known: &[Option<Field>],
    columns: &sql::Columns,
    rows: &[Vec<Sql>],
) -> Vec<Field> {
    let fields = names.iter().enumerate().map(|(at, name)| {
        let field = known[at].as_ref().or(columns.at(at, names.len())).cloned();
        let field = field.unwrap_or_else(|| guessed(rows.iter().map(|row| &row[at])));
        let is_real =
            |row: &Vec<Sql>| matches!(row[at], Sql::Real(number) if number.abs() < OVERFLOW);
        let is_float = field.kind == FieldType::Integer && rows.iter().any(is_real);
        let kind = if is_float { FieldType::Float } else { field.kind };
        let mode = if field.mode == Mode::Repeated { field.mode } else { Mode::Nullable };
        let name = if is_made_up(name) { format!("f{at}_") } else { name.clone() };
        Field { name, kind, mode, attributes: Map::new(), ..field }
    });
    fields.collect()
}

/// Checks that whole numbers are whole.
///
/// # Errors
/// Fails for a sum or product that is no INT64.
fn check_overflow(fields: &[Field], rows: &[Vec<Sql>]) -> Result<(), Status> {
    let mut whole = fields.iter().enumerate().filter(|(_, field)| field.kind == FieldType::Integer);
    if whole.any(|(at, _)| rows.iter().any(|row| matches!(row[at], Sql::Real(_)))) {
        let status = Status::invalid("int64 overflow");
        return Err(Status { reason: Some("invalidQuery".into()), ..status });
    }
    Ok(())
}

/// Returns true if SQLite derived a column name from its expression. BigQuery numbers such columns.
fn is_made_up(name: &str) -> bool {
    name.is_empty()
        || name.contains(|char: char| !(char.is_alphanumeric() || " _-".contains(char)))
        || name.starts_with(|char: char| char.is_ascii_digit())
        || name.ends_with(' ')
}

fn too_large(most: usize) -> Status {
    let text = format!("Response too large to return: this emulator returns {most} such rows");
    let status = Status::new(Code::ResourceExhausted, text);
    Status { reason: Some("responseTooLarge".into()), ..status }
}

fn too_slow() -> Status {
    let text = format!(
        "Resources exceeded during query execution: a query may take {} s in this emulator",
        MAX_TIME.as_secs()
    );
    Status { reason: Some("resourcesExceeded".into()), ..Status::invalid(text) }
}

/// Converts an error of SQLite to Google's text, with the place in the query.
fn query_fault(query: &str, translated: &sql::Translated, error: &rusqlite::Error) -> Status {
    if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) {
        return too_slow();
    }
    let (message, offset) = match error {
        rusqlite::Error::SqlInputError { msg, offset, .. } => {
            (msg.clone(), usize::try_from(*offset).ok())
        }
        rusqlite::Error::SqliteFailure(_, Some(message)) => (message.clone(), None),
        other => (other.to_string(), None),
    };
    let quoted = message.split('"').nth(1).unwrap_or_default();
    let why = if let Some(name) = message.strip_prefix("no such column: ") {
        let name = name.split(" - ").next().unwrap_or(name).trim_matches('"');
        format!("Unrecognized name: {name}")
    } else if let Some(name) = message.strip_prefix("no such function: ") {
        format!("Function not found: {name}")
    } else if message.starts_with("near ") {
        format!("Syntax error: Unexpected \"{quoted}\"")
    } else if message.contains("incomplete input") {
        "Syntax error: Unexpected end of script".into()
    } else {
        message
    };
    match offset {
        Some(offset) => syntax(query, translated.source_of(offset), &why),
        None => {
            let mut status = Status::new(Code::InvalidArgument, why);
            status.reason = Some("invalidQuery".into());
            status
        }
    }
}

/// Returns the type of a computed column by its first value, for an expression of unknown type.
fn guessed<'a>(values: impl Iterator<Item = &'a Sql>) -> Field {
    let mut values = values.filter(|value| !matches!(value, Sql::Null));
    let kind = match values.next() {
        Some(Sql::Integer(_)) => FieldType::Integer,
        Some(Sql::Real(_)) => FieldType::Float,
        Some(Sql::Blob(_)) => FieldType::Bytes,
        Some(Sql::Text(_) | Sql::Null) | None => FieldType::String,
    };
    new_field("", kind)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bigquery::sql::lex::lex;
    use crate::bigquery::transaction::tests::with_table;

    #[test]
    fn a_query_without_an_end_is_refused_after_a_while() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        catalog.deadline.max_time = Duration::from_millis(50);
        let query = "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t)
                     SELECT COUNT(*) FROM t";
        let scope = Scope { project: "p", dataset: None, catalog: &catalog };

        let refused = catalog.select(query, &lex(query).expect("words"), &scope);

        let refused = refused.expect_err("a refusal");
        assert_eq!(refused.reason.as_deref(), Some("resourcesExceeded"), "{refused}");
        assert_eq!(catalog.last_row(&name).expect("the next query"), 0);
    }
}
