//! Tunnels to Pub/Sub through an HTTP proxy.
//!
//! The channels of gRPC know no proxies. A [`Proxy`] is a connector for them: it asks the proxy for
//! a tunnel with CONNECT. The channel then speaks TLS with Google inside the tunnel.

#[cfg(test)]
mod tests;

use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::codegen::http::Uri;
use tonic::codegen::{Context, Poll, Service};

/// Longest time to open a tunnel. It ends before the time to connect, which includes the handshake
/// of TLS and whose error does not name the proxy.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(8);

/// Connector that reaches a server through a proxy.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// Host and port. The URL of a proxy may hold a password, so errors show nothing else of it.
    address: String,
    tunnel: Tunnel<HttpConnector>,
}

/// Failure to open a tunnel.
#[derive(Debug, thiserror::Error)]
#[error("the proxy {proxy} of HTTPS_PROXY or ALL_PROXY gives no tunnel to {server}: {why}")]
pub(crate) struct TunnelFailure {
    proxy: String,
    server: String,
    why: String,
}

impl Proxy {
    /// Returns the proxy for a server. There is none for servers without TLS, because those are
    /// emulators. Proxies that need TLS or SOCKS themselves are not used.
    pub(crate) fn find(proxies: &Matcher, server: &Uri) -> Option<Self> {
        let is_encrypted = server.scheme_str() == Some("https");
        let found = proxies.intercept(server).filter(|_| is_encrypted)?;
        let url = found.uri();
        if url.scheme_str() != Some("http") {
            return None;
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let tunnel = Tunnel::new(url.clone(), connector);
        let tunnel = match found.basic_auth() {
            Some(credentials) => tunnel.with_auth(credentials.clone()),
            None => tunnel,
        };
        Some(Self { address: address(url, 80), tunnel })
    }
}

impl Service<Uri> for Proxy {
    type Response = TokioIo<TcpStream>;
    type Error = TunnelFailure;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The connector below is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let (proxy, server_address) = (self.address.clone(), address(&server, 443));
        let opening = timeout(TUNNEL_TIMEOUT, self.tunnel.call(server));
        Box::pin(async move {
            let why = match opening.await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => format!("{:#}", anyhow::Error::new(error)),
                Err(_) => format!("no answer within {} s", TUNNEL_TIMEOUT.as_secs()),
            };
            Err(TunnelFailure { proxy, server: server_address, why })
        })
    }
}

/// Returns the host and the port of a URL.
fn address(url: &Uri, default_port: u16) -> String {
    let port = url.port_u16().unwrap_or(default_port);
    format!("{}:{port}", url.host().unwrap_or_default())
}
