//! The services of one emulator.

use crate::bigquery::BigQuery;
use crate::faults::Faults;
use crate::firestore::Firestore;
use crate::pubsub::PubSub;
use crate::storage::Storage;

/// State that all requests share.
#[derive(Clone)]
pub(crate) struct Cloud {
    pub pubsub: PubSub,
    pub firestore: Firestore,
    pub bigquery: BigQuery,
    pub storage: Storage,
    pub faults: Faults,
}
