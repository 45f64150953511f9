//! Table of the rows: it is checked, created, extended, or refused.

use std::sync::Arc;
use std::time::Duration;

use postgresql::{Connection, Database, describe};
use rows::column::{Column, Mode};
use service::health::Pauses;
use service::tools::preflight::State;
use service::{Condition, Dependency, WrongSettings};
use tokio::time::{sleep, timeout};
use tokio_postgres::Row;
use tracing::info;

use crate::response::{self, Response};
use crate::rights::Rights;
use crate::statements::{Statements, TIME};

/// Time limit of one check of the table, including what it creates.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of a check while rows wait for it.
const QUICK_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two checks of a table that is right. Writes notice an outage earlier.
const INTERVAL: Duration = Duration::from_secs(30);
/// Pause between two checks of a table that is missing or different.
const MISSING_INTERVAL: Duration = Duration::from_secs(1);
/// Number of the lock that replicas take before they change the table.
const LOCK: i64 = 0x6461_7461_666c_6f77;

/// Asks for the kind of a table, and for what it is partitioned by.
const KIND: &str = "SELECT relkind::text, pg_get_partkeydef(oid), relpersistence::text FROM pg_class WHERE oid = to_regclass($1)";
/// Asks for the columns of a table.
const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull, \
     atthasdef OR attidentity::text <> '' OR attgenerated::text <> '' FROM pg_attribute \
     WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
/// Asks for the sets of columns that a table holds once only.
const KEYS: &str = "SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a \
     ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) \
     WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate \
     AND i.indpred IS NULL AND i.indexprs IS NULL GROUP BY i.indexrelid";

/// Table that rows are written to.
#[derive(Clone)]
pub struct Table {
    database: Database,
    statements: Arc<Statements>,
}

/// Reason for which a table cannot be written to.
#[derive(Debug)]
enum Fault {
    /// The table may become available later.
    Missing(String),
    /// The table differs from the settings.
    Different(String),
}

impl Fault {
    fn into_text(self) -> String {
        match self {
            Self::Missing(why) | Self::Different(why) => why,
        }
    }
}

/// Table as PostgreSQL describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    kind: String,
    partition_key: Option<String>,
    is_durable: bool,
    columns: Vec<FoundColumn>,
    keys: Vec<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FoundColumn {
    name: String,
    type_name: String,
    is_required: bool,
    has_default: bool,
}

impl Table {
    /// Creates the table of the settings.
    #[must_use]
    pub fn new(database: Database, statements: Arc<Statements>) -> Self {
        Self { database, statements }
    }

    /// Waits until the table exists and has all columns. Creates or extends it if the settings
    /// allow that.
    ///
    /// # Errors
    /// When the table differs from the settings; the error names both sides.
    pub async fn wait(&self, condition: &Condition) -> anyhow::Result<()> {
        loop {
            match self.limited(TIMEOUT, self.ensure()).await {
                Ok(()) => break,
                Err(Fault::Missing(why)) => condition.not_ready(self.named(&why)),
                Err(Fault::Different(why)) => return Err(WrongSettings(self.named(&why)).into()),
            }
            sleep(MISSING_INTERVAL).await;
        }
        condition.ready();
        Ok(())
    }

    /// Keeps `condition` up to date: it is ready while the table exists and matches the settings.
    /// Never returns.
    ///
    /// A missing table is not created again. After a failover to an empty server, that would hide
    /// the loss of all rows.
    pub async fn watch(self, condition: Condition) {
        let check = || async {
            let checked = self.limited(TIMEOUT, self.check_again()).await;
            checked.map_err(|fault| self.named(&fault.into_text()))
        };
        let pauses = Pauses { ready: INTERVAL, not_ready: MISSING_INTERVAL };
        condition.watch(check, pauses).await;
    }

    /// Checks that the table still has the columns of the rows. If that is not known, no row may be
    /// given up.
    ///
    /// It takes the connection of the caller. Writers that wait for a second one could wait for each
    /// other.
    ///
    /// # Errors
    /// The difference, or why it is not known. The same rows may be written later.
    pub(crate) async fn check_fit(&self, connection: &Connection) -> Result<(), String> {
        let checked = self.limited(QUICK_TIMEOUT, self.check_on(connection)).await;
        checked.map_err(|fault| self.named(&fault.into_text()))
    }

