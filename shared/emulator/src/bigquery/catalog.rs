//! Datasets and tables, and the way they are stored in SQLite.

mod stored;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use rusqlite::{Connection, params};
use serde_json::{Map, Value, json};
use tonic::Code;
use uuid::Uuid;

use self::stored::{column, read_datasets, read_tables, table_statement};
use super::append::stream::Streams;
use super::deadline::Deadline;
use super::jobs::Jobs;
use super::lag::Lag;
use super::names::{DatasetName, TableName, exists, missing, reference};
use super::read::sessions::ReadSessions;
use super::schema::Schema;
use super::sql::register;
use super::sqlite::failed;
use super::table::Table;
use super::{layout, value};
use crate::rights::{self, SET_CATEGORY};
use crate::status::Status;

/// All datasets and tables, in memory. SQLite holds the rows and a copy of everything.
pub(super) struct Catalog {
    pub connection: Connection,
    datasets: BTreeMap<DatasetName, Map<String, Value>>,
    tables: BTreeMap<TableName, Table>,
    /// Time at which each table received each `insertId`. They last for about a minute.
    pub seen: HashMap<(Uuid, String), Instant>,
    pub jobs: Jobs,
    pub streams: Streams,
    pub sessions: ReadSessions,
    pub lag: Lag,
    pub deadline: Deadline,
}

