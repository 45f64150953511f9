//! Rows of a day move from the default partition into a partition of their own.
//!
//! Few rows move in one transaction, which locks the default partition meanwhile. More of them would
//! make the writers wait for too long. So they are copied first, some blocks at a time, into a table that
//! is not a partition yet. Readers still see the rows in the default partition. The last transaction
//! corrects the copy by what changed meanwhile, deletes the rows and attaches the partition.

use postgresql::identifier::quoted;
use time::Date;
use tokio_postgres::Client;

use super::{change, limited};
use crate::config::TableSettings;
use crate::day;
use crate::statements::{KEY, TIME};

/// Most rows that move in one transaction.
const FEW_ROWS: i64 = 100_000;
/// Blocks of the default partition that are copied in one transaction: 8 MiB.
const BLOCKS: i64 = 1_024;
/// Comment on a table that is being filled. A process that ended meanwhile leaves such a table.
const MARK: &str = "dataflow: rows are copied here";

/// Asks for the columns of a table that can be written.
const COLUMNS: &str = "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) \
     AND attnum > 0 AND NOT attisdropped AND attgenerated::text = '' ORDER BY attnum";
/// Asks for the size of a table in blocks, and for the oldest transaction that may still change it.
const START: &str = "SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint, \
     pg_snapshot_xmin(pg_current_snapshot())::text";
/// Asks for the comment on a table that is no partition.
const LEFT: &str = "SELECT obj_description(c.oid, 'pg_class') FROM pg_class c \
     WHERE c.oid = to_regclass($1) AND NOT c.relispartition";

/// Way of the rows of one day.
pub(super) struct Moving {
    parent: String,
    default: String,
    partition: String,
    /// Condition for rows of the day.
    of_day: String,
    bounds: String,
}

impl Moving {
    pub(super) fn new(table: &TableSettings, day: Date) -> Self {
        let (from, to) = (day::start(day), day::start(day::after(day, 1)));
        let time = quoted(TIME);
        Self {
            parent: table.quoted(),
            default: table.default_partition(),
            partition: table.partition(day),
            of_day: format!("{time} >= '{from}' AND {time} < '{to}'"),
            bounds: day::bounds(day),
        }
    }

    /// Makes the partition of the day, and moves the rows of the day into it.
    pub(super) async fn make(&self, client: &mut Client) -> Result<(), String> {
        let Self { default, of_day, .. } = self;
        let names = limited(client.query(COLUMNS, &[default])).await?;
        let names: Vec<_> = names.iter().map(|row| quoted(row.get(0))).collect();
        let names = names.join(", ");
        let few = FEW_ROWS + 1;
        let query = format!(
            "SELECT count(*) FROM (SELECT FROM ONLY {default} WHERE {of_day} LIMIT {few}) AS rows"
        );
        let rows: i64 = limited(client.query_one(&query, &[])).await?.get(0);
        self.remove_left(client).await?;
        if rows < few {
            return change(client, &self.at_once(&names)).await;
        }
        change(client, &self.empty_copy()).await?;
        let start = limited(client.query_one(START, &[default])).await?;
        let (blocks, oldest): (i64, String) = (start.get(0), start.get(1));
        for first in (0..=blocks).step_by(usize::try_from(BLOCKS).unwrap_or(1)) {
            change(client, &self.copy(&names, first)).await?;
        }
        // Without statistics, the last statements compare the rows one by one.
        change(client, &format!("ANALYZE {default}; ANALYZE {}", self.partition)).await?;
        change(client, &self.attach(&names, &oldest)).await
    }

    /// Removes the copy of a process that ended before it was complete.
    async fn remove_left(&self, client: &mut Client) -> Result<(), String> {
        let partition = &self.partition;
        let left = limited(client.query_opt(LEFT, &[partition])).await?;
        match left.and_then(|row| row.get::<_, Option<String>>(0)) {
            Some(mark) if mark == MARK => change(client, &format!("DROP TABLE {partition}")).await,
            // A table of somebody else with this name stays. The change fails and names it.
            Some(_) | None => Ok(()),
        }
    }

    /// Returns the statements that move few rows.
    fn at_once(&self, names: &str) -> String {
        let Self { parent, default, partition, of_day, bounds } = self;
        // Without the lock, a row of this day could arrive in the default partition meanwhile.
        format!(
            "LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE;
             CREATE TABLE {partition}
                 (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED);
             WITH moved AS (
                 DELETE FROM ONLY {default} WHERE {of_day} RETURNING {names}
             ) INSERT INTO {partition} ({names}) SELECT {names} FROM moved;
             ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES {bounds}"
        )
    }

    fn empty_copy(&self) -> String {
        let Self { parent, partition, of_day, .. } = self;
        // With the check and the indexes, attaching does not read the rows again.
        format!(
            "CREATE TABLE {partition} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS
                 INCLUDING GENERATED INCLUDING INDEXES);
             ALTER TABLE {partition} ADD CONSTRAINT of_day CHECK ({of_day});
             COMMENT ON TABLE {partition} IS '{MARK}'"
        )
    }

    /// Returns the statement that copies the rows of some blocks.
    fn copy(&self, names: &str, first: i64) -> String {
        let Self { default, partition, of_day, .. } = self;
        let end = first + BLOCKS;
        // A row that somebody changes meanwhile is in a later block, too. The end corrects the copy.
        format!(
            "INSERT INTO {partition} ({names}) SELECT {names} FROM ONLY {default}
             WHERE ctid >= '({first},0)' AND ctid < '({end},0)' AND {of_day} ON CONFLICT DO NOTHING"
        )
    }

    /// Returns the statements that complete the copy and attach it.
    ///
    /// A row that a transaction from `oldest` on has written may have changed after it was copied. Such
    /// rows are copied again. Rows that somebody deleted are deleted here, too.
    fn attach(&self, names: &str, oldest: &str) -> String {
        let Self { parent, default, partition, of_day, bounds } = self;
        let (key, time) = (quoted(KEY), quoted(TIME));
        let is_same = format!("d.{key} = p.{key} AND d.{time} = p.{time}");
        // The age of a transaction counts backwards, and bears that the numbers start again.
        let is_old = format!("age(d.xmin) > age('{oldest}'::xid8::xid)");
        format!(
            "LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE;
             DELETE FROM {partition} p WHERE NOT EXISTS
                 (SELECT FROM ONLY {default} d WHERE {is_same} AND {is_old});
             INSERT INTO {partition} ({names}) SELECT {names} FROM ONLY {default} d
                 WHERE {of_day} AND NOT EXISTS (SELECT FROM {partition} p WHERE {is_same});
             DELETE FROM ONLY {default} WHERE {of_day};
             ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES {bounds};
             ALTER TABLE {partition} DROP CONSTRAINT of_day;
             COMMENT ON TABLE {partition} IS NULL"
        )
    }
}
