//! One request of `AppendRows`: its rows and their errors.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use proto::append_rows_request::MissingValueInterpretation;
use proto::append_rows_response::{AppendResult, Response};
use proto::storage_error::StorageErrorCode;
use rusqlite::types::Value as Sql;
use serde_json::{Map, Value};
use tonic::Code;

use super::AppendResponse;
use super::proto_rows::Descriptor;
use super::refusal::Refusal;
use super::stream::is_default;
use crate::bigquery::catalog::Catalog;
use crate::bigquery::names::TableName;
use crate::bigquery::schema::{DEFAULT, Field, Schema};
use crate::bigquery::{arrow, value};
use crate::faults::Faults;
use crate::status::Status;

/// Rows of a request in the format that the client sent.
pub(super) enum Sent {
    Arrow { schema: Bytes, batch: Bytes },
    Proto { descriptor: Arc<Descriptor>, rows: Vec<Bytes> },
}

/// Values of columns that a request leaves out: NULL or the default of the column.
#[derive(Debug, Default)]
pub(super) struct Missing {
    pub of_columns: HashMap<String, i32>,
    pub of_others: i32,
}

/// The content of one request.
pub(super) struct Append {
    pub stream: String,
    pub table: TableName,
    pub sent: Sent,
    pub offset: Option<i64>,
    pub missing: Missing,
    pub faults: Faults,
}

/// Rows of a request as JSON, or the error of each.
type RowsRead = Vec<Result<Map<String, Value>, String>>;

impl Missing {
    /// Returns true if a missing column is filled with its default.
    fn is_filled(&self, field: &Field) -> bool {
        let mut columns = self.of_columns.iter();
        let own = columns.find(|(name, _)| name.eq_ignore_ascii_case(&field.name));
        let how = own.map_or(self.of_others, |(_, how)| *how);
        how == MissingValueInterpretation::DefaultValue as i32
            && field.attributes.contains_key(DEFAULT)
    }
}

impl Append {
    /// Appends all rows or none. Returns the answer and the schema that writers know.
    pub(super) fn carry_out(
        self,
        catalog: &mut Catalog,
    ) -> Result<(AppendResponse, Schema), Status> {
        let stream =
            if is_default(&self.stream) { None } else { Some(catalog.stream(&self.stream)?) };
        let (table, known) = catalog.writable(&self.table).map_err(|_| {
            let TableName(project, dataset, id) = &self.table;
            let entity = format!("projects/{project}/datasets/{dataset}/tables/{id}");
            let text = format!("Requested entity was not found. Entity: {entity}");
            Status::new(Code::NotFound, text)
        })?;
        let (known, fields) = (known.clone(), table.schema.fields.clone());
        let entity = self.entity();
        let checked = stream.map_or(Ok(()), |stream| stream.check(self.offset));
        let read = checked.and_then(|()| self.read(&known.fields, &fields));
        let read = match read {
            Ok(read) => read,
            Err(refusal) => return Ok((refusal.answer(&entity), known)),
        };
        let (rows, row_errors) = self.stored(read, &fields);
        if !row_errors.is_empty() {
            let why = "Errors found while processing rows. Please refer to the row_errors field \
                       for details. The list may not be complete because of the size limitations.";
            let refused = Refusal::of(why).answer(&entity);
            return Ok((AppendResponse { row_errors, ..refused }, known));
        }
        let offset = catalog.take(&self.stream, &self.table, rows)?;
        let result = Response::AppendResult(AppendResult { offset });
        Ok((AppendResponse { response: Some(result), ..<_>::default() }, known))
    }

    /// Returns the long name of the stream, as errors show it.
    pub(super) fn entity(&self) -> String {
        if !is_default(&self.stream) {
            return self.stream.clone();
        }
        let TableName(project, dataset, id) = &self.table;
        format!("projects/{project}/datasets/{dataset}/tables/{id}/streams/_default")
    }

    /// Reads the rows if their schema fits the table. Extra fields are checked against the schema
    /// that writers know, everything else against the current schema.
    fn read(&self, known: &[Field], fields: &[Field]) -> Result<RowsRead, Refusal> {
        let extra = |name: String| Refusal {
            storage_error: Some(StorageErrorCode::SchemaMismatchExtraFields),
            ..Refusal::of(&format!(
                "Input schema has more fields than BigQuery schema, extra fields: '{name}'"
            ))
        };
        let is_filled = |field: &Field| self.missing.is_filled(field);
        match &self.sent {
            Sent::Arrow { schema, batch } => {
                let batch = arrow::read(schema, batch).map_err(|why| Refusal::of(&why))?;
                let schema = batch.schema_ref();
                if let Some(name) = arrow::extra_field(schema.fields(), known) {
                    return Err(extra(name));
                }
                let fault = arrow::type_fault(schema, fields)
                    .or_else(|| arrow::missing_field(schema, fields, is_filled));
                match fault {
                    Some(why) => Err(Refusal::of(&why)),
                    None => Ok((0..batch.num_rows()).map(|row| arrow::row(&batch, row)).collect()),
                }
            }
            Sent::Proto { descriptor, rows } => {
                if let Some(name) = descriptor.extra_field(known) {
                    return Err(extra(name));
                }
                match descriptor.missing_field(fields, is_filled) {
                    Some(why) => Err(Refusal::of(&why)),
                    None => Ok(rows.iter().map(|row| descriptor.read(row, fields)).collect()),
                }
            }
        }
    }

    /// Converts rows to the form that the table keeps. Rows that cannot be converted are row
    /// errors.
    fn stored(&self, read: RowsRead, fields: &[Field]) -> (Vec<Vec<Sql>>, Vec<proto::RowError>) {
        let filled: Vec<_> = fields.iter().filter(|field| self.missing.is_filled(field)).collect();
        let refuses_row = self.faults.refuses_row();
        let (mut rows, mut row_errors) = (Vec::new(), Vec::new());
        for (index, row) in read.into_iter().enumerate() {
            let stored = if refuses_row && index == 0 {
                Err("the row was refused on demand".to_owned())
            } else {
                row.and_then(|mut row| {
                    value::default::fill(filled.iter().copied(), &mut row)?;
                    value::store_row(fields, &row, false).map_err(|fault| fault.message)
                })
            };
            match stored {
                Ok(row) => rows.push(row),
                Err(message) => row_errors.push(proto::RowError {
                    index: i64::try_from(index).unwrap_or(i64::MAX),
                    code: proto::row_error::RowErrorCode::FieldsError.into(),
                    message,
                }),
            }
        }
        (rows, row_errors)
    }
}

impl Sent {
    /// Returns the size that the throughput quota counts.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Arrow { schema, batch } => schema.len() + batch.len(),
            Self::Proto { rows, .. } => rows.iter().map(Bytes::len).sum(),
        }
    }
}
