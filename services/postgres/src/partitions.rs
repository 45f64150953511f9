//! Partitions of a table by day: they are made ahead of time, and dropped when they are old.
//!
//! Rows of a day without a partition are in the default partition, so no write ever waits for a new
//! partition. A pass makes the partitions of the next days, and of days that have rows in the default
//! partition, and moves those rows ([`moving`]). Rows of the distant future stay there: a
//! wrong clock makes no partitions.

mod moving;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use postgresql::identifier::quoted;
use postgresql::{Database, describe};
use time::{Date, OffsetDateTime};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use tracing::{info, warn};

use self::moving::Moving;

use crate::config::DayPartitions;
use crate::day;
use crate::metrics::Metrics;
use crate::statements::{Statements, TIME};

/// Pause between two passes.
const INTERVAL: Duration = Duration::from_secs(600);
/// Pause after a pass that failed. The cause is often a lock that somebody else held.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Time limit of one change. The server ends statements a little earlier.
const TIMEOUT: Duration = Duration::from_secs(330);
/// Most days with rows in the default partition that one pass makes partitions for.
const MOST_DAYS: i64 = 32;
/// Limits of a change. Writers wait behind us while we wait for a lock. Many rows take a while.
const LIMITS: &str = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '5min'";
/// First number of the lock that the replica takes whose pass it is. The second is that of the table.
const LOCK: i32 = 0x6461_7973;

/// Asks for the names and the bounds of a table's partitions.
const PARTITIONS: &str = "SELECT c.relname::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
     WHERE i.inhparent = to_regclass($1)";

/// Maintenance of the partitions of one table.
pub(crate) struct Partitions {
    database: Database,
    statements: Arc<Statements>,
    settings: DayPartitions,
    metrics: Metrics,
}

impl Partitions {
    /// Creates the maintenance, if the table has partitions.
    pub(crate) fn new(
        database: Database,
        statements: Arc<Statements>,
        metrics: Metrics,
    ) -> Option<Self> {
        let settings = statements.table.partition_by_day.clone()?;
        Some(Self { database, statements, settings, metrics })
    }

    /// Makes and drops partitions. Never returns.
    pub(crate) async fn maintain(self) {
        loop {
            let today = OffsetDateTime::now_utc().date();
            if let Err(why) = self.pass(today).await {
                let table = self.statements.table.full_name();
                warn!(
                    table,
                    why, "partitions were not made or dropped; rows are in the default one"
                );
                self.metrics.failed_partition_changes.inc();
                sleep(RETRY_INTERVAL).await;
                continue;
            }
            sleep(INTERVAL).await;
        }
    }

    /// Makes and drops the partitions that are due today.
    async fn pass(&self, today: Date) -> Result<(), String> {
        let mut connection =
            self.database.connection().await.map_err(|error| format!("{error:#}"))?;
        let name = self.statements.table.quoted();
        // The lock lasts as long as the session, so it is given back in any case.
        let lock = "SELECT pg_try_advisory_lock($1, hashtext($2))";
        let turn = limited(connection.query_one(lock, &[&LOCK, &name])).await?;
        if !turn.get::<_, bool>(0) {
            connection.done();
            return Ok(());
        }
        let passed = self.make_and_drop(&mut connection, today).await;
        let unlock = "SELECT pg_advisory_unlock($1, hashtext($2))";
        let unlocked = limited(connection.execute(unlock, &[&LOCK, &name])).await;
        passed.and(unlocked.map(drop))?;
        connection.done();
        Ok(())
    }

    async fn make_and_drop(&self, client: &mut Client, today: Date) -> Result<(), String> {
        let table = &self.statements.table;
        let names = limited(client.query(PARTITIONS, &[&table.quoted()])).await?;
        // Partitions that somebody else made have other names, or other bounds. They are left alone.
        let ours = names.iter().filter_map(|row| {
            let day = table.day_of(row.get(0))?;
            let bounds = row.get::<_, Option<String>>(1)?;
            (bounds == format!("FOR VALUES {}", day::bounds(day))).then_some(day)
        });
        let there: BTreeSet<Date> = ours.collect();
        let mut failures = Vec::new();
        let oldest = self.oldest(today);
        let last = day::after(today, i64::from(self.settings.days_ahead));
        let mut wanted: BTreeSet<Date> =
            (0..=i64::from(self.settings.days_ahead)).map(|days| day::after(today, days)).collect();
        wanted.extend(self.days_in_default(client, oldest, last).await?);
        // One day that fails does not hold up the others. Those that rows are written to come first.
        let missing: Vec<_> = wanted.difference(&there).collect();
        for day in missing.into_iter().rev() {
            match Moving::new(table, *day).make(client).await {
                Ok(()) => info!(table = table.full_name(), day = %day, "made a partition"),
                Err(error) => failures.push(error),
            }
        }
        let Some(oldest) = oldest else { return first(failures) };
        for day in there.iter().filter(|day| **day < oldest) {
            let drop = format!("DROP TABLE {}", table.partition(*day));
            match change(client, &drop).await {
                Ok(()) => info!(table = table.full_name(), day = %day, "dropped an old partition"),
                Err(error) => failures.push(error),
            }
        }
        let delete = format!(
            "DELETE FROM ONLY {} WHERE {} < '{}'",
            table.default_partition(),
            quoted(TIME),
            day::start(oldest)
        );
        failures.extend(change(client, &delete).await.err());
        first(failures)
    }

    /// Returns the oldest day that is kept.
    fn oldest(&self, today: Date) -> Option<Date> {
        self.settings.keep_days.map(|days| day::after(today, -i64::from(days)))
    }

    /// Returns days up to `last` with rows in the default partition.
    async fn days_in_default(
        &self,
        client: &Client,
        oldest: Option<Date>,
        last: Date,
    ) -> Result<Vec<Date>, String> {
        let (time, default) = (quoted(TIME), self.statements.table.default_partition());
        let end = day::start(day::after(last, 1));
        let from =
            oldest.map(|day| format!(" AND {time} >= '{}'", day::start(day))).unwrap_or_default();
        let query = format!(
            "SELECT DISTINCT to_char({time} AT TIME ZONE 'UTC', 'YYYYMMDD') FROM ONLY {default} \
             WHERE {time} < '{end}'{from} AND {time} >= '1900-01-01 00:00:00+00' LIMIT {MOST_DAYS}"
        );
        let days = limited(client.query(&query, &[])).await?;
        Ok(days.iter().filter_map(|row| day::parse(row.get(0))).collect())
    }
}

/// Runs statements in a transaction of their own.
async fn change(client: &mut Client, statements: &str) -> Result<(), String> {
    limited(async {
        let transaction = client.transaction().await?;
        transaction.batch_execute(LIMITS).await?;
        transaction.batch_execute(statements).await?;
        transaction.commit().await
    })
    .await
}

/// Waits for an answer, and not for a server that has gone.
async fn limited<T>(
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, String> {
    let silent = |_| Err(format!("PostgreSQL does not answer within {TIMEOUT:?}"));
    let answered = timeout(TIMEOUT, async { answer.await.map_err(|error| describe(&error)) });
    answered.await.unwrap_or_else(silent)
}

/// Returns the first failure.
fn first(failures: Vec<String>) -> Result<(), String> {
    failures.into_iter().next().map_or(Ok(()), Err)
}
