//! Writes: a commit is written completely or not at all, and the writes of a batch one by one.

use std::collections::HashSet;

use googleapis_tonic_google_firestore_v1::google::rpc;
use prost::Message as _;
use prost_types::Timestamp;
use proto::precondition::ConditionType;
use proto::write::Operation;
use tonic::Code;
use uuid::Uuid;

use super::documents::{DocumentChanges, Documents};
use super::fields::{self, Fields};
use super::time::Time;
use super::{Firestore, Store, names, not_found, proto, transform};
use crate::rights;
use crate::status::Status;

/// Largest document, from Google's list of Firestore limits.
const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

impl Firestore {
    /// Writes a document, and replaces an earlier one.
    pub(crate) fn put(&self, name: &str, fields: Fields) -> Result<(), Status> {
        let document = proto::Document { name: name.to_owned(), fields, ..<_>::default() };
        self.apply(&[update(document, None, None)]).map(drop)
    }

    pub(super) fn create(
        &self,
        request: proto::CreateDocumentRequest,
    ) -> Result<proto::Document, Status> {
        let proto::CreateDocumentRequest { parent, collection_id, mut document_id, .. } = request;
        if document_id.is_empty() {
            document_id = Uuid::new_v4().simple().to_string();
        }
        let mut document = request.document.unwrap_or_default();
        document.name = format!("{parent}/{collection_id}/{document_id}");
        let name = document.name.clone();
        let condition = proto::Precondition { condition_type: Some(ConditionType::Exists(false)) };
        self.apply(&[update(document, None, Some(condition))])?;
        self.get(proto::GetDocumentRequest { name, mask: request.mask, ..<_>::default() })
    }

    pub(super) fn update(
        &self,
        request: proto::UpdateDocumentRequest,
    ) -> Result<proto::Document, Status> {
        let document = request.document.unwrap_or_default();
        let name = document.name.clone();
        self.apply(&[update(document, request.update_mask, request.current_document)])?;
        self.get(proto::GetDocumentRequest { name, mask: request.mask, ..<_>::default() })
    }

    pub(super) fn delete(&self, request: proto::DeleteDocumentRequest) -> Result<(), Status> {
        self.apply(&[proto::Write {
            operation: Some(Operation::Delete(request.name)),
            current_document: request.current_document,
            ..<_>::default()
        }])?;
        Ok(())
    }

    pub(super) fn commit(
        &self,
        request: proto::CommitRequest,
    ) -> Result<proto::CommitResponse, Status> {
        self.check_rights(&request.writes)?;
        let mut store = self.lock();
        let Store { documents, transactions } = &mut *store;
        if !request.transaction.is_empty() {
            let has_writes = !request.writes.is_empty();
            transactions.finish(&request.transaction, has_writes, &documents.latest())?;
        }
        let (write_results, commit_time) = apply(documents, &request.writes)?;
        drop(store);
        self.notify_listeners();
        Ok(proto::CommitResponse { write_results, commit_time: Some(commit_time) })
    }

    /// Applies each write separately and reports the result of each.
    pub(super) fn batch_write(
        &self,
        request: proto::BatchWriteRequest,
    ) -> Result<proto::BatchWriteResponse, Status> {
        let mut seen = HashSet::new();
        for write in &request.writes {
            let name = target(write)?;
            names::check_document(name)?;
            if !seen.insert(name) {
                let text = "the same document cannot be written more than once in a single request";
                return Err(Status::invalid(text));
            }
        }
        self.check_rights(&request.writes)?;
        let mut response = proto::BatchWriteResponse::default();
        let mut store = self.lock();
        for write in &request.writes {
            let (result, status) = match apply(&mut store.documents, std::slice::from_ref(write)) {
                Ok((mut results, _)) => (results.pop().unwrap_or_default(), rpc::Status::default()),
                Err(status) => {
                    let code = status.code.into();
                    let refused =
                        rpc::Status { code, message: status.message, details: Vec::new() };
                    (proto::WriteResult::default(), refused)
                }
            };
            response.write_results.push(result);
            response.status.push(status);
        }
        drop(store);
        self.notify_listeners();
        Ok(response)
    }

    /// Refuses writes that need a denied permission, by the list at
    /// <https://cloud.google.com/firestore/docs/security/iam#required_permissions>.
    pub(super) fn check_rights(&self, writes: &[proto::Write]) -> Result<(), Status> {
        let profile = self.faults.conditions().profile();
        let mut needed = writes.iter().flat_map(permissions);
        needed.try_for_each(|permission| rights::check_entities(&profile.denied, permission))
    }

