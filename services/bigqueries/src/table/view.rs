//! View of a table. A missing view is created. A view that this service wrote earlier is updated.

use serde_json::{Value, json};
use service::Dependency;
use service::create;
use service::tools::preflight::State;
use tokio::time::timeout;
use tracing::{info, warn};

use super::schema::array;
use super::{Fault, QUICK_TIMEOUT, ROLE, TIMEOUT, Table, is_about_settings};
use crate::view::{self, Partition};
use bigquery::Failure;
use bigquery::TableName;

/// Log line about a view that is missing or different.
pub(super) const NOT_RIGHT: &str = "the view is not as the settings say";
/// Message about a view that somebody else wrote or edited.
const FOREIGN: &str = "its query is not one that this service wrote, so it is left alone; for one of ours \
                       delete it, or choose another name";

/// Result of comparing an existing view with the one of the settings.
enum Found {
    Same,
    /// This service wrote the view, for all columns of the settings and further ones of the table.
    Wider,
    /// This service wrote the view, for other columns or in an earlier version.
    Older,
    Foreign,
}

/// Work on the view that is allowed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Upkeep {
    /// Creates the view, and updates one that this service wrote.
    #[default]
    Update,
    /// Creates the view if it does not exist.
    Create,
}

/// State of the view, as the watch of the table knows it.
#[derive(Default)]
pub(super) struct ViewWatch {
    upkeep: Upkeep,
    /// Fault that was logged last.
    fault: Option<String>,
}

impl Table {
    /// Creates or updates the view, if the settings have one and it is not there as they say. Logs a
    /// fault once, because no row needs the view.
    ///
    /// A replica updates the view at its start, and then leaves it alone. Otherwise two replicas
    /// with different settings would overwrite it in turn.
    pub(super) async fn keep_view(&self, table: &Value, watch: &mut ViewWatch) {
        let fault = match self.ensure_view(table, watch.upkeep).await {
            Ok(()) => {
                watch.upkeep = Upkeep::Create;
                None
            }
            Err(fault) => Some(fault.into_text()),
        };
        if let Some(why) = fault.as_ref().filter(|_| fault != watch.fault) {
            warn!(why, "{NOT_RIGHT}");
        }
        watch.fault = fault;
    }

    /// Makes sure that the view shows this table with its columns.
    ///
    /// A view that already does so is left alone, so only the permission to read it is needed. A
    /// view of somebody else is left alone, too.
    pub(super) async fn ensure_view(&self, table: &Value, upkeep: Upkeep) -> Result<(), Fault> {
        let Some(name) = self.view_name() else { return Ok(()) };
        let ensured = timeout(QUICK_TIMEOUT, self.ensure_view_of(&name, table, upkeep)).await;
        let ensured = ensured.unwrap_or_else(|_| Err(self.silent()));
        ensured.map_err(|fault| fault.of(&format!("view {}", name.table)))
    }

    async fn ensure_view_of(
        &self,
        name: &TableName,
        table: &Value,
        upkeep: Upkeep,
    ) -> Result<(), Fault> {
        let query = self.query(table);
        let Some(found) = self.look_for(name).await? else {
            return self.create_view(name, &query).await;
        };
        match (self.compare_view(&found, &query, table)?, upkeep) {
            (Found::Same | Found::Wider, _) | (Found::Older, Upkeep::Create) => Ok(()),
            // A service that may create a view may not always change it.
            (Found::Older, Upkeep::Update) => {
                let updated = self.update_view(name, &found, &query).await;
                updated.map_err(|fault| Fault::Unchanged(fault.into_text()))
            }
            (Found::Foreign, _) => Err(Fault::Unchanged(FOREIGN.into())),
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
            Ok((None, _)) => State::WillCreate(create::AT_START.into()),
            // If the table does not exist yet, the view is compared with a query without
            // partitions.
            Ok((Some(found), table)) => {
                let table = table.unwrap_or_default();
                match self.compare_view(&found, &self.query(&table), &table) {
                    Ok(Found::Same | Found::Wider) => State::Ready,
                    Ok(Found::Older) => {
                        State::WillCreate("the service updates it at its start".into())
                    }
                    Ok(Found::Foreign) => State::Unchecked(FOREIGN.into()),
                    Err(fault) => State::Differs(fault.into_text()),
                }
            }
            Err(Fault::Missing(why)) if why.starts_with("Not found") => State::Missing(why),
            Err(fault) => State::Unreachable(fault.into_text()),
        };
        Some(Dependency { kind: "view", name: name.to_string(), roles: &[ROLE], state })
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

    fn compare_view(&self, found: &Value, query: &str, table: &Value) -> Result<Found, Fault> {
        let Some(theirs) = found["view"]["query"].as_str().map(str::trim_end) else {
            let kind = found["type"].as_str().unwrap_or("TABLE");
            let why = format!("must be the name of a view, is that of a {kind}");
            return Err(Fault::Different(why));
        };
        Ok(match theirs {
            same if same == query => Found::Same,
            theirs if !view::is_ours(theirs, &self.name) => Found::Foreign,
            theirs if is_wider(theirs, query, table) => Found::Wider,
            _ => Found::Older,
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
            // Another replica was faster. The watch compares.
            Err(Failure::Refused(refused)) if refused.status == 409 => Ok(()),
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

/// Returns true if a view shows all columns of another one, and further columns of the table. A
/// replica with newer settings may have written it.
fn is_wider(theirs: &str, ours: &str, table: &Value) -> bool {
    let (theirs, ours) = (view::column_names(theirs), view::column_names(ours));
    let fields = array(&table["schema"]["fields"]);
    let is_field = |name: &str| {
        let mut names = fields.iter().filter_map(|field| field["name"].as_str());
        names.any(|field| field.eq_ignore_ascii_case(name))
    };
    let mut further = theirs.iter().filter(|name| !ours.contains(name)).peekable();
    let has_all = ours.iter().all(|name| theirs.contains(name));
    has_all && further.peek().is_some() && further.all(|name| is_field(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rows::column::{Column, Kind};

    #[test]
    fn a_view_is_wider_if_its_further_columns_are_in_the_table() {
        let name = TableName { project: "p".into(), dataset: "d".into(), table: "t".into() };
        let query = |columns: &[&str]| {
            let columns: Vec<_> =
                columns.iter().map(|column| Column::new(*column, Kind::Int64)).collect();
            view::query(&name, &columns, None)
        };
        let fields =
            json!([{ "name": "N", "type": "INTEGER" }, { "name": "M", "type": "INTEGER" }]);
        let table = json!({ "schema": { "fields": fields } });

        for (theirs, expected) in [
            (["n", "m"].as_slice(), true),
            (&["m", "n"], true),
            (&["n"], false),
            (&["m"], false),
            // The table has lost this column, so nobody can read the view.
            (&["n", "x"], false),
        ] {
            assert_eq!(is_wider(&query(theirs), &query(&["n"]), &table), expected, "{theirs:?}");
        }
    }
}
