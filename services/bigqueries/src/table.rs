//! The table: found, created, given new columns, or refused.

use std::fmt;
use std::time::Duration;

use gcp_bigquery_client::Client;
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::model::clustering::Clustering;
use gcp_bigquery_client::model::field_type::FieldType;
use gcp_bigquery_client::model::table::Table as Resource;
use gcp_bigquery_client::model::table_field_schema::TableFieldSchema;
use gcp_bigquery_client::model::table_schema::TableSchema;
use gcp_bigquery_client::model::time_partitioning::TimePartitioning;
use gcp_bigquery_client::model::view_definition::ViewDefinition;
use pipeline::{Lease, Recovery, Renewable};
use service::survey::State;
use service::{Condition, Need, WrongSettings, credentials};
use tokio::time::timeout;
use tracing::info;

use crate::client::{self, Endpoint};
use crate::column::{Column, Kind, Mode};
use crate::config;
use crate::view;

/// Longest duration of a look, with what is created then.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at a table that is there; outages show earlier at the writes.
const INTERVAL: Duration = Duration::from_secs(30);
/// Between two looks at one that is not.
const MISSING_INTERVAL: Duration = Duration::from_secs(1);
/// The least role on a table that is written to.
const ROLE: &str = "roles/bigquery.dataEditor";

/// A table's project, dataset and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// The project.
    pub project: String,
    /// The dataset.
    pub dataset: String,
    /// The id.
    pub table: String,
}

impl TableName {
    /// `projects/P/datasets/D/tables/T`.
    pub(crate) fn resource(&self) -> String {
        let Self { project, dataset, table } = self;
        format!("projects/{project}/datasets/{dataset}/tables/{table}")
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.project, self.dataset, self.table)
    }
}

/// The table that rows go to.
#[derive(Clone)]
pub struct Table {
    client: Renewable<Client>,
    name: TableName,
    columns: std::sync::Arc<[Column]>,
    settings: config::Table,
}

/// Why a table cannot be written to.
enum Fault {
    /// It can be there later.
    Missing(String),
    /// It is another one than the settings describe.
    Different(String),
}

impl Table {
    /// The table of the settings, with the columns of the rows.
    #[must_use]
    pub fn new(
        client: Renewable<Client>,
        name: TableName,
        columns: std::sync::Arc<[Column]>,
        settings: config::Table,
    ) -> Self {
        Self { client, name, columns, settings }
    }

    /// Waits until the table is there and has all columns; creates and adds what the settings
    /// allow.
    ///
    /// # Errors
    /// When the table is another one than the settings describe: both sides are named.
    pub async fn wait(&self, condition: &Condition) -> anyhow::Result<()> {
        loop {
            let ensured = timeout(TIMEOUT, self.ensure()).await;
            match ensured.unwrap_or_else(|_| Err(self.silent())) {
                Ok(()) => {
                    condition.ready();
                    return Ok(());
                }
                Err(Fault::Missing(why)) => condition.not_ready(why),
                Err(Fault::Different(why)) => {
                    return Err(WrongSettings(format!("table {}: {why}", self.name)).into());
                }
            }
            tokio::time::sleep(MISSING_INTERVAL).await;
        }
    }

    /// Keeps `condition` true to whether the table is there. Never returns.
    pub async fn watch(self, condition: Condition) {
        loop {
            let looked = timeout(TIMEOUT, self.look()).await;
            let interval = match looked.unwrap_or_else(|_| Err(self.silent())) {
                Ok(Some(_)) => {
                    condition.ready();
                    INTERVAL
                }
                Ok(None) => {
                    condition.not_ready(format!("table {} does not exist", self.name));
                    MISSING_INTERVAL
                }
                Err(Fault::Missing(why) | Fault::Different(why)) => {
                    condition.not_ready(why);
                    MISSING_INTERVAL
                }
            };
            tokio::time::sleep(interval).await;
        }
    }

    fn silent(&self) -> Fault {
        Fault::Missing(format!("BigQuery does not answer for table {}", self.name))
    }

