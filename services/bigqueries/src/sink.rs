//! Sink that writes batches of rows to a table.

mod append;
mod insert;

use std::collections::BTreeMap;
use std::time::Duration;

use arrow_array::RecordBatch;
use bigquery::RestApi;
use pipeline::{Error, PushError, Recovery, Refusal};
use service::renewable::Renewable;

use crate::batch::{self, Columns, Lines, Schema};
use crate::client::{self, Clients, Endpoint};
use crate::limits::{MAX_INSERT_ALL_ROWS, MAX_REQUEST_BYTES};
use crate::table::Table;
use crate::transform::Record;
use crate::write_api::Api;
use append::{Appender, append};
pub use insert::Insertion;
use insert::insert;
use rows::column::Column;
use rows::reasons::{ROW_REFUSED, ROW_TOO_LARGE};

/// Longest attempt with `insertAll`, whose requests are small. It applies if `attempt_timeout` is
/// longer.
const INSERT_ALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Writes rows, and reports the rows that BigQuery refused.
pub struct Sink {
    table: Table,
    way: Way,
}

enum Way {
    StorageWrite { schema: Schema, appender: Renewable<Appender> },
    InsertAll(Renewable<RestApi>),
}

/// Rows that are collected for a request.
#[derive(Debug)]
pub enum Batch {
    /// For the Storage Write API.
    Columns(Columns),
    /// For `insertAll`.
    Lines(Lines),
}

/// Rows of one request.
#[derive(Debug)]
pub enum EncodedBatch {
    /// For the Storage Write API.
    Arrow(RecordBatch),
    /// For `insertAll`.
    Lines(Insertion),
    /// Rows that could not be encoded. Holds the reason.
    Broken(String),
}

impl Sink {
    /// Creates a sink for the Storage Write API.
    ///
    /// # Errors
    /// `Stop` when the columns have no Arrow schema, or no client can be built.
    pub async fn storage_write(endpoint: &Endpoint, table: Table) -> Result<Self, Error> {
        Self::storage_write_with(endpoint, table, Clients::default()).await
    }

    /// Creates a sink for the Storage Write API, with clients that are handed in.
    ///
    /// # Errors
    /// Same as [`Sink::storage_write`].
    pub async fn storage_write_with(
        endpoint: &Endpoint,
        table: Table,
        clients: Clients,
    ) -> Result<Self, Error> {
        let schema = Schema::new(table.columns());
        let schema = schema.map_err(|error| Recovery::Stop.because("make Arrow schema", error))?;
        let endpoint = endpoint.clone();
        let appender = Renewable::open(move || {
            let (endpoint, clients) = (endpoint.clone(), clients.clone());
            Box::pin(async move {
                let client = client::storage_write(&endpoint, &clients).await?;
                Ok(Appender::new(client))
            })
        });
        let way = Way::StorageWrite { schema, appender: appender.await? };
        Ok(Self { table, way })
    }

    /// Creates a sink for `insertAll`. It shares the client that checks the table.
    #[must_use]
    pub fn insert_all(table: Table) -> Self {
        let way = Way::InsertAll(table.client());
        Self { table, way }
    }

    /// Returns the refusals of rows, with the text of BigQuery.
    fn refusals(&self, refused: BTreeMap<usize, String>) -> Vec<Refusal> {
        let refused = refused.into_iter().map(|(index, why)| {
            let detail = format!("table {}: {why}", self.table.name());
            Refusal { index, reason: ROW_REFUSED, detail }
        });
        refused.collect()
    }
}

/// Refuses a row that is too large for any request. Returns the size of the row, and the maximum
/// size of the rows in a request.
pub(crate) fn check(
    columns: &[Column],
    record: &Record,
    api: Api,
) -> Result<(usize, usize), Error> {
    let size = batch::size(columns, &record.cells);
    // JSON adds names and quotes to the values, and escapes in them.
    let most = match api {
        Api::StorageWrite => MAX_REQUEST_BYTES - 1_000_000,
        Api::InsertAll => MAX_REQUEST_BYTES / 2,
    };
    if size > most {
        let detail = format!("{size} bytes, a request takes {most}");
        return Err(Recovery::Reject(ROW_TOO_LARGE).because("make request", detail));
    }
    Ok((size, most))
}

