//! Clients and credentials that a program hands in.

use std::fmt;

use firestore::FirestoreDb;
use redis::Client;
use redis::cluster::ClusterClient;
use service::google::Credentials;

/// Clients and credentials that a program hands in. Those that are left out are built from the
/// settings. No client that is handed in is rebuilt after a time-out.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    /// Clients of Pub/Sub and Cloud Storage. Their credentials are those of Firestore, too.
    pub intake: pubsub::Clients,
    /// Client of Firestore. It has its own project, database, endpoint and credentials.
    pub firestore: Option<FirestoreDb>,
    /// Client of Redis. It has its own address and login, and `cache.redis.url` is not needed.
    pub redis: Option<RedisClient>,
}

impl From<Credentials> for Clients {
    fn from(credentials: Credentials) -> Self {
        Self { intake: credentials.into(), ..Self::default() }
    }
}

/// Client of Redis. It opens connections with the time-out of the settings.
#[derive(Clone)]
pub enum RedisClient {
    /// Client of one node.
    Node(Client),
    /// Client of a cluster, which has its own time-outs, and client of one of its nodes. The second
    /// reads invalidations.
    Cluster(Box<ClusterClient>, Client),
}

impl RedisClient {
    /// Returns the client of a node that can be subscribed to.
    pub(crate) fn node(&self) -> &Client {
        match self {
            Self::Node(node) | Self::Cluster(_, node) => node,
        }
    }

    /// Returns the host and the port, without the login.
    pub(crate) fn address(&self) -> String {
        self.node().get_connection_info().addr().to_string()
    }
}

/// Shows no login.
impl fmt::Debug for RedisClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisClient").field(&self.address()).finish()
    }
}
