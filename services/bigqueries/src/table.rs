//! Table of the rows: it is checked, created, extended, or refused.

mod dataset;
mod layout;
mod schema;
mod view;

use std::time::Duration;

use serde_json::{Map, Value, json};
use service::create;
use service::renewable::{Lease, Renewable};
use service::settings::Parsed;
use service::tools::preflight::State;
use service::{Condition, Dependency, WrongSettings};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::TableSettings;
use crate::write_api::Api;
pub use bigquery::TableName;
use bigquery::{Failure, Refused, RestApi};
use rows::column::Column;
use schema::{Comparison, array};
use view::{NOT_RIGHT, Upkeep, ViewWatch};

/// Time limit of one check of the table, including what it creates.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of a check, or of work on the view, while rows wait for it.
const QUICK_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two checks of a table that exists. Writes notice an outage earlier.
const INTERVAL: Duration = Duration::from_secs(30);
/// Pause between two checks of a table that is missing or different.
const MISSING_INTERVAL: Duration = Duration::from_secs(1);
/// Advice after BigQuery has refused a new column because of a missing permission.
const MAY_NOT_CHANGE: &str = "; a change of columns needs roles/bigquery.dataEditor, and the right to set data \
                              policies if a column has one; or add the columns in BigQuery, with ALTER TABLE";
/// Least role that may write to the table, and create the view in its dataset.
const ROLE: &str = "roles/bigquery.dataEditor";

/// Table that rows are written to.
#[derive(Clone)]
pub struct Table {
    api: Renewable<RestApi>,
    name: TableName,
    columns: std::sync::Arc<[Column]>,
    settings: TableSettings,
    written_with: Api,
}

/// Reason for which a table cannot be written to.
enum Fault {
    /// The table may become available later.
    Missing(String),
    /// The table differs from the settings.
    Different(String),
    /// BigQuery refuses what the settings ask for, and will refuse it each time.
    Refused(String),
    /// A change failed, for example because of a missing permission or a quota. Each attempt counts
    /// against a quota.
    Unchanged(String),
}

impl Table {
    /// Creates the table of the settings, with the columns of the rows.
    #[must_use]
    pub fn new(
        api: Renewable<RestApi>,
        name: TableName,
        columns: std::sync::Arc<[Column]>,
        settings: TableSettings,
    ) -> Self {
        Self { api, name, columns, settings, written_with: Api::default() }
    }

    /// Returns the name of the table.
    pub(crate) fn name(&self) -> &TableName {
        &self.name
    }

    /// Returns the columns of the rows.
    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Returns the client that checks the table.
    pub(crate) fn client(&self) -> Renewable<RestApi> {
        self.api.clone()
    }

    /// Returns the same table, written with this API. The API decides which columns may be left to
    /// their defaults.
    #[must_use]
    pub fn written_with(self, api: Api) -> Self {
        Self { written_with: api, ..self }
    }

    /// Waits until the table exists and has all columns. Creates or extends it if the settings
    /// allow that. Then tries once to create or update the view, for a few seconds at most.
    ///
    /// # Errors
    /// When the table differs from the settings; the error names both sides. Also when BigQuery
    /// will never accept what the settings ask for.
    pub async fn wait(&self, condition: &Condition) -> anyhow::Result<()> {
        let wrong = |why| WrongSettings(format!("table {}: {why}", self.name));
        let table = loop {
            let ensured = timeout(TIMEOUT, self.ensure()).await;
            let pause = match ensured.unwrap_or_else(|_| Err(self.silent())) {
                Ok(table) => break table,
                Err(Fault::Missing(why)) => {
                    condition.not_ready(why);
                    MISSING_INTERVAL
                }
                Err(Fault::Unchanged(why)) => {
                    condition.not_ready(format!("table {}: {why}", self.name));
                    INTERVAL
                }
                Err(Fault::Different(why) | Fault::Refused(why)) => return Err(wrong(why).into()),
            };
            tokio::time::sleep(pause).await;
        };
        match self.ensure_view(&table, Upkeep::Update).await {
            Ok(()) => {}
            Err(Fault::Different(why) | Fault::Refused(why)) => return Err(wrong(why).into()),
            // No row needs the view. The watch tries again.
            Err(Fault::Missing(why) | Fault::Unchanged(why)) => warn!(why, "{NOT_RIGHT}"),
        }
        condition.ready();
        Ok(())
    }

