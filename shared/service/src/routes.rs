//! Routes that a service adds to its health server.

use std::fmt;

use axum::Router;
use axum::routing::MethodRouter;

use crate::{Context, Dependency, Running, Service};

/// Routes that a service adds to its health server, beside `/healthz` and the other routes of every
/// service.
///
/// The methods are those of axum, such as `axum::routing::get`. A handler gets its data from a
/// closure or from `MethodRouter::with_state`.
#[derive(Debug, Clone, Default)]
pub struct Routes(Vec<Route>);

#[derive(Debug, Clone)]
struct Route {
    path: String,
    methods: MethodRouter,
    reach: Reach,
}

/// Callers that a route answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Everybody who reaches the port.
    Everybody,
    /// Those who may see messages.
    Viewers,
}

/// Reason why a route cannot be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the route `{path}` of the service {wrong}")]
pub(crate) struct WrongRoute {
    path: String,
    wrong: String,
}

/// Routes that clash with nothing.
#[derive(Debug)]
pub(crate) struct Checked(Vec<Route>);

impl Routes {
    /// Creates an empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a path that answers everybody who reaches the port, as `/metrics` does.
    ///
    /// A path that shows data of devices belongs into [`Routes::guarded_route`].
    #[must_use]
    pub fn route(self, path: impl Into<String>, methods: MethodRouter) -> Self {
        self.with(path.into(), methods, Reach::Everybody)
    }

    /// Adds a path that answers the callers of `/live/events`: those with the key of
    /// `http.live_key_file`. Without that setting, it answers callers on the same machine.
    #[must_use]
    pub fn guarded_route(self, path: impl Into<String>, methods: MethodRouter) -> Self {
        self.with(path.into(), methods, Reach::Viewers)
    }

    /// Adds all routes of another list.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    fn with(mut self, path: String, methods: MethodRouter, reach: Reach) -> Self {
        self.0.push(Route { path, methods, reach });
        self
    }

    /// Compares the routes with each other, and with the paths of the server.
    ///
    /// # Errors
    /// Names the first route that cannot be served. axum would panic over it.
    pub(crate) fn checked(self, of_server: &[&str]) -> Result<Checked, WrongRoute> {
        let mut known = matchit::Router::new();
        for path in of_server {
            let wrong = |error| WrongRoute::new(path, format!("cannot be served: {error}"));
            known.insert(*path, ()).map_err(wrong)?;
        }
        for (index, Route { path, .. }) in self.0.iter().enumerate() {
            let wrong = |wrong: String| WrongRoute::new(path, wrong);
            check_form(path).map_err(wrong)?;
            if of_server.contains(&path.as_str()) {
                return Err(wrong("is one of the server itself: choose another path".into()));
            }
            if self.0[..index].iter().any(|route| route.path == *path) {
                let advice = "is there twice: join its methods, as in get(..).post(..)";
                return Err(wrong(advice.into()));
            }
            known.insert(path.as_str(), ()).map_err(|error| wrong(reason(&error)))?;
        }
        Ok(Checked(self.0))
    }
}

impl WrongRoute {
    fn new(path: &str, wrong: String) -> Self {
        Self { path: path.to_owned(), wrong }
    }
}

/// Checks a path by itself.
fn check_form(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err("must begin with `/`".into());
    }
    if path == "/live" || path.starts_with("/live/") {
        return Err("is below `/live`, which belongs to the server: choose another path".into());
    }
    // axum up to 0.7 wrote captures like this, and axum 0.8 refuses them.
    if path.split('/').any(|level| level.starts_with([':', '*'])) {
        return Err("must have its captures in braces, such as `{id}` or `{*rest}`".into());
    }
    Ok(())
}

/// Returns the reason why a path cannot stand beside those before it.
fn reason(error: &matchit::InsertError) -> String {
    match error {
        matchit::InsertError::Conflict { with } => {
            format!("clashes with `{with}`, which takes the same requests: choose another path")
        }
        error => format!("is no path: {error}"),
    }
}

impl Checked {
    /// Returns the paths, for people.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|route| route.path.as_str())
    }

    /// Returns the router. `guard` limits the routes that only viewers may see.
    pub(crate) fn router(self, guard: impl Fn(MethodRouter) -> MethodRouter) -> Router {
        self.0.into_iter().fold(Router::new(), |router, Route { path, methods, reach }| {
            let methods = match reach {
                Reach::Everybody => methods,
                Reach::Viewers => guard(methods),
            };
            router.route(&path, methods)
        })
    }
}

/// Service with additional routes, from [`Service::with_routes`].
pub struct Routed<S> {
    service: S,
    routes: Routes,
}

impl<S> Routed<S> {
    pub(crate) fn new(service: S, routes: Routes) -> Self {
        Self { service, routes }
    }
}

impl<S> fmt::Debug for Routed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routed").field("routes", &self.routes).finish_non_exhaustive()
    }
}

impl<S: Service> Service for Routed<S> {
    const NAME: &'static str = S::NAME;

    type Settings = S::Settings;

    fn settings(&self) -> &S::Settings {
        self.service.settings()
    }

    fn routes(&self, context: &Context) -> Routes {
        self.service.routes(context).merge(self.routes.clone())
    }

    async fn start(self, context: &Context) -> anyhow::Result<Running> {
        self.service.start(context).await
    }

    fn preflight(&self) -> impl Future<Output = anyhow::Result<Vec<Dependency>>> + Send {
        self.service.preflight()
    }
}

#[cfg(test)]
mod tests;