impl pipeline::Sink for Sink {
    type Record = Record;
    type Key = ();
    type Batch = Batch;
    type EncodedBatch = EncodedBatch;
    type LaneState = ();

    fn lane_state(&self) {}

    fn key(&self, _record: &Record) {}

    fn open(&self, (): &()) -> Batch {
        match &self.way {
            Way::StorageWrite { .. } => Batch::Columns(Columns::new(self.table.columns())),
            Way::InsertAll(_) => Batch::Lines(Lines::default()),
        }
    }

    fn push(
        &self,
        batch: &mut Batch,
        record: Record,
        (): &mut (),
    ) -> Result<usize, PushError<Record>> {
        let api = match batch {
            Batch::Columns(_) => Api::StorageWrite,
            Batch::Lines(_) => Api::InsertAll,
        };
        let (size, most) = check(self.table.columns(), &record, api).map_err(PushError::Refused)?;
        let (rows, bytes) = match batch {
            Batch::Columns(columns) => (columns.len(), columns.bytes()),
            Batch::Lines(lines) => (lines.len(), lines.bytes()),
        };
        if rows > 0 && (bytes + size > most || rows >= MAX_INSERT_ALL_ROWS) {
            return Err(PushError::Full(record));
        }
        match batch {
            Batch::Columns(columns) => {
                columns.push(self.table.columns(), record.cells);
                Ok(columns.bytes())
            }
            Batch::Lines(lines) => {
                lines.push(self.table.columns(), &record.cells, &record.insert_id);
                Ok(lines.bytes())
            }
        }
    }

    fn encode(&self, batch: Batch, (): &mut ()) -> EncodedBatch {
        match (batch, &self.way) {
            (Batch::Columns(columns), Way::StorageWrite { schema, .. }) => columns
                .finish(schema)
                .map_or_else(|error| EncodedBatch::Broken(error.to_string()), EncodedBatch::Arrow),
            (Batch::Lines(lines), _) => EncodedBatch::Lines(Insertion::new(lines)),
            (Batch::Columns(_), Way::InsertAll(_)) => EncodedBatch::Broken("wrong form".into()),
        }
    }

    fn attempt_timeout(&self, longest: Duration) -> Duration {
        match self.way {
            Way::StorageWrite { .. } => longest,
            Way::InsertAll(_) => longest.min(INSERT_ALL_TIMEOUT),
        }
    }

    async fn write(
        &self,
        batch: &EncodedBatch,
        _time_limit: Duration,
    ) -> Result<Vec<Refusal>, Error> {
        let refused = match (batch, &self.way) {
            (EncodedBatch::Arrow(rows), Way::StorageWrite { schema, appender }) => {
                let appender = appender.lease().await?;
                let appended = append(rows, &appender, schema, &self.table).await;
                appender.done();
                appended
            }
            (EncodedBatch::Lines(rows), Way::InsertAll(api)) => {
                let api = api.lease().await?;
                let inserted = insert(rows, &api, &self.table).await;
                api.done();
                inserted
            }
            (EncodedBatch::Broken(why), _) => {
                Err(Recovery::Stop.because("make request", why.as_str()))
            }
            _ => Err(Recovery::Stop.because("make request", "rows of the other API")),
        };
        refused.map(|refused| self.refusals(refused))
    }

    fn destination(&self, _batch: &EncodedBatch) -> Option<String> {
        Some(self.table.name().to_string())
    }

    fn written(&self, batch: &EncodedBatch) -> Vec<usize> {
        match batch {
            EncodedBatch::Lines(rows) => rows.written(),
            // A request of the Storage Write API is written as a whole.
            EncodedBatch::Arrow(_) | EncodedBatch::Broken(_) => Vec::new(),
        }
    }

    fn split(&self, batch: &EncodedBatch, at: usize) -> Option<(EncodedBatch, EncodedBatch)> {
        match batch {
            EncodedBatch::Arrow(rows) => {
                let rest = rows.slice(at, rows.num_rows() - at);
                Some((EncodedBatch::Arrow(rows.slice(0, at)), EncodedBatch::Arrow(rest)))
            }
            EncodedBatch::Lines(rows) => {
                let (first, second) = rows.split(at);
                Some((EncodedBatch::Lines(first), EncodedBatch::Lines(second)))
            }
            EncodedBatch::Broken(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
