//! Table of PostgreSQL. Values are bound to the statement, and never a part of its text.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt as _;
use postgresql::identifier::quoted;
use postgresql::{Database, Server, Sessions, describe};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::config::TableSettings;
use crate::parameters::{Parameters, Place};
use crate::store::{Failure, Page, PageBuilder, PageEnd, Store};

/// Table of PostgreSQL, as postgres writes it.
#[derive(Clone)]
pub struct PostgresTable {
    database: Database,
    /// Connection for checks. Slow queries that take all others must not look like an outage.
    checks: Database,
    table: TableSettings,
}

impl PostgresTable {
    /// Creates the table. It connects when it is asked.
    ///
    /// # Errors
    /// The connections cannot be set up.
    pub fn new(server: &Server, sessions: Sessions, table: &TableSettings) -> anyhow::Result<Self> {
        let alone = Server { max_connections: Some(1), ..server.clone() };
        let checks = Database::new(&alone, sessions)?;
        Ok(Self { database: Database::new(server, sessions)?, checks, table: table.clone() })
    }

    async fn ask(&self, database: &Database, asked: &Parameters) -> Result<Page, Failure> {
        let (sql, values) = statement(&self.table, asked);
        let connected = database.connection().await;
        let mut connection = connected.map_err(|error| Failure::Away(format!("{error:#}")))?;
        let prepared = connection.prepared(&sql).await.map_err(|error| failure(&error))?;
        let values = values.iter().map(|value| &**value as &(dyn ToSql + Sync));
        let rows =
            connection.query_raw(&prepared, values).await.map_err(|error| failure(&error))?;
        tokio::pin!(rows);
        let mut page = PageBuilder::new(asked);
        while let Some(row) = rows.try_next().await.map_err(|error| failure(&error))? {
            let (text, place) = read(&row).map_err(|error| failure(&error))?;
            match page.push(text, place) {
                // The server sends no row beyond this one.
                ControlFlow::Continue(()) | ControlFlow::Break(PageEnd::Limit) => {}
                // The server has more rows on their way, so this connection is not used again.
                ControlFlow::Break(PageEnd::Bytes) => return Ok(page.finish()),
            }
        }
        connection.done();
        Ok(page.finish())
    }
}

impl Store for PostgresTable {
    async fn page(&self, asked: &Parameters) -> Result<Page, Failure> {
        self.ask(&self.database, asked).await
    }

    async fn check(&self) -> Result<(), Failure> {
        // No rows: the server only looks at names and rights.
        let none = Parameters { limit: -1, source_id: Some(String::new()), ..<_>::default() };
        self.ask(&self.checks, &none).await.map(drop)
    }

    fn name(&self) -> String {
        self.table.full_name()
    }
}

fn read(row: &Row) -> Result<(String, Place), tokio_postgres::Error> {
    Ok((row.try_get(0)?, Place { micros: row.try_get(1)?, ingest_id: row.try_get(2)? }))
}

/// Returns the failure of an error: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn failure(error: &tokio_postgres::Error) -> Failure {
    let why = describe(error);
    match error.as_db_error().map(|error| error.code().code()) {
        // query_canceled: the statement timeout.
        Some("57014") => Failure::Slow,
        // undefined_table, invalid_schema_name.
        Some("42P01" | "3F000") => Failure::Missing(why),
        // insufficient_privilege.
        Some("42501") => Failure::Denied(why),
        // undefined_column, undefined_function: `publish_time` is no time.
        Some("42703" | "42883") => Failure::Differs(why),
        _ => Failure::Away(why),
    }
}

type Value = Box<dyn ToSql + Sync + Send>;

/// Returns the statement and its values. There are few different statements, so they stay prepared.
fn statement(table: &TableSettings, asked: &Parameters) -> (String, Vec<Value>) {
    const TIME: &str = "t.\"publish_time\"";
    const ID: &str = "t.\"ingest_id\"";
    let source = format!("t.{}", quoted(&table.source_column));
    let mut values: Vec<Value> = Vec::new();
    let mut conditions: Vec<String> = Vec::new();
    let mut bind = |value: Value| {
        values.push(value);
        format!("${}", values.len())
    };
    if let Some(id) = &asked.source_id {
        conditions.push(format!("{source} = {}", bind(Box::new(id.clone()))));
    }
    if let Some(start) = asked.start_time {
        conditions.push(format!("{TIME} >= {}", bind(Box::new(SystemTime::from(start)))));
    }
    if let Some(end) = asked.end_time {
        conditions.push(format!("{TIME} < {}", bind(Box::new(SystemTime::from(end)))));
    }
    if let Some(Place { micros, ingest_id }) = &asked.next {
        let (at, id) = (bind(Box::new(moment(*micros))), bind(Box::new(ingest_id.clone())));
        conditions.push(format!("({TIME}, {ID}) > ({at}, {id})"));
    }
    let (limit, offset) = (bind(Box::new(asked.limit + 1)), bind(Box::new(asked.offset)));
    let mut sql = format!(
        "SELECT to_jsonb(t)::text, (extract(epoch FROM {TIME}) * 1000000)::int8, {ID} \
         FROM {}.{} t",
        quoted(&table.schema),
        quoted(&table.name)
    );
    if !conditions.is_empty() {
        // Writing to a text cannot fail.
        let _ = write!(sql, " WHERE {}", conditions.join(" AND "));
    }
    // With the source in front, its index has the rows in this order.
    let _ = write!(sql, " ORDER BY {TIME}, {ID} LIMIT {limit} OFFSET {offset}");
    (sql, values)
}

/// Returns the time of a place.
fn moment(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_in_the_text_of_a_statement() {
        let table = TableSettings {
            schema: "public".into(),
            name: "readings".into(),
            source_column: "device_id".into(),
        };
        let hostile = "x'; DROP TABLE readings; --";
        let asked = Parameters {
            source_id: Some(hostile.into()),
            next: Some(Place { micros: 7, ingest_id: hostile.into() }),
            ..Parameters::default()
        };

        let (sql, values) = statement(&table, &asked);

        assert!(!sql.contains("DROP"), "{sql}");
        assert_eq!(values.len(), 5);
        assert!(sql.contains("WHERE t.\"device_id\" = $1 AND"), "{sql}");
        assert!(sql.ends_with("LIMIT $4 OFFSET $5"), "{sql}");
    }
}
