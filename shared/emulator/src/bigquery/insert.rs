//! Inserts rows: `insertAll`, and the code that it shares with the Storage Write API.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rusqlite::types::Value as Sql;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::catalog::Catalog;
use super::names::TableName;
use super::schema::Field;
use super::sqlite::failed;
use super::value;
use crate::status::Status;

/// Number of remembered ids above which old ones are removed.
const SWEEP_AT: usize = 100_000;
/// Most rows of a request, from Google's quotas.
const MAX_ROWS: usize = 50_000;
/// Longest `insertId` in bytes.
const MAX_INSERT_ID_BYTES: usize = 128;

/// Body of `tabledata.insertAll`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InsertAll {
    #[serde(default)]
    skip_invalid_rows: bool,
    #[serde(default)]
    ignore_unknown_values: bool,
    #[serde(default)]
    template_suffix: Option<String>,
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(default, deserialize_with = "text_or_number")]
    insert_id: Option<String>,
    json: Map<String, Value>,
}

/// Reads an id. Some clients send a number.
fn text_or_number<'de, D: Deserializer<'de>>(source: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(source)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        _ => Err(D::Error::custom("insertId must be a text")),
    }
}

impl Catalog {
    /// Inserts rows. One bad row refuses all of them unless `skipInvalidRows` is set.
    pub(super) fn insert_all(
        &mut self,
        name: &TableName,
        request: InsertAll,
    ) -> Result<Value, Status> {
        check(&request)?;
        let (table, seen) = self.writable(name)?;
        if table.view().is_some() {
            return Err(Status::invalid(format!("Cannot add rows to a view: {}", name.display())));
        }
        let (table_id, fields, seen) = (table.id, table.schema.fields.clone(), seen.clone());
        let (mut good, mut errors) = (Vec::new(), Vec::new());
        for (index, mut row) in request.rows.into_iter().enumerate() {
            if request.ignore_unknown_values {
                row.json.retain(|name, _| seen.find(name).is_some());
            }
            let ignore = request.ignore_unknown_values;
            let mut store = |fields: &[Field]| -> Result<_, Status> {
                value::default::fill(fields, &mut row.json)
                    .map_err(|why| Status::unimplemented(&why))?;
                Ok(value::store_row(fields, &row.json, ignore))
            };
            let is_known =
                if seen.fields == fields { Ok(()) } else { store(&seen.fields)?.map(drop) };
            let stored = store(&fields)?;
            match is_known.and(stored) {
                Ok(values) => good.push((index, row.insert_id, values)),
                Err(fault) => {
                    errors.push(insert_error(index, "invalid", &fault.location, &fault.message));
                }
            }
        }
        if !errors.is_empty() && !request.skip_invalid_rows {
            errors.extend(good.iter().map(|(index, ..)| insert_error(*index, "stopped", "", "")));
            good.clear();
        }
        self.forget_old();
        let (mut rows, mut new_ids) = (Vec::with_capacity(good.len()), HashSet::new());
        for (_, insert_id, values) in good {
            let id = insert_id.filter(|id| !id.is_empty());
            let is_new = id.is_none_or(|id| !self.remembers(table_id, &id) && new_ids.insert(id));
            if is_new {
                rows.push(values);
            }
        }
        self.insert(name, rows)?;
        let now = Instant::now();
        // The ids of rows that were not written are not remembered.
        self.seen.extend(new_ids.into_iter().map(|id| ((table_id, id), now)));
        let mut answer = json!({ "kind": "bigquery#tableDataInsertAllResponse" });
        if !errors.is_empty() {
            errors.sort_by_key(|error| error["index"].as_u64());
            answer["insertErrors"] = errors.into();
        }
        Ok(answer)
    }

    /// Adds all rows or none. Values are in the order of the schema of the table.
    pub(super) fn insert(
        &mut self,
        name: &TableName,
        rows: impl IntoIterator<Item = Vec<Sql>>,
    ) -> Result<(), Status> {
        let statement = self.table(name)?.insert_statement(name);
        // A savepoint works inside the transaction of a larger change.
        let savepoint = self.connection.savepoint().map_err(|error| failed(&error))?;
        {
            let prepared = savepoint.prepare_cached(&statement);
            let mut prepared = prepared.map_err(|error| failed(&error))?;
            for row in rows {
                let inserted = prepared.execute(rusqlite::params_from_iter(row));
                inserted.map_err(|error| failed(&error))?;
            }
        }
        savepoint.commit().map_err(|error| failed(&error))
    }

