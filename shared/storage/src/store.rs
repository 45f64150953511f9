//! The stores that settings can name.

use bytes::Bytes;
use pipeline::Error;
use service::Dependency;
use service::create::{Created, NotCreated};

use crate::bucket::Bucket;
use crate::contract::{ObjectStore, Outage};
use crate::folder::Folder;
use crate::object::Object;
#[cfg(feature = "s3")]
use crate::s3::S3;

/// A store of settings.
#[derive(Debug, Clone)]
pub enum Store {
    /// A bucket of Cloud Storage.
    Bucket(Bucket),
    /// A folder.
    Folder(Folder),
    /// A bucket of a store with the API of S3.
    #[cfg(feature = "s3")]
    S3(S3),
}

/// Calls the store that it is.
macro_rules! each {
    ($store:expr, $inner:ident => $call:expr) => {
        match $store {
            Self::Bucket($inner) => $call,
            Self::Folder($inner) => $call,
            #[cfg(feature = "s3")]
            Self::S3($inner) => $call,
        }
    };
}

impl ObjectStore for Store {
    async fn create(&self, object: &Object) -> Result<(), Error> {
        each!(self, store => store.create(object).await)
    }

    async fn list(
        &self,
        prefix: &str,
        page: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        each!(self, store => store.list(prefix, page).await)
    }

    async fn read(&self, name: &str) -> Result<Bytes, Error> {
        each!(self, store => store.read(name).await)
    }

    fn address(&self, name: &str) -> String {
        each!(self, store => store.address(name))
    }

    async fn find(&self) -> Result<(), Outage> {
        each!(self, store => store.find().await)
    }

    async fn dependency(&self) -> Dependency {
        each!(self, store => store.dependency().await)
    }

    fn needs_levels(&self) -> bool {
        each!(self, store => store.needs_levels())
    }

    fn is_creatable(&self) -> bool {
        each!(self, store => store.is_creatable())
    }

    async fn ensure(&self, project: &str) -> Result<Created, NotCreated> {
        each!(self, store => store.ensure(project).await)
    }
}
