//! A named write stream, and the rows that it holds.

use std::collections::HashMap;
use std::sync::Arc;

use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use proto::storage_error::StorageErrorCode as Wrong;
use proto::write_stream::Type;
use rusqlite::types::Value as Sql;
use time::OffsetDateTime;
use tonic::Code;
use uuid::Uuid;

use super::refusal::Refusal;
use crate::bigquery::names::TableName;
use crate::bigquery::schema::{self, Field, Schema};

/// All named streams since the start.
#[derive(Debug, Default)]
pub(in crate::bigquery) struct Streams(pub(super) HashMap<String, WriteStream>);

/// A write stream and the rows that are not in the table yet.
#[derive(Debug)]
pub(super) struct WriteStream {
    pub table: TableName,
    /// Id of the table: a later table with the same name is another one.
    pub table_id: Uuid,
    pub kind: Type,
    pub created: OffsetDateTime,
    pub held: Vec<HeldRow>,
    /// Number of accepted rows.
    pub accepted: i64,
    pub is_finalized: bool,
    pub committed: Option<OffsetDateTime>,
}

/// A row that is not in the table yet.
#[derive(Debug)]
pub(super) struct HeldRow {
    /// Columns of the values. Later the table may have more columns, in another order.
    pub columns: Arc<[String]>,
    pub values: Vec<Sql>,
}

/// Returns true if a name is the default stream of a table.
pub(super) fn is_default(name: &str) -> bool {
    name.ends_with("/_default")
}

/// Converts a time to a message.
pub(super) fn to_proto(time: OffsetDateTime) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.nanosecond()).unwrap_or_default();
    prost_types::Timestamp { seconds: time.unix_timestamp(), nanos }
}

impl HeldRow {
    /// Returns the values in the order of the schema of a table.
    pub(super) fn arranged(&self, fields: &[Field]) -> Vec<Sql> {
        let value = |field: &Field| {
            let at = self.columns.iter().position(|name| name.eq_ignore_ascii_case(&field.name));
            at.map_or(Sql::Null, |at| self.values[at].clone())
        };
        fields.iter().map(value).collect()
    }
}

impl WriteStream {
    /// Returns the message of the stream.
    pub(super) fn show(&self, name: String, schema: &Schema) -> proto::WriteStream {
        proto::WriteStream {
            name,
            r#type: self.kind.into(),
            create_time: Some(to_proto(self.created)),
            commit_time: self.committed.map(to_proto),
            table_schema: Some(schema::to_proto(schema)),
            write_mode: proto::write_stream::WriteMode::Insert.into(),
            location: "US".into(),
        }
    }

    /// Refuses rows that may not be written at this offset.
    pub(super) fn check(&self, offset: Option<i64>) -> Result<(), Refusal> {
        if self.is_finalized {
            return Err(Refusal {
                code: Code::InvalidArgument,
                storage_error: Some(Wrong::StreamFinalized),
                why: "Stream is already finalized.".to_owned(),
            });
        }
        let expected = self.accepted;
        let why = |place: &str, offset: i64| {
            format!("The offset is {place} stream, expected offset {expected}, received {offset}")
        };
        match offset {
            Some(offset) if offset < expected => {
                let storage_error = Some(Wrong::OffsetAlreadyExists);
                let why = why("within", offset);
                Err(Refusal { code: Code::AlreadyExists, storage_error, why })
            }
            Some(offset) if offset > expected => {
                let storage_error = Some(Wrong::OffsetOutOfRange);
                let why = why("beyond", offset);
                Err(Refusal { code: Code::OutOfRange, storage_error, why })
            }
            _ => Ok(()),
        }
    }

    /// Returns the number of accepted rows that are in the table.
    pub(super) fn flushed(&self) -> i64 {
        self.accepted - i64::try_from(self.held.len()).unwrap_or(i64::MAX)
    }
}
