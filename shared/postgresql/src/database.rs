//! Connections to PostgreSQL.
//!
//! Every connection is checked out of a pool for one statement. A connection whose statement was given
//! up, or failed for another reason than a row, is closed instead of used again.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{self, Metrics, Object, Pool, RecycleResult};
use pipeline::{Error, Recovery};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{SslMode as ClientSslMode, TargetSessionAttrs};
use tokio_postgres::{Client, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use crate::advice::advised;
use crate::error::describe;
use crate::server::{Server, SslMode};

/// Time limit of a login at one host, from the first packet to a session that is ready.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which the system asks whether the server is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Most prepared statements of a connection.
const MAX_PREPARED: usize = 100;

/// Pool of connections. Clones share it.
#[derive(Clone)]
pub struct Database(Pool<Connector>);

/// Connection that is in use. It goes back to the pool with [`Connection::done`], and is closed
/// otherwise.
pub struct Connection(Option<Object<Connector>>);

/// Session of a connection.
struct Session {
    client: Client,
    /// Task that moves the packets.
    packets: JoinHandle<()>,
    prepared: HashMap<String, Statement>,
}

/// Opens connections, and reads passwords and certificates anew for each.
#[derive(Debug)]
struct Connector {
    server: Server,
    sessions: Sessions,
}

/// What a service needs of its sessions.
#[derive(Debug, Clone, Copy)]
pub struct Sessions {
    /// Name that the server shows for them.
    pub application: &'static str,
    /// Longest duration of a statement.
    pub statement_timeout: Duration,
    /// Most connections, if the settings do not say.
    pub max_connections: usize,
    /// Whether they write. If so, only a server that takes writes is used.
    pub write: bool,
}

impl Database {
    /// Creates a pool. It connects when a connection is needed.
    ///
    /// # Errors
    /// The pool cannot be built.
    pub fn new(server: &Server, sessions: Sessions) -> anyhow::Result<Self> {
        let connections = server.max_connections.unwrap_or(sessions.max_connections);
        let connector = Connector { server: server.clone(), sessions };
        Ok(Self(Pool::builder(connector).max_size(connections).build()?))
    }

    /// Checks out a connection, and opens one if none is free.
    ///
    /// # Errors
    /// `Retry` when no server accepts a login.
    pub async fn connection(&self) -> Result<Connection, Error> {
        // A login with TLS is a large future.
        match Box::pin(self.0.get()).await {
            Ok(object) => Ok(Connection(Some(object))),
            Err(managed::PoolError::Backend(why)) => {
                Err(Recovery::Retry.because("connect to PostgreSQL", why))
            }
            Err(error) => Err(Recovery::Retry.because("connect to PostgreSQL", error.to_string())),
        }
    }
}

impl Connection {
    /// Gives the connection back. Call it when its statements are answered.
    pub fn done(mut self) {
        // Dropping the object puts it back into the pool.
        drop(self.0.take());
    }

    /// Returns a prepared statement. The connection keeps it for the next use.
    ///
    /// # Errors
    /// The server refuses the statement.
    ///
    /// # Panics
    /// Never: the connection is there until it is given back, which consumes it.
    pub async fn prepared(&mut self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        let session = self.0.as_mut().expect("the connection is not given back yet");
        if let Some(statement) = session.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let statement = session.client.prepare(sql).await?;
        if session.prepared.len() >= MAX_PREPARED {
            session.prepared.clear();
        }
        session.prepared.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0.as_ref().expect("the connection is not given back yet").client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.0.as_mut().expect("the connection is not given back yet").client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The pool forgets the connection, and its task ends with it.
        drop(self.0.take().map(Object::take));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.packets.abort();
    }
}

impl managed::Manager for Connector {
    type Type = Session;
    type Error = String;

    async fn create(&self) -> Result<Session, String> {
        let mut failures = Vec::new();
        // Each host has its own time, so a silent one does not hide the next.
        for (host, port) in self.server.hosts() {
            let silent = |_| Err(format!("no login within {LOGIN_TIMEOUT:?}"));
            let login = timeout(LOGIN_TIMEOUT, self.login(host, port)).await;
            match login.unwrap_or_else(silent) {
                Ok(session) => return Ok(session),
                Err(why) => {
                    let why = advised(why, self.server.sslmode);
                    failures.push(format!("{host}:{port}: {why}"));
                }
            }
        }
        Err(failures.join("; "))
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<String> {
        if session.client.is_closed() {
            return Err(managed::RecycleError::message("closed"));
        }
        Ok(())
    }
}

impl Connector {
    async fn login(&self, host: &str, port: u16) -> Result<Session, String> {
        let server = self.server.clone();
        // A slow file system blocks no worker.
        let read = tokio::task::spawn_blocking(move || {
            let tls = match server.sslmode {
                SslMode::Disable => None,
                SslMode::VerifyFull => Some(service::tls::client(&server.tls)?),
            };
            Ok::<_, String>((server.read_password()?, tls))
        });
        let (password, tls) = read.await.map_err(|error| format!("read files: {error}"))??;
        let mut config = self.config(host, port);
        if let Some(password) = password {
            config.password(password);
        }
        let session = match tls {
            Some(tls) => {
                let connector = MakeRustlsConnect::new(Arc::unwrap_or_clone(tls));
                let (client, connection) =
                    config.connect(connector).await.map_err(|error| describe(&error))?;
                Session::new(client, connection)
            }
            None => {
                let (client, connection) =
                    config.connect(NoTls).await.map_err(|error| describe(&error))?;
                Session::new(client, connection)
            }
        };
        // A commit that is not on a disk must not look like one that is.
        let durable = "SELECT set_config('synchronous_commit', 'on', false) \
                       WHERE current_setting('synchronous_commit') = 'off'";
        session.client.batch_execute(durable).await.map_err(|error| describe(&error))?;
        Ok(session)
    }

    fn config(&self, host: &str, port: u16) -> tokio_postgres::Config {
        let Server { user, database, .. } = &self.server;
        let Sessions { application, statement_timeout, write, .. } = self.sessions;
        let timeout = statement_timeout.as_millis();
        // A server that is read-only by its own settings stays so.
        let read_only = if write { "" } else { " -c default_transaction_read_only=on" };
        let options = format!("-c statement_timeout={timeout} -c TimeZone=UTC{read_only}");
        let mut config = tokio_postgres::Config::new();
        config
            .user(user)
            .dbname(database)
            .application_name(application)
            .connect_timeout(LOGIN_TIMEOUT)
            .keepalives_idle(KEEP_ALIVE)
            .tcp_user_timeout(statement_timeout)
            // Of several hosts, the one that takes writes is used.
            .target_session_attrs(if write {
                TargetSessionAttrs::ReadWrite
            } else {
                TargetSessionAttrs::Any
            })
            .ssl_mode(match self.server.sslmode {
                SslMode::Disable => ClientSslMode::Disable,
                SslMode::VerifyFull => ClientSslMode::Require,
            })
            .options(options);
        config.host(host).port(port);
        config
    }
}

impl Session {
    fn new<S, T>(client: Client, connection: tokio_postgres::Connection<S, T>) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let packets = tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(error = describe(&error), "a connection to PostgreSQL ended");
            }
        });
        Self { client, packets, prepared: HashMap::new() }
    }
}