impl Catalog {
    pub(super) fn open(file: &Path, lag: Lag) -> anyhow::Result<Self> {
        let mut connection =
            Connection::open(file).with_context(|| format!("open {}", file.display()))?;
        // Written data survives the end of the process. It may be lost if the machine crashes.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        register(&connection)?;
        let deadline = Deadline::watch(&mut connection)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS \"#datasets\"
                (project TEXT, dataset TEXT, resource TEXT, PRIMARY KEY (project, dataset));
             CREATE TABLE IF NOT EXISTS \"#tables\"
                (project TEXT, dataset TEXT, id TEXT, schema TEXT, resource TEXT,
                 PRIMARY KEY (project, dataset, id));",
        )?;
        let (datasets, tables) = (read_datasets(&connection)?, read_tables(&connection)?);
        Ok(Self {
            connection,
            datasets,
            tables,
            seen: HashMap::new(),
            jobs: Jobs::default(),
            streams: Streams::default(),
            sessions: ReadSessions::default(),
            lag,
            deadline,
        })
    }

    pub(super) fn datasets(&self) -> &BTreeMap<DatasetName, Map<String, Value>> {
        &self.datasets
    }

    pub(super) fn tables(&self) -> &BTreeMap<TableName, Table> {
        &self.tables
    }

    pub(super) fn table(&self, name: &TableName) -> Result<&Table, Status> {
        self.tables.get(name).ok_or_else(|| {
            if self.datasets.contains_key(&name.dataset()) {
                missing("Table", &name.display())
            } else {
                missing("Dataset", &name.dataset().display())
            }
        })
    }

    /// Checks a permission that may have been revoked.
    pub(super) fn allow(&self, permission: &str) -> Result<(), Status> {
        rights::check(&self.lag.conditions().profile().denied, permission)
    }

    /// Refuses policy tags in the schema of a request if their permission is denied.
    pub(super) fn allow_tags(&self, given: Option<&Schema>) -> Result<(), Status> {
        if given.is_some_and(Schema::has_tags) { self.allow(SET_CATEGORY) } else { Ok(()) }
    }

    /// Returns a table with the schema that the write APIs know, if they know the table.
    pub(super) fn writable(&self, name: &TableName) -> Result<(&Table, &Schema), Status> {
        let table = self.table(name)?;
        if table.view().is_some() {
            return Err(Status::invalid(format!("Cannot add rows to a view: {}", name.display())));
        }
        if !self.lag.knows(name) {
            return Err(missing("Table", &name.display()));
        }
        Ok((table, self.lag.schema(name, &table.schema)))
    }

    pub(super) fn create_dataset(
        &mut self,
        name: &DatasetName,
        mut resource: Map<String, Value>,
    ) -> Result<Value, Status> {
        check_id(&name.1, "dataset")?;
        if self.datasets.contains_key(name) {
            return Err(exists("Dataset", &name.display()));
        }
        stamp(&mut resource);
        let statement = "INSERT INTO \"#datasets\" VALUES (?, ?, ?)";
        let text = Value::Object(resource.clone()).to_string();
        let inserted = self.connection.execute(statement, params![name.0, name.1, text]);
        inserted.map_err(|error| failed(&error))?;
        self.datasets.insert(name.clone(), resource);
        self.show_dataset(name)
    }

    pub(super) fn show_dataset(&self, name: &DatasetName) -> Result<Value, Status> {
        let found = self.datasets.get(name);
        let resource = found.ok_or_else(|| missing("Dataset", &name.display()))?;
        let mut shown = resource.clone();
        shown.insert("kind".into(), "bigquery#dataset".into());
        shown.insert("id".into(), name.display().into());
        let reference = json!({ "projectId": name.0, "datasetId": name.1 });
        shown.insert("datasetReference".into(), reference);
        shown.entry("location").or_insert_with(|| "US".into());
        Ok(Value::Object(shown))
    }

    pub(super) fn list_datasets(&self, project: &str) -> Result<Value, Status> {
        let names = self.datasets.keys().filter(|name| name.0 == project);
        let shown: Vec<_> = names.map(|name| self.show_dataset(name)).collect::<Result<_, _>>()?;
        Ok(json!({ "kind": "bigquery#datasetList", "etag": "", "datasets": shown }))
    }

    pub(super) fn delete_dataset(&mut self, name: &DatasetName, all: bool) -> Result<(), Status> {
        self.show_dataset(name)?;
        let tables: Vec<_> =
            self.tables.keys().filter(|table| table.dataset() == *name).cloned().collect();
        if !tables.is_empty() && !all {
            let text = format!("Dataset {} is still in use", name.display());
            return Err(Status::invalid(text));
        }
        for table in tables {
            self.delete_table(&table)?;
        }
        let statement = "DELETE FROM \"#datasets\" WHERE project = ? AND dataset = ?";
        let deleted = self.connection.execute(statement, params![name.0, name.1]);
        deleted.map_err(|error| failed(&error))?;
        self.datasets.remove(name);
        Ok(())
    }

    /// Creates a table or a view as a separate change.
    pub(super) fn create_table(
        &mut self,
        name: &TableName,
        schema: Schema,
        resource: Map<String, Value>,
    ) -> Result<Value, Status> {
        self.lag.spend_update(name)?;
        self.make_table(name, schema, resource)?;
        self.show_table(name)
    }

    /// Creates a table or a view as part of a larger change.
    pub(super) fn make_table(
        &mut self,
        name: &TableName,
        schema: Schema,
        mut resource: Map<String, Value>,
    ) -> Result<(), Status> {
        check_id(&name.2, "table")?;
        self.show_dataset(&name.dataset())?;
        if self.tables.contains_key(name) {
            return Err(exists("Table", &name.display()));
        }
        check_schema(&schema)?;
        layout::check(&schema, &resource)?;
        stamp(&mut resource);
        let table = Table { schema, resource, id: Uuid::new_v4() };
        self.atomically(name, |catalog| catalog.make(name, table))
    }

    fn make(&mut self, name: &TableName, mut table: Table) -> Result<(), Status> {
        let statement = match table.view() {
            Some(_) if !table.schema.fields.is_empty() => {
                let why = "Schema field shouldn't be used as input with a view";
                return Err(Status::invalid(why));
            }
            Some(query) => self.view_statement(name, query)?,
            None => table_statement(name, &table.schema),
        };
        let created = self.connection.execute_batch(&statement);
        created.map_err(|error| Status::invalid(format!("Invalid query: {error}")))?;
        if let Some(query) = table.view() {
            table.schema.fields = self.columns_of(query, &self.scope_of(name))?;
        }
        self.keep(name, table)?;
        self.lag.note_table(name);
        Ok(())
    }

    /// Changes the schema and other properties of a table if its etag matches.
    pub(super) fn patch_table(
        &mut self,
        name: &TableName,
        etag: Option<&str>,
        schema: Option<Schema>,
        changes: Map<String, Value>,
    ) -> Result<Value, Status> {
        self.lag.spend_update(name)?;
        let table = self.table(name)?.clone();
        if etag.is_some_and(|etag| table.resource.get("etag").is_none_or(|found| found != etag)) {
            return Err(Status::new(Code::FailedPrecondition, "Precondition check failed."));
        }
        self.atomically(name, |catalog| catalog.patch(name, table, schema, changes))?;
        self.show_table(name)
    }

    fn patch(
        &mut self,
        name: &TableName,
        mut table: Table,
        schema: Option<Schema>,
        mut changes: Map<String, Value>,
    ) -> Result<(), Status> {
        let is_same = |next: &Schema| table.view().is_some() && *next == table.schema;
        if let Some(mut next) = schema.filter(|next| !is_same(next)) {
            if table.view().is_some() {
                return Err(Status::unimplemented("changes of a view's schema"));
            }
            check_schema(&next)?;
            next.keep_tags(&table.schema);
            table.schema.check_change(&next, &name.display())?;
            self.add_columns(name, &table.schema, &next)?;
            let before = std::mem::replace(&mut table.schema, next);
            if before != table.schema {
                self.lag.note_schema(name, before);
            }
        }
        let was_view = table.view().map(str::to_owned);
        let before = table.resource.clone();
        layout::keep_partitioning(&before, &mut changes);
        table.resource.extend(changes);
        // A property that is set to `null` is removed.
        table.resource.retain(|_, value| !value.is_null());
        layout::check(&table.schema, &table.resource)?;
        layout::check_change(&before, &table.resource)?;
        if was_view.is_some() != table.view().is_some() {
            let text = format!("The type of {} cannot be changed", name.display());
            return Err(Status::invalid(text));
        }
        if let (Some(was), Some(query)) = (was_view, table.view())
            && was != query
        {
            let create = self.view_statement(name, query)?;
            self.replace_view(name, &create)
                .map_err(|error| Status::invalid(format!("Invalid query: {error}")))?;
            table.schema.fields = self.columns_of(query, &self.scope_of(name))?;
        }
        stamp(&mut table.resource);
        self.keep(name, table)
    }

    /// Adds columns that are new in the next schema.
    fn add_columns(&self, name: &TableName, before: &Schema, next: &Schema) -> Result<(), Status> {
        let mut statements = Vec::new();
        if before.fields.is_empty() && !next.fields.is_empty() {
            // The placeholder of a table without columns goes, and the rows stay.
            let rows = usize::try_from(self.last_row(name)?).unwrap_or_default();
            statements.push(format!("DROP TABLE {}", name.quoted()));
            statements.push(table_statement(name, next));
            statements.extend(vec![format!("INSERT INTO {} DEFAULT VALUES", name.quoted()); rows]);
        } else {
            let new = next.fields.iter().filter(|field| before.find(&field.name).is_none());
            let add = |field| format!("ALTER TABLE {} ADD {}", name.quoted(), column(field));
            statements.extend(new.map(add));
        }
        self.connection.execute_batch(&statements.join(";")).map_err(|error| failed(&error))
    }

    pub(super) fn delete_table(&mut self, name: &TableName) -> Result<(), Status> {
        let kind = if self.table(name)?.view().is_some() { "VIEW" } else { "TABLE" };
        let dropped = format!("DROP {kind} {}", name.quoted());
        let statement = "DELETE FROM \"#tables\" WHERE project = ? AND dataset = ? AND id = ?";
        self.atomically(name, |catalog| {
            catalog.connection.execute_batch(&dropped).map_err(|error| failed(&error))?;
            let deleted = catalog.connection.execute(statement, params![name.0, name.1, name.2]);
            catalog.set_table(name, None);
            deleted.map(drop).map_err(|error| failed(&error))
        })
    }

    /// Sets or removes a table in memory. The caller changes SQLite.
    pub(super) fn set_table(&mut self, name: &TableName, table: Option<Table>) {
        self.tables.remove(name);
        self.tables.extend(table.map(|table| (name.clone(), table)));
    }

    pub(super) fn show_table(&self, name: &TableName) -> Result<Value, Status> {
        let table = self.table(name)?;
        let mut shown = table.resource.clone();
        shown.insert("kind".into(), "bigquery#table".into());
        shown.insert("id".into(), name.display().into());
        shown.insert("tableReference".into(), reference(name));
        shown.insert("schema".into(), json!(table.schema));
        shown.insert("location".into(), "US".into());
        let kind = if table.view().is_some() { "VIEW" } else { "TABLE" };
        shown.insert("type".into(), kind.into());
        let _running = self.deadline.start();
        let count = format!("SELECT COUNT(*) FROM {}", name.quoted());
        let rows: Result<i64, _> = self.connection.query_row(&count, [], |row| row.get(0));
        let rows = rows.map_err(|error| failed(&error))?;
        shown.insert("numRows".into(), rows.to_string().into());
        Ok(Value::Object(shown))
    }

    pub(super) fn list_tables(&self, dataset: &DatasetName) -> Result<Value, Status> {
        self.show_dataset(dataset)?;
        const SHOWN: [&str; 8] = [
            "clustering",
            "creationTime",
            "expirationTime",
            "friendlyName",
            "labels",
            "rangePartitioning",
            "timePartitioning",
            "view",
        ];
        let tables = self.tables.iter().filter(|(name, _)| name.dataset() == *dataset);
        let shown = tables.map(|(name, table)| {
            let kind = if table.view().is_some() { "VIEW" } else { "TABLE" };
            let mut shown = json!({ "kind": "bigquery#table", "id": name.display(), "type": kind,
                                    "tableReference": reference(name) });
            for key in SHOWN {
                if let Some(value) = table.resource.get(key) {
                    shown[key] = value.clone();
                }
            }
            shown
        });
        let shown: Vec<_> = shown.collect();
        let total = shown.len();
        Ok(
            json!({ "kind": "bigquery#tableList", "etag": "", "tables": shown, "totalItems": total }),
        )
    }

    fn keep(&mut self, name: &TableName, table: Table) -> Result<(), Status> {
        let statement = "INSERT OR REPLACE INTO \"#tables\" VALUES (?, ?, ?, ?, ?)";
        let schema = json!(table.schema).to_string();
        let resource = Value::Object(table.resource.clone()).to_string();
        let kept = params![name.0, name.1, name.2, schema, resource];
        self.connection.execute(statement, kept).map_err(|error| failed(&error))?;
        self.tables.insert(name.clone(), table);
        Ok(())
    }
}

/// Refuses a schema that no table may have.
fn check_schema(schema: &Schema) -> Result<(), Status> {
    schema.check()?;
    value::default::check(&schema.fields).map_err(Status::invalid)
}

/// Sets the times and the etag, which are updated with every change.
fn stamp(resource: &mut Map<String, Value>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    resource.entry("creationTime").or_insert_with(|| now.to_string().into());
    resource.insert("lastModifiedTime".into(), now.to_string().into());
    resource.insert("etag".into(), Uuid::new_v4().to_string().into());
}

fn check_id(id: &str, what: &str) -> Result<(), Status> {
    let is_right = !id.is_empty()
        && id.len() <= 1024
        && id.chars().all(|char| char.is_alphanumeric() || "_- ".contains(char));
    if is_right { Ok(()) } else { Err(Status::invalid(format!("Invalid {what} ID \"{id}\"."))) }
}
