//! One connection, from its first byte to its end.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use service::impatient::Impatient;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tower::Service as _;
use tracing::debug;

/// Bounds of a listener that are not in the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of connections at once. Further ones wait in the queue of the system.
    pub max_connections: usize,
    /// Maximum size of a request's line with its headers in bytes; at least 8 KiB. A larger one is
    /// refused with 431 and an empty body.
    pub max_header_bytes: usize,
    /// Maximum time for a request's headers. It includes the time that a connection is idle.
    pub header_timeout: Duration,
    /// Maximum time for a request's body.
    pub body_timeout: Duration,
    /// Maximum time in which a client takes no byte of an answer.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1000,
            max_header_bytes: 8 * 1024,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// Address of the other side, in the extensions of its requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub IpAddr);

/// Answers the requests of a connection until it ends. After `stop` is set, it ends when the request
/// under way is answered, or at once if there is none.
pub(crate) async fn serve(
    stream: TcpStream,
    routes: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let has_request = Arc::new(AtomicBool::new(false));
    // It is unknown if the other side is gone already.
    let peer = stream.peer_addr().ok().map(|address| Peer(address.ip()));
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        has_request.store(true, Ordering::Relaxed);
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let mut routes = routes.clone();
        async move { Ok::<Response, Infallible>(answered(routes.call(request).await)) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.max_header_bytes);
    let stream = TokioIo::new(Impatient::new(stream, limits.write_timeout));
    let mut connection = pin!(builder.serve_connection(stream, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            if !has_request.load(Ordering::Relaxed) {
                // Before its first request, hyper takes a connection for a busy one.
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended early");
    }
}

/// Waits until `stop` is set. A sender that is gone counts as set.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone.
    let _ = stop.wait_for(|is_stopped| *is_stopped).await;
}

fn answered(answer: Result<Response, Infallible>) -> Response {
    match answer {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
