//! Firestore: documents in memory, read and written over gRPC.

mod names;
mod rpc;
mod write;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use googleapis_tonic_google_firestore_v1::google::firestore::v1 as proto;
use prost_types::Timestamp;
use tonic::Code;

pub(crate) use rpc::answer;

use crate::faults::Faults;
use crate::status::Status;

/// Documents of a page when a listing does not say; Google's own default is not documented.
const PAGE: usize = 300;

/// All of Firestore; clones are the same one.
#[derive(Clone)]
pub(crate) struct Firestore {
    faults: Faults,
    documents: Arc<Mutex<Documents>>,
}

/// Documents by their full name.
type Documents = BTreeMap<String, proto::Document>;

impl Firestore {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults, documents: Arc::default() }
    }

    fn get(&self, request: &proto::GetDocumentRequest) -> Result<proto::Document, Status> {
        names::check_document(&request.name)?;
        let documents = self.lock();
        let document = documents.get(&request.name).ok_or_else(|| not_found(&request.name))?;
        Ok(masked(document, request.mask.as_ref()))
    }

    /// Each name once, found or missing.
    fn batch_get(
        &self,
        request: &proto::BatchGetDocumentsRequest,
    ) -> Result<Vec<proto::BatchGetDocumentsResponse>, Status> {
        if request.consistency_selector.is_some() {
            return Err(Status::unimplemented("transactions and reads in the past"));
        }
        for name in &request.documents {
            names::check_document(name)?;
        }
        let documents = self.lock();
        let mut seen = HashSet::new();
        let names = request.documents.iter().filter(|name| seen.insert(*name));
        let answers = names.map(|name| {
            use proto::batch_get_documents_response::Result as Found;
            let result = match documents.get(name) {
                Some(document) => Found::Found(masked(document, request.mask.as_ref())),
                None => Found::Missing(name.clone()),
            };
            let read_time = Some(now());
            proto::BatchGetDocumentsResponse { read_time, result: Some(result), ..<_>::default() }
        });
        Ok(answers.collect())
    }

    fn list(
        &self,
        request: &proto::ListDocumentsRequest,
    ) -> Result<proto::ListDocumentsResponse, Status> {
        if request.consistency_selector.is_some() || !request.order_by.is_empty() {
            return Err(Status::unimplemented("orders and transactions of listings"));
        }
        let collection = format!("{}/{}/", request.parent, request.collection_id);
        let size = usize::try_from(request.page_size).unwrap_or(0);
        let size = if size == 0 { PAGE } else { size };
        let documents = self.lock();
        let after = documents
            .range(collection.clone()..)
            .take_while(|(name, _)| name.starts_with(&collection))
            .filter(|(name, _)| !name[collection.len()..].contains('/'))
            .filter(|(name, _)| **name > request.page_token);
        let mut page: Vec<_> = after.take(size + 1).collect();
        let has_more = page.len() > size;
        page.truncate(size);
        let last = page.last().filter(|_| has_more);
        Ok(proto::ListDocumentsResponse {
            next_page_token: last.map(|(name, _)| (*name).clone()).unwrap_or_default(),
            documents: page.iter().map(|(_, found)| masked(found, request.mask.as_ref())).collect(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Documents> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A document with the fields that a mask leaves.
fn masked(document: &proto::Document, mask: Option<&proto::DocumentMask>) -> proto::Document {
    let Some(mask) = mask else { return document.clone() };
    let mut shown = proto::Document { fields: <_>::default(), ..document.clone() };
    for path in &mask.field_paths {
        let path = names::field_path(path);
        if let Some(value) = write::find(&document.fields, &path) {
            write::set(&mut shown.fields, &path, value.clone());
        }
    }
    shown
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

fn not_found(name: &str) -> Status {
    Status::new(Code::NotFound, format!("Document \"{name}\" not found."))
}