    async fn ensure(&self) -> Result<(), Fault> {
        match self.look().await? {
            Some(found) => self.reconcile(found).await?,
            None if self.settings.create => self.create().await?,
            None => {
                let why = format!("table {} does not exist, and table.create is off", self.name);
                return Err(Fault::Missing(why));
            }
        }
        self.ensure_view().await
    }

    async fn client(&self) -> Result<Lease<Client>, Fault> {
        let leased = self.client.lease().await;
        leased.map_err(|error| Fault::Missing(format!("BigQuery cannot be asked: {error}")))
    }

    async fn look(&self) -> Result<Option<Resource>, Fault> {
        let TableName { project, dataset, table } = &self.name;
        let client = self.client().await?;
        let found = client.table().get(project, dataset, table, None).await;
        client.done();
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if status(&error) == Some(404) && !names_dataset(&error) => Ok(None),
            Err(error) => Err(Fault::Missing(self.describe(&error))),
        }
    }

    async fn create(&self) -> Result<(), Fault> {
        let TableName { project, dataset, table } = &self.name;
        let schema = TableSchema::new(self.columns.iter().map(field).collect());
        let mut resource = Resource::new(project, dataset, table, schema);
        resource.description = self.settings.description.clone();
        resource.time_partitioning = self.partitioning();
        resource.clustering = self.clustering();
        resource.expiration_time = self.settings.expires_in.map(|life| {
            let at = std::time::SystemTime::now() + life;
            let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            since.as_millis().to_string()
        });
        let client = self.client().await?;
        let created = client.table().create(resource).await;
        client.done();
        match created {
            Ok(_) => {
                info!(table = %self.name, "created the table");
                Ok(())
            }
            // Another replica was faster; the next look compares.
            Err(error) if status(&error) == Some(409) => {
                Err(Fault::Missing(format!("table {} was just created", self.name)))
            }
            Err(error) => Err(Fault::Missing(self.describe(&error))),
        }
    }

    /// How the table is there. Changes nothing.
    pub async fn need(&self, endpoint: &Endpoint) -> Need {
        let looked = timeout(TIMEOUT, self.look()).await;
        let state = match looked.unwrap_or_else(|_| Err(self.silent())) {
            Ok(None) if self.settings.create => {
                State::WillCreate("it does not exist; the service creates it at its start".into())
            }
            Ok(None) => State::Missing("it does not exist, and table.create is off".into()),
            Ok(Some(found)) => match self.compare(&found) {
                Ok(None) => self.rights(endpoint).await,
                Ok(Some(_)) => State::WillCreate("the service adds columns at its start".into()),
                Err(Fault::Missing(why) | Fault::Different(why)) => State::Differs(why),
            },
            Err(Fault::Missing(why)) if why.starts_with("Not found") => State::Missing(why),
            Err(Fault::Missing(why) | Fault::Different(why)) => State::Unreachable(why),
        };
        Need { kind: "table", name: self.name.to_string(), role: Some(ROLE), state }
    }

    /// Whether we may write to it.
    async fn rights(&self, endpoint: &Endpoint) -> State {
        const PERMISSION: &str = "bigquery.tables.updateData";
        let asked = timeout(TIMEOUT, client::may(endpoint, &self.name, PERMISSION)).await;
        let may = asked.unwrap_or_else(|late| Err(Recovery::Retry.because("ask for rights", late)));
        State::of_right(PERMISSION, ROLE, may.map_err(|error| format!("{error:#}")))
    }

    /// Adds columns that are missing; refuses a table that differs in any other way.
    async fn reconcile(&self, found: Resource) -> Result<(), Fault> {
        let Some(merged) = self.compare(&found)? else { return Ok(()) };
        let TableName { project, dataset, table } = &self.name;
        let patch = Resource::new(project, dataset, table, TableSchema::new(merged));
        let client = self.client().await?;
        let patched = client.table().patch(project, dataset, table, patch).await;
        client.done();
        match patched {
            Ok(_) => {
                info!(table = %self.name, "added columns to the table");
                Ok(())
            }
            Err(error) => Err(Fault::Missing(self.describe(&error))),
        }
    }

    /// The table's fields with those that it lacks, or `None` if it lacks none.
    fn compare(&self, found: &Resource) -> Result<Option<Vec<TableFieldSchema>>, Fault> {
        self.compare_layout(found)?;
        let fields = found.schema.fields.clone().unwrap_or_default();
        let mut differences = Vec::new();
        let merged = merge(&fields, &self.columns, "", &mut differences);
        let unfilled = fields.iter().filter(|field| is_required(field));
        for field in unfilled {
            if !self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(&field.name)) {
                differences.push(format!(
                    "column {}: REQUIRED in the table, and no column of the settings",
                    field.name
                ));
            }
        }
        if !differences.is_empty() {
            return Err(Fault::Different(differences.join("; ")));
        }
        if merged.is_some() && !self.settings.add_columns {
            let why = "columns of the settings are not in the table, and table.add_columns is off";
            return Err(Fault::Different(why.into()));
        }
        Ok(merged)
    }

    fn compare_layout(&self, found: &Resource) -> Result<(), Fault> {
        let partitions = |partitioning: Option<&TimePartitioning>| match partitioning {
            None => "not partitioned".to_owned(),
            Some(by) => {
                let unit = by.r#type.clone();
                format!("partitioned by {} ({unit})", by.field.clone().unwrap_or_default())
            }
        };
        let clusters = |clustering: Option<&Clustering>| {
            let fields = clustering.and_then(|clustering| clustering.fields.clone());
            format!("clustered by {:?}", fields.unwrap_or_default())
        };
        let pairs = [
            (
                partitions(self.partitioning().as_ref()),
                partitions(found.time_partitioning.as_ref()),
            ),
            (clusters(self.clustering().as_ref()), clusters(found.clustering.as_ref())),
        ];
        match pairs.into_iter().find(|(ours, theirs)| ours != theirs) {
            Some((ours, theirs)) => {
                Err(Fault::Different(format!("the settings say {ours}, the table is {theirs}")))
            }
            None => Ok(()),
        }
    }

    async fn ensure_view(&self) -> Result<(), Fault> {
        let Some(id) = &self.settings.view else { return Ok(()) };
        let TableName { project, dataset, .. } = &self.name;
        let mut resource = Resource::new(project, dataset, id, TableSchema::default());
        resource.view = Some(ViewDefinition {
            query: view::query(&self.name, &self.columns),
            use_legacy_sql: Some(false),
            ..ViewDefinition::default()
        });
        let client = self.client().await?;
        let created = client.table().create(resource).await;
        client.done();
        match created {
            Ok(_) => {
                info!(view = id, "created the view without duplicates");
                Ok(())
            }
            Err(error) if status(&error) == Some(409) => Ok(()),
            Err(error) => Err(Fault::Missing(format!("view {id}: {}", self.describe(&error)))),
        }
    }

    fn partitioning(&self) -> Option<TimePartitioning> {
        let by = self.settings.partition_by.as_ref()?;
        let millis = by.expires_in.map(|life| life.as_millis().to_string());
        Some(TimePartitioning {
            expiration_ms: millis,
            field: Some(by.column.clone()),
            require_partition_filter: by.require_filter.then_some(true),
            r#type: by.unit.name().into(),
        })
    }

    fn clustering(&self) -> Option<Clustering> {
        let fields = self.settings.cluster_by.clone();
        (!fields.is_empty()).then_some(Clustering { fields: Some(fields) })
    }

    fn describe(&self, error: &BQError) -> String {
        match error {
            BQError::ResponseError { error } => error.error.message.clone(),
            other => {
                let why = credentials::explain(other);
                format!("BigQuery does not answer for table {}: {why}", self.name)
            }
        }
    }
}

