//! Permissions of all methods, and refusals with Google's texts.

use std::collections::BTreeSet;

use tonic::Code;

use crate::status::Status;

/// Text of a refusal in Firestore.
const NO_ENTITIES: &str = "Missing or insufficient permissions.";

/// All methods with the permissions that each needs. The names are the same as in faults.
///
/// From <https://cloud.google.com/pubsub/docs/access-control#required_permissions>,
/// <https://cloud.google.com/firestore/docs/security/iam#required_permissions>,
/// <https://cloud.google.com/bigquery/docs/access-control> and
/// <https://cloud.google.com/storage/docs/access-control/iam-json>. The permissions of a commit
/// depend on its writes, so Firestore checks them itself.
const METHODS: &[(&str, &[&str])] = &[
    ("Publish", &["pubsub.topics.publish"]),
    ("CreateTopic", &["pubsub.topics.create"]),
    ("GetTopic", &["pubsub.topics.get"]),
    ("UpdateTopic", &["pubsub.topics.update"]),
    ("DeleteTopic", &["pubsub.topics.delete"]),
    ("ListTopics", &["pubsub.topics.list"]),
    ("ListTopicSubscriptions", &["pubsub.topics.get"]),
    ("ListTopicSnapshots", &["pubsub.topics.get"]),
    ("DetachSubscription", &["pubsub.topics.detachSubscription"]),
    ("StreamingPull", &["pubsub.subscriptions.consume"]),
    ("Pull", &["pubsub.subscriptions.consume"]),
    ("Acknowledge", &["pubsub.subscriptions.consume"]),
    ("ModifyAckDeadline", &["pubsub.subscriptions.consume"]),
    ("ModifyPushConfig", &["pubsub.subscriptions.update"]),
    ("Seek", &["pubsub.subscriptions.consume"]),
    ("CreateSubscription", &["pubsub.subscriptions.create", "pubsub.topics.attachSubscription"]),
    ("GetSubscription", &["pubsub.subscriptions.get"]),
    ("UpdateSubscription", &["pubsub.subscriptions.update"]),
    ("DeleteSubscription", &["pubsub.subscriptions.delete"]),
    ("ListSubscriptions", &["pubsub.subscriptions.list"]),
    ("CreateSnapshot", &["pubsub.snapshots.create", "pubsub.subscriptions.consume"]),
    ("GetSnapshot", &["pubsub.snapshots.get"]),
    ("UpdateSnapshot", &["pubsub.snapshots.update"]),
    ("DeleteSnapshot", &["pubsub.snapshots.delete"]),
    ("ListSnapshots", &["pubsub.snapshots.list"]),
    ("TestIamPermissions", &[]),
    ("AppendRows", &["bigquery.tables.updateData"]),
    ("GetWriteStream", &["bigquery.tables.get"]),
    ("CreateWriteStream", &["bigquery.tables.updateData"]),
    ("FinalizeWriteStream", &["bigquery.tables.updateData"]),
    ("BatchCommitWriteStreams", &["bigquery.tables.updateData"]),
    ("FlushRows", &["bigquery.tables.updateData"]),
    ("CreateReadSession", &["bigquery.readsessions.create", "bigquery.tables.getData"]),
    ("ReadRows", &["bigquery.readsessions.getData", "bigquery.tables.getData"]),
    ("bigquery.datasets.list", &["bigquery.datasets.get"]),
    ("bigquery.datasets.get", &["bigquery.datasets.get"]),
    ("bigquery.datasets.insert", &["bigquery.datasets.create"]),
    ("bigquery.datasets.patch", &["bigquery.datasets.update"]),
    ("bigquery.datasets.delete", &["bigquery.datasets.delete"]),
    ("bigquery.tables.list", &["bigquery.tables.list"]),
    ("bigquery.tables.get", &["bigquery.tables.get"]),
    ("bigquery.tables.insert", &["bigquery.tables.create"]),
    ("bigquery.tables.patch", &["bigquery.tables.update"]),
    ("bigquery.tables.delete", &["bigquery.tables.delete"]),
    ("bigquery.tables.testIamPermissions", &[]),
    ("bigquery.tabledata.insertAll", &["bigquery.tables.updateData"]),
    ("bigquery.tabledata.list", &["bigquery.tables.getData"]),
    ("bigquery.jobs.query", &["bigquery.jobs.create"]),
    ("bigquery.jobs.insert", &["bigquery.jobs.create"]),
    ("bigquery.jobs.get", &["bigquery.jobs.get"]),
    ("bigquery.jobs.getQueryResults", &["bigquery.jobs.get"]),
    ("bigquery.jobs.list", &["bigquery.jobs.list"]),
    ("bigquery.jobs.cancel", &["bigquery.jobs.update"]),
    ("bigquery.jobs.delete", &["bigquery.jobs.delete"]),
    ("storage.buckets.list", &["storage.buckets.list"]),
    ("storage.buckets.get", &["storage.buckets.get"]),
    ("storage.buckets.insert", &["storage.buckets.create"]),
    ("storage.buckets.patch", &["storage.buckets.update"]),
    ("storage.buckets.update", &["storage.buckets.update"]),
    ("storage.buckets.delete", &["storage.buckets.delete"]),
    ("storage.buckets.testIamPermissions", &[]),
    ("storage.objects.list", &["storage.objects.list"]),
    ("storage.objects.get", &["storage.objects.get"]),
    ("storage.objects.read", &["storage.objects.get"]),
    ("storage.objects.insert", &["storage.objects.create"]),
    ("storage.objects.patch", &["storage.objects.update"]),
    ("storage.objects.update", &["storage.objects.update"]),
    ("storage.objects.delete", &["storage.objects.delete"]),
    ("storage.objects.compose", &["storage.objects.create", "storage.objects.get"]),
    ("storage.objects.copy", &["storage.objects.create", "storage.objects.get"]),
    ("storage.objects.rewrite", &["storage.objects.create", "storage.objects.get"]),
    ("storage.objects.move", &["storage.objects.move", "storage.objects.create"]),
    ("storage.uploads.begin", &["storage.objects.create"]),
    ("storage.uploads.continue", &["storage.objects.create"]),
    ("storage.uploads.cancel", &["storage.objects.create"]),
    ("GetDocument", &["datastore.entities.get"]),
    ("BatchGetDocuments", &["datastore.entities.get"]),
    ("ListDocuments", &["datastore.entities.list", "datastore.entities.get"]),
    ("RunQuery", &["datastore.entities.list", "datastore.entities.get"]),
    ("RunAggregationQuery", &["datastore.entities.list", "datastore.entities.get"]),
    ("PartitionQuery", &["datastore.entities.list", "datastore.entities.get"]),
    ("Listen", &["datastore.entities.list", "datastore.entities.get"]),
    ("ListCollectionIds", &["datastore.entities.list"]),
    ("CreateDocument", &["datastore.entities.create"]),
    ("UpdateDocument", &["datastore.entities.update"]),
    ("DeleteDocument", &["datastore.entities.delete"]),
    ("Commit", &[]),
    ("BatchWrite", &[]),
    ("Write", &[]),
    ("BeginTransaction", &["datastore.databases.get"]),
    ("Rollback", &["datastore.databases.get"]),
];

