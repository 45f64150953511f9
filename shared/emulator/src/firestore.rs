//! Firestore: documents in memory, which clients read, query, write and listen to over gRPC.

mod clear;
mod documents;
mod fields;
mod listen;
mod names;
mod order;
mod query;
mod read;
mod rpc;
mod time;
mod transaction;
mod transform;
mod write;
mod write_stream;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use googleapis_tonic_google_firestore_v1::google::firestore::v1 as proto;
use tokio::sync::watch;
use tonic::Code;

pub(crate) use clear::clear;
pub(crate) use rpc::answer;

use crate::faults::Faults;
use crate::status::Status;
use documents::Documents;
use transaction::Transactions;

/// The whole emulated Firestore. Clones share the same documents.
#[derive(Clone)]
pub(crate) struct Firestore {
    faults: Faults,
    store: Arc<Mutex<Store>>,
    /// Signals each commit.
    commits: Arc<watch::Sender<()>>,
}

/// All stored data.
struct Store {
    documents: Documents,
    transactions: Transactions,
}

impl Firestore {
    pub(crate) fn new(faults: Faults) -> Self {
        let store = Store { documents: Documents::new(), transactions: Transactions::default() };
        let store = Arc::new(Mutex::new(store));
        Self { faults, store, commits: Arc::new(watch::Sender::new(())) }
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify_listeners(&self) {
        self.commits.send_replace(());
    }
}

fn not_found(name: &str) -> Status {
    Status::new(Code::NotFound, format!("Document \"{name}\" not found."))
}
