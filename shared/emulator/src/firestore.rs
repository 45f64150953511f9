//! Firestore: documents in memory, which clients read, query, write and listen to over gRPC.

mod clear;
mod fields;
mod listen;
mod names;
mod order;
mod query;
mod read;
mod rpc;
mod store;
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
use store::Store;

/// The whole emulated Firestore. Clones share the same documents.
#[derive(Clone)]
pub(crate) struct Firestore {
    faults: Faults,
    store: Arc<Mutex<Store>>,
    /// Signals each commit.
    commits: Arc<watch::Sender<()>>,
}

impl Firestore {
    pub(crate) fn new(faults: Faults) -> Self {
        let store = Arc::new(Mutex::new(Store::new()));
        Self { faults, store, commits: Arc::new(watch::Sender::new(())) }
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_listeners(&self) {
        self.commits.send_replace(());
    }
}

fn not_found(name: &str) -> Status {
    Status::new(Code::NotFound, format!("Document \"{name}\" not found."))
}