/// Permission for schemas with policy tags, in addition to that of the method.
pub(crate) const SET_CATEGORY: &str = "bigquery.tables.setCategory";

/// Returns true for a method that this emulator has.
pub(crate) fn is_method(name: &str) -> bool {
    METHODS.iter().any(|(method, _)| *method == name)
}

/// Returns true for a permission that a method of this emulator needs.
pub(crate) fn is_permission(name: &str) -> bool {
    name == SET_CATEGORY || METHODS.iter().any(|(_, needed)| needed.contains(&name))
}

/// Returns the permissions that a method needs. The first one is the permission for the method
/// itself.
fn permissions_of(method: &str) -> &'static [&'static str] {
    METHODS.iter().find(|(name, _)| *name == method).map_or(&[], |(_, needed)| *needed)
}

/// Refuses a method if it or one of its permissions is denied.
pub(crate) fn check(denied: &BTreeSet<String>, method: &str) -> Result<(), Status> {
    let needed = permissions_of(method);
    let permission = match needed.iter().find(|permission| denied.contains(**permission)) {
        Some(permission) => permission,
        None if denied.contains(method) => needed.first().unwrap_or(&method),
        None => return Ok(()),
    };
    let text = match method {
        "AppendRows"
        | "GetWriteStream"
        | "CreateWriteStream"
        | "FinalizeWriteStream"
        | "BatchCommitWriteStreams"
        | "FlushRows" => {
            "Permission 'TABLES_UPDATE_DATA' denied on resource (or it may not exist).".to_owned()
        }
        _ if method.starts_with("bigquery.") => {
            format!(
                "Access Denied: Permission {permission} denied on resource (or it may not exist)."
            )
        }
        _ if method.starts_with("storage.") => format!(
            "The caller does not have {permission} access to the Google Cloud Storage resource. \
             Permission '{permission}' denied on resource (or it may not exist)."
        ),
        _ if permission.starts_with("datastore.") => NO_ENTITIES.into(),
        _ => "User not authorized to perform this action.".into(),
    };
    Err(Status::new(Code::PermissionDenied, text))
}

