//! Structured queries: parsed from the form of the API, and run.

mod aggregate;
mod filter;
mod parse;

use std::borrow::Cow;
use std::cmp::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;
use proto::value::ValueType;

use super::documents::View;
use super::{Firestore, fields, names, order, proto, transform};
use crate::status::Status;
use filter::Filter;

/// A query that can be run.
#[derive(Debug, Clone)]
pub(super) struct Query {
    parent: String,
    collections: Vec<Collection>,
    filter: Option<Filter>,
    /// Fields that order the results. The name is last.
    orders: Vec<Order>,
    start: Option<Cursor>,
    end: Option<Cursor>,
    offset: usize,
    limit: Option<usize>,
    /// Fields to return; `None` for all.
    select: Option<Vec<QueryField>>,
}

/// A collection to search.
#[derive(Debug, Clone)]
struct Collection {
    /// Id of the collection; empty for all.
    id: String,
    all_descendants: bool,
}

/// A field of a document, or its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum QueryField {
    Name,
    Path(Vec<String>),
}

#[derive(Debug, Clone)]
struct Order {
    field: QueryField,
    is_descending: bool,
}

/// A position in the results, before or after documents with these values.
#[derive(Debug, Clone)]
struct Cursor {
    values: Vec<proto::Value>,
    is_before: bool,
}

/// A cursor in the form that is compared with documents.
struct SortKey<'a> {
    values: Vec<Cow<'a, proto::Value>>,
    is_before: bool,
}

/// Results of a query.
pub(super) struct Found<'a> {
    pub(super) found: Vec<&'a proto::Document>,
    /// Number of results that the offset skipped.
    pub(super) skipped: usize,
}

impl QueryField {
    fn read(path: &str) -> Result<Self, Status> {
        if path == names::NAME {
            return Ok(Self::Name);
        }
        Ok(Self::Path(names::field_path(path)?))
    }

    /// Returns the value of the field if the document has it.
    fn of<'a>(&self, document: &'a proto::Document) -> Option<Cow<'a, proto::Value>> {
        match self {
            Self::Name => {
                Some(Cow::Owned(transform::of(ValueType::ReferenceValue(document.name.clone()))))
            }
            Self::Path(path) => fields::find(&document.fields, path).map(Cow::Borrowed),
        }
    }
}

/// A document with the values that determine its order.
type Keyed<'a> = (Vec<Cow<'a, proto::Value>>, &'a proto::Document);

