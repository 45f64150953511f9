//! Connections of the clients to Pub/Sub.

use std::sync::Arc;
use std::time::Duration;

use google_cloud_gax::retry_policy::RetryPolicyExt as _;
use google_cloud_pubsub::client::{SchemaService, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::retry_policy::RetryableErrors;
use hyper_util::client::proxy::matcher::Matcher;
use pipeline::{Error, Recovery};
use service::credentials;
use service::google::Access;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint as Server};

use crate::clients::{Channels, Clients};
use crate::proxy::Proxy;
use crate::settings::Endpoint;

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which the peer of a connection is pinged. Google's clients in other
/// languages use the same interval.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Longest wait for the answer to a ping. After it the connection is replaced.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest list of headers that is read. Pub/Sub names the failures of exactly-once requests there,
/// one by one. Google's clients have the same limit.
const MAX_HEADER_BYTES: u32 = 4 * 1024 * 1024;

/// Returns the metadata of a request: our credentials, and the header that names the resource.
/// Google routes the request by it.
///
/// # Errors
/// `Unavailable` or `Unauthenticated` without credentials, `InvalidArgument` for a name with control
/// characters.
pub(crate) async fn metadata(
    access: &Access,
    kind: &str,
    name: &str,
) -> Result<MetadataMap, Status> {
    let headers = access.headers().await.map_err(|error| {
        let why = credentials::explain(&error);
        if error.is_transient() { Status::unavailable(why) } else { Status::unauthenticated(why) }
    })?;
    let route = format!("{kind}={name}").parse();
    let route =
        route.map_err(|error| Status::invalid_argument(format!("name of a {kind}: {error}")))?;
    let mut metadata = MetadataMap::from_headers(headers);
    metadata.insert("x-goog-request-params", route);
    Ok(metadata)
}

/// Clients of one endpoint. Building a client sends nothing over the network.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Endpoint of the clients.
    pub(crate) endpoint: Endpoint,
    /// Proxies that the environment names.
    pub(crate) proxies: Arc<Matcher>,
    /// Certificates that are trusted.
    pub(crate) tls: ClientTlsConfig,
    /// Clients and credentials that are handed in.
    pub(crate) clients: Clients,
}

/// Way to Pub/Sub, with the credentials for it.
pub(crate) struct Route {
    server: Server,
    proxy: Option<Proxy>,
    channels: Option<Channels>,
    pub(crate) access: Access,
}

/// Builds a client for the configured endpoint, with matching credentials.
macro_rules! build {
    ($builder:expr, $connection:expr, $what:literal) => {{
        let access = $connection.access().await?;
        let builder =
            $builder.with_credentials(access.credentials()).with_universe_domain(access.domain());
        let builder = match access.endpoint() {
            Some(url) => builder.with_endpoint(url),
            None => builder,
        };
        builder
            .build()
            .await
            .map_err(|error| Recovery::Stop.because($what, credentials::explain(&error)))
    }};
}

