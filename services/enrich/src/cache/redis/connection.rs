//! Connections to Redis. A connection that no longer works is replaced.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, Pipeline, RedisError,
    RedisFuture, ServerError, ServerErrorKind, Value,
};
use tokio::time::timeout;

use super::super::LayerError;
use super::access::Access;
use super::settings::{Mode, RedisSettings};
use crate::clients::RedisClient;

/// Connection to one node, or to all nodes of a cluster. Clones share it.
#[derive(Clone)]
pub enum Connection {
    /// Connection to one node.
    Node(MultiplexedConnection),
    /// Connection to all nodes of a cluster.
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Node(node) => node.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Node(node) => node.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Node(node) => node.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}

/// Connects to the Redis of the client that was handed in, or else of the settings.
///
/// # Errors
/// Fails when Redis does not answer, refuses the login, or is of a different kind than the settings
/// say.
pub(super) async fn connect(
    settings: &RedisSettings,
    given: Option<&RedisClient>,
) -> Result<Connection, LayerError> {
    let connecting = async {
        match (given, settings.mode) {
            (Some(RedisClient::Node(client)), _) => {
                Ok(Connection::Node(node(settings, client).await?))
            }
            (Some(RedisClient::Cluster(client, _)), _) => {
                let connected = client.get_async_connection().await;
                Ok(Connection::Cluster(connected.map_err(|error| told(&error))?))
            }
            (None, Mode::Cluster) => Ok(Connection::Cluster(cluster(settings).await?)),
            (None, Mode::Node | Mode::Sentinel) => {
                let mut failure = none();
                for client in clients(settings).await? {
                    match node(settings, &client).await {
                        Ok(node) => return Ok(Connection::Node(node)),
                        Err(error) => failure = error,
                    }
                }
                Err(failure)
            }
        }
    };
    let connected = timeout(patience(settings), connecting).await;
    connected.map_err(|_| LayerError("Redis does not answer in time".into()))?
}

/// Subscribes to a channel on a separate connection. Each node of a cluster receives all messages.
///
/// # Errors
/// Fails when no node answers, or when the user may not subscribe.
pub(super) async fn subscribe(
    settings: &RedisSettings,
    given: Option<&RedisClient>,
    channel: &str,
) -> Result<PubSub, LayerError> {
    let subscribing = async {
        let mut failure = none();
        let clients = match given {
            Some(given) => vec![given.node().clone()],
            None => clients(settings).await?,
        };
        for client in clients {
            let subscribed = async {
                let mut subscription = client.get_async_pubsub().await?;
                subscription.subscribe(channel).await?;
                Ok(subscription)
            };
            match timeout(settings.timeout, subscribed).await {
                Ok(Ok(subscription)) => return Ok(subscription),
                Ok(Err(error)) => failure = told(&error),
                Err(_) => failure = LayerError("Redis does not answer in time".into()),
            }
        }
        Err(failure)
    };
    let subscribed = timeout(patience(settings), subscribing).await;
    subscribed.map_err(|_| LayerError("Redis does not answer in time".into()))?
}

/// Returns whether a connection can be used again after a call on it failed with this error.
pub(super) fn is_still_good(error: &RedisError) -> bool {
    // If several commands were sent together, these are the errors of all of them.
    match error.clone().into_server_errors() {
        Some(errors) => errors.iter().all(|(_, error)| is_harmless(error)),
        None => error.kind() == ErrorKind::UnexpectedReturnType,
    }
}

/// Returns whether a new connection would get the same error.
///
/// A node that was a master before a failover refuses writes permanently, so the connection to it
/// must be replaced.
fn is_harmless(error: &ServerError) -> bool {
    const OTHER: [&str; 8] = [
        "READONLY",
        "EXECABORT",
        "MOVED",
        "CROSSSLOT",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "NOAUTH",
        "WRONGPASS",
    ];
    // Before Redis 7, an error inside a script has the code ERR. Its own code is in the text.
    let is_of_replica = error.details().is_some_and(|text| text.contains("-READONLY"));
    !is_of_replica && !OTHER.contains(&error.code())
}

/// Returns an error of Redis. If the settings do not match the server, it also says what to do.
pub(super) fn told(error: &RedisError) -> LayerError {
    let text = LayerError::of(error);
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::CrossSlot) => {
            LayerError(format!("{IS_CLUSTER} ({text})"))
        }
        _ => text,
    }
}

const IS_CLUSTER: &str = "the server is a cluster: set cache.redis.mode: cluster";

/// Returns the maximum duration of connecting. It grows with the number of servers.
fn patience(settings: &RedisSettings) -> Duration {
    let servers = settings.url.iter().chain(&settings.other_urls).count();
    let servers = u32::try_from(servers).unwrap_or(u32::MAX);
    settings.timeout.saturating_mul(servers.saturating_add(2))
}

fn none() -> LayerError {
    LayerError("no URL of Redis is set".into())
}

/// Returns clients of the nodes that may be asked, the best one first.
async fn clients(settings: &RedisSettings) -> Result<Vec<Client>, LayerError> {
    let access = read(settings, Access::to_redis).await?;
    if settings.mode == Mode::Sentinel {
        let master = master(settings).await?;
        return Ok(vec![access.client(&master)?]);
    }
    settings.urls()?.into_iter().map(|url| access.client(url.server())).collect()
}

/// Reads the access on a separate thread, so a slow file system blocks no worker.
async fn read(
    settings: &RedisSettings,
    read: fn(&RedisSettings) -> Result<Access, LayerError>,
) -> Result<Access, LayerError> {
    let settings = settings.clone();
    let done = tokio::task::spawn_blocking(move || read(&settings)).await;
    done.unwrap_or_else(|error| Err(LayerError::of(&error)))
}

