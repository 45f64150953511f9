//! Runs a real PostgreSQL server as a process.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

use crate::process::free_port;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Superuser of the server.
pub const USER: &str = "postgres";
/// Database of the server.
pub const DATABASE: &str = "postgres";

/// A server on a free port of loopback, with a folder of its own. Dropping it kills the server.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    options: Vec<String>,
    data: PathBuf,
    /// File with the password of the superuser. Without one, nobody is asked.
    password_file: Option<PathBuf>,
    /// Folder that is removed with the server.
    _folder: Option<TempDir>,
    process: Child,
}

/// Finds a program of the server, in the `PATH` or where Debian has it.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    folders.into_iter().map(|folder| folder.join(name)).find(|program| program.is_file())
}

impl Postgres {
    /// Starts a server, and returns when it answers.
    ///
    /// # Errors
    /// Fails when PostgreSQL is not installed, or does not answer.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[], |_| Ok(())).await
    }

    /// Starts a server with further options, such as `ssl=on`. `FOLDER` in them is the folder of the
    /// data. `prepare` adds files to it.
    ///
    /// # Errors
    /// Fails when PostgreSQL is not installed, or does not answer.
    pub async fn start_with(
        options: &[&str],
        prepare: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for postgres")?;
        // The server must not run as root, so its user needs a way to its data.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        own(&[&data]).await?;
        init(&data, &["--auth=trust"]).await?;
        prepare(&data)?;
        own(&[&data]).await?;
        let port = free_port()?;
        let place = |option: &&str| option.replace("FOLDER", &data.display().to_string());
        let options = options.iter().map(place).collect();
        let process = spawn(port, &data, &options)?;
        let (password_file, _folder) = (None, Some(folder));
        let mut postgres = Self { port, options, data, password_file, _folder, process };
        postgres.answers().await?;
        Ok(postgres)
    }

    /// Starts a server with its data in this folder, which stays. The superuser has a password, in the
    /// file `password`. Data of an earlier start are kept.
    ///
    /// # Errors
    /// Fails when PostgreSQL is not installed, may not use the folder, or does not answer.
    pub async fn start_in(folder: &Path) -> anyhow::Result<Self> {
        require()?;
        let folder = std::path::absolute(folder)?;
        let (data, password_file) = (folder.join("data"), folder.join("password"));
        std::fs::create_dir_all(&data)
            .with_context(|| format!("create the folder {}", data.display()))?;
        let whole = [data.as_path(), &password_file];
        if !data.join("PG_VERSION").exists() {
            let password = Uuid::new_v4().simple().to_string();
            let mut secret = std::fs::File::options();
            let secret = secret.write(true).create(true).truncate(true).mode(0o600);
            secret.open(&password_file)?.write_all(password.as_bytes())?;
            own(&whole).await?;
            let file = format!("--pwfile={}", password_file.display());
            init(&data, &["--auth=scram-sha-256", &file]).await.with_context(|| {
                format!("choose another folder with --data-dir than {}", folder.display())
            })?;
        }
        let port = free_port()?;
        // The path of a socket may be too long, and nobody needs one.
        let options = ["unix_socket_directories=", "logging_collector=on", "log_directory=log"];
        let options = options.map(str::to_owned).into();
        let process = spawn(port, &data, &options)?;
        let (password_file, _folder) = (Some(password_file), None);
        let mut postgres = Self { port, options, data, password_file, _folder, process };
        postgres.answers().await?;
        Ok(postgres)
    }

    /// Returns the file with the password of the superuser, if there is one.
    #[must_use]
    pub fn password_file(&self) -> Option<&Path> {
        self.password_file.as_deref()
    }

    /// Ends the server with SIGINT, which closes its connections, and waits until it has ended.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let id = self.process.id().context("postgres has ended before")?.to_string();
        run(Command::new("kill").args(["-INT", &id])).await?;
        let ended = timeout(PATIENCE, self.process.wait()).await;
        ended.context("wait for postgres to end")?.context("end postgres")?;
        Ok(())
    }

    /// Returns the port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the folder of the data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// Kills the server with SIGKILL. What was committed is still there after the next start.
    ///
    /// # Errors
    /// Fails when it cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("kill postgres")
    }

    /// Starts the server again, on the same port.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        let data = self.data();
        self.process = spawn(self.port, &data, &self.options)?;
        self.answers().await
    }

    /// Starts another server with this server's port and no tables, as after a failover to a standby
    /// that never saw the data. This server must not run.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub async fn start_empty_in_its_place(&self) -> anyhow::Result<Self> {
        let mut empty = Self::start().await?;
        empty.kill().await?;
        empty.port = self.port;
        empty.start_again().await?;
        Ok(empty)
    }

    /// Puts tables that are created from now on into this folder, which may be on another disk.
    ///
    /// # Errors
    /// Fails when the server cannot use the folder.
    pub async fn add_default_tablespace(&self, folder: &Path) -> anyhow::Result<()> {
        let place = folder.join("tables");
        std::fs::create_dir(&place).context("make a folder for tables")?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
        if is_root() {
            run(Command::new("chown").arg(USER).arg(&place)).await?;
        }
        self.run(&format!("CREATE TABLESPACE other LOCATION '{}'", place.display())).await?;
        self.run(&format!("ALTER DATABASE {DATABASE} SET default_tablespace = other")).await
    }

    /// Opens a connection as superuser.
    ///
    /// # Errors
    /// Fails when the server does not answer.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let mut login = Config::new();
        login.host("127.0.0.1").port(self.port).user(USER).dbname(DATABASE);
        if let Some(file) = &self.password_file {
            login.password(std::fs::read_to_string(file)?.trim_end());
        }
        let (client, connection) = login.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements.
    ///
    /// # Errors
    /// Fails when the server refuses one.
    pub async fn run(&self, sql: &str) -> anyhow::Result<()> {
        self.client().await?.batch_execute(sql).await.with_context(|| sql.to_owned())
    }

    /// Returns all rows of a query, as JSON objects.
    ///
    /// # Errors
    /// Fails when the server refuses the query.
    pub async fn rows(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let query = format!("SELECT to_jsonb(q)::text FROM ({query}) q");
        let rows = self.client().await?.query(&query, &[]).await.with_context(|| query.clone())?;
        rows.iter().map(|row| Ok(serde_json::from_str(row.get(0))?)).collect()
    }

    /// Returns the number that a query asks for.
    ///
    /// # Errors
    /// Fails when the server refuses the query.
    pub async fn count(&self, query: &str) -> anyhow::Result<i64> {
        let row = self.client().await?.query_one(query, &[]).await;
        Ok(row.with_context(|| query.to_owned())?.get(0))
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let data = self.data();
        let answers = async {
            while self.client().await.is_err() {
                if self.process.try_wait()?.is_some() {
                    // The processes of a killed server hold its memory for a moment.
                    sleep(Duration::from_millis(50)).await;
                    self.process = spawn(self.port, &data, &self.options)?;
                }
                sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, answers).await.context("wait for postgres to answer")?
    }
}