    /// Keeps `condition` up to date: it is ready while the table exists and matches the settings.
    /// Adds missing columns again, and a missing view. Never returns.
    pub async fn watch(self, condition: Condition) {
        let mut view = ViewWatch::default();
        // `Condition::watch` has one pause for all faults. Here a refused change waits longer than a
        // missing table, and the table is reported as ready before the view is looked at.
        loop {
            let checked = timeout(TIMEOUT, self.check_again()).await;
            let interval = match checked.unwrap_or_else(|_| Err(self.silent())) {
                Ok(table) => {
                    condition.ready();
                    self.keep_view(&table, &mut view).await;
                    INTERVAL
                }
                Err(Fault::Missing(why)) => {
                    condition.not_ready(why);
                    MISSING_INTERVAL
                }
                // The rows wait. Asking for the same more often does not help.
                Err(Fault::Refused(why) | Fault::Unchanged(why)) => {
                    condition.not_ready(format!("table {}: {why}", self.name));
                    INTERVAL
                }
                // A person may change the table back. The rows wait until then.
                Err(Fault::Different(why)) => {
                    condition.not_ready(format!("table {}: {why}", self.name));
                    MISSING_INTERVAL
                }
            };
            tokio::time::sleep(interval).await;
        }
    }

    async fn check_again(&self) -> Result<Value, Fault> {
        match self.look().await? {
            Some(found) => self.reconcile(found).await,
            None => Err(Fault::Missing(format!("table {} does not exist", self.name))),
        }
    }

    /// Checks that the table still has the columns of the rows.
    ///
    /// BigQuery refuses good rows if somebody has replaced the table. If the check itself fails,
    /// this is not known, so no row may be given up.
    ///
    /// # Errors
    /// The difference, or why it is not known. The same rows may be written later.
    pub(crate) async fn check_fit(&self) -> Result<(), String> {
        let looked = timeout(QUICK_TIMEOUT, self.look()).await;
        let why = match looked.unwrap_or_else(|_| Err(self.silent())) {
            Ok(Some(found)) => match self.compare(&found) {
                Ok(None) => return Ok(()),
                Ok(Some(_)) => "it has lost columns or defaults".to_owned(),
                Err(fault) => fault.into_text(),
            },
            Ok(None) => "it does not exist any more".to_owned(),
            Err(fault) => format!("it is not known if it fits its rows: {}", fault.into_text()),
        };
        Err(format!("table {}: {why}", self.name))
    }

    fn silent(&self) -> Fault {
        Fault::Missing(format!("BigQuery does not answer for table {}", self.name))
    }

    async fn ensure(&self) -> Result<Value, Fault> {
        match self.look().await? {
            Some(found) => {
                self.compare_rules(&found)?;
                let found = self.reconcile(found).await?;
                // A column that was just added gets its default in this second change.
                self.reconcile(found).await
            }
            None if self.settings.create => self.create().await,
            None => {
                let why = format!("table {} does not exist, and table.create is off", self.name);
                Err(Fault::Missing(why))
            }
        }
    }

    async fn api(&self) -> Result<Lease<RestApi>, Fault> {
        let leased = self.api.lease().await;
        leased.map_err(|error| Fault::Missing(format!("BigQuery cannot be asked: {error}")))
    }

    /// Returns the resource of the table, if it exists.
    async fn look(&self) -> Result<Option<Value>, Fault> {
        self.look_for(&self.name).await
    }