async fn open(
    settings: &RedisSettings,
    client: &Client,
) -> Result<MultiplexedConnection, LayerError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.timeout))
        .set_response_timeout(Some(settings.timeout));
    let opened = client.get_multiplexed_async_connection_with_config(&config).await;
    opened.map_err(|error| told(&error))
}

/// Connects to one node, unless it holds only some of the keys.
async fn node(
    settings: &RedisSettings,
    client: &Client,
) -> Result<MultiplexedConnection, LayerError> {
    let mut node = open(settings, client).await?;
    // A server that is no cluster refuses this question, and so does one that forbids it. The later
    // commands report the rest.
    if let Ok(info) = redis::cmd("CLUSTER").arg("INFO").query_async::<String>(&mut node).await
        && masters(&info) > 1
    {
        return Err(LayerError(IS_CLUSTER.into()));
    }
    Ok(node)
}

/// Returns the number of masters in the answer of `CLUSTER INFO`.
fn masters(info: &str) -> u32 {
    let size = info.lines().find_map(|line| line.trim().strip_prefix("cluster_size:"));
    size.and_then(|size| size.parse().ok()).unwrap_or(0)
}

async fn cluster(settings: &RedisSettings) -> Result<ClusterConnection, LayerError> {
    let access = read(settings, Access::to_redis).await?;
    let nodes = settings.urls()?.into_iter().map(|url| access.server(url.server()));
    let mut cluster = ClusterClientBuilder::new(nodes.collect::<Vec<_>>())
        // The client follows moved keys. For other failures, the breaker decides when to try again.
        .retries(2)
        .min_retry_wait(10)
        .max_retry_wait(50)
        .connection_timeout(settings.timeout)
        .response_timeout(settings.timeout)
        .overall_response_timeout(Some(settings.timeout));
    if settings.is_tls() == Some(true) {
        cluster = cluster.certs(access.certificates);
    }
    let client = cluster.build().map_err(|error| told(&error))?;
    client.get_async_connection().await.map_err(|error| told(&error))
}

/// Returns the connection data of the master, from the first sentinel that answers.
async fn master(settings: &RedisSettings) -> Result<ConnectionInfo, LayerError> {
    let access = read(settings, Access::to_sentinels).await?;
    let service = &settings.sentinel.service;
    let mut failure = none();
    for url in settings.urls()? {
        let asked = async {
            let mut sentinel = open(settings, &access.client(&url.sentinel())?).await?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
            let answer = question.query_async::<Option<(String, u16)>>(&mut sentinel).await;
            answer.map_err(|error| told(&error))
        };
        match asked.await {
            Ok(Some((host, port))) => {
                return url.master(&host, port).map_err(|error| LayerError::of(&error));
            }
            Ok(None) => failure = LayerError(format!("{url} watches no master `{service}`")),
            Err(error) => failure = LayerError(format!("sentinel {url}: {error}")),
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn masters_are_counted_in_what_a_cluster_says() {
        assert_eq!(masters("cluster_enabled:1\r\ncluster_size:3\r\n"), 3);
        assert_eq!(masters("# nothing of that"), 0);
    }

    /// Server that answers each pipeline with these lines.
    struct Scripted<'a>(&'a [&'a str]);

    impl ConnectionLike for Scripted<'_> {
        fn req_packed_command<'a>(&'a mut self, _: &'a Cmd) -> RedisFuture<'a, Value> {
            Box::pin(async { value(self.0[0]).extract_error() })
        }

        fn req_packed_commands<'a>(
            &'a mut self,
            _: &'a Pipeline,
            _: usize,
            _: usize,
        ) -> RedisFuture<'a, Vec<Value>> {
            Box::pin(async { Ok(self.0.iter().map(|line| value(line)).collect()) })
        }

        fn get_db(&self) -> i64 {
            0
        }
    }

    fn value(line: &str) -> Value {
        redis::parse_redis_value(format!("{line}\r\n").as_bytes()).unwrap()
    }

    /// Returns whether a connection is kept after these answers, to a command and to a pipeline.
    fn stays(lines: &[&str]) -> [bool; 2] {
        let ping = redis::cmd("PING");
        let mut server = Scripted(lines);
        let one = ping.query_async::<()>(&mut server).now_or_never().unwrap().unwrap_err();
        let mut pipe = redis::pipe();
        pipe.add_command(ping.clone()).add_command(ping);
        let all = pipe.query_async::<()>(&mut server).now_or_never().unwrap().unwrap_err();
        [one, all].map(|error| is_still_good(&error))
    }

    #[test]
    fn a_connection_to_a_former_master_is_not_used_again() {
        for code in [
            "READONLY",
            "EXECABORT",
            "MOVED",
            "CROSSSLOT",
            "CLUSTERDOWN",
            "MASTERDOWN",
            "NOAUTH",
            "WRONGPASS",
            "ERR Error running script: @user_script:1: -READONLY",
        ] {
            assert_eq!(stays(&[&format!("-{code} said the server"), "+OK"]), [false; 2], "{code}");
        }
        for code in ["ERR", "WRONGTYPE", "OOM", "LOADING", "NOPERM", "NOSCRIPT"] {
            assert_eq!(stays(&[&format!("-{code} said the server"), "+OK"]), [true; 2], "{code}");
        }
        assert_eq!(stays(&["-OOM said the server", "-READONLY and again"]), [true, false]);
    }
}
