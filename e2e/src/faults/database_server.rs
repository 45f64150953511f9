//! Server of PostgreSQL as a further sink, with the table of the rows.
//!
//! The service postgres reads the same messages as bigqueries and icestore. It reaches the server over
//! the link [`LINK`].

mod table;

use anyhow::Context as _;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio::sync::MutexGuard;

pub(super) use self::table::settings;

use super::keyed::Keyed;
use crate::postgres::Postgres;
use crate::reconcile::Arrived;
use crate::small_disk::SmallDisk;

/// Link between the service and the server.
pub(super) const LINK: &str = "postgresql";
/// Options of the server. Processes that are replaced hold connections beside those of the new ones.
const OPTIONS: [&str; 1] = ["max_connections=200"];
/// Size of the disk for the table. Only written bytes take memory.
const DISK_BYTES: u64 = 8 << 30;

/// Server whose table is on a disk that can be filled.
pub(super) struct DatabaseServer {
    /// Locked while a fault acts on the server.
    process: tokio::sync::Mutex<Postgres>,
    port: u16,
    /// Disk of the table, or why there is none.
    disk: Result<SmallDisk, String>,
    folder: TempDir,
}

impl DatabaseServer {
    /// Starts the server. Its tables are on a small disk, if this process may mount one.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("create a folder")?;
        let postgres = Postgres::start_with(&OPTIONS, |_| Ok(())).await?;
        let (port, process) = (postgres.port(), postgres.into());
        let mut server = Self { process, port, disk: Err(String::new()), folder };
        server.disk = server.mount().await.map_err(|error| format!("{error:#}"));
        Ok(server)
    }

    async fn mount(&self) -> anyhow::Result<SmallDisk> {
        let disk = SmallDisk::mount(self.folder.path(), DISK_BYTES)?;
        self.process.lock().await.add_default_tablespace(disk.folder()).await?;
        Ok(disk)
    }

    /// Returns the port of the server, without the link in between.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the disk of the table, or why there is none.
    pub(super) fn disk(&self) -> Result<&SmallDisk, &String> {
        self.disk.as_ref()
    }

    /// Reserves the server for one fault.
    pub(super) async fn reserve(&self) -> MutexGuard<'_, Postgres> {
        self.process.lock().await
    }

    /// Creates the table of these settings.
    pub(super) async fn create_table(&self, settings: &Value) -> anyhow::Result<()> {
        let statements = table::statements(settings)?;
        self.process.lock().await.run(&statements.join(";")).await
    }

    /// Returns all rows of the table.
    pub(super) async fn rows(&self) -> anyhow::Result<Keyed> {
        let mut keyed = Keyed::default();
        for row in self.process.lock().await.rows(table::ROWS).await? {
            let row: Map<String, Value> = serde_json::from_value(row).context("read a row")?;
            let id = row.get("ingest_id").and_then(Value::as_str).context("read an id")?;
            keyed.push(id.to_owned(), Arrived::of_row(&row));
        }
        Ok(keyed)
    }
}
