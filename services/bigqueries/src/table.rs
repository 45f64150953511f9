//! The table: found, created, given new columns, or refused.

mod schema;

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
use crate::config;
use crate::view;
use schema::{array, merge, text};

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
    api: Renewable<Api>,
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
        api: Renewable<Api>,
        name: TableName,
        columns: std::sync::Arc<[Column]>,
        settings: config::Table,
    ) -> Self {
        Self { api, name, columns, settings }
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

    async fn api(&self) -> Result<Lease<Api>, Fault> {
        let leased = self.api.lease().await;
        leased.map_err(|error| Fault::Missing(format!("BigQuery cannot be asked: {error}")))
    }

    /// The table's resource, if there is one.
    async fn look(&self) -> Result<Option<Value>, Fault> {
        let api = self.api().await?;
        let found = api.table(&self.name).await;
        api.done();
        match found {
            Ok(found) => Ok(Some(found)),
            Err(Failure::Refused(refused)) if refused.status == 404 && !names_dataset(&refused) => {
                Ok(None)
            }
            Err(failure) => Err(self.fault(&failure)),
        }
    }

    async fn create(&self) -> Result<(), Fault> {
        let mut resource = self.resource(&self.name.table);
        resource.insert("schema".into(), json!({ "fields": schema::fields(&self.columns) }));
        let expiration = self.settings.expires_in.map(|life| {
            let at = std::time::SystemTime::now() + life;
            let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            since.as_millis().to_string()
        });
        let optional = [
            ("description", self.settings.description.clone().map(Value::from)),
            ("timePartitioning", self.partitioning()),
            ("clustering", self.clustering()),
            ("expirationTime", expiration.map(Value::from)),
        ];
        for (member, value) in optional {
            resource.extend(value.map(|value| (member.to_owned(), value)));
        }
        let api = self.api().await?;
        let created = api.create_table(&self.name, &resource.into()).await;
        api.done();
        match created {
            Ok(_) => {
                info!(table = %self.name, "created the table");
                Ok(())
            }
            // Another replica was faster; the next look compares.
            Err(Failure::Refused(refused)) if refused.status == 409 => {
                Err(Fault::Missing(format!("table {} was just created", self.name)))
            }
            // Such as a column that tables cannot be partitioned by.
            Err(Failure::Refused(refused)) if is_about_settings(&refused) => {
                Err(Fault::Different(format!("it cannot be created: {}", refused.message)))
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
                Ok(Some(_)) => State::WillCreate("the service adds columns at its start".into()),
                Err(Fault::Missing(why) | Fault::Different(why)) => State::Differs(why),
            },
            Err(Fault::Missing(why)) if why.starts_with("Not found") => State::Missing(why),
            Err(Fault::Missing(why) | Fault::Different(why)) => State::Unreachable(why),
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

    /// Adds columns that are missing; refuses a table that differs in any other way.
    async fn reconcile(&self, found: Value) -> Result<(), Fault> {
        let Some(merged) = self.compare(&found)? else { return Ok(()) };
        let etag = found["etag"].as_str();
        let etag =
            etag.ok_or_else(|| Fault::Missing(format!("table {} has no etag", self.name)))?;
        let patch = json!({ "schema": { "fields": merged } });
        let api = self.api().await?;
        let patched = api.patch_table(&self.name, etag, &patch).await;
        api.done();
        match patched {
            Ok(_) => {
                info!(table = %self.name, "added columns to the table");
                Ok(())
            }
            // Somebody else changed it since; the next look compares.
            Err(Failure::Refused(refused)) if refused.status == 412 => {
                Err(Fault::Missing(format!("table {} was just changed", self.name)))
            }
            Err(failure) => Err(self.fault(&failure)),
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
        let mut differences = Vec::new();
        // Nothing is in a table without columns, so its first ones may be required.
        let merged = if fields.is_empty() {
            Some(schema::fields(&self.columns))
        } else {
            merge(fields, &self.columns, "", &mut differences)
        };
        if !differences.is_empty() {
            return Err(Fault::Different(differences.join("; ")));
        }
        if merged.is_some() && !self.settings.add_columns {
            let why = "columns of the settings are not in the table, and table.add_columns is off";
            return Err(Fault::Different(why.into()));
        }
        Ok(merged)
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

    async fn ensure_view(&self) -> Result<(), Fault> {
        let Some(id) = &self.settings.view else { return Ok(()) };
        let mut resource = self.resource(id);
        let query = view::query(&self.name, &self.columns);
        resource.insert("view".into(), json!({ "query": query, "useLegacySql": false }));
        let api = self.api().await?;
        let created = api.create_table(&self.name, &resource.into()).await;
        api.done();
        match created {
            Ok(_) => {
                info!(view = id, "created the view without duplicates");
                Ok(())
            }
            Err(Failure::Refused(refused)) if refused.status == 409 => Ok(()),
            Err(failure) => {
                Err(Fault::Missing(format!("view {id}: {}", self.fault(&failure).into_text())))
            }
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
        let mut partitioning = json!({ "type": by.unit.name(), "field": by.column });
        if let Some(life) = by.expires_in {
            partitioning["expirationMs"] = life.as_millis().to_string().into();
        }
        if by.require_filter {
            partitioning["requirePartitionFilter"] = true.into();
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
        }
    }
}

/// Whether it is the dataset that was not found: that one is not ours to create.
fn names_dataset(refused: &Refused) -> bool {
    refused.message.starts_with("Not found: Dataset ")
}

/// Whether the same request would be refused for ever.
fn is_about_settings(refused: &Refused) -> bool {
    refused.status == 400 && matches!(refused.reason.as_str(), "invalid" | "badRequest")
}