impl Connection {
    /// Creates clients of this endpoint. They use the proxies that the environment names now.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        let tls = ClientTlsConfig::new().with_enabled_roots();
        Self { endpoint, proxies: Arc::new(Matcher::from_env()), tls, clients: Clients::default() }
    }

    /// Uses clients and credentials that are handed in.
    #[must_use]
    pub fn with_clients(self, clients: Clients) -> Self {
        Self { clients, ..self }
    }

    /// Finds the address and the credentials.
    pub(crate) async fn access(&self) -> Result<Access, Error> {
        self.endpoint.access(&self.clients.identity).await
    }

    /// Returns the way to Pub/Sub. While a call is open, connections find out by themselves when
    /// their peer is gone.
    pub(crate) async fn route(&self, action: &'static str) -> Result<Route, Error> {
        let access = self.access().await?;
        let url = access.url("pubsub");
        let stop = |error| Recovery::Stop.because(action, error);
        let is_encrypted = url.starts_with("https://");
        let mut server = Server::from_shared(url).map_err(stop)?;
        server =
            server.user_agent(concat!("dataflow/", env!("CARGO_PKG_VERSION"))).map_err(stop)?;
        server = server
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        if is_encrypted {
            server = server.tls_config(self.tls.clone()).map_err(stop)?;
        }
        let proxy = Proxy::find(&self.proxies, server.uri());
        Ok(Route { server, proxy, channels: self.clients.channels.clone(), access })
    }

    pub(crate) async fn topics(&self) -> Result<TopicAdmin, Error> {
        if let Some(given) = &self.clients.topics {
            return Ok(given.clone());
        }
        let builder =
            TopicAdmin::builder().with_retry_policy(RetryableErrors.with_attempt_limit(2));
        build!(builder, self, "build Pub/Sub topic client")
    }

    /// Builds a client that asks for permissions. Only the client for schemas can do so, but it can
    /// ask about everything in Pub/Sub.
    pub(crate) async fn rights(&self) -> Result<SchemaService, Error> {
        if let Some(given) = &self.clients.rights {
            return Ok(given.clone());
        }
        let retry = RetryableErrors.with_attempt_limit(2);
        let builder = SchemaService::builder().with_retry_policy(retry);
        build!(builder, self, "build Pub/Sub client for rights")
    }

    pub(crate) async fn subscriptions(&self) -> Result<SubscriptionAdmin, Error> {
        if let Some(given) = &self.clients.subscriptions {
            return Ok(given.clone());
        }
        let retry = RetryableErrors.with_attempt_limit(2);
        let builder = SubscriptionAdmin::builder().with_retry_policy(retry);
        build!(builder, self, "build Pub/Sub subscription client")
    }
}

impl Route {
    /// Returns a connection that is opened by its first call.
    pub(crate) fn connect(&self) -> Channel {
        match (&self.channels, &self.proxy) {
            (Some(given), _) => given.open(),
            (None, Some(proxy)) => self.server.connect_with_connector_lazy(proxy.clone()),
            (None, None) => self.server.connect_lazy(),
        }
    }
}

#[cfg(test)]
mod tests {
    use google_cloud_auth::credentials::{
        CacheableResource, Credentials, CredentialsProvider, api_key_credentials,
    };
    use google_cloud_auth::errors::CredentialsError;
    use tonic::Code;
    use tonic::codegen::http::{Extensions, HeaderMap};

    use super::*;

    #[tokio::test]
    async fn a_request_says_who_we_are_and_where_it_goes() {
        let credentials = api_key_credentials::Builder::new("secret").build();
        let access = Access::new(None, Some(credentials)).await;

        let headers = metadata(&access, "topic", "projects/p/topics/t").await.unwrap();
        let headers = headers.into_headers();

        assert_eq!(headers["x-goog-api-key"], "secret");
        assert_eq!(headers["x-goog-request-params"], "topic=projects/p/topics/t");
    }

    #[tokio::test]
    async fn a_name_that_fits_no_header_is_invalid() {
        let access = Access::new(Some(&"http://127.0.0.1:1".parse().unwrap()), None).await;

        let status = metadata(&access, "topic", "projects/p/topics/a\nb").await.unwrap_err();

        assert_eq!(status.code(), Code::InvalidArgument);
    }

    /// Credentials that cannot be had.
    #[derive(Debug)]
    struct Missing {
        is_transient: bool,
    }

    impl CredentialsProvider for Missing {
        async fn headers(
            &self,
            _: Extensions,
        ) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
            Err(CredentialsError::from_msg(self.is_transient, "no key"))
        }

        async fn universe_domain(&self) -> Option<String> {
            None
        }
    }

    #[tokio::test]
    async fn credentials_that_are_missing_for_now_make_a_request_unavailable() {
        for (is_transient, code) in [(true, Code::Unavailable), (false, Code::Unauthenticated)] {
            let credentials = Credentials::from(Missing { is_transient });
            let access = Access::new(None, Some(credentials)).await;

            let status = metadata(&access, "topic", "projects/p/topics/t").await.unwrap_err();

            assert_eq!(status.code(), code);
            assert!(status.message().contains("no key"), "{}", status.message());
        }
    }
}
