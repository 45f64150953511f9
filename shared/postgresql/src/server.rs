//! Settings of the server and the login.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::Faults;
use service::settings::{Password, Tls, Variable, VariableKind, host, url};

/// Server of PostgreSQL, and the login.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Server {
    /// Host, or several with commas between, of which the one that accepts writes is used. A host may
    /// have a port of its own, as in `db-0:5433`. A path such as `/run/postgresql` is the folder of
    /// a Unix socket.
    pub host: String,
    /// Port of all hosts that name none.
    pub port: u16,
    /// User. Required.
    pub user: String,
    /// File with the password. It is read again for each connection.
    pub password_file: Option<PathBuf>,
    /// Password, if there is no file. Set it by the variable `POSTGRES_PASSWORD` and not in a file
    /// that others can read.
    pub password: Password,
    /// Database. Required, and it must exist.
    pub database: String,
    /// Encryption: `verify-full` checks the server's certificate and its name, `disable` sends
    /// everything in plain text.
    pub sslmode: SslMode,
    /// Certificates for `verify-full`.
    pub tls: Tls,
    /// Most connections. Left out, each service has a default that fits its work.
    pub max_connections: Option<usize>,
}

/// Encryption of the connections, with the names of PostgreSQL's own clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// No encryption.
    Disable,
    /// Encryption, with a server that proves its name.
    #[default]
    VerifyFull,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 5432,
            user: String::new(),
            password_file: None,
            password: Password::default(),
            database: String::new(),
            sslmode: SslMode::default(),
            tls: Tls::default(),
            max_connections: None,
        }
    }
}

impl Server {
    /// Variables that set keys of the section `postgres`.
    pub const VARIABLES: [Variable; 6] = [
        variable("POSTGRES_HOST", "postgres.host"),
        variable("POSTGRES_PORT", "postgres.port"),
        variable("POSTGRES_USER", "postgres.user"),
        variable("POSTGRES_PASSWORD", "postgres.password"),
        variable("POSTGRES_DB", "postgres.database"),
        variable("POSTGRES_SSLMODE", "postgres.sslmode"),
    ];

    /// Returns every host with its port.
    pub(crate) fn hosts(&self) -> Vec<(&str, u16)> {
        let hosts = self.host.split(',').map(str::trim);
        hosts.map(|host| split_port(host).unwrap_or((host, self.port))).collect()
    }

    /// Returns the password, if there is one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read_password(&self) -> Result<Option<String>, String> {
        let Some(file) = &self.password_file else {
            return Ok(self.password.text().map(str::to_owned));
        };
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|error| url::unreadable_secret(file, &error))?;
        // Editors and `echo` append a line end.
        Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
    }

    /// Reports all faults, under the key `postgres`.
    pub fn check(&self, faults: &mut Faults) {
        for (host, port) in self.hosts() {
            if !host.starts_with('/')
                && let Err(right) = host::check(host)
            {
                faults.add("postgres.host", right);
            }
            faults.require(port > 0, "postgres.port", "must be 1 to 65535");
        }
        faults.require(!self.user.is_empty(), "postgres.user", "required");
        faults.require(!self.database.is_empty(), "postgres.database", "required, and must exist");
        if let Err(right) = self.tls.check_pair() {
            faults.add("postgres.tls", right);
        }
        let has_both = self.password_file.is_some() && self.password.text().is_some();
        let right = "must not be set together with postgres.password_file";
        faults.require(!has_both, "postgres.password", right);
        if let Err(wrong) = self.read_password() {
            faults.add("postgres.password_file", wrong);
        }
        if self.sslmode == SslMode::VerifyFull
            && let Err(wrong) = service::tls::client(&self.tls)
        {
            faults.add("postgres.tls", wrong);
        }
        if let Some(connections) = self.max_connections {
            let right = format!("must be 2 to 10000, is {connections}");
            let is_right = (2..=10_000).contains(&connections);
            faults.require(is_right, "postgres.max_connections", right);
        }
    }

    /// Returns a warning if the settings work, but may surprise.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let is_near = |host: &str| {
            host.starts_with('/')
                || host == "localhost"
                || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        let is_plain =
            self.sslmode == SslMode::Disable && !self.hosts().iter().all(|(host, _)| is_near(host));
        let warning = "postgres.sslmode is disable: the password and all rows travel in plain text";
        is_plain.then(|| warning.to_owned()).into_iter().collect()
    }
}

const fn variable(name: &'static str, key: &'static str) -> Variable {
    Variable { name, key, kind: VariableKind::Value }
}

/// Splits a host with a port of its own. An IPv6 address needs brackets then, as in `[::1]:5433`.
fn split_port(text: &str) -> Option<(&str, u16)> {
    if text.starts_with('/') {
        return None;
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    if let Some(host) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return Some((host, port));
    }
    (!host.contains(':')).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_may_have_ports_of_their_own() {
        let host = "db-0, db-1:5433,[::1]:5434,::1,/run/postgresql".to_owned();

        let server = Server { host, ..Server::default() };

        let hosts = [
            ("db-0", 5432),
            ("db-1", 5433),
            ("::1", 5434),
            ("::1", 5432),
            ("/run/postgresql", 5432),
        ];
        assert_eq!(server.hosts(), hosts);
    }

    #[test]
    fn a_password_is_never_shown() {
        let server = Server { password: Password::new("hunter2"), ..Server::default() };

        let shown = format!("{server:?} {}", serde_json::to_string(&server).unwrap());

        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("***"), "{shown}");
    }

    #[test]
    fn plain_text_to_another_machine_is_warned_about() {
        let warnings = |host: &str, sslmode| {
            Server { host: host.into(), sslmode, ..Server::default() }.warnings().len()
        };
        for near in ["localhost", "127.0.0.1", "::1", "/run/postgresql"] {
            assert_eq!(warnings(near, SslMode::Disable), 0, "{near}");
        }
        assert_eq!(warnings("localhost,db", SslMode::Disable), 1);
        assert_eq!(warnings("localhost,db", SslMode::VerifyFull), 0);
    }
}
