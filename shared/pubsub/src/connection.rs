//! How the clients reach Pub/Sub.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::retry_policy::{NeverRetry, RetryPolicyExt as _};
use google_cloud_pubsub::client::{
    BasePublisher, SchemaService, Subscriber, SubscriptionAdmin, TopicAdmin,
};
use google_cloud_pubsub::retry_policy::RetryableErrors;
use pipeline::{Error, Recovery};

use crate::settings::Endpoint;

/// A topic's full name, `projects/<project>/topics/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// The topic of this id in a project; an id that is a full name already stays as it is.
    #[must_use]
    pub fn new(project: &str, id: &str) -> Self {
        Self(full_name(project, "topics", id).into())
    }

    /// The full name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn full_name(project: &str, kind: &str, id: &str) -> String {
    if id.starts_with("projects/") {
        id.to_owned()
    } else {
        format!("projects/{project}/{kind}/{id}")
    }
}

/// Longest duration of a publish request.
const MAX_REQUEST_TIME: Duration = Duration::from_secs(60);

/// Clients of one endpoint. Building one does not reach for the network.
#[derive(Debug, Clone)]
pub struct Connection {
    endpoint: Endpoint,
}

/// Builds a client at the configured endpoint, with credentials that fit it.
macro_rules! build {
    ($builder:expr, $endpoint:expr, $what:literal) => {{
        let builder = $builder;
        let builder = match &$endpoint.endpoint {
            // An emulator wants no credentials.
            Some(url) => {
                builder.with_endpoint(url).with_credentials(anonymous::Builder::new().build())
            }
            None => builder,
        };
        builder.build().await.map_err(|error| Recovery::Stop.because($what, error))
    }};
}

impl Connection {
    /// Clients of this endpoint.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    /// A client that publishes. It never tries again by itself: the pipeline does. The limit ends the
    /// requests of attempts that the pipeline has given up, which the client would hold for ever.
    pub(crate) async fn publisher(&self) -> Result<BasePublisher, Error> {
        let builder = BasePublisher::builder()
            .with_retry_policy(NeverRetry.with_time_limit(MAX_REQUEST_TIME))
            .with_grpc_subchannel_count(self.endpoint.channels);
        build!(builder, self.endpoint, "build Pub/Sub publisher")
    }

    /// A client for one of several streams, which share the number of connections.
    pub(crate) async fn subscriber(&self, streams: usize) -> Result<Subscriber, Error> {
        let channels = self.endpoint.channels.div_ceil(streams);
        let builder = Subscriber::builder().with_grpc_subchannel_count(channels);
        build!(builder, self.endpoint, "build Pub/Sub subscriber")
    }

    pub(crate) async fn topics(&self) -> Result<TopicAdmin, Error> {
        let builder =
            TopicAdmin::builder().with_retry_policy(RetryableErrors.with_attempt_limit(2));
        build!(builder, self.endpoint, "build Pub/Sub topic client")
    }

    /// A client that asks for rights; the one for schemas does, on everything in Pub/Sub.
    pub(crate) async fn rights(&self) -> Result<SchemaService, Error> {
        let retry = RetryableErrors.with_attempt_limit(2);
        let builder = SchemaService::builder().with_retry_policy(retry);
        build!(builder, self.endpoint, "build Pub/Sub client for rights")
    }

    pub(crate) async fn subscriptions(&self) -> Result<SubscriptionAdmin, Error> {
        let retry = RetryableErrors.with_attempt_limit(2);
        let builder = SubscriptionAdmin::builder().with_retry_policy(retry);
        build!(builder, self.endpoint, "build Pub/Sub subscription client")
    }
}