fn status(error: &BQError) -> Option<i64> {
    match error {
        BQError::ResponseError { error } => Some(error.error.code),
        _ => None,
    }
}

/// Whether it is the dataset that was not found: that one is not ours to create.
fn names_dataset(error: &BQError) -> bool {
    matches!(error, BQError::ResponseError { error } if error.error.message.contains("Dataset"))
}

fn is_required(field: &TableFieldSchema) -> bool {
    field.mode.as_deref() == Some("REQUIRED")
}

/// The table's fields with those of `columns` that it lacks, or `None` if it lacks none. What
/// differs is noted with both sides.
fn merge(
    fields: &[TableFieldSchema],
    columns: &[Column],
    at: &str,
    differences: &mut Vec<String>,
) -> Option<Vec<TableFieldSchema>> {
    let mut merged = fields.to_vec();
    let mut has_changed = false;
    for column in columns {
        let path = format!("{at}{}", column.name);
        let found = merged.iter_mut().find(|field| field.name.eq_ignore_ascii_case(&column.name));
        let Some(found) = found else {
            if column.mode == Mode::Required {
                differences.push(format!(
                    "column {path}: a required column cannot be added to a table; must be nullable"
                ));
            }
            merged.push(field(column));
            has_changed = true;
            continue;
        };
        let ours = format!("{} {}", column.kind.name(), mode_name(column.mode));
        let mode = found.mode.clone().unwrap_or_else(|| "NULLABLE".into());
        let theirs = format!("{} {mode}", sql_name(&found.r#type));
        // A value that is always there fits where it may be missing.
        let is_stricter = column.mode == Mode::Required && mode == "NULLABLE";
        if ours != theirs && !(is_stricter && sql_name(&found.r#type) == column.kind.name()) {
            differences
                .push(format!("column {path}: {ours} in the settings, {theirs} in the table"));
        }
        if column.kind == Kind::Record {
            let inner = found.fields.clone().unwrap_or_default();
            if let Some(inner) = merge(&inner, &column.fields, &format!("{path}."), differences) {
                found.fields = Some(inner);
                has_changed = true;
            }
        }
    }
    has_changed.then_some(merged)
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Nullable => "NULLABLE",
        Mode::Required => "REQUIRED",
        Mode::Repeated => "REPEATED",
    }
}

fn field(column: &Column) -> TableFieldSchema {
    let mut field = TableFieldSchema::new(&column.name, field_type(column.kind));
    field.mode = Some(mode_name(column.mode).into());
    field.description = column.description.clone();
    if column.kind == Kind::Record {
        field.fields = Some(column.fields.iter().map(self::field).collect());
    }
    field
}

fn field_type(kind: Kind) -> FieldType {
    match kind {
        Kind::String => FieldType::String,
        Kind::Bytes => FieldType::Bytes,
        Kind::Int64 => FieldType::Integer,
        Kind::Float64 => FieldType::Float,
        Kind::Bool => FieldType::Boolean,
        Kind::Timestamp => FieldType::Timestamp,
        Kind::Date => FieldType::Date,
        Kind::Time => FieldType::Time,
        Kind::Datetime => FieldType::Datetime,
        Kind::Numeric => FieldType::Numeric,
        Kind::Bignumeric => FieldType::Bignumeric,
        Kind::Json => FieldType::Json,
        Kind::Record => FieldType::Record,
    }
}

fn sql_name(kind: &FieldType) -> &'static str {
    match kind {
        FieldType::String => "STRING",
        FieldType::Bytes => "BYTES",
        FieldType::Integer | FieldType::Int64 => "INT64",
        FieldType::Float | FieldType::Float64 => "FLOAT64",
        FieldType::Numeric => "NUMERIC",
        FieldType::Bignumeric => "BIGNUMERIC",
        FieldType::Boolean | FieldType::Bool => "BOOL",
        FieldType::Timestamp => "TIMESTAMP",
        FieldType::Date => "DATE",
        FieldType::Time => "TIME",
        FieldType::Datetime => "DATETIME",
        FieldType::Record | FieldType::Struct => "RECORD",
        FieldType::Geography => "GEOGRAPHY",
        FieldType::Json => "JSON",
        FieldType::Interval => "INTERVAL",
    }
}
