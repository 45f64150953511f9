//! Faults: other sessions lock tables and change rows that the service needs.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use crate::postgres::{DATABASE, Postgres};

/// Ends all connections of the service.
pub(super) const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE application_name = 'dataflow-postgres'";
/// Number of sessions that wait for a lock on the table `gate`.
const WAITING: &str =
    "SELECT count(*) FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted";
/// Longest wait for a session of the service. Other faults can keep messages from it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at the locks. It is much shorter than the time after which PostgreSQL looks
/// for deadlocks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Makes each insert of the service run a statement on the table `gate`, by a trigger.
async fn open_gate(server: &Postgres, statement: &str) -> anyhow::Result<()> {
    server
        .run(&format!(
            "CREATE TABLE gate (passed bigint); INSERT INTO gate VALUES (0);
             CREATE FUNCTION pass_gate() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN {statement}; RETURN NULL; END $$;
             CREATE TRIGGER pass_gate BEFORE INSERT ON readings
                 FOR EACH STATEMENT EXECUTE FUNCTION pass_gate()"
        ))
        .await
}

async fn remove_gate(server: &Postgres) -> anyhow::Result<()> {
    server.run("DROP FUNCTION pass_gate() CASCADE; DROP TABLE gate").await
}

/// Locks the table against all writers for some time.
pub(super) async fn lock(server: &Postgres, lasts: Duration) -> anyhow::Result<()> {
    let session = server.client().await?;
    session.batch_execute("BEGIN; LOCK TABLE readings IN ACCESS EXCLUSIVE MODE").await?;
    sleep(lasts).await;
    session.batch_execute("ROLLBACK").await.context("end the lock")
}

/// Takes locks in the opposite order of the service, so that PostgreSQL ends its statements.
pub(super) async fn deadlock(server: &Postgres, lasts: Duration) -> anyhow::Result<()> {
    open_gate(server, "LOCK TABLE gate IN ROW SHARE MODE").await?;
    let (session, watcher) = (server.client().await?, server.client().await?);
    // This session never looks for deadlocks, so a statement of the service is the victim.
    session.batch_execute("SET deadlock_timeout = '1h'").await?;
    let until = Instant::now() + lasts;
    loop {
        session.batch_execute("BEGIN; LOCK TABLE gate IN ACCESS EXCLUSIVE MODE").await?;
        // After the patience there is no deadlock in this round, and the lock harms nobody.
        let waits = timeout(PATIENCE, somebody_waits(&watcher)).await.is_ok();
        if waits {
            // Waits for those that wait for the gate, until they have failed.
            session.batch_execute("LOCK TABLE readings IN SHARE MODE").await?;
        }
        session.batch_execute("ROLLBACK").await?;
        if !waits || Instant::now() > until {
            break;
        }
    }
    remove_gate(server).await
}

async fn somebody_waits(watcher: &Client) {
    // A failed look is repeated until the patience ends.
    while !watcher.query_one(WAITING, &[]).await.is_ok_and(|row| row.get::<_, i64>(0) > 0) {
        sleep(LOOK_EVERY).await;
    }
}

/// Changes a row that each transaction of the service changes too, under an isolation that forbids it.
pub(super) async fn serialization(server: &Postgres, lasts: Duration) -> anyhow::Result<()> {
    open_gate(server, "UPDATE gate SET passed = passed + 1").await?;
    let isolation =
        format!("ALTER DATABASE {DATABASE} SET default_transaction_isolation = 'repeatable read'");
    server.run(&isolation).await?;
    server.run(TERMINATE).await?;
    let session = server.client().await?;
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        let change = "BEGIN ISOLATION LEVEL READ COMMITTED; UPDATE gate SET passed = passed + 1";
        session.batch_execute(change).await?;
        sleep(LOOK_EVERY * 10).await;
        session.batch_execute("COMMIT").await?;
    }
    server.run(&format!("ALTER DATABASE {DATABASE} RESET default_transaction_isolation")).await?;
    server.run(TERMINATE).await?;
    remove_gate(server).await
}
