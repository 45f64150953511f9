//! BigQuery: datasets and tables in SQLite. `insertAll`, jobs and the Storage Write API write to
//! them.

mod append;
mod arrow;
mod catalog;
mod deadline;
mod destination;
mod dml;
mod error;
mod filter;
mod insert;
mod jobs;
mod lag;
mod layout;
mod names;
mod query;
mod read;
mod rest;
mod rows;
mod schema;
mod sql;
mod sqlite;
mod statement;
mod table;
mod transaction;
mod value;
mod view;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use rest::{answer as rest_answer, upload};

use axum::extract::Request;
use axum::response::Response;
use serde_json::Map;

use crate::faults::Faults;
use crate::status::Status;
use crate::storage::Storage;
use catalog::Catalog;
use jobs::upload::Uploads;
use lag::Lag;

/// Answers a gRPC method of the Storage Read and Write APIs.
pub(crate) async fn grpc_answer(bigquery: BigQuery, path: &str, request: Request) -> Response {
    if path.contains("BigQueryRead/") {
        return read::answer(bigquery, path, request).await;
    }
    append::answer(bigquery, path, request).await
}

/// Name of the SQLite file in the data folder.
pub(crate) const FILE: &str = "bigquery.sqlite";

/// The whole emulated BigQuery. Clones share the same data.
#[derive(Clone)]
pub(crate) struct BigQuery {
    faults: Faults,
    catalog: Arc<Mutex<Catalog>>,
    uploads: Arc<Uploads>,
    /// Storage that holds the objects of load jobs.
    storage: Storage,
}

impl BigQuery {
    pub(crate) fn open(data_dir: &Path, faults: Faults, storage: Storage) -> anyhow::Result<Self> {
        let catalog = Catalog::open(&data_dir.join(FILE), Lag::new(faults.conditions().clone()))?;
        Ok(Self {
            faults,
            catalog: Arc::new(Mutex::new(catalog)),
            uploads: Arc::default(),
            storage,
        })
    }

    /// Creates a dataset.
    pub(crate) async fn create_dataset(&self, project: &str, id: &str) -> Result<(), Status> {
        let name = names::DatasetName(project.to_owned(), id.to_owned());
        let created = self.with(move |catalog| catalog.create_dataset(&name, Map::new()));
        created.await.map(drop)
    }

    /// Runs work on the tables in a blocking thread.
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
