//! Transactions: they record what they read, and commit only if it has not changed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost_types::Timestamp;
use proto::transaction_options::{Mode, read_only};
use tonic::Code;
use uuid::Uuid;

use super::documents::View;
use super::query::Query;
use super::time::Time;
use super::{Firestore, Store, proto};
use crate::status::Status;

/// Longest life of a transaction, and below its longest idle time, from
/// <https://cloud.google.com/firestore/quotas>.
const MAX_AGE: Duration = Duration::from_secs(270);
const MAX_IDLE: Duration = Duration::from_secs(60);
/// Most open transactions.
const MAX_OPEN: usize = 10_000;

/// Versions that a request reads.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Consistency {
    Latest,
    Transaction(Bytes),
    New(proto::TransactionOptions),
    At(Timestamp),
}

/// Converts the consistency of each request, because the API has a separate type for each.
macro_rules! consistency {
    ($($request:ident: $($variant:ident => $kind:ident),+;)*) => {
        $(impl From<Option<proto::$request::ConsistencySelector>> for Consistency {
            fn from(selector: Option<proto::$request::ConsistencySelector>) -> Self {
                match selector {
                    None => Self::Latest,
                    $(Some(proto::$request::ConsistencySelector::$variant(value)) => {
                        Self::$kind(value)
                    })+
                }
            }
        })*
    };
}

consistency! {
    get_document_request: Transaction => Transaction, ReadTime => At;
    list_documents_request: Transaction => Transaction, ReadTime => At;
    batch_get_documents_request: Transaction => Transaction, NewTransaction => New, ReadTime => At;
    run_query_request: Transaction => Transaction, NewTransaction => New, ReadTime => At;
    run_aggregation_query_request: Transaction => Transaction, NewTransaction => New, ReadTime => At;
    list_collection_ids_request: ReadTime => At;
    partition_query_request: ReadTime => At;
}

/// Result of a read.
pub(super) struct ReadResult<T> {
    pub(super) found: T,
    pub(super) read_time: Timestamp,
    /// Id of the transaction that the read began, or empty.
    pub(super) transaction: Bytes,
}

/// Versions that a transaction has read.
#[derive(Default)]
pub(super) struct Reads {
    /// Time of the last change of each document; `None` for missing ones.
    documents: HashMap<String, Option<Timestamp>>,
    queries: Vec<(Query, Versions)>,
}

/// Documents that a query found, with the time of their last change.
pub(super) type Versions = Vec<(String, Option<Timestamp>)>;

impl Reads {
    pub(super) fn note(&mut self, name: &str, document: Option<&proto::Document>) {
        let version = document.and_then(|document| document.update_time);
        self.documents.entry(name.to_owned()).or_insert(version);
    }

    pub(super) fn note_query(&mut self, query: Query, found: &[&proto::Document]) {
        self.queries.push((query, versions(found)));
    }

    fn hold(&self, view: &View<'_>) -> bool {
        let version = |name: &str| view.get(name).and_then(|document| document.update_time);
        self.documents.iter().all(|(name, noted)| version(name) == *noted)
            && self.queries.iter().all(|(query, noted)| versions(&query.run(view).found) == *noted)
    }
}

fn versions(found: &[&proto::Document]) -> Versions {
    found.iter().map(|document| (document.name.clone(), document.update_time)).collect()
}

enum Access {
    /// Reads everything as of this time.
    ReadOnly(Time),
    ReadWrite(Reads),
}

struct Transaction {
    access: Access,
    began: Instant,
    used: Instant,
}

impl Transaction {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.began) > MAX_AGE || now.duration_since(self.used) > MAX_IDLE
    }
}

/// Open transactions.
pub(super) struct Transactions {
    /// First half of each id. It tells ids of another process apart.
    instance: [u8; 8],
    begun: u64,
    open: HashMap<u64, Transaction>,
}

impl Default for Transactions {
    fn default() -> Self {
        let (instance, _) = Uuid::new_v4().as_u64_pair();
        Self { instance: instance.to_be_bytes(), begun: 0, open: HashMap::new() }
    }
}

