//! Admin port. `DELETE /cache/<key>` removes a key from all layers and, through Redis, from all
//! replicas.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::delete;
use tracing::info;
use web::{Bound, Open, Problem};

use crate::cache::{Fetch, Lookup};
use crate::config::Admin;

/// Binds the port. It may be at any address: the settings warn if it is not loopback.
///
/// # Errors
/// Fails when it cannot listen there.
pub async fn bind(settings: &Admin) -> anyhow::Result<Bound<Open>> {
    Bound::bind(&settings.listener(), Admin::SECTION, Open::anywhere()).await
}

/// Returns the routes of the port.
pub fn routes<F: Fetch>(lookup: Lookup<F>) -> Router {
    Router::new().route("/cache/{key}", delete(invalidate::<F>)).with_state(lookup)
}

async fn invalidate<F: Fetch>(
    State(lookup): State<Lookup<F>>,
    Path(key): Path<String>,
) -> Result<StatusCode, Problem> {
    let invalidated = lookup.invalidate(&key).await;
    invalidated.map_err(|error| {
        let detail = format!(
            "this replica has forgotten it; Redis and the other replicas may not have: {error}"
        );
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    info!("a key was invalidated");
    Ok(StatusCode::NO_CONTENT)
}
