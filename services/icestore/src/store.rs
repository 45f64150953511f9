//! Choice of the store that the archive is written to.

use pipeline::Error;
use pubsub::Clients;
use storage::{ObjectStore, Store};

use crate::config::Storage;

/// Way to the store of the archive.
pub trait OpenStore: Send + Sync + 'static {
    /// Type of the store.
    type Store: ObjectStore;

    /// Opens the store, with these clients of Cloud Storage. Sends nothing yet.
    ///
    /// # Errors
    /// No client can be built.
    fn open(
        &self,
        settings: &Storage,
        clients: &Clients,
    ) -> impl Future<Output = Result<Self::Store, Error>> + Send;
}

/// Opens the store that the settings name.
#[derive(Debug, Clone, Copy, Default)]
pub struct FromSettings;

impl OpenStore for FromSettings {
    type Store = Store;

    async fn open(&self, settings: &Storage, clients: &Clients) -> Result<Store, Error> {
        settings.open(clients).await
    }
}

/// A store that the caller has opened.
#[derive(Debug, Clone)]
pub struct Given<S>(pub S);

impl<S: ObjectStore> OpenStore for Given<S> {
    type Store = S;

    fn open(&self, _: &Storage, _: &Clients) -> impl Future<Output = Result<S, Error>> + Send {
        std::future::ready(Ok(self.0.clone()))
    }
}
