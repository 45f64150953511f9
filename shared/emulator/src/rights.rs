//! Rights: the permission that each method needs, and refusals in Google's words.

use std::collections::BTreeSet;

use tonic::Code;

use crate::status::Status;

/// Methods, each with the permission that it needs.
const NEEDED: &[(&str, &str)] = &[
    ("Publish", "pubsub.topics.publish"),
    ("CreateTopic", "pubsub.topics.create"),
    ("GetTopic", "pubsub.topics.get"),
    ("UpdateTopic", "pubsub.topics.update"),
    ("DeleteTopic", "pubsub.topics.delete"),
    ("ListTopics", "pubsub.topics.list"),
    ("StreamingPull", "pubsub.subscriptions.consume"),
    ("Pull", "pubsub.subscriptions.consume"),
    ("Acknowledge", "pubsub.subscriptions.consume"),
    ("ModifyAckDeadline", "pubsub.subscriptions.consume"),
    ("CreateSubscription", "pubsub.subscriptions.create"),
    ("GetSubscription", "pubsub.subscriptions.get"),
    ("UpdateSubscription", "pubsub.subscriptions.update"),
    ("DeleteSubscription", "pubsub.subscriptions.delete"),
    ("ListSubscriptions", "pubsub.subscriptions.list"),
    ("AppendRows", "bigquery.tables.updateData"),
    ("GetWriteStream", "bigquery.tables.get"),
    ("CreateWriteStream", "bigquery.tables.updateData"),
    ("FinalizeWriteStream", "bigquery.tables.updateData"),
    ("BatchCommitWriteStreams", "bigquery.tables.updateData"),
    ("FlushRows", "bigquery.tables.updateData"),
    ("CreateReadSession", "bigquery.tables.getData"),
    ("ReadRows", "bigquery.tables.getData"),
    ("bigquery.datasets.insert", "bigquery.datasets.create"),
    ("bigquery.tables.insert", "bigquery.tables.create"),
    ("bigquery.tables.patch", "bigquery.tables.update"),
    ("bigquery.tables.update", "bigquery.tables.update"),
    ("bigquery.tabledata.insertAll", "bigquery.tables.updateData"),
    ("bigquery.tabledata.list", "bigquery.tables.getData"),
    ("bigquery.jobs.query", "bigquery.jobs.create"),
    ("bigquery.jobs.insert", "bigquery.jobs.create"),
    ("storage.buckets.insert", "storage.buckets.create"),
    ("storage.buckets.patch", "storage.buckets.update"),
    ("storage.objects.insert", "storage.objects.create"),
    ("storage.objects.compose", "storage.objects.create"),
    ("storage.objects.copy", "storage.objects.create"),
    ("storage.objects.move", "storage.objects.create"),
    ("storage.objects.rewrite", "storage.objects.create"),
    ("storage.uploads.begin", "storage.objects.create"),
    ("storage.uploads.continue", "storage.objects.create"),
    ("storage.objects.read", "storage.objects.get"),
    ("storage.objects.patch", "storage.objects.update"),
    ("GetDocument", "datastore.entities.get"),
    ("BatchGetDocuments", "datastore.entities.get"),
    ("ListDocuments", "datastore.entities.list"),
    ("CreateDocument", "datastore.entities.create"),
    ("UpdateDocument", "datastore.entities.update"),
    ("DeleteDocument", "datastore.entities.delete"),
    ("Commit", "datastore.entities.update"),
];

/// Returns the permission that a method needs; where it is not listed, they have one name.
fn permission_of(method: &str) -> &str {
    NEEDED.iter().find(|(name, _)| *name == method).map_or(method, |needed| needed.1)
}

/// Refuses a method that is denied itself, or whose permission is.
pub(crate) fn check(denied: &BTreeSet<String>, method: &str) -> Result<(), Status> {
    let permission = permission_of(method);
    if !denied.contains(method) && !denied.contains(permission) {
        return Ok(());
    }
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
        _ if permission.starts_with("datastore.") => "Missing or insufficient permissions.".into(),
        _ => "User not authorized to perform this action.".into(),
    };
    Err(Status::new(Code::PermissionDenied, text))
}

/// Keeps the permissions of which nothing is denied: the answer to `testIamPermissions`.
pub(crate) fn granted(denied: &BTreeSet<String>, mut asked: Vec<String>) -> Vec<String> {
    let methods_of = |permission: &str| {
        let needed = NEEDED.iter().filter(move |(_, needed)| *needed == permission);
        needed.map(|(method, _)| *method).collect::<Vec<_>>()
    };
    asked.retain(|permission| {
        !denied.contains(permission)
            && !methods_of(permission).iter().any(|method| denied.contains(*method))
    });
    asked
}

#[cfg(test)]
mod tests {
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
}
