//! URLs of Redis servers and of sentinels.

use std::fmt;
use std::str::FromStr;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisResult};
use service::settings::url;

/// URL of a server or of a sentinel. It holds no login.
#[derive(Debug, Clone)]
pub struct RedisUrl {
    /// URL without the database.
    address: String,
    server: ConnectionInfo,
}

impl FromStr for RedisUrl {
    type Err = String;

    /// Parses a URL. The error never repeats it, because it may hold a secret.
    fn from_str(text: &str) -> Result<Self, String> {
        const LIKE: &str = "must be a URL such as redis://localhost:6379 or rediss://...";
        const INSTEAD: &str = "use cache.redis.username and cache.redis.password_file";
        let parts = url::split(text, &["redis", "rediss"], LIKE);
        let url::Parts { path, .. } = parts.map_err(|wrong| wrong.because(INSTEAD))?;
        let server = text.into_connection_info();
        let server = server.map_err(|error| format!("must be a URL of Redis: {error}"))?;
        let address = text[..text.len() - path.len()].trim_end_matches('/').to_owned();
        Ok(Self { address, server })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl RedisUrl {
    /// Returns whether the URL asks for TLS.
    pub(super) fn is_tls(&self) -> bool {
        is_tls(&self.server)
    }

    /// Returns whether the URL names a database other than the first one.
    pub(super) fn has_database(&self) -> bool {
        self.database() != 0
    }

    /// Returns the connection data of the server.
    pub(super) fn server(&self) -> &ConnectionInfo {
        &self.server
    }

    /// Returns the connection data of the sentinel. Sentinels have no databases. The database in
    /// the URL belongs to the master.
    pub(super) fn sentinel(&self) -> ConnectionInfo {
        let first = self.server.redis_settings().clone().set_db(0);
        self.server.clone().set_redis_settings(first)
    }

    /// Returns the connection data of the master that the sentinel names.
    ///
    /// # Errors
    /// Fails for a host that is none.
    pub(super) fn master(&self, host: &str, port: u16) -> RedisResult<ConnectionInfo> {
        let scheme = if self.is_tls() { "rediss" } else { "redis" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("{scheme}://{host}:{port}/{}", self.database()).into_connection_info()
    }

    fn database(&self) -> i64 {
        self.server.redis_settings().db()
    }
}

/// Returns whether a connection uses TLS.
pub(super) fn is_tls(server: &ConnectionInfo) -> bool {
    matches!(server.addr(), ConnectionAddr::TcpTls { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> RedisUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_sentinel_has_no_database() {
        let (plain, with_tls) = (url("redis://h:26379/2"), url("rediss://h"));

        assert_eq!((plain.to_string(), plain.database()), ("redis://h:26379".into(), 2));
        assert_eq!(plain.sentinel().redis_settings().db(), 0);
        assert_eq!((with_tls.to_string(), with_tls.database()), ("rediss://h".into(), 0));
    }

    #[test]
    fn a_master_has_the_scheme_and_the_database_of_its_sentinel() {
        let plain = url("redis://h:26379/2").master("10.0.0.1", 6379).unwrap();
        let with_tls = url("rediss://h/").master("::1", 6380).unwrap();

        assert_eq!(
            (plain.addr().to_string(), plain.redis_settings().db()),
            ("10.0.0.1:6379".into(), 2)
        );
        assert!(!is_tls(&plain) && is_tls(&with_tls));
        assert_eq!(
            (with_tls.addr().to_string(), with_tls.redis_settings().db()),
            ("::1:6380".into(), 0)
        );
    }

    #[test]
    fn a_wrong_url_is_never_repeated() {
        for wrong in ["redis://u:hunter2@h", "hunter2:6379", "redis://h/hunter2", "http://hunter2"]
        {
            let said = wrong.parse::<RedisUrl>().unwrap_err();
            assert!(said.starts_with("must ") && !said.contains("hunter2"), "{said}");
        }
    }
}