/// Keeps the permissions that are not denied, for the answer to `testIamPermissions`.
pub(crate) fn granted(denied: &BTreeSet<String>, mut asked: Vec<String>) -> Vec<String> {
    let is_about = |needed: &[&str], permission: &str| needed.first() == Some(&permission);
    asked.retain(|permission| {
        let mut methods = METHODS.iter().filter(|(_, needed)| is_about(needed, permission));
        !denied.contains(permission) && !methods.any(|(method, _)| denied.contains(*method))
    });
    asked
}

/// Refuses a denied permission with Firestore's text.
pub(crate) fn check_entities(denied: &BTreeSet<String>, permission: &str) -> Result<(), Status> {
    if denied.contains(permission) {
        return Err(Status::new(Code::PermissionDenied, NO_ENTITIES));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_method_is_denied_by_its_own_name_and_by_its_permission() {
        for name in ["Pull", "pubsub.subscriptions.consume"] {
            let denied = BTreeSet::from([name.to_owned()]);

            let refused = check(&denied, "Pull").expect_err("a refusal");

            assert_eq!(refused.code, Code::PermissionDenied);
            assert!(check(&denied, "Publish").is_ok());
            let asked = ["pubsub.subscriptions.consume", "pubsub.topics.publish"].map(Into::into);
            assert_eq!(granted(&denied, asked.into()), ["pubsub.topics.publish"]);
        }
    }

    #[test]
    fn a_method_is_denied_by_each_of_its_permissions() {
        for name in ["datastore.entities.list", "datastore.entities.get", "RunQuery"] {
            assert!(check(&BTreeSet::from([name.to_owned()]), "RunQuery").is_err(), "{name}");
        }
    }

    /// Collects the literals after a marker in all files below a folder.
    fn literals(folder: &Path, markers: &[&str], found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                literals(&path, markers, found);
                continue;
            }
            let source = std::fs::read_to_string(&path).expect("a source file");
            let source = source.split("#[cfg(test)]").next().unwrap_or_default();
            let source: String = source.split_whitespace().collect();
            for marker in markers {
                let rest = source.split(marker).skip(1);
                let literals = rest.filter_map(|rest| rest.split('"').next());
                found.extend(literals.map(|literal| {
                    let kept = marker.rsplit('"').next().unwrap_or_default();
                    format!("{kept}{literal}")
                }));
            }
        }
    }

    #[test]
    fn every_method_that_meets_faults_stands_in_the_list() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = BTreeSet::new();
        let calls = [
            r#"around(""#,
            r#"around_topic(""#,
            r#"faulty(""#,
            r#"call(pubsub,""#,
            r#"call(firestore,""#,
            r#"stream(firestore,""#,
            r#"around(bigquery.clone(),""#,
            r#"at_once(""#,
        ];
        literals(&source.join("pubsub"), &calls, &mut found);
        literals(&source.join("firestore"), &calls, &mut found);
        literals(&source.join("bigquery"), &calls, &mut found);
        for kind in ["datasets", "tables"] {
            let verbs = ["list", "insert", "get", "patch", "delete"];
            found.extend(verbs.map(|verb| format!("bigquery.{kind}.{verb}")));
        }
        let names = [r#""storage.objects."#, r#""storage.buckets."#, r#""storage.uploads."#];
        literals(&source.join("storage"), &names, &mut found);
        // These names occur only in answers with 501 and in a comparison.
        let others = ["objects.restore", "buckets.lockRetentionPolicy", "buckets.", "uploads."];
        found.retain(|name| !others.iter().any(|other| *name == format!("storage.{other}")));

        let missing: Vec<_> = found.iter().filter(|name| !is_method(name)).collect();
        assert_eq!(missing, Vec::<&String>::new());
        let unused = METHODS.iter().filter(|(name, _)| !found.contains(*name));
        let unused: Vec<_> = unused.map(|(name, _)| *name).collect();
        assert_eq!(unused, Vec::<&str>::new());
    }
}