impl Transactions {
    fn begin(&mut self, access: Access, now: Instant) -> Result<Bytes, Status> {
        self.open.retain(|_, transaction| !transaction.is_over(now));
        if self.open.len() >= MAX_OPEN {
            let text = format!("more than {MAX_OPEN} transactions are open");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        let number = self.begun;
        self.begun += 1;
        self.open.insert(number, Transaction { access, began: now, used: now });
        Ok([self.instance, number.to_be_bytes()].concat().into())
    }

    /// Returns the number in an id of this process.
    fn number(&self, id: &[u8]) -> Result<u64, Status> {
        let number = id.strip_prefix(&self.instance);
        let number = number.and_then(|rest| rest.try_into().ok()).map(u64::from_be_bytes);
        let number = number.filter(|number| *number < self.begun);
        number.ok_or_else(|| Status::invalid("Invalid transaction."))
    }

    fn get(&mut self, id: &[u8], now: Instant) -> Result<&mut Transaction, Status> {
        let number = self.number(id)?;
        let transaction = self.open.get_mut(&number).filter(|found| !found.is_over(now));
        let transaction = transaction.ok_or_else(closed)?;
        transaction.used = now;
        Ok(transaction)
    }

    /// Ends a transaction. Ending it twice is not an error.
    fn rollback(&mut self, id: &[u8]) -> Result<(), Status> {
        let number = self.number(id)?;
        drop(self.open.remove(&number));
        Ok(())
    }

    /// Ends a transaction for a commit.
    ///
    /// # Errors
    /// Fails if the transaction is closed, or if something that it has read was changed since then.
    pub(super) fn finish(
        &mut self,
        id: &[u8],
        has_writes: bool,
        latest: &View<'_>,
    ) -> Result<(), Status> {
        let number = self.number(id)?;
        let transaction = self.open.remove(&number);
        let transaction = transaction.filter(|found| !found.is_over(Instant::now()));
        match transaction.ok_or_else(closed)?.access {
            Access::ReadOnly(_) if has_writes => {
                Err(Status::invalid("Cannot modify entities in a read-only transaction."))
            }
            Access::ReadWrite(reads) if !reads.hold(latest) => {
                let text = "Too much contention on these documents. Please try again.";
                Err(Status::new(Code::Aborted, text))
            }
            Access::ReadOnly(_) | Access::ReadWrite(_) => Ok(()),
        }
    }
}

fn closed() -> Status {
    Status::invalid("Transaction is invalid or closed.")
}

impl Store {
    fn begin(&mut self, options: Option<&proto::TransactionOptions>) -> Result<Bytes, Status> {
        let access = match options.and_then(|options| options.mode.as_ref()) {
            None | Some(Mode::ReadWrite(_)) => Access::ReadWrite(Reads::default()),
            Some(Mode::ReadOnly(options)) => {
                Access::ReadOnly(match &options.consistency_selector {
                    None => self.documents.read_time(),
                    Some(read_only::ConsistencySelector::ReadTime(time)) => {
                        let time = Time::of(time);
                        self.documents.at(time).map(|_| time)?
                    }
                })
            }
        };
        self.transactions.begin(access, Instant::now())
    }
}

impl Firestore {
    pub(super) fn begin_transaction(
        &self,
        request: proto::BeginTransactionRequest,
    ) -> Result<proto::BeginTransactionResponse, Status> {
        let transaction = self.lock().begin(request.options.as_ref())?;
        Ok(proto::BeginTransactionResponse { transaction })
    }

    pub(super) fn rollback(&self, request: proto::RollbackRequest) -> Result<(), Status> {
        self.lock().transactions.rollback(&request.transaction)
    }

    /// Reads the versions that a request asks for. In a transaction that may write, the reader also
    /// gets the place to record what it reads.
    pub(super) fn read<T>(
        &self,
        consistency: Consistency,
        reader: impl FnOnce(&View<'_>, Option<&mut Reads>) -> Result<T, Status>,
    ) -> Result<ReadResult<T>, Status> {
        let mut store = self.lock();
        let (id, begun) = match &consistency {
            Consistency::Latest | Consistency::At(_) => (None, Bytes::new()),
            Consistency::Transaction(id) => (Some(id.clone()), Bytes::new()),
            Consistency::New(options) => {
                let id = store.begin(Some(options))?;
                (Some(id.clone()), id)
            }
        };
        let Store { documents, transactions } = &mut *store;
        let access = match id {
            Some(id) => Some(&mut transactions.get(&id, Instant::now())?.access),
            None => None,
        };
        let (at, reads) = match (access, &consistency) {
            (Some(Access::ReadOnly(time)), _) => (Some(*time), None),
            (Some(Access::ReadWrite(reads)), _) => (None, Some(reads)),
            (None, Consistency::At(time)) => (Some(Time::of(time)), None),
            (None, _) => (None, None),
        };
        let read_time = at.unwrap_or_else(|| documents.read_time());
        let view = match at {
            Some(time) => documents.at(time)?,
            None => documents.latest(),
        };
        let found = reader(&view, reads)?;
        Ok(ReadResult { found, read_time: read_time.into(), transaction: begun })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_ends_after_a_rest_and_at_its_age() {
        let mut transactions = Transactions::default();
        let now = Instant::now();
        let id = transactions.begin(Access::ReadWrite(Reads::default()), now).unwrap();

        assert!(transactions.get(&id, now + MAX_IDLE).is_ok());
        assert!(transactions.get(&id, now + 2 * MAX_IDLE).is_ok());
        assert!(transactions.get(&id, now + 4 * MAX_IDLE).is_err());

        let id = transactions.begin(Access::ReadWrite(Reads::default()), now).unwrap();
        for rest in 1..=4 {
            assert!(transactions.get(&id, now + rest * MAX_IDLE).is_ok());
        }
        assert!(transactions.get(&id, now + MAX_AGE + Duration::from_secs(1)).is_err());
    }

    #[test]
    fn an_id_that_was_never_given_is_invalid() {
        let mut transactions = Transactions::default();

        assert!(transactions.rollback(b"xyz").is_err());
        let id = transactions.begin(Access::ReadWrite(Reads::default()), Instant::now()).unwrap();
        assert!(transactions.rollback(&id).is_ok());
        assert!(transactions.rollback(&id).is_ok());
    }
}
