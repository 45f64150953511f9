//! BigQuery: datasets and tables on SQLite, written by `insertAll` and the Storage Write API.

mod append;
mod arrow;
mod catalog;
mod insert;
mod query;
mod rest;
mod schema;
mod sql;
mod value;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use append::answer as grpc_answer;
pub(crate) use rest::answer as rest_answer;

use serde_json::Map;

use crate::faults::Faults;
use crate::status::Status;
use catalog::Catalog;

/// The file of all tables, in the data folder.
pub(crate) const FILE: &str = "bigquery.sqlite";

/// All of BigQuery; clones are the same one.
#[derive(Clone)]
pub(crate) struct BigQuery {
    faults: Faults,
    catalog: Arc<Mutex<Catalog>>,
}

impl BigQuery {
    pub(crate) fn open(data_dir: &Path, faults: Faults) -> anyhow::Result<Self> {
        let catalog = Catalog::open(&data_dir.join(FILE))?;
        Ok(Self { faults, catalog: Arc::new(Mutex::new(catalog)) })
    }

    /// Creates a dataset.
    pub(crate) async fn create_dataset(&self, project: &str, id: &str) -> Result<(), Status> {
        let name = catalog::DatasetName(project.to_owned(), id.to_owned());
        let created = self.with(move |catalog| catalog.create_dataset(&name, Map::new()));
        created.await.map(drop)
    }

    /// Works on the tables, apart from the tasks that serve connections.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Catalog) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let catalog = Arc::clone(&self.catalog);
        let done = tokio::task::spawn_blocking(move || {
            work(&mut catalog.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.unwrap_or_else(|error| {
            Err(Status::new(tonic::Code::Internal, format!("a worker died: {error}")))
        })
    }
}