    /// Returns the resource of a table or a view in the same dataset, if it exists.
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
        let filter = self.settings.partition_by.as_ref().and_then(|by| by.require_filter);
        let key = self.settings.kms_key.as_ref();
        let optional = [
            ("description", self.settings.description.clone().map(Value::from)),
            ("timePartitioning", self.partitioning()),
            ("requirePartitionFilter", filter.map(Value::Bool)),
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
            // Another replica was faster. The next check compares.
            Err(Failure::Refused(refused)) if refused.status == 409 => {
                Err(Fault::Missing(format!("table {} was just created", self.name)))
            }
            // For example, a column that tables cannot be partitioned by.
            Err(Failure::Refused(refused)) if is_about_settings(&refused) => {
                Err(Fault::Refused(self.no_table(&refused)))
            }
            Err(Failure::Refused(refused)) if refused.status < 500 && !names_dataset(&refused) => {
                Err(Fault::Unchanged(self.no_table(&refused)))
            }
            Err(failure) => Err(self.fault(&failure)),
        }
    }

    /// Returns why BigQuery refused to create the table. Names the setting of the key if the refusal
    /// is about the key.
    fn no_table(&self, Refused { message, .. }: &Refused) -> String {
        let is_about = |key: &Parsed<_>| message.contains(key.text()) || message.contains("KMS");
        match self.settings.kms_key.as_ref().filter(|key| is_about(key)) {
            Some(_) => format!("it cannot be created with the key of table.kms_key: {message}"),
            None => format!("it cannot be created: {message}"),
        }
    }

    /// Returns the state of the table, and changes nothing.
    pub async fn dependency(&self) -> Dependency {
        let looked = timeout(TIMEOUT, self.look()).await;
        let state = match looked.unwrap_or_else(|_| Err(self.silent())) {
            Ok(None) if self.settings.create => State::WillCreate(create::AT_START.into()),
            Ok(None) => State::Missing("it does not exist, and table.create is off".into()),
            Ok(Some(found)) => match self.compare_rules(&found).and_then(|()| self.compare(&found))
            {
                Ok(None) => self.rights().await,
                Ok(Some(_)) => {
                    State::WillCreate("the service adds columns or defaults at its start".into())
                }
                Err(fault) => State::Differs(fault.into_text()),
            },
            Err(Fault::Missing(why)) if why.starts_with("Not found") => State::Missing(why),
            Err(fault) => State::Unreachable(fault.into_text()),
        };
        Dependency { kind: "table", name: self.name.to_string(), roles: &[ROLE], state }
    }

    /// Returns the state of the permission to write to the table.
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

    /// Adds missing columns, and returns the table as it is then. Refuses a table that differs in
    /// any other way.
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
            // Another program changed the table since then. The next check compares.
            Err(Failure::Refused(refused)) if refused.status == 412 => {
                Err(Fault::Missing(format!("table {} was just changed", self.name)))
            }
            // For example, a default that is not a value of its column.
            Err(Failure::Refused(refused)) if is_about_settings(&refused) => {
                Err(Fault::Refused(format!("it cannot be changed: {}", refused.message)))
            }
            Err(failure) => {
                let is_denied = matches!(&failure, Failure::Refused(Refused { reason, .. }) if reason == "accessDenied");
                let hint = if is_denied { MAY_NOT_CHANGE } else { "" };
                Err(Fault::Unchanged(format!("{}{hint}", self.fault(&failure).into_text())))
            }
        }
    }

    /// Returns the fields of the table with those that it lacks, or `None` if it lacks none.
    fn compare(&self, found: &Value) -> Result<Option<Vec<Value>>, Fault> {
        let kind = found["type"].as_str().unwrap_or("TABLE");
        if kind != "TABLE" {
            return Err(Fault::Different(format!("it is no table that takes rows, but a {kind}")));
        }
        self.compare_layout(found)?;
        let fields = array(&found["schema"]["fields"]);
        let mut comparison = Comparison::new(self.written_with);
        let merged = comparison.merge(fields, &self.columns, "");
        // A table without columns has no rows, so its first columns may be required.
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

    /// Adds the labels that everything created here gets.
    fn describe(&self, resource: &mut Map<String, Value>) {
        if !self.settings.labels.is_empty() {
            resource.insert("labels".into(), json!(self.settings.labels));
        }
    }

    /// Returns a resource in the dataset of the table, without content.
    fn resource(&self, id: &str) -> Map<String, Value> {
        let TableName { project, dataset, .. } = &self.name;
        let reference = json!({ "projectId": project, "datasetId": dataset, "tableId": id });
        Map::from_iter([("tableReference".to_owned(), reference)])
    }

    /// Converts a failure to a fault that may end by itself, or when somebody grants a permission.
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
    /// Puts a text in front of the reason.
    fn of(self, part: &str) -> Self {
        let text = |why| format!("{part}: {why}");
        match self {
            Self::Missing(why) => Self::Missing(text(why)),
            Self::Different(why) => Self::Different(text(why)),
            Self::Refused(why) => Self::Refused(text(why)),
            Self::Unchanged(why) => Self::Unchanged(text(why)),
        }
    }

    fn into_text(self) -> String {
        match self {
            Self::Missing(why) | Self::Different(why) => why,
            Self::Refused(why) | Self::Unchanged(why) => why,
        }
    }
}

/// Returns true if the dataset was not found. The service creates it only at its start, with `create`.
fn names_dataset(refused: &Refused) -> bool {
    refused.message.starts_with("Not found: Dataset ")
}

/// Returns true if BigQuery would refuse the same request each time.
fn is_about_settings(refused: &Refused) -> bool {
    refused.status == 400
        && matches!(refused.reason.as_str(), "invalid" | "invalidQuery" | "badRequest")
}
