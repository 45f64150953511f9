//! Admin port. `DELETE /cache/<key>` removes a key from all layers and, through Redis, from all
//! replicas.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::delete;
use service::listen;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::cache::{Fetch, Lookup};
use crate::config::Admin;

/// Binds the port.
///
/// # Errors
/// Fails when it cannot listen there.
pub async fn bind(settings: &Admin) -> anyhow::Result<(TcpListener, SocketAddr)> {
    listen::bind(&settings.host, settings.port, ["admin.host", "admin.port"]).await
}

/// Serves requests until it is dropped.
pub async fn serve<F: Fetch>(listener: TcpListener, lookup: Lookup<F>) {
    let router = Router::new().route("/cache/{key}", delete(invalidate::<F>)).with_state(lookup);
    if let Err(error) = axum::serve(listener, router).await {
        warn!(%error, "the admin port has failed");
    }
}

async fn invalidate<F: Fetch>(
    State(lookup): State<Lookup<F>>,
    Path(key): Path<String>,
) -> Response {
    match lookup.invalidate(&key).await {
        Ok(()) => {
            info!("a key was invalidated");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => {
            let text = format!(
                "this replica has forgotten it; Redis and the other replicas may not have: {error}\n"
            );
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}