impl Query {
    /// Orders the results by these fields, too, after the fields of the query.
    ///
    /// Google does so for the fields of `sum` and `avg`. The order of a query with a cursor stays,
    /// because the cursor counts on it.
    fn ordered_also_by<'a>(mut self, fields: impl Iterator<Item = &'a QueryField>) -> Self {
        if self.start.is_some() || self.end.is_some() {
            return self;
        }
        for field in fields {
            if self.orders.iter().all(|order| order.field != *field) {
                let at = self.orders.len().saturating_sub(1);
                self.orders.insert(at, Order { field: field.clone(), is_descending: false });
            }
        }
        self
    }

    /// Finds the documents of a view, in the order of the query.
    pub(super) fn run<'a>(&self, view: &View<'a>) -> Found<'a> {
        let mut keyed = self.candidates(view);
        keyed.sort_by(|(left, _), (right, _)| self.order(left, right));
        let start = self.start.as_ref().map(Cursor::key);
        let end = self.end.as_ref().map(Cursor::key);
        let after_start = keyed
            .into_iter()
            .skip_while(|(key, _)| start.as_ref().is_some_and(|place| self.is_before(key, place)));
        let before_end = after_start
            .take_while(|(key, _)| end.as_ref().is_none_or(|place| self.is_before(key, place)));
        let mut found: Vec<_> = before_end.map(|(_, document)| document).collect();
        let skipped = self.offset.min(found.len());
        found.drain(..skipped);
        found.truncate(self.limit.unwrap_or(usize::MAX));
        Found { found, skipped }
    }

    /// Returns the documents that match the filter and have all fields of the order.
    fn candidates<'a>(&self, view: &View<'a>) -> Vec<Keyed<'a>> {
        let prefix = self.prefix();
        let matching = view.under(&prefix).filter(|document| {
            self.has(&document.name)
                && self.filter.as_ref().is_none_or(|filter| filter.matches(document))
        });
        let keyed = matching.filter_map(|document| {
            let key = self.orders.iter().map(|order| order.field.of(document));
            Some((key.collect::<Option<Vec<_>>>()?, document))
        });
        keyed.collect()
    }

    /// Returns the common prefix of the names of all documents that the query may find.
    fn prefix(&self) -> String {
        match self.collections.as_slice() {
            [Collection { id, all_descendants: false }] if !id.is_empty() => {
                format!("{}/{id}/", self.parent)
            }
            _ => format!("{}/", self.parent),
        }
    }

    /// Returns true if a document of this name is in one of the collections.
    pub(super) fn has(&self, name: &str) -> bool {
        let path = name.strip_prefix(self.parent.as_str()).and_then(|path| path.strip_prefix('/'));
        let Some(path) = path else { return false };
        let Some((collection, _)) = path.rsplit_once('/') else { return false };
        self.collections.iter().any(|wanted| {
            let is_direct = !collection.contains('/');
            let id = collection.rsplit('/').next().unwrap_or_default();
            (wanted.all_descendants || is_direct) && (wanted.id.is_empty() || wanted.id == id)
        })
    }

    /// Compares as many values as both sides have.
    fn order(&self, left: &[Cow<'_, proto::Value>], right: &[Cow<'_, proto::Value>]) -> Ordering {
        let pairs = left.iter().zip(right).zip(&self.orders);
        let orders = pairs.map(|((left, right), order)| {
            let found = order::compare(left, right);
            if order.is_descending { found.reverse() } else { found }
        });
        orders.fold(Ordering::Equal, Ordering::then)
    }

    /// Returns true if results with these values come before the position.
    fn is_before(&self, key: &[Cow<'_, proto::Value>], place: &SortKey<'_>) -> bool {
        match self.order(key, &place.values) {
            Ordering::Less => true,
            Ordering::Equal => !place.is_before,
            Ordering::Greater => false,
        }
    }

    /// Starts after the document of a token, even if that document has changed. An empty token has
    /// no effect.
    ///
    /// # Errors
    /// Fails for a token that is not from [`Query::token`].
    pub(super) fn resume(&mut self, token: &str) -> Result<(), Status> {
        if token.is_empty() {
            return Ok(());
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok();
        let cursor = bytes.and_then(|bytes| proto::Cursor::decode(bytes.as_slice()).ok());
        let cursor = cursor.filter(|cursor| cursor.values.len() == self.orders.len());
        let cursor = cursor.ok_or_else(|| Status::invalid("page_token is not one of ours"))?;
        self.start = Some(Cursor { values: cursor.values, is_before: cursor.before });
        Ok(())
    }

    /// Returns a token for the position after a document in the order of the query.
    pub(super) fn token(&self, document: &proto::Document) -> String {
        let values = self.orders.iter().filter_map(|order| order.field.of(document));
        let values = values.map(Cow::into_owned).collect();
        URL_SAFE_NO_PAD.encode(proto::Cursor { values, before: false }.encode_to_vec())
    }

    /// Returns true if a document comes after the start of the query.
    pub(super) fn starts_before(&self, document: &proto::Document) -> bool {
        let key: Vec<_> = self.orders.iter().filter_map(|order| order.field.of(document)).collect();
        self.start.as_ref().is_none_or(|start| !self.is_before(&key, &start.key()))
    }

    /// Returns a document with the fields that the query selects.
    pub(super) fn project(&self, document: &proto::Document) -> proto::Document {
        let Some(select) = &self.select else { return document.clone() };
        let mut shown = fields::without_fields(document);
        for field in select {
            if let QueryField::Path(path) = field {
                fields::copy(document, &mut shown, path);
            }
        }
        shown
    }
}

impl Cursor {
    fn key(&self) -> SortKey<'_> {
        let values = self.values.iter().map(Cow::Borrowed).collect();
        SortKey { values, is_before: self.is_before }
    }
}

impl Firestore {
    pub(super) fn run_query(
        &self,
        request: proto::RunQueryRequest,
    ) -> Result<Vec<proto::RunQueryResponse>, Status> {
        use proto::run_query_response::ContinuationSelector;
        refuse_explain(request.explain_options.as_ref())?;
        let Some(proto::run_query_request::QueryType::StructuredQuery(query)) = request.query_type
        else {
            return Err(Status::invalid("A query is required."));
        };
        let query = Query::read(&request.parent, query)?;
        let answer = self.read(request.consistency_selector.into(), |view, reads| {
            let Found { found, skipped } = query.run(view);
            if let Some(reads) = reads {
                reads.note_query(query.clone(), &found);
            }
            let documents: Vec<_> = found.into_iter().map(|found| query.project(found)).collect();
            Ok((documents, i32::try_from(skipped).unwrap_or(i32::MAX)))
        })?;
        let read_time = Some(answer.read_time);
        let (documents, skipped_results) = answer.found;
        let response = |document| proto::RunQueryResponse { document, read_time, ..<_>::default() };
        let mut responses: Vec<_> =
            documents.into_iter().map(|document| response(Some(document))).collect();
        if responses.is_empty() {
            responses.push(response(None));
        }
        responses[0].skipped_results = skipped_results;
        responses[0].transaction = answer.transaction;
        if let Some(last) = responses.last_mut() {
            last.continuation_selector = Some(ContinuationSelector::Done(true));
        }
        Ok(responses)
    }
}

fn refuse_explain(options: Option<&proto::ExplainOptions>) -> Result<(), Status> {
    match options {
        None => Ok(()),
        Some(_) => Err(Status::unimplemented("explain_options of queries")),
    }
}