    /// Returns the state of the table, and changes nothing.
    pub async fn dependency(&self) -> Dependency {
        let state = match self.limited(TIMEOUT, self.state()).await {
            Ok(state) => state,
            Err(Fault::Missing(why)) => State::Unreachable(why),
            Err(Fault::Different(why)) => State::Differs(why),
        };
        let name = self.statements.table.full_name();
        Dependency { kind: "table", name, roles: &[], state }
    }

    async fn state(&self) -> Result<State, Fault> {
        let connection = self.connect().await?;
        let rights = Rights::read(&connection, &self.statements.table).await;
        let rights = rights.map_err(|error| fault(&error))?;
        let obstacle = rights.obstacle(&self.statements.table);
        let state = match obstacle {
            Some(state) => state,
            None => self.state_with(&rights, self.look(&connection).await?)?,
        };
        connection.done();
        Ok(state)
    }

    fn state_with(&self, rights: &Rights, found: Option<Found>) -> Result<State, Fault> {
        let Some(found) = found else {
            if !self.statements.table.create {
                return Ok(State::Missing("it does not exist, and table.create is off".into()));
            }
            let statements = self.statements.create().join(";\n");
            let text = format!("the service creates it at its start:\n{statements};");
            return Ok(rights.to_create().unwrap_or(State::WillCreate(text)));
        };
        let missing = self.compare(&found)?;
        if let Some(state) = rights.to_write() {
            return Ok(state);
        }
        if missing.is_empty() {
            return Ok(State::Ready);
        }
        let statements = self.additions(&missing).join(";\n");
        let text = format!("the service adds columns at its start:\n{statements};");
        Ok(rights.to_extend().unwrap_or(State::WillCreate(text)))
    }

    async fn check_again(&self) -> Result<(), Fault> {
        let connection = self.connect().await?;
        self.check_on(&connection).await?;
        connection.done();
        Ok(())
    }

    async fn check_on(&self, connection: &Connection) -> Result<(), Fault> {
        let found = self.look(connection).await?;
        let found = found.ok_or_else(|| Fault::Missing("it does not exist".into()))?;
        match self.compare(&found)?[..] {
            [] => Ok(()),
            _ => Err(Fault::Different("it has lost columns".into())),
        }
    }

    /// Creates or extends the table in a transaction of its own. Replicas do so one after another.
    async fn ensure(&self) -> Result<(), Fault> {
        let mut connection = self.connect().await?;
        let transaction = connection.transaction().await.map_err(|error| fault(&error))?;
        let lock = transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await;
        lock.map_err(|error| fault(&error))?;
        let found = self.look(transaction.client()).await?;
        let statements = match found {
            Some(found) => self.additions(&self.compare(&found)?),
            None if self.statements.table.create => self.statements.create(),
            None => {
                let why = "it does not exist, and table.create is off";
                return Err(Fault::Missing(why.into()));
            }
        };
        for statement in &statements {
            transaction.batch_execute(statement).await.map_err(|error| change_fault(&error))?;
        }
        transaction.commit().await.map_err(|error| fault(&error))?;
        connection.done();
        if !statements.is_empty() {
            info!(table = self.statements.table.full_name(), "created or extended the table");
        }
        Ok(())
    }

    fn additions(&self, missing: &[usize]) -> Vec<String> {
        let Statements { columns, types, .. } = &*self.statements;
        let missing = missing.iter();
        missing.map(|index| self.statements.add(&columns[*index], &types[*index])).collect()
    }

    async fn connect(&self) -> Result<Connection, Fault> {
        let connected = self.database.connection().await;
        connected.map_err(|error| Fault::Missing(format!("PostgreSQL cannot be asked: {error:#}")))
    }

    async fn look(&self, client: &tokio_postgres::Client) -> Result<Option<Found>, Fault> {
        let name = self.statements.table.quoted();
        let kind = client.query_opt(KIND, &[&name]).await.map_err(|error| fault(&error))?;
        let Some(kind) = kind else { return Ok(None) };
        let columns = client.query(COLUMNS, &[&name]).await.map_err(|error| fault(&error))?;
        let keys = client.query(KEYS, &[&name]).await.map_err(|error| fault(&error))?;
        let column = |row: &Row| FoundColumn {
            name: row.get(0),
            type_name: row.get(1),
            is_required: row.get(2),
            has_default: row.get(3),
        };
        Ok(Some(Found {
            kind: kind.get(0),
            partition_key: kind.get(1),
            is_durable: kind.get::<_, &str>(2) == "p",
            columns: columns.iter().map(column).collect(),
            keys: keys.iter().map(|row| row.get(0)).collect(),
        }))
    }