    /// Applies all writes, or none if one is refused.
    pub(super) fn apply(
        &self,
        writes: &[proto::Write],
    ) -> Result<(Vec<proto::WriteResult>, Timestamp), Status> {
        let applied = apply(&mut self.lock().documents, writes)?;
        self.notify_listeners();
        Ok(applied)
    }
}

fn apply(
    documents: &mut Documents,
    writes: &[proto::Write],
) -> Result<(Vec<proto::WriteResult>, Timestamp), Status> {
    // Changes of the documents; `None` is a deleted one.
    let mut changed = DocumentChanges::new();
    let time = documents.commit_time();
    let mut results = Vec::with_capacity(writes.len());
    for write in writes {
        let name = target(write)?;
        names::check_document(name)?;
        let current = match changed.get(name) {
            Some(current) => current.as_ref(),
            None => documents.get(name),
        };
        let is_delete = matches!(write.operation, Some(Operation::Delete(_)));
        refuse_future(write.current_document.as_ref(), time)?;
        check(write.current_document.as_ref(), name, current, !is_delete)?;
        let (after, transform_results) = after(write, current, time)?;
        let update_time = after.as_ref().and_then(|document| document.update_time);
        results.push(proto::WriteResult { update_time, transform_results });
        changed.insert(name.to_owned(), after);
    }
    // A document that is the same as before is not a change, and listeners are not told.
    changed.retain(|name, after| documents.get(name) != after.as_ref());
    documents.keep(changed, time);
    Ok((results, time.into()))
}

fn update(
    document: proto::Document,
    update_mask: Option<proto::DocumentMask>,
    current_document: Option<proto::Precondition>,
) -> proto::Write {
    let operation = Some(Operation::Update(document));
    proto::Write { operation, update_mask, current_document, ..<_>::default() }
}

/// Returns the name of the document of a write.
fn target(write: &proto::Write) -> Result<&str, Status> {
    match &write.operation {
        Some(Operation::Update(document)) => Ok(&document.name),
        Some(Operation::Delete(name)) => Ok(name),
        Some(Operation::Transform(transform)) => Ok(&transform.document),
        None => Err(Status::invalid("A write must have an operation.")),
    }
}

/// Returns the permissions that a write needs.
fn permissions(write: &proto::Write) -> &'static [&'static str] {
    let condition = write.current_document.as_ref();
    let condition = condition.and_then(|condition| condition.condition_type.as_ref());
    match (&write.operation, condition) {
        (None, _) => &[],
        (Some(Operation::Delete(_)), _) => &["datastore.entities.delete"],
        (Some(_), Some(ConditionType::Exists(false))) => &["datastore.entities.create"],
        (Some(_), Some(ConditionType::Exists(true) | ConditionType::UpdateTime(_))) => {
            &["datastore.entities.update"]
        }
        (Some(_), None) => &["datastore.entities.create", "datastore.entities.update"],
    }
}

/// Refuses an update time that is after the time of the commit.
fn refuse_future(condition: Option<&proto::Precondition>, time: Time) -> Result<(), Status> {
    match condition.and_then(|condition| condition.condition_type.as_ref()) {
        Some(ConditionType::UpdateTime(wanted)) if Time::of(wanted) > time => {
            Err(Status::invalid("the update time of a precondition is in the future"))
        }
        _ => Ok(()),
    }
}

fn check(
    condition: Option<&proto::Precondition>,
    name: &str,
    current: Option<&proto::Document>,
    is_update: bool,
) -> Result<(), Status> {
    let condition = condition.and_then(|condition| condition.condition_type.as_ref());
    match (condition, current) {
        (None, _)
        | (Some(ConditionType::Exists(true)), Some(_))
        | (Some(ConditionType::Exists(false)), None) => Ok(()),
        (Some(ConditionType::Exists(true)), None) if is_update => {
            Err(Status::new(Code::NotFound, format!("No document to update: {name}")))
        }
        (Some(ConditionType::Exists(true)), None) => Err(not_found(name)),
        (Some(ConditionType::Exists(false)), Some(_)) => {
            Err(Status::new(Code::AlreadyExists, format!("Document already exists: {name}")))
        }
        (Some(ConditionType::UpdateTime(wanted)), Some(document))
            if document.update_time.as_ref() == Some(wanted) =>
        {
            Ok(())
        }
        (Some(ConditionType::UpdateTime(_)), Some(_)) => {
            let text = "the stored version does not match the required base version";
            Err(Status::new(Code::FailedPrecondition, text))
        }
        (Some(ConditionType::UpdateTime(_)), None) => {
            Err(Status::new(Code::FailedPrecondition, format!("{name} does not exist")))
        }
    }
}

