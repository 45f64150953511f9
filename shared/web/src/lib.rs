//! Listeners for users, beside the health port.
//!
//! [`Bound::bind`] takes a port, as a [`Listener`] in the settings says. [`Bound::serve`] answers
//! requests there with the routes of the caller. [`Server::shutdown`] drains it.
//!
//! The settings of authentication are a section of their own, [`auth::settings::Auth`]. One
//! [`Authenticator`] can serve several listeners:
//!
//! ```no_run
//! # use axum::{Extension, Router, routing::post};
//! # use web::{Authenticator, Bound, Denied, Identity, Listener, Metrics, Server, auth::scope};
//! # use web::auth::settings::Auth;
//! # struct Settings { auth: Auth, http_ingest: Listener }
//! async fn ingest(Extension(caller): Extension<Identity>) -> Result<String, Denied> {
//!     caller.require(scope::INGEST)?;
//!     Ok(format!("hello {}", caller.subject.unwrap_or_default()))
//! }
//!
//! # async fn serve(settings: &Settings, metrics: &Metrics) -> anyhow::Result<Server> {
//! // In `Settings::check`:
//! //   self.auth.check("auth", faults);
//! //   self.http_ingest.check("http_ingest", self.auth.reach(), faults);
//! let auth = Authenticator::start(&settings.auth, "auth").await?;
//! let bound = Bound::bind(&settings.http_ingest, "http_ingest", auth).await?;
//! let server = bound.serve(Router::new().route("/ingest", post(ingest)), metrics);
//! # Ok(server)
//! # }
//! ```
//!
//! [`Bound::with_grpc`] lets the listener take calls of gRPC, too. A listener of another framework asks
//! [`auth::admit`] with the headers of a request.
//!
//! A request passes these steps, each in a file of its own:
//!
//! - `connection`: one connection, with bounds on time and on the size of headers.
//! - `host`: on loopback without authentication, only names of this machine.
//! - `metrics`: the count of answers.
//! - `cors`: answers for browsers, for listed origins only.
//! - [`auth`]: the identity of the caller and its limits, or a refusal.
//! - `body`: bounds on the size of the body, and on the time that it takes.
//! - `errors`: the error in JSON, also for a panic, as a [`Problem`].

pub mod auth;
mod body;
mod connection;
mod cors;
mod errors;
mod grpc;
mod host;
pub mod metrics;
mod problem;
mod server;
pub mod settings;

pub use auth::{Authenticate, Authenticator, Denied, Identity, Open};
pub use connection::{Cut, Draining, Limits};
pub use grpc::{Grpc, GrpcCall};
pub use metrics::Metrics;
pub use problem::Problem;
pub use server::{Bound, Server};
pub use settings::{Listener, Reach};
