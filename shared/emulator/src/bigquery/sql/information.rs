//! `INFORMATION_SCHEMA`: metadata as tables.

use serde_json::Value;

use super::super::names::{DatasetName, TableName};
use super::super::schema::{Field, FieldType, Mode, new_field};
use super::super::table::Table;
use super::Scope;
use crate::status::Status;

/// Returns the rows of `[project.][dataset.]INFORMATION_SCHEMA.view` as a query, with their columns;
/// `None` for other names.
///
/// # Errors
/// Fails for a view that this emulator lacks, and for a missing dataset.
pub(super) fn view(
    parts: &[String],
    scope: &Scope<'_>,
) -> Result<Option<(String, Vec<Field>)>, Status> {
    let Some(at) = parts.iter().position(|part| part.eq_ignore_ascii_case("INFORMATION_SCHEMA"))
    else {
        return Ok(None);
    };
    let view = parts.get(at + 1).map(|view| view.to_ascii_uppercase()).unwrap_or_default();
    let (project, dataset) = match &parts[..at] {
        [project, region] if region.starts_with("region-") => (project.as_str(), None),
        [project, dataset] => (project.as_str(), Some(dataset.as_str())),
        [one] if one.starts_with("region-") => (scope.project, None),
        [one] => (scope.project, Some(one.as_str())),
        _ => match scope.dataset {
            Some((project, dataset)) => (project, Some(dataset)),
            None => (scope.project, None),
        },
    };
    let rows = match view.as_str() {
        "SCHEMATA" => schemata(scope, project),
        "TABLES" => of_tables(scope, project, dataset, table)?,
        "COLUMNS" => of_tables(scope, project, dataset, columns)?,
        _ => return Err(Status::unimplemented(&format!("INFORMATION_SCHEMA.{view}"))),
    };
    let kind = |name: &str| match name {
        "creation_time" => FieldType::Timestamp,
        "ordinal_position" => FieldType::Integer,
        _ => FieldType::String,
    };
    let fields = names(&view).iter().map(|name| new_field(name, kind(name))).collect();
    Ok(Some((select(&view, &rows), fields)))
}

/// Returns the names of the columns of a view.
fn names(view: &str) -> &'static [&'static str] {
    match view {
        "SCHEMATA" => &["catalog_name", "schema_name", "location", "creation_time"],
        "TABLES" => &[
            "table_catalog",
            "table_schema",
            "table_name",
            "table_type",
            "is_insertable_into",
            "creation_time",
        ],
        _ => &[
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            "ordinal_position",
            "is_nullable",
            "data_type",
            "is_partitioning_column",
        ],
    }
}

/// Writes the rows as one list of values: SQLite allows no more than 500 queries in a UNION.
fn select(view: &str, rows: &[Vec<Value>]) -> String {
    let names = names(view);
    if rows.is_empty() {
        let cells: Vec<_> = names.iter().map(|name| format!("NULL AS {name}")).collect();
        return format!("(SELECT {} WHERE 0)", cells.join(", "));
    }
    // SQLite names the columns of VALUES by number.
    let columns = names.iter().enumerate();
    let columns: Vec<_> = columns.map(|(at, name)| format!("column{} AS {name}", at + 1)).collect();
    let cells = |row: &Vec<Value>| row.iter().map(literal).collect::<Vec<_>>().join(", ");
    let rows: Vec<_> = rows.iter().map(|row| format!("({})", cells(row))).collect();
    format!("(SELECT {} FROM (VALUES {}))", columns.join(", "), rows.join(", "))
}

fn literal(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        _ => "NULL".into(),
    }
}

fn schemata(scope: &Scope<'_>, project: &str) -> Vec<Vec<Value>> {
    let datasets = scope.catalog.datasets().iter().filter(|(name, _)| name.0 == project);
    let rows = datasets.map(|(name, resource)| {
        let location = resource.get("location").cloned().unwrap_or_else(|| "US".into());
        vec![project.into(), name.1.clone().into(), location, creation(resource)]
    });
    rows.collect()
}

fn of_tables(
    scope: &Scope<'_>,
    project: &str,
    dataset: Option<&str>,
    rows: fn(&TableName, &Table) -> Vec<Vec<Value>>,
) -> Result<Vec<Vec<Value>>, Status> {
    if let Some(dataset) = dataset {
        let name = DatasetName(project.into(), dataset.into());
        scope.catalog.show_dataset(&name)?;
    }
    let tables = scope.catalog.tables().iter();
    let tables = tables
        .filter(|(name, _)| name.0 == project && dataset.is_none_or(|dataset| name.1 == dataset));
    Ok(tables.flat_map(|(name, table)| rows(name, table)).collect())
}

fn table(name: &TableName, table: &Table) -> Vec<Vec<Value>> {
    let (kind, takes_rows) =
        if table.view().is_some() { ("VIEW", "NO") } else { ("BASE TABLE", "YES") };
    vec![vec![
        name.0.clone().into(),
        name.1.clone().into(),
        name.2.clone().into(),
        kind.into(),
        takes_rows.into(),
        creation(&table.resource),
    ]]
}

fn columns(name: &TableName, table: &Table) -> Vec<Vec<Value>> {
    let partition = table.resource.get("timePartitioning").and_then(|one| one.get("field"));
    let columns = table.schema.fields.iter().enumerate().map(|(at, field)| {
        let is_partition = partition.is_some_and(|name| *name == field.name);
        vec![
            name.0.clone().into(),
            name.1.clone().into(),
            name.2.clone().into(),
            field.name.clone().into(),
            (at + 1).into(),
            if field.mode == Mode::Required { "NO" } else { "YES" }.into(),
            type_name(field).into(),
            if is_partition { "YES" } else { "NO" }.into(),
        ]
    });
    columns.collect()
}

/// Returns the creation time in the stored form of a TIMESTAMP.
fn creation(resource: &serde_json::Map<String, Value>) -> Value {
    let millis = resource.get("creationTime").and_then(Value::as_str);
    let millis = millis.and_then(|millis| millis.parse::<i128>().ok()).unwrap_or_default();
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(millis * 1_000_000);
    time.map_or(Value::Null, |time| super::super::value::write_timestamp(time).into())
}

/// Returns the name of the type in SQL.
fn type_name(field: &Field) -> String {
    let inner = match field.kind {
        FieldType::Integer => "INT64".into(),
        FieldType::Float => "FLOAT64".into(),
        FieldType::Boolean => "BOOL".into(),
        FieldType::Record => {
            let fields = field.fields.iter();
            let fields = fields.map(|field| format!("{} {}", field.name, type_name(field)));
            format!("STRUCT<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        other => format!("{other:?}").to_ascii_uppercase(),
    };
    if field.mode == Mode::Repeated { format!("ARRAY<{inner}>") } else { inner }
}