    /// Compares the table with the settings. Returns the columns that it lacks.
    fn compare(&self, found: &Found) -> Result<Vec<usize>, Fault> {
        compare(&self.statements, found).map_err(Fault::Different)
    }

    async fn limited<T>(
        &self,
        limit: Duration,
        check: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let silent = |_| Err(Fault::Missing("PostgreSQL does not answer".into()));
        timeout(limit, check).await.unwrap_or_else(silent)
    }

    fn named(&self, why: &str) -> String {
        format!("table {}: {why}", self.statements.table.full_name())
    }
}

fn fault(error: &tokio_postgres::Error) -> Fault {
    Fault::Missing(describe(error))
}

/// Returns the fault of a change that failed. The settings ask for the same each time, so a refusal is
/// final. A missing right may be granted.
fn change_fault(error: &tokio_postgres::Error) -> Fault {
    let why = format!("it cannot be created or extended: {}", describe(error));
    let state = error.as_db_error().map(|error| error.code().code()).unwrap_or_default();
    match response::of_error(error) {
        Response::Refused => Fault::Different(why),
        Response::NotReady if state.starts_with("42") && state != "42501" => Fault::Different(why),
        Response::NotReady | Response::Retry => Fault::Missing(why),
    }
}

/// Returns the indices of columns that a table lacks, or the first difference with both sides.
fn compare(statements: &Statements, found: &Found) -> Result<Vec<usize>, String> {
    compare_kind(statements, found)?;
    let mut missing = Vec::new();
    for (index, (column, sql_type)) in statements.columns.iter().zip(&statements.types).enumerate()
    {
        let name = &column.name;
        let Some(has) = found.columns.iter().find(|found| found.name == *name) else {
            if !statements.table.add_columns {
                let right = &sql_type.name;
                return Err(format!(
                    "the settings have the column {name} {right}, the table has none, and \
                     table.add_columns is off"
                ));
            }
            missing.push(index);
            continue;
        };
        if has.type_name != sql_type.name {
            let (right, wrong) = (&sql_type.name, &has.type_name);
            return Err(format!(
                "the column {name} is {right} in the settings, and {wrong} in the table"
            ));
        }
        let may_be_null = column.mode != Mode::Required && !statements.always_has(column);
        if may_be_null && has.is_required && column.mode != Mode::Repeated {
            return Err(format!(
                "the column {name} may be null in the settings, and is NOT NULL in the table"
            ));
        }
    }
    let is_ours = |name: &str| statements.columns.iter().any(|column: &Column| column.name == name);
    let strange = found
        .columns
        .iter()
        .find(|column| column.is_required && !column.has_default && !is_ours(&column.name));
    if let Some(FoundColumn { name, .. }) = strange {
        return Err(format!(
            "the settings have no column {name}, and it is NOT NULL without a default in the table"
        ));
    }
    Ok(missing)
}

fn compare_kind(statements: &Statements, found: &Found) -> Result<(), String> {
    let by_day = format!("RANGE ({TIME})");
    let right = statements.table.partition_by_day.as_ref().map(|_| by_day.as_str());
    let kind = match found.kind.as_str() {
        "r" => "a table",
        "p" => "a table with partitions",
        "v" | "m" => "a view",
        "f" => "a foreign table",
        _ => "no table",
    };
    if !matches!(found.kind.as_str(), "r" | "p") {
        return Err(format!("the settings need a table, and it is {kind}"));
    }
    if !found.is_durable {
        return Err("it is UNLOGGED or temporary, so a crash of the server loses its rows".into());
    }
    if found.partition_key.as_deref() != right {
        let shown = |key: Option<&str>| {
            key.map_or("no partitions".into(), |key| format!("partitions by {key}"))
        };
        return Err(format!(
            "the settings have {}, the table has {}",
            shown(right),
            shown(found.partition_key.as_deref())
        ));
    }
    let key = statements.key();
    let is_key = |columns: &Vec<String>| {
        columns.len() == key.len() && columns.iter().all(|column| key.contains(&column.as_str()))
    };
    if !found.keys.iter().any(is_key) {
        return Err(format!(
            "it needs a primary key or a unique index on ({}), which finds copies of a message",
            key.join(", ")
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