/// Returns the document after a write, and the results of its transforms.
fn after(
    write: &proto::Write,
    current: Option<&proto::Document>,
    time: Time,
) -> Result<(Option<proto::Document>, Vec<proto::Value>), Status> {
    let (mut fields, transforms) = match &write.operation {
        None | Some(Operation::Delete(_)) => return Ok((None, Vec::new())),
        Some(Operation::Update(given)) => (
            updated(given, write.update_mask.as_ref(), current)?,
            write.update_transforms.as_slice(),
        ),
        Some(Operation::Transform(transform)) => (
            current.map(|found| found.fields.clone()).unwrap_or_default(),
            transform.field_transforms.as_slice(),
        ),
    };
    let results = transform::apply(&mut fields, transforms, time)?;
    fields::normalize(&mut fields)?;
    // A write that changes nothing keeps the old update time.
    if let Some(current) = current
        && current.fields == fields
    {
        return Ok((Some(current.clone()), results));
    }
    let time = Timestamp::from(time);
    let create_time = current.and_then(|found| found.create_time).or(Some(time));
    let name = target(write)?.to_owned();
    let document = proto::Document { name, fields, create_time, update_time: Some(time) };
    if document.encoded_len() > MAX_DOCUMENT_BYTES {
        let (name, most) = (&document.name, MAX_DOCUMENT_BYTES);
        let text = format!(
            "Document '{name}' cannot be written because its size exceeds the maximum allowed size of {most} bytes."
        );
        return Err(Status::invalid(text));
    }
    Ok((Some(document), results))
}

/// Returns the fields after an update, before its transforms.
fn updated(
    given: &proto::Document,
    mask: Option<&proto::DocumentMask>,
    current: Option<&proto::Document>,
) -> Result<Fields, Status> {
    let Some(mask) = mask else { return Ok(given.fields.clone()) };
    let mut updated = current.map(|found| found.fields.clone()).unwrap_or_default();
    for path in &mask.field_paths {
        let path = names::field_path(path)?;
        match fields::find(&given.fields, &path) {
            Some(value) => fields::set(&mut updated, &path, value.clone()),
            None => fields::remove(&mut updated, &path),
        }
    }
    Ok(updated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Faults;
    use crate::profile::Profile;

    #[test]
    fn a_commit_needs_the_permissions_of_its_writes_and_no_others() {
        let firestore = Firestore::new(Faults::default());
        let name = "projects/p/databases/d/documents/c/d";
        let put =
            || update(proto::Document { name: name.to_owned(), ..<_>::default() }, None, None);
        let delete = || proto::Write {
            operation: Some(Operation::Delete(name.to_owned())),
            ..<_>::default()
        };
        let deny = |permission: &str| {
            let denied = [permission.to_owned()].into();
            firestore.faults.conditions().set(Profile { denied, ..<_>::default() });
        };
        let commit = |write| {
            firestore.commit(proto::CommitRequest { writes: vec![write], ..<_>::default() })
        };
        let batch = |write| {
            firestore
                .batch_write(proto::BatchWriteRequest { writes: vec![write], ..<_>::default() })
        };

        deny("datastore.entities.delete");
        assert_eq!(commit(delete()).expect_err("a refusal").code, Code::PermissionDenied);
        assert!(batch(delete()).is_err());
        assert!(commit(put()).is_ok() && batch(put()).is_ok());
        for permission in ["datastore.entities.create", "datastore.entities.update"] {
            deny(permission);
            assert!(commit(put()).is_err() && batch(put()).is_err(), "{permission}");
            assert!(commit(delete()).is_ok() && batch(delete()).is_ok(), "{permission}");
        }
    }

    #[test]
    fn an_update_time_in_the_future_is_refused() {
        let at = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        let with = |seconds| proto::Precondition {
            condition_type: Some(ConditionType::UpdateTime(at(seconds))),
        };
        let now = Time::of(&at(1000));

        assert!(refuse_future(None, now).is_ok());
        assert!(refuse_future(Some(&with(1000)), now).is_ok());
        let refused = refuse_future(Some(&with(1001)), now).unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument);
    }
}
