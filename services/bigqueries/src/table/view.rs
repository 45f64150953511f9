//! View of a table. A missing view is created. A view that this service wrote earlier is updated.

use serde_json::{Value, json};
use service::Dependency;
use service::preflight::State;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Fault, ROLE, TIMEOUT, Table, is_about_settings};
use crate::api::Failure;
use crate::table::TableName;
use crate::view::{self, Partition};

/// Message about a view that somebody else wrote or edited.
const FOREIGN: &str = "its query is not one that this service wrote, so it is left alone; for one of ours \
                       delete it, or choose another name";

/// Result of comparing an existing view with the one of the settings.
enum Found {
    Same,
    /// This service wrote the view, for other columns or in an earlier version.
    Older,
    Foreign,
}

impl Table {
    /// Makes sure that the view shows this table with its columns.
    ///
    /// A view that already does so is left alone, so only the permission to read it is needed. A
    /// view of somebody else is left alone, too.
    pub(super) async fn ensure_view(&self, table: &Value) -> Result<(), Fault> {
        let Some(name) = self.view_name() else { return Ok(()) };
        let about = |fault: Fault| match fault {
            Fault::Missing(why) => Fault::Missing(format!("view {}: {why}", name.table)),
            Fault::Different(why) => Fault::Different(format!("view {}: {why}", name.table)),
            Fault::Refused(why) => Fault::Refused(format!("view {}: {why}", name.table)),
            Fault::Unchanged(why) => Fault::Unchanged(format!("view {}: {why}", name.table)),
        };
        let query = self.query(table);
        let Some(found) = self.look_for(&name).await.map_err(about)? else {
            return self.create_view(&name, &query).await.map_err(about);
        };
        match self.compare_view(&found, &query).map_err(about)? {
            Found::Same => Ok(()),
            // No row needs the view. A service that may create a view may not always change it.
            Found::Older => {
                if let Err(fault) = self.update_view(&name, &found, &query).await {
                    warn!(view = %name, why = fault.into_text(), "the view stays as it was");
                }
                Ok(())
            }
            Found::Foreign => {
                warn!(view = %name, "{FOREIGN}");
                Ok(())
            }
        }
    }

    /// Returns the state of the view, and changes nothing. Returns `None` if the settings have no
    /// view.
    pub async fn view_dependency(&self) -> Option<Dependency> {
        let name = self.view_name()?;
        let looked = timeout(TIMEOUT, async {
            let found = self.look_for(&name).await?;
            Ok((found, self.look().await?))
        });
        let state = match looked.await.unwrap_or_else(|_| Err(self.silent())) {
            Ok((None, _)) => {
                State::WillCreate("it does not exist; the service creates it at its start".into())
            }
            // If the table does not exist yet, the view is compared with a query without
            // partitions.
            Ok((Some(found), table)) => {
                match self.compare_view(&found, &self.query(&table.unwrap_or_default())) {
                    Ok(Found::Same) => State::Ready,
                    Ok(Found::Older) => {
                        State::WillCreate("the service updates it at its start".into())
                    }
                    Ok(Found::Foreign) => State::Unchecked(FOREIGN.into()),
                    Err(fault) => State::Differs(fault.into_text()),
                }
            }
            Err(fault) => State::Unreachable(fault.into_text()),
        };
        Some(Dependency { kind: "view", name: name.to_string(), role: Some(ROLE), state })
    }

    fn view_name(&self) -> Option<TableName> {
        let id = self.settings.view.as_ref()?;
        Some(TableName { table: id.clone(), ..self.name.clone() })
    }

    /// Returns the query of the view, for the table in its current state.
    fn query(&self, table: &Value) -> String {
        let partition = Partition::of_table(table, &self.columns);
        view::query(&self.name, &self.columns, partition.as_ref())
    }

    fn compare_view(&self, found: &Value, query: &str) -> Result<Found, Fault> {
        let Some(theirs) = found["view"]["query"].as_str().map(str::trim_end) else {
            let kind = found["type"].as_str().unwrap_or("TABLE");
            let why = format!("must be the name of a view, is that of a {kind}");
            return Err(Fault::Different(why));
        };
        Ok(match theirs {
            same if same == query => Found::Same,
            theirs if view::is_ours(theirs, &self.name) => Found::Older,
            _ => Found::Foreign,
        })
    }

    async fn create_view(&self, name: &TableName, query: &str) -> Result<(), Fault> {
        let mut resource = self.resource(&name.table);
        resource.insert("view".into(), json!({ "query": query, "useLegacySql": false }));
        self.describe(&mut resource);
        let api = self.api().await?;
        let created = api.create_table(name, &resource.into()).await;
        api.done();
        match created {
            Ok(_) => {
                info!(view = name.table, "created the view without duplicates");
                Ok(())
            }
            // Another replica was faster. The next check compares.
            Err(Failure::Refused(refused)) if refused.status == 409 => {
                Err(Fault::Missing("it was just created".into()))
            }
            Err(failure) => Err(self.view_fault(&failure)),
        }
    }

    async fn update_view(&self, name: &TableName, found: &Value, query: &str) -> Result<(), Fault> {
        let etag = found["etag"].as_str().ok_or_else(|| Fault::Missing("it has no etag".into()))?;
        let patch = json!({ "view": { "query": query, "useLegacySql": false } });
        let api = self.api().await?;
        let patched = api.patch_table(name, etag, &patch).await;
        api.done();
        match patched {
            Ok(_) => {
                info!(view = name.table, "updated the view without duplicates");
                Ok(())
            }
            Err(Failure::Refused(refused)) if refused.status == 412 => {
                Err(Fault::Missing("it was just changed".into()))
            }
            Err(failure) => Err(self.view_fault(&failure)),
        }
    }

    fn view_fault(&self, failure: &Failure) -> Fault {
        match failure {
            Failure::Refused(refused) if is_about_settings(refused) => {
                Fault::Refused(format!("BigQuery does not take its query: {}", refused.message))
            }
            failure => self.fault(failure),
        }
    }
}
