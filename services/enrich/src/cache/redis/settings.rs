//! Settings of Redis: its nodes, and the login to them.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::Faults;
use service::settings::{Parsed, Password, Tls, Variable, VariableKind, url};

use super::super::LayerError;
use super::certificates;
use super::url::RedisUrl;

/// Access to Redis.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct RedisSettings {
    /// URL such as `redis://localhost:6379/0`, or `rediss://` for TLS; no Redis if unset. In mode
    /// `cluster` it is a node or the discovery endpoint, in mode `sentinel` a sentinel. A URL with
    /// a user or a password is refused.
    pub url: Option<Parsed<RedisUrl>>,
    /// Further nodes of the cluster, or further sentinels. They are asked in turn when the first
    /// one does not answer.
    pub other_urls: Vec<Parsed<RedisUrl>>,
    /// Number of the database, in place of the one in `url`. A cluster has number 0 alone.
    pub database: Option<u32>,
    /// Kind of server at `url`: `node`, `cluster` or `sentinel`.
    pub mode: Mode,
    /// Sentinels, in mode `sentinel`.
    pub sentinel: Sentinel,
    /// TLS certificates, for `rediss`.
    pub tls: Tls,
    /// User name; Redis's own `default` if unset. It needs a password.
    pub username: Option<String>,
    /// File that holds the password. It is read again for each connection.
    pub password_file: Option<PathBuf>,
    /// Password, if there is no file. Set it by the variable `REDIS_PASSWORD` and not in a file that
    /// others can read.
    pub password: Password,
    /// Prefix of all keys and channels. The project, the database and the collection of the
    /// documents follow it.
    pub key_prefix: String,
    /// Maximum duration of a call; 10ms to 10s. After that, the next layer is asked.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
}

/// Kind of server that a URL leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One node that accepts reads and writes, such as the primary endpoint of Memorystore for
    /// Redis.
    #[default]
    Node,
    /// A cluster, such as Memorystore for Redis Cluster. Keys are spread over its nodes.
    Cluster,
    /// Sentinels, which name the current master.
    Sentinel,
}

/// Sentinels, and the login to them. The scheme of `url` decides whether TLS is used, for them and
/// for the master.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Sentinel {
    /// Name of the master that the sentinels watch, such as `mymaster`. Required in mode
    /// `sentinel`.
    pub service: String,
    /// User name at the sentinels. It needs `password_file`.
    pub username: Option<String>,
    /// File that holds the sentinels' password; no password if unset. It is read again for each
    /// connection.
    pub password_file: Option<PathBuf>,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            url: None,
            other_urls: Vec::new(),
            database: None,
            mode: Mode::Node,
            sentinel: Sentinel::default(),
            tls: Tls::default(),
            username: None,
            password_file: None,
            password: Password::default(),
            key_prefix: "dataflow:enrich:".into(),
            timeout: Duration::from_millis(500),
        }
    }
}

impl RedisSettings {
    /// Variables that set keys of the section `cache.redis`.
    pub const VARIABLES: [Variable; 3] = [
        Variable {
            name: "REDIS_ADDR",
            key: "cache.redis.url",
            kind: VariableKind::Address("redis"),
        },
        Variable { name: "REDIS_PASSWORD", key: "cache.redis.password", kind: VariableKind::Value },
        Variable { name: "REDIS_DB", key: "cache.redis.database", kind: VariableKind::Value },
    ];

    /// Returns all URLs, in the order in which they are asked.
    ///
    /// # Errors
    /// A URL is wrong, and nobody has checked these settings.
    pub(super) fn urls(&self) -> Result<Vec<&RedisUrl>, LayerError> {
        let first = self.url.iter().map(|url| url.value("cache.redis.url"));
        let others = self.other_urls.iter().map(|url| url.value("cache.redis.other_urls"));
        first.chain(others).collect::<Result<_, _>>().map_err(|wrong| LayerError::of(&wrong))
    }

