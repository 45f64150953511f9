//! Reading: `tabledata.list` and `jobs.query`.

use rusqlite::types::Value as Sql;
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Code;

use super::catalog::{Catalog, TableName, failed};
use super::schema::{Field, Kind, Mode};
use super::{sql, value};
use crate::status::Status;

/// Rows of a page when a caller does not say.
const PAGE: usize = 10_000;

/// The body of `jobs.query`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Query {
    query: String,
    #[serde(default)]
    default_dataset: Option<DefaultDataset>,
    #[serde(default)]
    use_legacy_sql: Option<bool>,
    #[serde(default)]
    query_parameters: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DefaultDataset {
    dataset_id: String,
}

impl Catalog {
    /// A page of a table's rows; the token is the number of the next row.
    pub(super) fn list_rows(
        &self,
        name: &TableName,
        start: usize,
        most: Option<usize>,
    ) -> Result<Value, Status> {
        let table = self.table(name)?;
        let most = most.unwrap_or(PAGE).min(PAGE);
        let fields: Vec<_> =
            table.schema.fields.iter().map(|field| (field, field.name.as_str())).collect();
        let columns: Vec<_> = fields.iter().map(|(_, name)| sql::quote(name)).collect();
        let columns = if columns.is_empty() { "NULL".into() } else { columns.join(", ") };
        // No row is ever deleted, so row ids count rows: no page must walk over those before it.
        let statement = format!(
            "SELECT {columns} FROM {} WHERE rowid > {start} ORDER BY rowid LIMIT {most}",
            name.quoted()
        );
        let mut prepared = self.connection.prepare(&statement).map_err(|error| failed(&error))?;
        let found = prepared.query_map([], |row| {
            let cells = table.schema.fields.iter().enumerate();
            let cells = cells.map(|(at, field)| Ok(value::cell(field, &row.get::<_, Sql>(at)?)));
            Ok(json!({ "f": cells.collect::<rusqlite::Result<Vec<_>>>()? }))
        });
        let rows: Result<Vec<Value>, _> = found.map_err(|error| failed(&error))?.collect();
        let rows = rows.map_err(|error| failed(&error))?;
        let count = format!("SELECT COALESCE(MAX(rowid), 0) FROM {}", name.quoted());
        let total: i64 = self
            .connection
            .query_row(&count, [], |row| row.get(0))
            .map_err(|error| failed(&error))?;
        let next = start + rows.len();
        let mut answer = json!({
            "kind": "bigquery#tableDataList", "etag": "", "totalRows": total.to_string(), "rows": rows });
        if i64::try_from(next).unwrap_or(i64::MAX) < total {
            answer["pageToken"] = next.to_string().into();
        }
        Ok(answer)
    }

    /// All rows of a query at once.
    pub(super) fn query(&self, project: &str, request: &Query) -> Result<Value, Status> {
        if request.use_legacy_sql == Some(true) || !request.query_parameters.is_empty() {
            return Err(Status::unimplemented("legacy SQL and query parameters"));
        }
        let dataset = request.default_dataset.as_ref().map(|dataset| dataset.dataset_id.as_str());
        let text = sql::translate(&request.query, project, dataset, self.tables())?;
        let wrong = |error: &rusqlite::Error| {
            Status::new(Code::InvalidArgument, format!("Syntax error: {error} (in SQLite: {text})"))
        };
        let mut prepared = self.connection.prepare(&text).map_err(|error| wrong(&error))?;
        if !prepared.readonly() {
            return Err(Status::unimplemented("queries that write"));
        }
        let known = self.known_fields(&prepared);
        let names: Vec<String> = prepared.column_names().map(str::to_owned).collect();
        let found = prepared.query_map([], |row| (0..names.len()).map(|at| row.get(at)).collect());
        let found: Result<Vec<Vec<Sql>>, _> = found.map_err(|error| wrong(&error))?.collect();
        let found = found.map_err(|error| wrong(&error))?;
        let fields: Vec<Field> = names
            .iter()
            .enumerate()
            .map(|(at, name)| match &known[at] {
                Some(field) => Field { name: name.clone(), ..field.clone() },
                None => guessed(name, found.iter().map(|row| &row[at])),
            })
            .collect();
        let rows = found.iter().map(|row| {
            let cells = fields.iter().zip(row).map(|(field, stored)| value::cell(field, stored));
            json!({ "f": cells.collect::<Vec<_>>() })
        });
        let rows: Vec<Value> = rows.collect();
        let job = json!({ "projectId": project, "jobId": uuid::Uuid::new_v4().to_string(), "location": "US" });
        Ok(json!({
            "kind": "bigquery#queryResponse",
            "schema": { "fields": fields },
            "jobReference": job,
            "totalRows": rows.len().to_string(),
            "rows": rows,
            "jobComplete": true,
            "cacheHit": false,
            "totalBytesProcessed": "0",
        }))
    }

    /// The columns of tables that a query's columns come from, where they come from one.
    fn known_fields(&self, prepared: &rusqlite::Statement<'_>) -> Vec<Option<Field>> {
        let columns = prepared.columns_with_metadata();
        columns
            .map(|column| {
                let (table, origin) = (column.table_name()?, column.origin_name()?);
                let found = self.tables().iter().find(|(name, _)| {
                    [&name.0, &name.1, &name.2].map(String::as_str).join(".") == table
                });
                found.and_then(|(_, table)| table.schema.find(origin)).cloned()
            })
            .collect()
    }
}

/// A column that was computed: its type is that of its first value.
fn guessed<'a>(name: &str, values: impl Iterator<Item = &'a Sql>) -> Field {
    let mut values = values.filter(|value| !matches!(value, Sql::Null));
    let kind = match values.next() {
        Some(Sql::Integer(_)) => Kind::Integer,
        Some(Sql::Real(_)) => Kind::Float,
        Some(Sql::Blob(_)) => Kind::Bytes,
        Some(Sql::Text(_) | Sql::Null) | None => Kind::String,
    };
    Field {
        name: name.into(),
        kind,
        mode: Mode::Nullable,
        fields: Vec::new(),
        description: None,
        attributes: serde_json::Map::new(),
    }
}
