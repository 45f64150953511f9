//! Clients and credentials that a program hands in.

use std::fmt;
use std::sync::Arc;

use google_cloud_pubsub::client::{SchemaService, SubscriptionAdmin, TopicAdmin};
use service::google::{Credentials, GoogleSettings, Identity};
use tonic::transport::Channel;

/// Clients and credentials that a program hands in. Those that are left out are built from the
/// settings.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    /// Credentials of all calls to Google, except those of clients that have their own. The default
    /// are those of the settings.
    pub identity: Identity,
    /// Connections for publishing and receiving.
    pub channels: Option<Channels>,
    /// Client that looks topics up, for readiness and `check --online`.
    pub topics: Option<TopicAdmin>,
    /// Client that looks subscriptions up, for readiness and `check --online`.
    pub subscriptions: Option<SubscriptionAdmin>,
    /// Client that asks for permissions, for `check --online`.
    pub rights: Option<SchemaService>,
    /// Clients of Cloud Storage. They write dead letters that are too big for Pub/Sub.
    pub storage: storage::Clients,
}

impl Clients {
    /// Returns these clients with the credentials of the settings, if none were handed in.
    #[must_use]
    pub fn or_settings(self, google: &GoogleSettings) -> Self {
        Self { identity: self.identity.or(google.identity()), ..self }
    }
}

impl From<Identity> for Clients {
    fn from(identity: Identity) -> Self {
        Self { identity, ..Self::default() }
    }
}

impl From<Credentials> for Clients {
    fn from(credentials: Credentials) -> Self {
        Identity::from(credentials).into()
    }
}

/// Function that opens connections to Pub/Sub. It is called for each connection: `pubsub.channels`
/// of them for publishing and one for each stream. It is called again when a connection is replaced
/// after a time-out. Calls carry the credentials of the service.
#[derive(Clone)]
pub struct Channels(Arc<dyn Fn() -> Channel + Send + Sync>);

impl Channels {
    /// Creates connections with this function.
    pub fn new(open: impl Fn() -> Channel + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }

    pub(crate) fn open(&self) -> Channel {
        (self.0)()
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channels")
    }
}