    /// Returns whether the first URL asks for TLS; `None` if it is wrong.
    pub(super) fn is_tls(&self) -> Option<bool> {
        let Some(url) = &self.url else { return Some(false) };
        url.value("cache.redis.url").ok().map(RedisUrl::is_tls)
    }

    /// Reports all faults of these settings, whose section is `cache.redis`.
    pub(crate) fn check(&self, faults: &mut Faults) {
        self.check_urls(faults);
        self.check_mode(faults);
        self.check_logins(faults);
        let timeouts = Duration::from_millis(10)..=Duration::from_secs(10);
        faults.duration("cache.redis.timeout", self.timeout, timeouts);
    }

    fn check_urls(&self, faults: &mut Faults) {
        let others = self.other_urls.iter().enumerate();
        let others = others.map(|(index, url)| (format!("cache.redis.other_urls[{index}]"), url));
        let all = self.url.iter().map(|url| ("cache.redis.url".to_owned(), url)).chain(others);
        for (key, url) in all {
            let Some(url) = url.check(&key, faults) else { continue };
            if self.mode == Mode::Cluster && url.has_database() {
                faults.add(&key, "must not have a database: a cluster has number 0 alone");
            } else if self.is_tls().is_some_and(|is_tls| is_tls != url.is_tls()) {
                faults.add(&key, "must have the scheme of cache.redis.url");
            }
        }
        let has_users = self.mode != Mode::Node || self.other_urls.is_empty();
        let right = "means nothing in mode `node`: set cache.redis.mode";
        faults.require(has_users, "cache.redis.other_urls", right);
        let has_cluster = self.mode == Mode::Cluster;
        let is_right = !has_cluster || self.database.is_none_or(|database| database == 0);
        let right = "must be 0: a cluster has number 0 alone";
        faults.require(is_right, "cache.redis.database", right);
        let is_first = self.url.is_some() || self.other_urls.is_empty();
        faults.require(is_first, "cache.redis.url", "required with other_urls");
    }

    fn check_mode(&self, faults: &mut Faults) {
        let is_sentinel = self.mode == Mode::Sentinel;
        let is_named = !is_sentinel || !self.sentinel.service.is_empty();
        let right = "required in mode `sentinel`: the name of the master, such as mymaster";
        faults.require(is_named, "cache.redis.sentinel.service", right);
        let is_meant = is_sentinel || self.sentinel == Sentinel::default();
        let right = "means nothing without cache.redis.mode: sentinel";
        faults.require(is_meant, "cache.redis.sentinel", right);
        let is_meant = self.mode == Mode::Node || self.url.is_some();
        faults.require(is_meant, "cache.redis.url", "required with mode");
    }

    fn check_logins(&self, faults: &mut Faults) {
        let has_both = self.password_file.is_some() && self.password.text().is_some();
        let right = "must not be set together with cache.redis.password_file";
        faults.require(!has_both, "cache.redis.password", right);
        let has_password = self.password.text().is_some();
        let logins = [
            ("cache.redis", self.username.as_ref().filter(|_| !has_password), &self.password_file),
            ("cache.redis.sentinel", self.sentinel.username.as_ref(), &self.sentinel.password_file),
        ];
        for (section, username, password_file) in logins {
            let key = format!("{section}.password_file");
            if let Some(file) = password_file
                && let Err(error) = std::fs::read_to_string(file)
            {
                faults.add(&key, url::unreadable_secret(file, &error));
            }
            let has_password = username.is_none() || password_file.is_some();
            faults.require(has_password, &key, "required with username");
        }
        let is_used = self.tls == Tls::default() || self.is_tls() != Some(false);
        let right = "needs an url that begins with rediss://";
        faults.require(is_used, "cache.redis.tls", right);
        if let Err(wrong) = self.tls.check_pair().map_err(str::to_owned) {
            faults.add("cache.redis.tls", wrong);
        } else if let Err(wrong) = certificates::check(&self.tls) {
            faults.add("cache.redis.tls", wrong.0);
        }
    }
}
