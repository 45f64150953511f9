//! The trait of every store of objects, and its promise.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use pipeline::Error;
use service::create::{Created, NotCreated};
use service::{Condition, Dependency, Pauses, WrongSettings};
use tokio::time::sleep;

use crate::object::Object;

/// Pauses between two checks of a store: while it is there, and while it is not.
const PAUSES: Pauses = Pauses { ready: Duration::from_secs(30), not_ready: Duration::from_secs(1) };

/// A place for objects. Clones share their connections.
///
/// An object is created completely or not at all, and nothing replaces it later.
pub trait ObjectStore: Clone + fmt::Debug + Send + Sync + 'static {
    /// Creates an object, and returns once it is durable.
    ///
    /// Another attempt with the same object succeeds, so an answer may be lost. Dropping the call is
    /// allowed: the object is then created or not.
    ///
    /// # Errors
    /// `Retry` while the store cannot take the object, for example because it is full or away. Also
    /// if its name belongs to an object with another content.
    fn create(&self, object: &Object) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns the names of objects that begin with `prefix`, in order: one page, and the token of
    /// the next page.
    ///
    /// # Errors
    /// The store cannot be listed.
    fn list(
        &self,
        prefix: &str,
        page: Option<&str>,
    ) -> impl Future<Output = Result<(Vec<String>, Option<String>), Error>> + Send;

    /// Returns the content of an object.
    ///
    /// # Errors
    /// The object cannot be read.
    fn read(&self, name: &str) -> impl Future<Output = Result<Bytes, Error>> + Send;

    /// Returns the address of the object with this name, for people.
    fn address(&self, name: &str) -> String;

    /// Checks that the store is there, and that it keeps the promise.
    ///
    /// # Errors
    /// The reason why it takes no objects.
    fn find(&self) -> impl Future<Output = Result<(), Outage>> + Send;

    /// Returns the state of the store, and changes nothing.
    fn dependency(&self) -> impl Future<Output = Dependency> + Send;

    /// Returns true if names must consist of levels between `/`, none of them empty, `.` or `..`.
    fn needs_levels(&self) -> bool {
        false
    }

    /// Returns true if [`ObjectStore::ensure`] can create the store.
    fn is_creatable(&self) -> bool {
        false
    }

    /// Creates the store itself, if it is missing, in the project of the service.
    ///
    /// Without an implementation nothing is created. [`ObjectStore::wait`] then reports a missing
    /// store.
    ///
    /// # Errors
    /// The reason why it was not created.
    fn ensure(&self, _project: &str) -> impl Future<Output = Result<Created, NotCreated>> + Send {
        std::future::ready(Ok(Created::Before))
    }

    /// Waits until the store is there.
    ///
    /// # Errors
    /// The store does not keep the promise.
    fn wait(
        &self,
        condition: &Condition,
    ) -> impl Future<Output = Result<(), WrongSettings>> + Send {
        async move {
            loop {
                match self.find().await {
                    Ok(()) => break,
                    Err(Outage::Unfit(why)) => return Err(WrongSettings(why)),
                    Err(outage) => condition.not_ready(outage.to_string()),
                }
                sleep(PAUSES.not_ready).await;
            }
            condition.ready();
            Ok(())
        }
    }

    /// Updates `condition` with the presence of the store. Never returns.
    fn watch(self, condition: Condition) -> impl Future<Output = ()> + Send {
        async move {
            let check = || async { self.find().await.map_err(|outage| outage.to_string()) };
            condition.watch(check, PAUSES).await;
        }
    }
}

/// Reason why a store takes no objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outage {
    /// It does not exist.
    Missing(String),
    /// It does not answer, or refuses.
    Unreachable(String),
    /// It does not keep the promise of [`ObjectStore`].
    Unfit(String),
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(why) | Self::Unreachable(why) | Self::Unfit(why) => f.write_str(why),
        }
    }
}
