//! The table: found, created, given new columns, or refused.

mod schema;
mod view;

use std::fmt;
use std::time::Duration;

use pipeline::{Lease, Renewable};
use serde_json::{Map, Value, json};
use service::survey::State;
use service::{Condition, Need, WrongSettings};
use tokio::time::timeout;
use tracing::info;

use crate::api::{Api, Failure, Refused};
use crate::column::Column;
use crate::config::{self, INGESTION_TIME};
use schema::{Comparison, array, text};

/// Longest duration of a look, with what is created then.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest duration of a look while rows wait for it.
const QUICK_TIMEOUT: Duration = Duration::from_secs(5);
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
    api: Renewable<Api>,
    name: TableName,
    columns: std::sync::Arc<[Column]>,
    settings: config::Table,
    written_with: config::Api,
}

/// Why a table cannot be written to.
enum Fault {
    /// It can be there later.
    Missing(String),
    /// It is another one than the settings describe.
    Different(String),
    /// BigQuery refuses what the settings ask for, and will do so each time.
    Refused(String),
    /// A change was not made, for a right or a quota for example. Each attempt counts against a quota.
    Unchanged(String),
}

impl Table {
    /// The table of the settings, with the columns of the rows.
    #[must_use]
    pub fn new(
        api: Renewable<Api>,
        name: TableName,
        columns: std::sync::Arc<[Column]>,
        settings: config::Table,
    ) -> Self {
        Self { api, name, columns, settings, written_with: config::Api::default() }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &TableName {
        &self.name
    }

    /// Columns of the rows that go to it.
    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Client that it is looked at with.
    pub(crate) fn client(&self) -> Renewable<Api> {
        self.api.clone()
    }

    /// The same table, written with this API. It decides on columns that are left to their defaults.
    #[must_use]
    pub fn written_with(self, api: config::Api) -> Self {
        Self { written_with: api, ..self }
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
                Err(Fault::Unchanged(why)) => {
                    condition.not_ready(why);
                    tokio::time::sleep(INTERVAL).await;
                }
                Err(Fault::Different(why) | Fault::Refused(why)) => {
                    return Err(WrongSettings(format!("table {}: {why}", self.name)).into());
                }
            }
            tokio::time::sleep(MISSING_INTERVAL).await;
        }
    }

    /// Keeps `condition` true to whether the table is there and fits. Columns that went missing are added
    /// again. Never returns.
    pub async fn watch(self, condition: Condition) {
        loop {
            let checked = timeout(TIMEOUT, self.check_again()).await;
            let interval = match checked.unwrap_or_else(|_| Err(self.silent())) {
                Ok(()) => {
                    condition.ready();
                    INTERVAL
                }
                Err(Fault::Missing(why)) => {
                    condition.not_ready(why);
                    MISSING_INTERVAL
                }
                // The rows wait. There is no use in asking for the same all the time.
                Err(Fault::Refused(why) | Fault::Unchanged(why)) => {
                    condition.not_ready(format!("table {}: {why}", self.name));
                    INTERVAL
                }
                // Whoever changed it may change it back; the rows wait.
                Err(Fault::Different(why)) => {
                    condition.not_ready(format!("table {}: {why}", self.name));
                    MISSING_INTERVAL
                }
            };
            tokio::time::sleep(interval).await;
        }
    }

    async fn check_again(&self) -> Result<(), Fault> {
        match self.look().await? {
            Some(found) => self.reconcile(found).await.map(drop),
            None => Err(Fault::Missing(format!("table {} does not exist", self.name))),
        }
    }

    /// Checks that the table still has the columns that rows are made for. BigQuery refuses good rows once
    /// somebody has replaced it. A table that cannot be looked at counts as unchanged: rows are written by
    /// another API, which goes on without this one.
    ///
    /// # Errors
    /// The difference. The same rows can be written later.
    pub(crate) async fn check_fit(&self) -> Result<(), String> {
        let Ok(Ok(found)) = timeout(QUICK_TIMEOUT, self.look()).await else { return Ok(()) };
        let difference = match found.as_ref().map(|found| self.compare(found)) {
            Some(Ok(None)) => return Ok(()),
            Some(Ok(Some(_))) => "it has lost columns or defaults".to_owned(),
            Some(Err(fault)) => fault.into_text(),
            None => "it does not exist any more".to_owned(),
        };
        Err(format!("table {}: {difference}", self.name))
    }

    fn silent(&self) -> Fault {
        Fault::Missing(format!("BigQuery does not answer for table {}", self.name))
    }

    async fn ensure(&self) -> Result<(), Fault> {
        let table = match self.look().await? {
            Some(found) => {
                let found = self.reconcile(found).await?;
                // Columns that were added get their defaults now.
                self.reconcile(found).await?
            }
            None if self.settings.create => self.create().await?,
            None => {
                let why = format!("table {} does not exist, and table.create is off", self.name);
                return Err(Fault::Missing(why));
            }
        };
        self.ensure_view(&table).await
    }

    async fn api(&self) -> Result<Lease<Api>, Fault> {
        let leased = self.api.lease().await;
        leased.map_err(|error| Fault::Missing(format!("BigQuery cannot be asked: {error}")))
    }

    /// The table's resource, if there is one.
    async fn look(&self) -> Result<Option<Value>, Fault> {
        self.look_for(&self.name).await
    }

    /// The resource of a table or a view in the same dataset, if there is one.
    async fn look_for(&self, name: &TableName) -> Result<Option<Value>, Fault> {
        let api = self.api().await?;
        let found = api.table(name).await;
        api.done();
        match found {
            Ok(found) => Ok(Some(found)),
            Err(Failure::Refused(refused)) if refused.status == 404 && !names_dataset(&refused) => {
                Ok(None)
            }
            Err(failure) => Err(self.fault(&failure)),
        }
    }

    async fn create(&self) -> Result<Value, Fault> {
        let mut resource = self.resource(&self.name.table);
        resource.insert("schema".into(), json!({ "fields": schema::fields(&self.columns) }));
        let expiration = self.settings.expires_in.map(|life| {
            let at = std::time::SystemTime::now() + life;
            let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            since.as_millis().to_string()
        });
        let needs_filter = self.settings.partition_by.as_ref().is_some_and(|by| by.require_filter);
        let key = self.settings.kms_key.as_ref();
        let optional = [
            ("description", self.settings.description.clone().map(Value::from)),
            ("timePartitioning", self.partitioning()),
            ("requirePartitionFilter", needs_filter.then_some(Value::Bool(true))),
            ("encryptionConfiguration", key.map(|key| json!({ "kmsKeyName": key }))),
            ("clustering", self.clustering()),
            ("expirationTime", expiration.map(Value::from)),
        ];
        for (member, value) in optional {
            resource.extend(value.map(|value| (member.to_owned(), value)));
        }
        self.describe(&mut resource);
        let api = self.api().await?;
        let created = api.create_table(&self.name, &resource.into()).await;
        api.done();
        match created {
            Ok(table) => {
                info!(table = %self.name, "created the table");
                Ok(table)
            }
            // Another replica was faster; the next look compares.
            Err(Failure::Refused(refused)) if refused.status == 409 => {
                Err(Fault::Missing(format!("table {} was just created", self.name)))
            }
            // Such as a column that tables cannot be partitioned by.
            Err(Failure::Refused(refused)) if is_about_settings(&refused) => {
                Err(Fault::Refused(format!("it cannot be created: {}", refused.message)))
            }
            Err(failure) => Err(self.fault(&failure)),
        }
    }

    /// How the table is there. Changes nothing.
    pub async fn need(&self) -> Need {
        let looked = timeout(TIMEOUT, self.look()).await;
        let state = match looked.unwrap_or_else(|_| Err(self.silent())) {
            Ok(None) if self.settings.create => {
                State::WillCreate("it does not exist; the service creates it at its start".into())
            }
            Ok(None) => State::Missing("it does not exist, and table.create is off".into()),
            Ok(Some(found)) => match self.compare(&found) {
                Ok(None) => self.rights().await,
                Ok(Some(_)) => {
                    State::WillCreate("the service adds columns or defaults at its start".into())
                }
                Err(fault) => State::Differs(fault.into_text()),
            },
            Err(Fault::Missing(why)) if why.starts_with("Not found") => State::Missing(why),
            Err(fault) => State::Unreachable(fault.into_text()),
        };
        Need { kind: "table", name: self.name.to_string(), role: Some(ROLE), state }
    }

    /// Whether we may write to it.
    async fn rights(&self) -> State {
        const PERMISSION: &str = "bigquery.tables.updateData";
        let asked = timeout(TIMEOUT, async {
            let api = self.api().await?;
            let may = api.may(&self.name, PERMISSION).await;
            api.done();
            may.map_err(|failure| self.fault(&failure))
        });
        let may = asked.await.unwrap_or_else(|_| Err(self.silent()));
        State::of_right(PERMISSION, ROLE, may.map_err(Fault::into_text))
    }

    /// Adds columns that are missing; refuses a table that differs in any other way. Returns the table as it
    /// is then.
    async fn reconcile(&self, found: Value) -> Result<Value, Fault> {
        let Some(merged) = self.compare(&found)? else { return Ok(found) };
        let etag = found["etag"].as_str();
        let etag =
            etag.ok_or_else(|| Fault::Missing(format!("table {} has no etag", self.name)))?;
        let patch = json!({ "schema": { "fields": merged } });
        let api = self.api().await?;
        let patched = api.patch_table(&self.name, etag, &patch).await;
        api.done();
        match patched {
            Ok(table) => {
                info!(table = %self.name, "added columns or defaults to the table");
                Ok(table)
            }
            // Somebody else changed it since; the next look compares.
            Err(Failure::Refused(refused)) if refused.status == 412 => {
                Err(Fault::Missing(format!("table {} was just changed", self.name)))
            }
            // Such as a default that is no value of its column.
            Err(Failure::Refused(refused)) if is_about_settings(&refused) => {
                Err(Fault::Refused(format!("it cannot be changed: {}", refused.message)))
            }
            Err(failure) => Err(Fault::Unchanged(self.fault(&failure).into_text())),
        }
    }

    /// The table's fields with those that it lacks, or `None` if it lacks none.
    fn compare(&self, found: &Value) -> Result<Option<Vec<Value>>, Fault> {
        let kind = found["type"].as_str().unwrap_or("TABLE");
        if kind != "TABLE" {
            return Err(Fault::Different(format!("it is no table that takes rows, but a {kind}")));
        }
        self.compare_layout(found)?;
        let fields = array(&found["schema"]["fields"]);
        let mut comparison = Comparison::new(self.written_with);
        let merged = comparison.merge(fields, &self.columns, "");
        // Nothing is in a table without columns, so its first ones may be required.
        if !comparison.differences.is_empty() && !fields.is_empty() {
            return Err(Fault::Different(comparison.differences.join("; ")));
        }
        if comparison.additions.is_empty() {
            return Ok(None);
        }
        if !self.settings.add_columns {
            let lacks = comparison.additions.join(", ");
            let why = format!("table.add_columns is off, and not in the table: {lacks}");
            return Err(Fault::Different(why));
        }
        Ok(Some(if fields.is_empty() { schema::fields(&self.columns) } else { merged }))
    }

    /// Compares what the settings say of partitions and clusters. Where they say nothing, any will do.
    fn compare_layout(&self, found: &Value) -> Result<(), Fault> {
        let partitions = |partitioning: &Value| match partitioning {
            Value::Null => "not partitioned".to_owned(),
            by => {
                let field = by["field"].as_str().unwrap_or("the time of ingestion");
                format!("partitioned by {field} ({})", text(by, "type"))
            }
        };
        let clusters = |clustering: &Value| match array(&clustering["fields"]) {
            [] => "not clustered".to_owned(),
            fields => {
                let names: Vec<_> = fields.iter().filter_map(Value::as_str).collect();
                format!("clustered by {}", names.join(", "))
            }
        };
        let pairs = [
            self.partitioning()
                .map(|ours| (partitions(&ours), partitions(&found["timePartitioning"]))),
            self.clustering().map(|ours| (clusters(&ours), clusters(&found["clustering"]))),
        ];
        match pairs.into_iter().flatten().find(|(ours, theirs)| ours != theirs) {
            Some((ours, theirs)) => {
                Err(Fault::Different(format!("the settings say {ours}, the table is {theirs}")))
            }
            None => Ok(()),
        }
    }

    /// Adds to a resource what all that is created here has.
    fn describe(&self, resource: &mut Map<String, Value>) {
        if !self.settings.labels.is_empty() {
            resource.insert("labels".into(), json!(self.settings.labels));
        }
    }

    /// A resource in the table's dataset, without content.
    fn resource(&self, id: &str) -> Map<String, Value> {
        let TableName { project, dataset, .. } = &self.name;
        let reference = json!({ "projectId": project, "datasetId": dataset, "tableId": id });
        Map::from_iter([("tableReference".to_owned(), reference)])
    }

    fn partitioning(&self) -> Option<Value> {
        let by = self.settings.partition_by.as_ref()?;
        let mut partitioning = json!({ "type": by.unit.name() });
        if by.column != INGESTION_TIME {
            partitioning["field"] = by.column.as_str().into();
        }
        if let Some(life) = by.expires_in {
            partitioning["expirationMs"] = life.as_millis().to_string().into();
        }
        Some(partitioning)
    }

    fn clustering(&self) -> Option<Value> {
        let fields = &self.settings.cluster_by;
        (!fields.is_empty()).then(|| json!({ "fields": fields }))
    }

    /// What may pass by itself, or when somebody grants a right.
    fn fault(&self, failure: &Failure) -> Fault {
        Fault::Missing(match failure {
            Failure::Refused(refused) => refused.message.clone(),
            Failure::Unanswered(why) => {
                format!("BigQuery does not answer for table {}: {why}", self.name)
            }
        })
    }
}

impl Fault {
    fn into_text(self) -> String {
        match self {
            Self::Missing(why) | Self::Different(why) => why,
            Self::Refused(why) | Self::Unchanged(why) => why,
        }
    }
}

/// Whether it is the dataset that was not found: that one is not ours to create.
fn names_dataset(refused: &Refused) -> bool {
    refused.message.starts_with("Not found: Dataset ")
}

/// True if the same request would be refused for ever.
fn is_about_settings(refused: &Refused) -> bool {
    refused.status == 400
        && matches!(refused.reason.as_str(), "invalid" | "invalidQuery" | "badRequest")
}
