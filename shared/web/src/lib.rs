//! Listeners for users, beside the health port.
//!
//! [`Bound::bind`] takes a port, as a [`Listener`] in the settings says. [`Bound::serve`] answers
//! requests there with the routes of the caller. [`Server::shutdown`] drains it.
//!
//! A request passes these steps, each in a file of its own:
//!
//! - `connection`: one connection, with bounds on time and on the size of headers.
//! - `metrics`: the count of answers.
//! - `cors`: answers for browsers, for listed origins only.
//! - [`auth`]: the identity of the caller, or a refusal.
//! - `body`: bounds on the size of the body, and on the time that it takes.
//! - `errors`: the error in JSON, also for a panic, as a [`Problem`].

pub mod auth;
mod body;
mod connection;
mod cors;
mod errors;
pub mod metrics;
mod problem;
mod server;
pub mod settings;
mod stream;

pub use auth::{Authenticate, Denied, Identity, Open};
pub use connection::Limits;
pub use metrics::Metrics;
pub use problem::Problem;
pub use server::{Bound, Server};
pub use settings::{Listener, Reach};
