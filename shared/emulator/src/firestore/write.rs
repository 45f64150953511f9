//! Writes: all of a commit or nothing of it.

use std::collections::HashMap;

use prost::Message as _;
use prost_types::Timestamp;
use proto::precondition::ConditionType;
use proto::value::ValueType;
use proto::write::Operation;
use tonic::Code;
use uuid::Uuid;

use super::{Documents, Firestore, names, not_found, now, proto};
use crate::status::Status;

/// Largest document, from Google's list of Firestore's limits.
const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

type Fields = HashMap<String, proto::Value>;

impl Firestore {
    /// Writes a document in place of what was there.
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
        self.get(&proto::GetDocumentRequest { name, mask: request.mask, ..<_>::default() })
    }

    pub(super) fn update(
        &self,
        request: proto::UpdateDocumentRequest,
    ) -> Result<proto::Document, Status> {
        let document = request.document.unwrap_or_default();
        let name = document.name.clone();
        self.apply(&[update(document, request.update_mask, request.current_document)])?;
        self.get(&proto::GetDocumentRequest { name, mask: request.mask, ..<_>::default() })
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
        request: &proto::CommitRequest,
    ) -> Result<proto::CommitResponse, Status> {
        if !request.transaction.is_empty() {
            return Err(Status::unimplemented("transactions"));
        }
        let (write_results, commit_time) = self.apply(&request.writes)?;
        Ok(proto::CommitResponse { write_results, commit_time: Some(commit_time) })
    }

    /// Applies all writes, or none where one is refused.
    fn apply(
        &self,
        writes: &[proto::Write],
    ) -> Result<(Vec<proto::WriteResult>, Timestamp), Status> {
        let mut documents = self.lock();
        // What the writes make of the documents they touch; `None` is a deleted one.
        let mut changed: HashMap<String, Option<proto::Document>> = HashMap::new();
        let time = now();
        let mut results = Vec::with_capacity(writes.len());
        for write in writes {
            let name = target(write)?;
            names::check_document(&name)?;
            let current = match changed.get(&name) {
                Some(current) => current.clone(),
                None => documents.get(&name).cloned(),
            };
            check(write.current_document.as_ref(), &name, current.as_ref(), is_update(write))?;
            let after = after(write, current, time)?;
            let update_time = after.as_ref().and_then(|document| document.update_time);
            results.push(proto::WriteResult { update_time, ..<_>::default() });
            changed.insert(name, after);
        }
        keep(&mut documents, changed);
        Ok((results, time))
    }
}

fn update(
    document: proto::Document,
    update_mask: Option<proto::DocumentMask>,
    current_document: Option<proto::Precondition>,
) -> proto::Write {
    let operation = Some(Operation::Update(document));
    proto::Write { operation, update_mask, current_document, ..<_>::default() }
}

fn keep(documents: &mut Documents, changed: HashMap<String, Option<proto::Document>>) {
    for (name, document) in changed {
        match document {
            Some(document) => drop(documents.insert(name, document)),
            None => drop(documents.remove(&name)),
        }
    }
}

fn is_update(write: &proto::Write) -> bool {
    matches!(write.operation, Some(Operation::Update(_)))
}

/// The document that a write is about.
fn target(write: &proto::Write) -> Result<String, Status> {
    if !write.update_transforms.is_empty() {
        return Err(Status::unimplemented("field transforms"));
    }
    match &write.operation {
        Some(Operation::Update(document)) => Ok(document.name.clone()),
        Some(Operation::Delete(name)) => Ok(name.clone()),
        Some(Operation::Transform(_)) => Err(Status::unimplemented("field transforms")),
        None => Err(Status::invalid("A write must have an operation.")),
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

/// What a write makes of a document.
fn after(
    write: &proto::Write,
    current: Option<proto::Document>,
    time: Timestamp,
) -> Result<Option<proto::Document>, Status> {
    let Some(Operation::Update(given)) = &write.operation else { return Ok(None) };
    let fields = match &write.update_mask {
        None => given.fields.clone(),
        Some(mask) => {
            let current = current.as_ref();
            let mut fields = current.map(|found| found.fields.clone()).unwrap_or_default();
            for path in &mask.field_paths {
                let path = names::field_path(path);
                match find(&given.fields, &path) {
                    Some(value) => set(&mut fields, &path, value.clone()),
                    None => remove(&mut fields, &path),
                }
            }
            fields
        }
    };
    // A write that changes nothing leaves the time as it was.
    if let Some(current) = &current
        && current.fields == fields
    {
        return Ok(Some(current.clone()));
    }
    let create_time = current.and_then(|found| found.create_time).or(Some(time));
    let document =
        proto::Document { name: given.name.clone(), fields, create_time, update_time: Some(time) };
    if document.encoded_len() > MAX_DOCUMENT_BYTES {
        let (name, most) = (&document.name, MAX_DOCUMENT_BYTES);
        let text = format!(
            "Document '{name}' cannot be written because its size exceeds the maximum allowed size of {most} bytes."
        );
        return Err(Status::invalid(text));
    }
    Ok(Some(document))
}

/// The value at a path.
pub(super) fn find<'a>(fields: &'a Fields, path: &[String]) -> Option<&'a proto::Value> {
    let (first, rest) = path.split_first()?;
    let value = fields.get(first)?;
    match (&value.value_type, rest) {
        (_, []) => Some(value),
        (Some(ValueType::MapValue(map)), rest) => find(&map.fields, rest),
        _ => None,
    }
}

/// Puts a value at a path; what is no map on the way becomes one.
pub(super) fn set(fields: &mut Fields, path: &[String], value: proto::Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        fields.insert(first.clone(), value);
        return;
    }
    let inner = fields.entry(first.clone()).or_default();
    if !matches!(inner.value_type, Some(ValueType::MapValue(_))) {
        inner.value_type = Some(ValueType::MapValue(proto::MapValue::default()));
    }
    if let Some(ValueType::MapValue(map)) = &mut inner.value_type {
        set(&mut map.fields, rest, value);
    }
}

fn remove(fields: &mut Fields, path: &[String]) {
    match path {
        [] => {}
        [last] => drop(fields.remove(last)),
        [first, rest @ ..] => {
            let inner = fields.get_mut(first).and_then(|value| value.value_type.as_mut());
            if let Some(ValueType::MapValue(map)) = inner {
                remove(&mut map.fields, rest);
            }
        }
    }
}
