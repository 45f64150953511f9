//! One connection, from its first byte to its end.

mod http1;
mod http2;
mod protocol;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use service::impatient::Impatient;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tower::Service as _;
use tracing::debug;

use protocol::Protocol;

/// Bounds of a listener that are not in the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of connections at once. Further ones wait in the queue of the system.
    pub max_connections: usize,
    /// Maximum number of requests at once on a connection of HTTP/2.
    pub max_streams: u32,
    /// Maximum size of a request's line with its headers in bytes; at least 8 KiB. A larger one is
    /// refused with 431 and an empty body.
    pub max_header_bytes: usize,
    /// Maximum time for a request's headers. With HTTP/1 it includes the time that a connection is
    /// idle.
    pub header_timeout: Duration,
    /// Maximum time for a request's body, or for a message of gRPC.
    pub body_timeout: Duration,
    /// Maximum time in which a client takes no byte of an answer.
    pub write_timeout: Duration,
    /// Time without a request after which a connection of HTTP/2 is closed.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1000,
            max_streams: 128,
            max_header_bytes: 8 * 1024,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
        }
    }
}

/// Address of the other side, in the extensions of its requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub IpAddr);

/// Notice of the drain of the listener, in the extensions of each request. An answer that goes on
/// without end must end then.
#[derive(Debug, Clone)]
pub struct Draining(watch::Receiver<bool>);

impl Draining {
    /// Waits until the drain has begun. Cancel safe.
    pub async fn begun(&mut self) {
        stopped(&mut self.0).await;
    }
}

/// Handle that cuts a request, in the extensions of each request over HTTP/2. It is for a client that
/// takes nothing of an answer, which cannot end by itself then. Other requests of the connection go on.
#[derive(Debug, Clone, Default)]
pub struct Cut(Arc<Notify>);

impl Cut {
    /// Cuts the request.
    pub fn now(&self) {
        self.0.notify_one();
    }

    async fn asked(&self) {
        self.0.notified().await;
    }
}

/// Parts that all connections of a listener share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub routes: Router,
    pub limits: Limits,
    pub has_http2: bool,
}

/// Answers the requests of a connection until it ends. After `stop` is set, it ends when the requests
/// under way are answered, or at once if there is none.
pub(crate) async fn serve(stream: TcpStream, shared: Shared, mut stop: watch::Receiver<bool>) {
    let Shared { routes, limits, has_http2 } = shared;
    // It is unknown if the other side is gone already.
    let peer = stream.peer_addr().ok().map(|address| Peer(address.ip()));
    let draining = Draining(stop.clone());
    let service = Routes { routes, peer, draining };
    let mut stream = Impatient::new(stream, limits.write_timeout);
    let protocol = if has_http2 {
        tokio::select! {
            protocol = protocol::of(&mut stream, limits.header_timeout) => protocol,
            () = stopped(&mut stop) => return,
        }
    } else {
        Ok(Protocol::Http1)
    };
    let ended = match protocol {
        Ok(Protocol::Http1) => http1::serve(stream, service, limits, stop).await,
        Ok(Protocol::Http2) => http2::serve(stream, service, limits, stop).await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended early");
    }
}

/// Error that ended a connection.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Routes of a connection.
#[derive(Clone)]
struct Routes {
    routes: Router,
    peer: Option<Peer>,
    draining: Draining,
}

impl Routes {
    fn answer(
        &self,
        mut request: hyper::Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + Send + use<> {
        let extensions = request.extensions_mut();
        extensions.insert(self.draining.clone());
        if let Some(peer) = self.peer {
            extensions.insert(peer);
        }
        self.routes.clone().call(request)
    }
}

/// Waits until `stop` is set. A sender that is gone counts as set.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone.
    let _ = stop.wait_for(|is_stopped| *is_stopped).await;
}
