//! Tools that a binary runs in place of its service.

pub mod explain;
pub mod moment;
pub mod preflight;
pub(crate) mod probe;
pub(crate) mod schema;
