//! Documents, and the versions that commits replaced, for reads at an earlier time.

use std::collections::{BTreeMap, HashMap, VecDeque};

use prost::Message as _;
use tonic::Code;

use super::proto;
use super::time::Time;
use crate::status::Status;

/// Most replaced versions that are kept. Google keeps them for an hour.
const MAX_REPLACED: usize = 10_000;
/// Most bytes of replaced versions that are kept.
const MAX_REPLACED_BYTES: usize = 64 * 1024 * 1024;

/// Documents by full name.
pub(super) struct Documents {
    current: BTreeMap<String, proto::Document>,
    replaced: VecDeque<Replaced>,
    replaced_bytes: usize,
    /// Earliest time for which all versions are kept.
    horizon: Time,
    /// Latest time of a commit or a read. The next commit gets a later one.
    last: Time,
}

/// A version that a commit replaced.
struct Replaced {
    at: Time,
    name: String,
    before: Option<proto::Document>,
}

impl Replaced {
    fn bytes(&self) -> usize {
        self.name.len() + self.before.as_ref().map_or(0, proto::Document::encoded_len)
    }
}

/// Changes of a commit by document name; `None` deletes the document.
pub(super) type DocumentChanges = HashMap<String, Option<proto::Document>>;

impl Documents {
    pub(super) fn new() -> Self {
        let (current, replaced) = (BTreeMap::new(), VecDeque::new());
        let now = Time::now();
        Self { current, replaced, replaced_bytes: 0, horizon: now, last: now }
    }

    /// Returns the time for a read of the latest documents.
    pub(super) fn read_time(&mut self) -> Time {
        self.last = self.last.max(Time::now());
        self.last
    }

    /// Returns a time for a commit, after all earlier commits and reads.
    pub(super) fn commit_time(&mut self) -> Time {
        self.last = self.last.next().max(Time::now());
        self.last
    }

    pub(super) fn get(&self, name: &str) -> Option<&proto::Document> {
        self.current.get(name)
    }

    /// Stores the changes of a commit.
    pub(super) fn keep(&mut self, changes: DocumentChanges, at: Time) {
        for (name, document) in changes {
            let before = match document {
                Some(document) => self.current.insert(name.clone(), document),
                None => self.current.remove(&name),
            };
            let replaced = Replaced { at, name, before };
            self.replaced_bytes += replaced.bytes();
            self.replaced.push_back(replaced);
        }
        while self.replaced.len() > MAX_REPLACED || self.replaced_bytes > MAX_REPLACED_BYTES {
            let Some(oldest) = self.replaced.pop_front() else { break };
            self.replaced_bytes -= oldest.bytes();
            self.horizon = oldest.at;
        }
    }

    /// Returns a view of the latest documents.
    pub(super) fn latest(&self) -> View<'_> {
        View { current: &self.current, past: HashMap::new() }
    }

    /// Returns a view of the documents at a time.
    ///
    /// # Errors
    /// Fails if the time is in the future, or so long ago that its versions are no longer kept.
    pub(super) fn at(&self, time: Time) -> Result<View<'_>, Status> {
        if time > Time::now().max(self.last) {
            return Err(Status::invalid("The requested 'read_time' cannot be in the future."));
        }
        if time < self.horizon {
            let text = "The requested 'read_time' is too old.";
            return Err(Status::new(Code::FailedPrecondition, text));
        }
        let mut past = HashMap::new();
        for replaced in self.since(time) {
            // The first replacement after the time holds the version of that time.
            past.entry(replaced.name.as_str()).or_insert(replaced.before.as_ref());
        }
        Ok(View { current: &self.current, past })
    }

    /// Returns the names of documents that were changed after a time; `None` if that is no longer
    /// known.
    pub(super) fn touched_since(&self, time: Time) -> Option<impl Iterator<Item = &str>> {
        (time >= self.horizon).then(|| self.since(time).map(|replaced| replaced.name.as_str()))
    }

    fn since(&self, time: Time) -> impl Iterator<Item = &Replaced> {
        let first = self.replaced.partition_point(|replaced| replaced.at <= time);
        self.replaced.range(first..)
    }
}

/// View of all documents at one time.
pub(super) struct View<'a> {
    current: &'a BTreeMap<String, proto::Document>,
    /// Documents that differed at that time; `None` for those that did not exist.
    past: HashMap<&'a str, Option<&'a proto::Document>>,
}

impl<'a> View<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a proto::Document> {
        match self.past.get(name) {
            Some(document) => *document,
            None => self.current.get(name),
        }
    }

    /// Returns all documents whose name has this prefix, in no particular order.
    pub(super) fn under(&self, prefix: &str) -> impl Iterator<Item = &'a proto::Document> {
        let current = self.current.range(prefix.to_owned()..);
        let current = current.take_while(move |(name, _)| name.starts_with(prefix));
        let current = current.filter(|(name, _)| !self.past.contains_key(name.as_str()));
        let past = self.past.iter().filter(move |(name, _)| name.starts_with(prefix));
        current.map(|(_, document)| document).chain(past.filter_map(|(_, document)| *document))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, is_there: Option<()>) -> DocumentChanges {
        let document = proto::Document { name: name.into(), ..<_>::default() };
        DocumentChanges::from([(name.to_owned(), is_there.map(|()| document))])
    }

    fn names(view: &View<'_>) -> Vec<String> {
        let mut names: Vec<_> = view.under("c/").map(|found| found.name.clone()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_view_of_the_past_has_what_was_there_then() {
        let mut documents = Documents::new();
        let at = documents.commit_time();
        documents.keep(change("c/kept", Some(())), at);
        let at = documents.commit_time();
        documents.keep(change("c/deleted", Some(())), at);
        let then = documents.read_time();

        let at = documents.commit_time();
        documents.keep(change("c/deleted", None), at);
        let at = documents.commit_time();
        documents.keep(change("c/new", Some(())), at);

        assert_eq!(names(&documents.latest()), ["c/kept", "c/new"]);
        let past = documents.at(then).unwrap();
        assert_eq!(names(&past), ["c/deleted", "c/kept"]);
        assert!(past.get("c/new").is_none());
        let touched: Vec<_> = documents.touched_since(then).unwrap().collect();
        assert_eq!(touched, ["c/deleted", "c/new"]);
    }

    #[test]
    fn what_was_forgotten_cannot_be_read() {
        let mut documents = Documents::new();
        let then = documents.read_time();
        for _ in 0..=MAX_REPLACED {
            let at = documents.commit_time();
            documents.keep(change("c/d", Some(())), at);
        }

        assert!(documents.at(then).is_err());
        assert!(documents.touched_since(then).is_none());
        assert_eq!(documents.replaced.len(), MAX_REPLACED);
    }
}
