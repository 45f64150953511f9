//! Scopes of callers.

/// Right to send messages.
pub const INGEST: &str = "ingest";
/// Right to query stored messages.
pub const READ: &str = "read";
/// Right to watch the running services.
pub const LIVE: &str = "live";
/// Right to see payloads while watching.
pub const PAYLOAD: &str = "payload";

/// All scopes.
pub const ALL: [&str; 4] = [INGEST, READ, LIVE, PAYLOAD];
