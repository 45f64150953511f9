//! Reads of documents by name, and listings.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use proto::value::ValueType;

use super::documents::View;
use super::query::Query;
use super::{Firestore, fields, names, not_found, order, proto, transform};
use crate::status::Status;

/// Default number of documents in a page of a listing. Google does not document its own.
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

    /// Reads each name once. Missing documents are reported, too.
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
        let mut query = Query::listing(parent, collection_id, order_by)?;
        query.resume(&request.page_token)?;
        let answer = self.read(request.consistency_selector.clone().into(), |view, reads| {
            let found = query.run(view).found;
            if let Some(reads) = reads {
                reads.note_query(query.clone(), &found);
            }
            let mut shown: Vec<_> = found.into_iter().map(Cow::Borrowed).collect();
            if request.show_missing {
                let collection = format!("{parent}/{collection_id}/");
                let missing = missing(view, &collection);
                let missing = missing.filter(|document| query.starts_before(document));
                shown.extend(missing.map(Cow::Owned));
                shown.sort_by(|left, right| order::names(&left.name, &right.name));
            }
            let has_more = cut(&mut shown, request.page_size);
            let next = shown.last().filter(|_| has_more).map(|last| query.token(last));
            let mask = request.mask.as_ref();
            let shown = shown.iter().map(|document| fields::masked(document, mask));
            Ok((shown.collect::<Result<Vec<_>, _>>()?, next.unwrap_or_default()))
        })?;
        let (documents, next_page_token) = answer.found;
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
        let token = &request.page_token;
        let mut collection_ids: Vec<_> = answer.found.into_iter().filter(|id| id > token).collect();
        let has_more = cut(&mut collection_ids, request.page_size);
        let next_page_token =
            collection_ids.last().filter(|_| has_more).cloned().unwrap_or_default();
        Ok(proto::ListCollectionIdsResponse { collection_ids, next_page_token })
    }

    /// Splits the results of a query at names that divide them evenly.
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
        let token = &request.page_token;
        let is_new = |name: &String| token.is_empty() || order::names(name, token).is_gt();
        let mut names: Vec<_> = answer.found.into_iter().filter(is_new).collect();
        let has_more = cut(&mut names, request.page_size);
        let next_page_token = names.last().filter(|_| has_more).cloned().unwrap_or_default();
        let cursors = names.into_iter().map(|name| proto::Cursor {
            values: vec![transform::of(ValueType::ReferenceValue(name))],
            before: true,
        });
        Ok(proto::PartitionQueryResponse { partitions: cursors.collect(), next_page_token })
    }
}

/// Returns names without a document that have documents below them, directly in a collection.
fn missing(view: &View<'_>, collection: &str) -> impl Iterator<Item = proto::Document> {
    let below = view.under(collection).filter_map(|document| {
        let (id, _) = document.name[collection.len()..].split_once('/')?;
        Some(format!("{collection}{id}"))
    });
    let names: BTreeSet<_> = below.filter(|name| view.get(name).is_none()).collect();
    names.into_iter().map(|name| proto::Document { name, ..<_>::default() })
}

/// Shortens items to a page. Returns true if some were left out.
fn cut<T>(items: &mut Vec<T>, size: i32) -> bool {
    let size = usize::try_from(size).unwrap_or(0);
    let size = if size == 0 { PAGE } else { size };
    let has_more = items.len() > size;
    items.truncate(size);
    has_more
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Faults;

    const ROOT: &str = "projects/p/databases/d/documents";

    fn firestore(ids: &[&str]) -> Firestore {
        let firestore = Firestore::new(Faults::default());
        for (number, id) in (0..).zip(ids) {
            let number = transform::of(ValueType::IntegerValue(number));
            let fields = [("n".to_owned(), number)].into();
            firestore.put(&format!("{ROOT}/c/{id}"), fields).expect("a document");
        }
        firestore
    }

    fn delete(firestore: &Firestore, id: &str) {
        let name = format!("{ROOT}/c/{id}");
        firestore.delete(proto::DeleteDocumentRequest { name, ..<_>::default() }).expect("deleted");
    }

    fn list(firestore: &Firestore, request: &proto::ListDocumentsRequest) -> (Vec<String>, String) {
        let (parent, collection_id) = (ROOT.to_owned(), "c".to_owned());
        let request = proto::ListDocumentsRequest { parent, collection_id, ..request.clone() };
        let page = firestore.list(request).expect("a page");
        let id = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        (page.documents.iter().map(|found| id(&found.name)).collect(), page.next_page_token)
    }

    #[test]
    fn a_listing_goes_on_after_the_last_document_of_a_page_was_deleted() {
        for (order_by, show_missing) in [("", false), ("", true), ("n", false), ("n desc", false)] {
            let firestore = firestore(&["a", "b", "c/below/d", "e"]);
            let order_by = order_by.to_owned();
            let mask = Some(proto::DocumentMask { field_paths: vec!["none".to_owned()] });
            let mut request = proto::ListDocumentsRequest {
                page_size: 1,
                order_by,
                show_missing,
                mask,
                ..<_>::default()
            };

            let mut found = Vec::new();
            loop {
                let (page, next) = list(&firestore, &request);
                page.iter().filter(|id| *id != "c").for_each(|id| delete(&firestore, id));
                found.extend(page);
                request.page_token = next;
                if request.page_token.is_empty() {
                    break;
                }
            }

            if request.order_by == "n desc" {
                found.reverse();
            }
            let expected =
                if show_missing { vec!["a", "b", "c", "e"] } else { vec!["a", "b", "e"] };
            assert_eq!(found, expected, "{request:?}");
        }
    }

    #[test]
    fn collections_and_partitions_go_on_after_what_is_gone() {
        let firestore = firestore(&["a", "b", "c", "d"]);
        let name = format!("{ROOT}/e/f");
        firestore.put(&name, <_>::default()).expect("a document");
        let token = "c".to_owned();
        let request = proto::ListCollectionIdsRequest {
            parent: ROOT.to_owned(),
            page_token: token,
            ..<_>::default()
        };
        ["a", "b", "c", "d"].iter().for_each(|id| delete(&firestore, id));

        let ids = firestore.list_collection_ids(request).expect("ids").collection_ids;

        assert_eq!(ids, ["e"]);
    }

    #[test]
    fn a_token_of_somebody_else_is_refused() {
        let request = proto::ListDocumentsRequest {
            parent: ROOT.to_owned(),
            collection_id: "c".to_owned(),
            page_token: "none of ours".to_owned(),
            ..<_>::default()
        };

        assert!(firestore(&[]).list(request).is_err());
    }
}