fn spawn(port: u16, data: &Path, options: &Vec<String>) -> anyhow::Result<Child> {
    let mut command = unprivileged("postgres")?;
    command.arg("-D").arg(data).args(["-p", &port.to_string()]);
    command.arg("-k").arg(data);
    for option in ["listen_addresses=127.0.0.1", "max_connections=50", "shared_buffers=16MB"] {
        command.args(["-c", option]);
    }
    for option in options {
        command.args(["-c", option]);
    }
    // A separate process group: Ctrl-C must reach only this program, because its drain needs the
    // server.
    command.process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("start postgres")
}

/// Makes the files of a server.
async fn init(data: &Path, options: &[&str]) -> anyhow::Result<()> {
    let mut init = unprivileged("initdb")?;
    init.args(["--no-sync", "--username", USER, "--encoding=UTF8"]).args(options);
    let made = run(init.arg("--pgdata").arg(data)).await;
    made.with_context(|| {
        let why =
            if is_root() { ": the user postgres must be able to enter this folder" } else { "" };
        format!("make a database in {}{why}", data.display())
    })
}

/// Gives files to the user of the server, which cannot be root.
async fn own(paths: &[&Path]) -> anyhow::Result<()> {
    if is_root() {
        run(Command::new("chown").arg("-R").arg(USER).args(paths)).await?;
    }
    Ok(())
}

/// Reports that PostgreSQL is not installed.
///
/// # Errors
/// Fails when it is not, and names the package.
pub fn require() -> anyhow::Result<()> {
    unprivileged("initdb").map(drop)
}

/// Builds a command that runs a program of the server, and not as root, which the server refuses.
fn unprivileged(name: &str) -> anyhow::Result<Command> {
    let program =
        program(name).context("PostgreSQL is not installed: apt-get install postgresql")?;
    if !is_root() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--init-groups"]);
    command.arg(program);
    Ok(command)
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().await;
    let output = output.with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!("{} ({})", String::from_utf8_lossy(&output.stderr).trim_end(), output.status);
    }
    Ok(())
}
