//! Listeners and their clients, honest ones and hostile ones.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod answers;
mod browsers;
mod drain;
mod env;
mod guarded;
mod hostile;
mod http2;
mod issuer;
mod rotation;
mod tokens;
