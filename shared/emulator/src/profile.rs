//! Profile of the emulator: the behaviour of Google's cloud that costs clients time or calls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rights;
use crate::status::Status;

/// Behaviour of the emulator toward its clients. The default is lenient: it has no waits and no
/// quotas, every project exists, and every method is allowed.
///
/// `docs/embedded-cloud.md` has a table of all settings, with the sources of
/// [`Profile::like_google`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// Latency of calls by method, with the same names as in faults.
    pub latencies: BTreeMap<String, Latency>,
    /// Idle time after which an `AppendRows` stream ends with ABORTED.
    pub append_idle_millis: Option<u64>,
    /// Age at which `AppendRows` and `StreamingPull` streams end with UNAVAILABLE. It varies by a
    /// tenth.
    pub stream_age_millis: Option<u64>,
    /// Age at which a connection gets no more requests (HTTP/2: GOAWAY). It varies by a tenth.
    /// Calls in progress end first.
    pub connection_age_millis: Option<u64>,
    /// Time in which `insertAll` and the Storage Write API do not find a new table.
    pub new_table_millis: u64,
    /// Time in which `insertAll` and the Storage Write API do not know a new column.
    pub new_column_millis: u64,
    /// Time for which `insertAll` remembers an `insertId`; by default a minute. With 0 it remembers
    /// none.
    pub insert_id_millis: Option<u64>,
    /// Most creations and changes of a table in 10 seconds.
    pub table_updates_per_10_seconds: Option<u64>,
    /// Most bytes of all `AppendRows` requests of a project in a second.
    pub append_bytes_per_second: Option<u64>,
    /// Most writes of an object in a second.
    pub object_writes_per_second: Option<u64>,
    /// Ids of the projects that exist; by default all exist.
    pub projects: Option<BTreeSet<String>>,
    /// Names of the Firestore databases that exist, such as `projects/p/databases/(default)`; by
    /// default all exist.
    pub databases: Option<BTreeSet<String>>,
    /// Methods and permissions that are denied, such as `Publish` or `storage.objects.create`.
    pub denied: BTreeSet<String>,
}

/// Time that a call takes. Half of it passes before the call is carried out, and half after. A
/// request of `AppendRows` is carried out at once, and only its answer waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Shortest time in milliseconds.
    pub min_millis: u64,
    /// Longest time in milliseconds. All times between the two are equally likely.
    pub max_millis: u64,
}

impl Profile {
    /// Returns the behaviour of Google's own cloud, as far as it is documented or was observed.
    /// Every project exists unless [`Profile::with_project`] limits them.
    #[must_use]
    pub fn like_google() -> Self {
        const MINUTE: u64 = 60_000;
        let latencies = [
            ("AppendRows", 50, 150),
            ("storage.objects.insert", 50, 50),
            ("storage.uploads.continue", 50, 50),
            ("Publish", 20, 20),
            ("GetDocument", 10, 10),
            ("BatchGetDocuments", 10, 10),
            ("ListDocuments", 10, 10),
            ("RunQuery", 10, 10),
            ("RunAggregationQuery", 10, 10),
            ("PartitionQuery", 10, 10),
            ("ListCollectionIds", 10, 10),
            ("Listen", 10, 10),
        ];
        let latencies = latencies.map(|(method, min_millis, max_millis)| {
            (method.to_owned(), Latency { min_millis, max_millis })
        });
        Self {
            latencies: latencies.into(),
            append_idle_millis: Some(10 * MINUTE),
            stream_age_millis: Some(30 * MINUTE),
            connection_age_millis: Some(60 * MINUTE),
            new_table_millis: MINUTE / 2,
            new_column_millis: 2 * MINUTE,
            table_updates_per_10_seconds: Some(5),
            append_bytes_per_second: Some(300_000_000),
            object_writes_per_second: Some(1),
            ..Self::default()
        }
    }

    /// Lets only this project exist, with its Firestore database `(default)`.
    #[must_use]
    pub fn with_project(mut self, project: &str) -> Self {
        self.projects = Some(BTreeSet::from([project.to_owned()]));
        let database = format!("projects/{project}/databases/(default)");
        self.databases = Some(BTreeSet::from([database]));
        self
    }

    /// Applies a JSON merge patch; `null` resets a field to its lenient default.
    pub(crate) fn patched(&self, patch: &Value) -> Result<Self, Status> {
        let invalid = |error: serde_json::Error| Status::invalid(format!("profile: {error}"));
        if !patch.is_object() {
            return Err(Status::invalid("profile: a patch is an object"));
        }
        let mut parts = serde_json::to_value(self).map_err(invalid)?;
        merge(&mut parts, patch);
        let patched: Self = serde_json::from_value(parts).map_err(invalid)?;
        patched.check()?;
        Ok(patched)
    }

    /// Refuses unknown names of methods and permissions.
    fn check(&self) -> Result<(), Status> {
        let unknown = self.latencies.keys().find(|name| !rights::is_method(name));
        if let Some(name) = unknown {
            return Err(Status::invalid(format!("profile: latencies: there is no method {name}")));
        }
        let is_known = |name: &str| rights::is_method(name) || rights::is_permission(name);
        match self.denied.iter().find(|name| !is_known(name)) {
            Some(name) => {
                let text = format!("profile: denied: there is no method or permission {name}");
                Err(Status::invalid(text))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn append_idle(&self) -> Option<Duration> {
        self.append_idle_millis.map(Duration::from_millis)
    }

    pub(crate) fn stream_age(&self) -> Option<Duration> {
        self.stream_age_millis.map(Duration::from_millis)
    }

    pub(crate) fn insert_id_memory(&self) -> Duration {
        Duration::from_millis(self.insert_id_millis.unwrap_or(60_000))
    }

    pub(crate) fn connection_age(&self) -> Option<Duration> {
        self.connection_age_millis.map(Duration::from_millis)
    }
}

/// Merges two values by RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(<_>::default());
    }
    let Value::Object(target) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_changes_the_parts_that_it_names_and_no_others() {
        let profile = Profile::like_google();

        let patch = json!({
            "append_idle_millis": 2000,
            "latencies": { "Publish": { "max_millis": 30 }, "GetDocument": null },
            "denied": ["Publish"],
            "stream_age_millis": null,
        });
        let patched = profile.patched(&patch).expect("a profile");

        let mut wanted = profile;
        wanted.append_idle_millis = Some(2000);
        wanted.latencies.insert("Publish".into(), Latency { min_millis: 20, max_millis: 30 });
        wanted.latencies.remove("GetDocument");
        wanted.denied.insert("Publish".into());
        wanted.stream_age_millis = None;
        assert_eq!(patched, wanted);
    }

    #[test]
    fn a_part_that_does_not_exist_is_refused() {
        assert!(Profile::default().patched(&json!({ "latency": {} })).is_err());
        assert!(Profile::default().patched(&json!([])).is_err());
    }

    #[test]
    fn a_method_that_does_not_exist_is_refused() {
        let latency = json!({ "min_millis": 1, "max_millis": 1 });
        let patched = |patch: Value| Profile::default().patched(&patch);

        assert!(patched(json!({ "latencies": { "Publsh": latency } })).is_err());
        assert!(patched(json!({ "denied": ["pubsub.topics.publsh"] })).is_err());
        assert!(patched(json!({ "denied": ["Publish", "datastore.entities.get"] })).is_ok());
        assert!(Profile::like_google().check().is_ok());
    }
}
