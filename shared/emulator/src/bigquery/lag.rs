//! Quota of changes of a table, and the delay until the write APIs know a new table or column.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::names::TableName;
use super::schema::Schema;
use crate::conditions::{Conditions, Quota};
use crate::status::Status;

/// Recent creation and earlier schemas of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct TableHistory {
    created: Option<Instant>,
    replaced: Option<Vec<(Instant, Schema)>>,
}

/// Tables and schemas that may be too new for writers to know.
pub(super) struct Lag {
    conditions: Conditions,
    created: HashMap<TableName, Instant>,
    /// Earlier schemas, each with the time at which it was replaced, oldest first.
    replaced: HashMap<TableName, Vec<(Instant, Schema)>>,
}

impl Lag {
    pub(super) fn new(conditions: Conditions) -> Self {
        Self { conditions, created: HashMap::new(), replaced: HashMap::new() }
    }

    /// Refuses a change of a table that was changed too often in the last 10 seconds.
    pub(super) fn spend_update(&self, name: &TableName) -> Result<(), Status> {
        let limit = self.conditions.profile().table_updates_per_10_seconds;
        let quota = limit.map(|limit| Quota { limit, per: Duration::from_secs(10) });
        if self.conditions.spend(format!("table {}", name.display()), 1, quota) {
            return Ok(());
        }
        let text = "Exceeded rate limits: too many table update operations for this table. For more \
                    information, see https://cloud.google.com/bigquery/docs/troubleshoot-quotas";
        Err(Status::new(tonic::Code::ResourceExhausted, text))
    }

    /// Returns the simulated conditions.
    pub(super) fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Records that a table was created.
    pub(super) fn note_table(&mut self, name: &TableName) {
        self.replaced.remove(name);
        self.created.insert(name.clone(), Instant::now());
    }

    /// Records that a new schema has replaced `before`.
    pub(super) fn note_schema(&mut self, name: &TableName, before: Schema) {
        let lag = self.column_lag();
        let replaced = self.replaced.entry(name.clone()).or_default();
        replaced.retain(|(at, _)| at.elapsed() < lag);
        replaced.push((Instant::now(), before));
    }

    /// Returns the recorded state of a table.
    pub(super) fn history(&self, name: &TableName) -> TableHistory {
        TableHistory {
            created: self.created.get(name).copied(),
            replaced: self.replaced.get(name).cloned(),
        }
    }

    /// Restores the recorded state of a table after a change that failed.
    pub(super) fn restore(&mut self, name: &TableName, history: TableHistory) {
        self.created.remove(name);
        self.replaced.remove(name);
        self.created.extend(history.created.map(|created| (name.clone(), created)));
        self.replaced.extend(history.replaced.map(|replaced| (name.clone(), replaced)));
    }

    /// Returns true if writers know a table that exists.
    pub(super) fn knows(&self, name: &TableName) -> bool {
        let lag = Duration::from_millis(self.conditions.profile().new_table_millis);
        self.created.get(name).is_none_or(|at| at.elapsed() >= lag)
    }

    /// Returns the schema of a table that writers know.
    pub(super) fn schema<'a>(&'a self, name: &TableName, now: &'a Schema) -> &'a Schema {
        let lag = self.column_lag();
        let mut replaced = self.replaced.get(name).into_iter().flatten();
        replaced.find(|(at, _)| at.elapsed() < lag).map_or(now, |(_, schema)| schema)
    }

    fn column_lag(&self) -> Duration {
        Duration::from_millis(self.conditions.profile().new_column_millis)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::advance;

    use super::*;
    use crate::profile::Profile;

    const SECOND: Duration = Duration::from_secs(1);

    fn lag(profile: Profile) -> (Lag, TableName) {
        let conditions = Conditions::default();
        conditions.set(profile);
        (Lag::new(conditions), TableName("p".into(), "d".into(), "t".into()))
    }

    fn schema(names: &[&str]) -> Schema {
        let fields = names.iter().map(|name| json!({ "name": name, "type": "STRING" }));
        let fields = fields.collect::<Vec<_>>();
        serde_json::from_value(json!({ "fields": fields })).expect("a schema")
    }

    #[tokio::test(start_paused = true)]
    async fn writers_know_a_new_table_after_its_delay() {
        let (mut lag, name) = lag(Profile { new_table_millis: 2_000, ..Profile::default() });

        let before = lag.knows(&name);
        lag.note_table(&name);
        let at_once = lag.knows(&name);
        advance(SECOND).await;
        let early = lag.knows(&name);
        advance(SECOND).await;

        assert_eq!((before, at_once, early, lag.knows(&name)), (true, false, false, true));
    }

    #[tokio::test(start_paused = true)]
    async fn writers_see_the_oldest_schema_that_was_replaced_within_the_delay() {
        let (mut lag, name) = lag(Profile { new_column_millis: 3_000, ..Profile::default() });
        let (one, two, three) = (schema(&["a"]), schema(&["a", "b"]), schema(&["a", "b", "c"]));

        lag.note_schema(&name, one.clone());
        advance(2 * SECOND).await;
        lag.note_schema(&name, two.clone());
        let oldest = lag.schema(&name, &three).clone();
        advance(SECOND).await;
        let middle = lag.schema(&name, &three).clone();
        advance(2 * SECOND).await;

        assert_eq!((oldest, middle), (one, two));
        assert_eq!(*lag.schema(&name, &three), three);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_is_undone_leaves_what_writers_know() {
        let profile =
            Profile { new_table_millis: 2_000, new_column_millis: 2_000, ..Profile::default() };
        let (mut lag, name) = lag(profile);
        let (old, new) = (schema(&["a"]), schema(&["a", "b"]));
        lag.note_schema(&name, old.clone());

        let history = lag.history(&name);
        lag.note_table(&name);
        let replaced = (lag.knows(&name), lag.schema(&name, &new).clone());
        lag.restore(&name, history);

        assert_eq!(replaced, (false, new.clone()));
        assert_eq!((lag.knows(&name), lag.schema(&name, &new)), (true, &old));
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_is_changed_so_often_in_ten_seconds() {
        let profile = Profile { table_updates_per_10_seconds: Some(2), ..Profile::default() };
        let (lag, name) = lag(profile);
        let other = TableName("p".into(), "d".into(), "other".into());

        let changes = [(); 3].map(|()| lag.spend_update(&name).map_err(|one| one.code));
        let of_other = lag.spend_update(&other);
        advance(10 * SECOND).await;
        let later = lag.spend_update(&name);

        assert_eq!(changes, [Ok(()), Ok(()), Err(tonic::Code::ResourceExhausted)]);
        assert!(of_other.is_ok() && later.is_ok());
    }
}
