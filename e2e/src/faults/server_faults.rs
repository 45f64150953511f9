//! Faults of the server of PostgreSQL. They reach it without its link, and one at a time.

mod failover;
mod sessions;

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep};

use super::FaultContext;
use super::fault_env::FaultEnv;
use crate::names::POSTGRES;
use crate::postgres::Postgres;

/// Longest wait until a fault shows in the log of the service.
const BITES_WITHIN: Duration = Duration::from_secs(60);
/// Pause between two rounds of terminated connections.
const TERMINATE_EVERY: Duration = Duration::from_millis(300);
/// Time for which another session locks the table. It is longer than the time-out of an attempt.
const LOCKED_FOR: Duration = Duration::from_secs(8);

/// Fault of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerFault {
    /// Kills the server with SIGKILL, and starts it again.
    Kill,
    /// Ends the connections of the service again and again.
    Terminate,
    /// Fills the disk of the table.
    DiskFull,
    /// Locks tables in the opposite order.
    Deadlock,
    /// Makes transactions of the service fail because others changed a row.
    Serialization,
    /// Locks the table for longer than an attempt may take.
    Lock,
    /// Leads the service to an empty server.
    Failover,
}

/// Returns all faults with their names.
pub(super) fn catalogue() -> [(&'static str, ServerFault); 7] {
    [
        ("kill-postgresql", ServerFault::Kill),
        ("terminate-postgresql", ServerFault::Terminate),
        ("disk-full-postgresql", ServerFault::DiskFull),
        ("deadlock-postgresql", ServerFault::Deadlock),
        ("serialization-postgresql", ServerFault::Serialization),
        ("lock-postgresql", ServerFault::Lock),
        ("failover-postgresql", ServerFault::Failover),
    ]
}

impl ServerFault {
    /// Injects the fault, and removes it after a while.
    pub(super) async fn inject(
        self,
        context: &FaultContext,
        lasts: Duration,
    ) -> anyhow::Result<()> {
        let env = &context.env;
        if self == Self::Failover {
            return failover::to_an_empty_server(context, lasts).await;
        }
        let mut server = env.database.reserve().await;
        let before = Told::of(env)?;
        match self {
            Self::Kill => {
                server.kill().await?;
                sleep(lasts).await;
                server.start_again().await
            }
            Self::Terminate => {
                terminate(&server, lasts).await?;
                before.bites(context, "SQLSTATE 57P01").await
            }
            Self::DiskFull => match env.database.disk() {
                Ok(disk) => {
                    disk.fill()?;
                    sleep(lasts).await;
                    let bitten = before.bites(context, "SQLSTATE 53100").await;
                    disk.make_room()?;
                    bitten
                }
                Err(why) => skip(context, "disk-full-postgresql", why),
            },
            Self::Deadlock => {
                sessions::deadlock(&server, lasts).await?;
                before.bites(context, "SQLSTATE 40P01").await
            }
            Self::Serialization => {
                sessions::serialization(&server, lasts).await?;
                before.bites(context, "SQLSTATE 40001").await
            }
            Self::Lock => {
                sessions::lock(&server, LOCKED_FOR).await?;
                before.bites(context, "failed, trying again").await
            }
            Self::Failover => Ok(()),
        }
    }
}

/// Ends all connections of the service repeatedly.
async fn terminate(server: &Postgres, lasts: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        server.run(sessions::TERMINATE).await?;
        sleep(TERMINATE_EVERY).await;
    }
    Ok(())
}

/// Reports that a fault is not possible here. A run of this fault alone fails, because it would test
/// nothing.
fn skip(context: &FaultContext, name: &str, why: &str) -> anyhow::Result<()> {
    if context.is_alone {
        bail!("{name} is not possible: {why}");
    }
    context.measure(format!("SKIPPED {name}: {why}"));
    Ok(())
}

/// Logs of the service at one time.
struct Told(String);

impl Told {
    fn of(env: &FaultEnv) -> anyhow::Result<Self> {
        let mut logs = String::new();
        for entry in std::fs::read_dir(env.folder()).context("list the logs")? {
            let path = entry.context("list the logs")?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(POSTGRES) && name.ends_with(".log") {
                logs.push_str(&String::from_utf8_lossy(
                    &std::fs::read(&path).context("read a log")?,
                ));
            }
        }
        Ok(Self(logs))
    }

    fn count(&self, text: &str) -> usize {
        self.0.matches(text).count()
    }

    /// Checks that the service has met the fault: its log has the text again. Other faults can keep
    /// messages from it, so only a run of one fault demands it.
    async fn bites(&self, context: &FaultContext, text: &str) -> anyhow::Result<()> {
        if !context.is_alone {
            return Ok(());
        }
        let until = Instant::now() + BITES_WITHIN;
        while Self::of(&context.env)?.count(text) <= self.count(text) {
            if Instant::now() > until {
                context.fail(format!("the fault did nothing: no log of {POSTGRES} says `{text}`"));
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}