    /// Returns true if a table received an `insertId` a short time ago.
    fn remembers(&self, table: Uuid, id: &str) -> bool {
        let at = self.seen.get(&(table, id.to_owned()));
        at.is_some_and(|at| at.elapsed() < self.memory())
    }

    fn forget_old(&mut self) {
        if self.seen.len() > SWEEP_AT {
            let memory = self.memory();
            self.seen.retain(|_, at| at.elapsed() < memory);
        }
    }

    /// Returns the time for which an `insertId` is remembered.
    fn memory(&self) -> Duration {
        self.lag.conditions().profile().insert_id_memory()
    }
}

fn check(request: &InsertAll) -> Result<(), Status> {
    if request.template_suffix.is_some() {
        return Err(Status::unimplemented("templateSuffix"));
    }
    if request.rows.is_empty() {
        return Err(Status::invalid("No rows present in the request."));
    }
    if request.rows.len() > MAX_ROWS {
        let text = format!(
            "too many rows present in the request, limit: {MAX_ROWS} row count: {}.",
            request.rows.len()
        );
        return Err(Status::invalid(text));
    }
    let ids = request.rows.iter().filter_map(|row| row.insert_id.as_ref());
    match ids.into_iter().find(|id| id.len() > MAX_INSERT_ID_BYTES) {
        Some(id) => Err(Status::invalid(format!("insertId of {} bytes is too long", id.len()))),
        None => Ok(()),
    }
}

fn insert_error(index: usize, reason: &str, location: &str, message: &str) -> Value {
    json!({ "index": index, "errors": [
        { "reason": reason, "location": location, "debugInfo": "", "message": message }] })
}

#[cfg(test)]
mod tests {
    use crate::bigquery::transaction::tests::with_table;

    use super::*;

    #[test]
    fn rows_that_could_not_be_written_are_taken_at_the_second_attempt() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let row = json!({ "rows": [{ "insertId": "x", "json": { "a": 1 } }] });
        let insert = |catalog: &mut Catalog| {
            let request = serde_json::from_value(row.clone()).expect("a request");
            catalog.insert_all(&name, request)
        };
        let fails = format!(
            "CREATE TEMP TRIGGER fails BEFORE INSERT ON {} BEGIN SELECT RAISE(ABORT, 'full'); END",
            name.quoted()
        );
        catalog.connection.execute_batch(&fails).expect("a trigger");

        let failed = insert(&mut catalog);
        catalog.connection.execute_batch("DROP TRIGGER fails").expect("no trigger");
        let taken = [insert(&mut catalog), insert(&mut catalog)];

