//! Calls from pages of other origins, in browsers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use service::WrongSettings;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use crate::{Listener, Problem};

/// Time for which a browser remembers a preflight.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Token of the next page, in answers of the query API.
const NEXT: HeaderName = HeaderName::from_static("x-next");

/// Origins that may call a listener.
#[derive(Debug, Clone)]
pub(crate) struct Origins(Arc<[HeaderValue]>);

impl Origins {
    /// Returns the origins of the settings.
    ///
    /// # Errors
    /// An origin is wrong.
    pub(crate) fn of(listener: &Listener, key: &str) -> Result<Self, WrongSettings> {
        let origins = listener.cors.iter().enumerate();
        let origins = origins.map(|(index, origin)| {
            let origin = origin.value(format_args!("{key}.cors[{index}]"))?;
            Ok(origin.header().clone())
        });
        Ok(Self(origins.collect::<Result<_, WrongSettings>>()?))
    }

    /// Adds the answers for browsers to these routes. Without origins, nothing is added.
    pub(crate) fn layer(self, routes: Router) -> Router {
        if self.0.is_empty() {
            return routes;
        }
        let cors = CorsLayer::new()
            .allow_origin(AllowOrigin::list(self.0.iter().cloned()))
            .allow_methods(AllowMethods::mirror_request())
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([header::RETRY_AFTER, NEXT])
            .max_age(MAX_AGE);
        routes.layer(cors).layer(from_fn_with_state(self, refuse_preflight))
    }

    fn has(&self, request: &Request) -> bool {
        let origin = request.headers().get(header::ORIGIN);
        origin.is_some_and(|origin| self.0.contains(origin))
    }
}

/// Refuses preflights of origins that are not listed. The layer behind it would answer any.
async fn refuse_preflight(
    State(origins): State<Origins>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() != Method::OPTIONS || origins.has(&request) {
        return next.run(request).await;
    }
    let problem = Problem::new(StatusCode::FORBIDDEN, "pages of this origin may not call here");
    ([(header::VARY, "origin")], problem).into_response()
}
