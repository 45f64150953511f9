//! Questions to the table. Values are bound to the statement, and never a part of its text.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt as _;
use postgresql::identifier::quoted;
use postgresql::{Database, describe};
use tokio_postgres::types::ToSql;

use crate::config::TableSettings;
use crate::parameters::{Parameters, Place};

/// Bytes of rows after which a page ends, even if the caller asked for more rows.
const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Time limit of a check of the table.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Table that is asked. Clones share its connections.
#[derive(Clone)]
pub struct Store {
    database: Database,
    table: TableSettings,
}

/// Rows of an answer.
#[derive(Debug)]
pub struct Page {
    /// Each row as a JSON object.
    pub rows: Vec<String>,
    /// Place after which the next page begins, if there are more rows.
    pub next: Option<Place>,
}

/// Reason why the table gave no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The query took too long.
    Slow,
    /// The server or the table is not available. Holds the reason.
    Away(String),
}

impl Store {
    /// Creates the store. It connects when it is asked.
    #[must_use]
    pub fn new(database: Database, table: &TableSettings) -> Self {
        Self { database, table: table.clone() }
    }

    /// Checks that the table can be read, and has the columns of the query.
    ///
    /// # Errors
    /// Returns why not.
    pub async fn check(&self) -> Result<(), String> {
        let asked = tokio::time::timeout(CHECK_TIMEOUT, async {
            // No rows: the server only looks at names and rights.
            let none = Parameters { limit: -1, source_id: Some(String::new()), ..<_>::default() };
            self.page(&none).await
        });
        let named = |why: &str| format!("table {}: {why}", self.table.full_name());
        match asked.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(Failure::Away(why))) => Err(named(&why)),
            Ok(Err(Failure::Slow)) | Err(_) => Err(named("PostgreSQL does not answer in time")),
        }
    }

    /// Returns a page of rows, in the order of their time and id.
    ///
    /// # Errors
    /// The table gave no answer. The same question may succeed later.
    pub async fn page(&self, asked: &Parameters) -> Result<Page, Failure> {
        let (sql, values) = statement(&self.table, asked);
        let connected = self.database.connection().await;
        let mut connection = connected.map_err(|error| Failure::Away(format!("{error:#}")))?;
        let prepared = connection.prepared(&sql).await.map_err(|error| failure(&error))?;
        let values = values.iter().map(|value| &**value as &(dyn ToSql + Sync));
        let rows =
            connection.query_raw(&prepared, values).await.map_err(|error| failure(&error))?;
        tokio::pin!(rows);
        let most = usize::try_from(asked.limit).unwrap_or_default();
        let (mut page, mut last, mut bytes) = (Page { rows: Vec::new(), next: None }, None, 0);
        while let Some(row) = rows.try_next().await.map_err(|error| failure(&error))? {
            // One row more than asked for tells that there is a next page.
            if page.rows.len() >= most {
                page.next = last.take();
                continue;
            }
            if bytes > MAX_PAGE_BYTES {
                page.next = last;
                // The server has more rows on their way, so this connection is not used again.
                return Ok(page);
            }
            let text: String = row.get(0);
            bytes += text.len();
            page.rows.push(text);
            last = Some(Place { micros: row.get(1), ingest_id: row.get(2) });
        }
        connection.done();
        Ok(page)
    }
}

fn failure(error: &tokio_postgres::Error) -> Failure {
    // query_canceled: the statement timeout.
    match error.as_db_error().map(|error| error.code().code()) {
        Some("57014") => Failure::Slow,
        _ => Failure::Away(describe(error)),
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