        assert!(failed.is_err());
        assert!(taken.iter().all(Result::is_ok), "{taken:?}");
        assert_eq!(catalog.last_row(&name).expect("a count"), 1);
    }

    fn insert(catalog: &mut Catalog, name: &TableName, request: Value) -> Result<Value, Status> {
        catalog.insert_all(name, serde_json::from_value(request).expect("a request"))
    }

    fn count(catalog: &Catalog, name: &TableName) -> i64 {
        catalog.last_row(name).expect("a count")
    }

    #[test]
    fn a_bad_row_stops_its_neighbours_unless_bad_rows_are_skipped() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let rows =
            json!([{ "json": { "a": 1 } }, { "json": { "a": "x" } }, { "json": { "a": 3 } }]);

        let refused = insert(&mut catalog, &name, json!({ "rows": rows })).expect("an answer");
        let of_none = count(&catalog, &name);
        let skips = json!({ "skipInvalidRows": true, "rows": rows });
        let skipped = insert(&mut catalog, &name, skips).expect("an answer");

        let reasons = |answer: &Value| {
            let errors = answer["insertErrors"].as_array().cloned().unwrap_or_default();
            let reason = |error: &Value| error["errors"][0]["reason"].as_str().map(str::to_owned);
            let all = errors.iter().map(|error| (error["index"].as_u64(), reason(error)));
            all.collect::<Vec<_>>()
        };
        let (stopped, invalid) = (Some("stopped".to_owned()), Some("invalid".to_owned()));
        let expected =
            vec![(Some(0), stopped.clone()), (Some(1), invalid.clone()), (Some(2), stopped)];
        assert_eq!((reasons(&refused), of_none), (expected, 0));
        assert_eq!(refused["insertErrors"][1]["errors"][0]["location"], "a");
        assert_eq!((reasons(&skipped), count(&catalog, &name)), (vec![(Some(1), invalid)], 2));
    }

    #[test]
    fn an_unknown_field_is_an_error_unless_unknown_values_are_ignored() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let rows = json!([{ "json": { "a": 1, "b": 2 } }]);

        let refused = insert(&mut catalog, &name, json!({ "rows": rows })).expect("an answer");
        let ignores = json!({ "ignoreUnknownValues": true, "rows": rows });
        let taken = insert(&mut catalog, &name, ignores).expect("an answer");

        let error = &refused["insertErrors"][0]["errors"][0];
        assert_eq!((&error["location"], &error["reason"]), (&json!("b"), &json!("invalid")));
        assert_eq!((taken.get("insertErrors"), count(&catalog, &name)), (None, 1));
    }

    #[test]
    fn an_insert_id_is_taken_once_per_table_also_within_a_request() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let row = |id: Value| json!({ "insertId": id, "json": { "a": 1 } });
        let rows = json!({ "rows": [
            row("x".into()), row("x".into()), row("".into()), row("".into()), row(7.into()),
        ]});

        let first = insert(&mut catalog, &name, rows.clone());
        let of_first = count(&catalog, &name);
        let second = insert(&mut catalog, &name, rows.clone());
        let of_second = count(&catalog, &name);
        catalog.delete_table(&name).expect("a deletion");
        let schema =
            serde_json::from_value(json!({ "fields": [{ "name": "a", "type": "INTEGER" }] }));
        let created = catalog.create_table(&name, schema.expect("a schema"), Map::new());
        let third = insert(&mut catalog, &name, rows);

        assert!([first, second, created, third].iter().all(Result::is_ok));
        // Rows without an id are never repetitions. A new table of the same name knows no id.
        assert_eq!((of_first, of_second, count(&catalog, &name)), (4, 6, 4));
    }

    #[test]
    fn an_id_of_a_row_that_was_stopped_is_not_remembered() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let good = json!({ "insertId": "x", "json": { "a": 1 } });

        let rows = json!({ "rows": [good, { "json": { "a": "x" } }] });
        let stopped = insert(&mut catalog, &name, rows).expect("an answer");
        let of_stopped = count(&catalog, &name);
        let taken = insert(&mut catalog, &name, json!({ "rows": [good] })).expect("an answer");

        assert!(stopped.get("insertErrors").is_some() && taken.get("insertErrors").is_none());
        assert_eq!((of_stopped, count(&catalog, &name)), (0, 1));
    }

    #[test]
    fn requests_beyond_googles_limits_are_refused_as_a_whole() {
        let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
        let row = |id: usize| json!({ "insertId": "x".repeat(id), "json": { "a": 1 } });
        let mut refused =
            |request| insert(&mut catalog, &name, request).err().map(|one| one.message);

        let empty = refused(json!({ "rows": [] }));
        let many = refused(json!({ "rows": vec![row(0); MAX_ROWS + 1] }));
        let long = refused(json!({ "rows": [row(129)] }));
        let template = refused(json!({ "templateSuffix": "_s", "rows": [row(1)] }));
        let right = refused(json!({ "rows": [row(128)] }));

        assert_eq!(empty.as_deref(), Some("No rows present in the request."));
        let text = "too many rows present in the request, limit: 50000 row count: 50001.";
        assert_eq!(many.as_deref(), Some(text));
        assert_eq!(long.as_deref(), Some("insertId of 129 bytes is too long"));
        assert!(template.is_some() && right.is_none());
    }
}
