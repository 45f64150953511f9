//! Reads of documents by name, and listings.

use std::collections::{BTreeSet, HashSet};

use proto::value::ValueType;

use super::query::Query;
use super::store::View;
use super::{Firestore, fields, names, not_found, order, proto, transform};
use crate::status::Status;

/// Documents of a page when a listing does not say; Google's own default is not documented.
const PAGE: usize = 300;

impl Firestore {
    pub(super) fn get(
        &self,
        request: proto::GetDocumentRequest,
    ) -> Result<proto::Document, Status> {
        let name = &request.name;
        names::check_document(name)?;
        let answer = self.read(request.consistency_selector.into(), |view, reads| {
            let document = view.get(name);
            if let Some(reads) = reads {
                reads.note(name, document);
            }
            fields::masked(document.ok_or_else(|| not_found(name))?, request.mask.as_ref())
        })?;
        Ok(answer.found)
    }

    /// Reads each name once, found or missing.
    pub(super) fn batch_get(
        &self,
        request: proto::BatchGetDocumentsRequest,
    ) -> Result<Vec<proto::BatchGetDocumentsResponse>, Status> {
        use proto::batch_get_documents_response::Result as Found;
        for name in &request.documents {
            names::check_document(name)?;
        }
        let mask = request.mask.as_ref();
        let answer = self.read(request.consistency_selector.into(), |view, mut reads| {
            let mut seen = HashSet::new();
            let names = request.documents.iter().filter(|name| seen.insert(*name));
            let results = names.map(|name| {
                let document = view.get(name);
                if let Some(reads) = &mut reads {
                    reads.note(name, document);
                }
                match document {
                    Some(document) => fields::masked(document, mask).map(Found::Found),
                    None => Ok(Found::Missing(name.clone())),
                }
            });
            results.collect::<Result<Vec<_>, _>>()
        })?;
        let read_time = Some(answer.read_time);
        let response =
            |result| proto::BatchGetDocumentsResponse { read_time, result, ..<_>::default() };
        let mut responses: Vec<_> =
            answer.found.into_iter().map(|found| response(Some(found))).collect();
        if !answer.transaction.is_empty() {
            let begun = proto::BatchGetDocumentsResponse {
                transaction: answer.transaction,
                ..response(None)
            };
            responses.insert(0, begun);
        }
        Ok(responses)
    }

    pub(super) fn list(
        &self,
        request: proto::ListDocumentsRequest,
    ) -> Result<proto::ListDocumentsResponse, Status> {
        let proto::ListDocumentsRequest { parent, collection_id, order_by, .. } = &request;
        if request.show_missing && !order_by.is_empty() {
            return Err(Status::invalid("cannot specify an order when show_missing is true"));
        }
        if request.show_missing && collection_id.is_empty() {
            return Err(Status::invalid("collection id must be set when show_missing is true"));
        }
        let query = Query::listing(parent, collection_id, order_by)?;
        let answer = self.read(request.consistency_selector.clone().into(), |view, reads| {
            let found = query.run(view).found;
            if let Some(reads) = reads {
                reads.note_query(query.clone(), &found);
            }
            let mask = request.mask.as_ref();
            let shown = found.into_iter().map(|document| fields::masked(document, mask));
            let mut shown = shown.collect::<Result<Vec<_>, _>>()?;
            if request.show_missing {
                shown.extend(missing(view, &format!("{parent}/{collection_id}/")));
                shown.sort_by(|left, right| order::names(&left.name, &right.name));
            }
            Ok(shown)
        })?;
        let named = answer.found.into_iter().map(|document| (document.name.clone(), document));
        let (documents, next_page_token) =
            page(named.collect(), request.page_size, &request.page_token)?;
        Ok(proto::ListDocumentsResponse { documents, next_page_token })
    }

    pub(super) fn list_collection_ids(
        &self,
        request: proto::ListCollectionIdsRequest,
    ) -> Result<proto::ListCollectionIdsResponse, Status> {
        names::check_parent(&request.parent)?;
        let prefix = format!("{}/", request.parent);
        let answer = self.read(request.consistency_selector.into(), |view, _| {
            let paths = view.under(&prefix).map(|document| &document.name[prefix.len()..]);
            let ids = paths.filter_map(|path| path.split('/').next().map(str::to_owned));
            Ok(ids.collect::<BTreeSet<_>>())
        })?;
        let ids = answer.found.into_iter().map(|id| (id.clone(), id)).collect();
        let (collection_ids, next_page_token) = page(ids, request.page_size, &request.page_token)?;
        Ok(proto::ListCollectionIdsResponse { collection_ids, next_page_token })
    }

    /// Splits a collection group at names that divide it evenly.
    pub(super) fn partition_query(
        &self,
        request: proto::PartitionQueryRequest,
    ) -> Result<proto::PartitionQueryResponse, Status> {
        use proto::partition_query_request::QueryType;
        let count = usize::try_from(request.partition_count).unwrap_or(0);
        if count == 0 {
            return Err(Status::invalid("partition_count must be positive"));
        }
        let Some(QueryType::StructuredQuery(query)) = request.query_type else {
            return Err(Status::invalid("A query is required."));
        };
        let query = Query::read(&request.parent, query)?;
        let answer = self.read(request.consistency_selector.into(), |view, _| {
            let found = query.run(view).found;
            let count = count.min(found.len());
            let splits = (1..=count).map(|split| &found[split * found.len() / (count + 1)].name);
            let mut splits: Vec<_> = splits.cloned().collect();
            splits.dedup();
            Ok(splits)
        })?;
        let cursors = answer.found.into_iter().map(|name| {
            let value = transform::of(ValueType::ReferenceValue(name.clone()));
            (name, proto::Cursor { values: vec![value], before: true })
        });
        let (partitions, next_page_token) =
            page(cursors.collect(), request.page_size, &request.page_token)?;
        Ok(proto::PartitionQueryResponse { partitions, next_page_token })
    }
}

/// Names without a document that have documents below them, directly in a collection.
fn missing(view: &View<'_>, collection: &str) -> impl Iterator<Item = proto::Document> {
    let below = view.under(collection).filter_map(|document| {
        let (id, _) = document.name[collection.len()..].split_once('/')?;
        Some(format!("{collection}{id}"))
    });
    let names: BTreeSet<_> = below.filter(|name| view.get(name).is_none()).collect();
    names.into_iter().map(|name| proto::Document { name, ..<_>::default() })
}

/// The page after the item whose key is the token, and the token of the next one.
fn page<T>(items: Vec<(String, T)>, size: i32, token: &str) -> Result<(Vec<T>, String), Status> {
    let size = usize::try_from(size).unwrap_or(0);
    let size = if size == 0 { PAGE } else { size };
    let start = match items.iter().position(|(key, _)| key == token) {
        Some(last) => last + 1,
        None if token.is_empty() => 0,
        None => return Err(Status::invalid("page_token is not valid any more")),
    };
    let has_more = items.len() > start + size;
    let page: Vec<_> = items.into_iter().skip(start).take(size).collect();
    let next = page.last().filter(|_| has_more).map(|(key, _)| key.clone()).unwrap_or_default();
    Ok((page.into_iter().map(|(_, item)| item).collect(), next))
}
