//! Targets of a listener: named documents, or the results of a query.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use proto::listen_response::ResponseType;
use proto::target::{ResumeType, TargetType, query_target};

use crate::firestore::documents::{Documents, View};
use crate::firestore::query::Query;
use crate::firestore::time::Time;
use crate::firestore::{names, proto};
use crate::status::Status;

/// Target of a client, and the versions that the client has.
pub(super) struct Target {
    wanted: Wanted,
    /// Versions of the documents that the client has.
    known: BTreeMap<String, Option<Timestamp>>,
    is_new: bool,
}

enum Wanted {
    Documents(Vec<String>),
    Query(Box<Query>),
}

impl Wanted {
    fn find<'a>(&self, view: &View<'a>) -> Vec<&'a proto::Document> {
        match self {
            Self::Documents(names) => names.iter().filter_map(|name| view.get(name)).collect(),
            Self::Query(query) => query.run(view).found,
        }
    }

    fn show(&self, document: &proto::Document) -> proto::Document {
        match self {
            Self::Documents(_) => document.clone(),
            Self::Query(query) => query.project(document),
        }
    }
}

impl Target {
    pub(super) fn read(target: TargetType) -> Result<Self, Status> {
        let wanted = match target {
            TargetType::Documents(mut target) => {
                target.documents.iter().try_for_each(|name| names::check_document(name))?;
                target.documents.sort();
                target.documents.dedup();
                Wanted::Documents(target.documents)
            }
            TargetType::Query(target) => {
                let Some(query_target::QueryType::StructuredQuery(query)) = target.query_type
                else {
                    return Err(Status::invalid("A query is required."));
                };
                Wanted::Query(Box::new(Query::read(&target.parent, query)?))
            }
        };
        Ok(Self { wanted, known: BTreeMap::new(), is_new: true })
    }

    /// Sets the versions that the client has to those at the end of its last stream.
    ///
    /// # Errors
    /// Fails if these versions are no longer kept.
    pub(super) fn resume(
        &mut self,
        documents: &Documents,
        resume: &ResumeType,
    ) -> Result<(), Status> {
        let time = match resume {
            ResumeType::ReadTime(time) => Time::of(time),
            ResumeType::ResumeToken(token) => match token.as_ref().try_into() {
                Ok(bytes) => Time::from_bytes(bytes),
                Err(_) => return Err(Status::invalid("The resume token is not one of ours.")),
            },
        };
        self.known = versions(&self.wanted.find(&documents.at(time)?));
        Ok(())
    }

    /// Returns true if a document of this name may belong to the target.
    pub(super) fn has(&self, name: &str) -> bool {
        match &self.wanted {
            Wanted::Documents(names) => names.iter().any(|wanted| wanted == name),
            Wanted::Query(query) => query.has(name),
        }
    }

    /// Returns the changes since the versions that the client has, and updates these versions.
    pub(super) fn changes(&mut self, id: i32, view: &View<'_>, now: Time) -> Vec<ResponseType> {
        let found = self.wanted.find(view);
        let current = versions(&found);
        let is_news = |document: &&&proto::Document| {
            self.known.get(&document.name) != Some(&document.update_time)
        };
        let changed = found.iter().filter(is_news).map(|document| {
            ResponseType::DocumentChange(proto::DocumentChange {
                document: Some(self.wanted.show(document)),
                target_ids: vec![id],
                removed_target_ids: Vec::new(),
            })
        });
        let mut changes: Vec<_> = changed.collect();
        let gone = self.known.keys().filter(|name| !current.contains_key(*name));
        changes.extend(gone.map(|name| gone_from(id, name, view, now)));
        if let Wanted::Documents(names) = &self.wanted
            && self.is_new
        {
            let never =
                |name: &&String| !current.contains_key(*name) && !self.known.contains_key(*name);
            let missing = names.iter().filter(never);
            changes.extend(missing.map(|name| gone_from(id, name, view, now)));
        }
        self.known = current;
        self.is_new = false;
        changes
    }
}

fn versions(found: &[&proto::Document]) -> BTreeMap<String, Option<Timestamp>> {
    found.iter().map(|document| (document.name.clone(), document.update_time)).collect()
}

/// Reports that a document was deleted, or no longer matches.
fn gone_from(id: i32, name: &str, view: &View<'_>, now: Time) -> ResponseType {
    let (document, removed_target_ids) = (name.to_owned(), vec![id]);
    let read_time = Some(now.into());
    match view.get(name) {
        Some(_) => ResponseType::DocumentRemove(proto::DocumentRemove {
            document,
            removed_target_ids,
            read_time,
        }),
        None => ResponseType::DocumentDelete(proto::DocumentDelete {
            document,
            removed_target_ids,
            read_time,
        }),
    }
}
