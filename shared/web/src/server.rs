//! Port of a listener, from its binding to its drain.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use service::{WrongSettings, listen};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use crate::body::{self, BodyLimit};
use crate::cors::Origins;
use crate::settings::NOT_LOOPBACK;
use crate::{Authenticate, Limits, Listener, Metrics, Reach, auth, connection, errors, metrics};

/// Pause after a connection could not be accepted, for example because too many files are open.
const PAUSE: Duration = Duration::from_millis(100);

/// Port that is bound and not answered yet. Callers wait in the queue of the system.
#[derive(Debug)]
pub struct Bound<A> {
    listener: TcpListener,
    address: SocketAddr,
    section: &'static str,
    max_body_bytes: usize,
    origins: Origins,
    auth: A,
    limits: Limits,
    open: Router,
}

impl<A: Authenticate> Bound<A> {
    /// Binds the port of a listener. `section` is the key of its settings, such as `admin`.
    ///
    /// # Errors
    /// Fails when it cannot listen there. Also fails when `auth` does not allow the address, or when
    /// nobody has checked the settings and an origin is wrong.
    pub async fn bind(settings: &Listener, section: &'static str, auth: A) -> anyhow::Result<Self> {
        let origins = Origins::of(settings, section)?;
        let (host, port) = (format!("{section}.host"), format!("{section}.port"));
        let (listener, address) =
            listen::bind(&settings.host, settings.port, [&host, &port]).await?;
        let is_loopback = address.ip().to_canonical().is_loopback();
        if auth.reach() == Reach::Loopback && !is_loopback {
            return Err(WrongSettings(format!("{host}: {NOT_LOOPBACK}")).into());
        }
        let max_body_bytes = settings.max_body_bytes;
        let limits = Limits::default();
        let open = Router::new();
        Ok(Self { listener, address, section, max_body_bytes, origins, auth, limits, open })
    }

    /// Sets other bounds than the default ones.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Adds routes that need no credentials, such as the files of a page.
    #[must_use]
    pub fn with_open(self, open: Router) -> Self {
        Self { open, ..self }
    }

    /// Returns the address of the port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests with these routes. Their answers are counted in `metrics`.
    pub fn serve(self, routes: Router, metrics: &Metrics) -> Server {
        let body = BodyLimit { max_bytes: self.max_body_bytes, timeout: self.limits.body_timeout };
        // The last layer is the first that a request passes.
        let routes = routes
            .fallback(errors::unknown_path)
            .method_not_allowed_fallback(errors::wrong_method)
            .layer(DefaultBodyLimit::disable())
            .layer(from_fn_with_state(body, body::limit))
            .layer(from_fn_with_state(self.auth, auth::identify::<A>))
            .merge(self.open)
            .layer(from_fn(errors::as_problems));
        let routes = self.origins.layer(routes);
        let counts = metrics.of(self.section);
        let routes = routes.layer(from_fn_with_state(counts, metrics::count));
        let (stop, stopped) = watch::channel(false);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(self.listener, routes, self.limits, stopped));
        Server { section: self.section, stop, accepting }
    }
}

/// Listener that answers requests. Dropping it cuts all connections.
#[must_use = "a server that is dropped cuts its connections"]
#[derive(Debug)]
pub struct Server {
    section: &'static str,
    stop: watch::Sender<bool>,
    accepting: JoinSet<()>,
}

impl Server {
    /// Takes no more connections and requests. Waits within `grace` until those under way are
    /// answered, then cuts the rest.
    pub async fn shutdown(mut self, grace: Duration) {
        self.stop.send_replace(true);
        match timeout(grace, self.accepting.join_next()).await {
            Ok(None | Some(Ok(()))) => {}
            Ok(Some(Err(panic))) => {
                error!(listener = self.section, error = %panic, "the listener failed");
            }
            Err(_elapsed) => {
                warn!(
                    listener = self.section,
                    ?grace,
                    "requests were not answered within the grace period, their connections are cut"
                );
                self.accepting.shutdown().await;
            }
        }
    }
}

/// Accepts connections until `stop` is set, then waits for those that are open.
async fn accept(
    listener: TcpListener,
    routes: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let has_room = connections.len() < limits.max_connections;
        tokio::select! {
            () = connection::stopped(&mut stop) => break,
            Some(ended) = connections.join_next() => report(ended),
            stream = next(&listener), if has_room => {
                let routes = routes.clone();
                connections.spawn(connection::serve(stream, routes, limits, stop.clone()));
            }
        }
    }
    // New connections are refused from here on.
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

/// Returns the next connection. Cancel safe.
async fn next(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it, small answers may be delayed. An error changes nothing else.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) if is_of_client(&error) => {}
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Returns whether only the client is concerned: it was gone before it was accepted.
fn is_of_client(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Reports a connection that a panic has ended. A panic in a handler is answered before.
fn report(ended: Result<(), JoinError>) {
    if let Err(panic) = ended {
        error!(error = %panic, "a connection was cut by a panic");
    }
}
