//! Limits of PostgreSQL, and of what the service asks of it.

use pipeline::Limits;

/// Maximum columns of a table: <https://www.postgresql.org/docs/current/limits.html>.
pub(crate) const MAX_COLUMNS: usize = 1_600;

/// Maximum bytes of the rows in a statement. PostgreSQL takes a message of 1 GiB. A smaller statement
/// can be repeated sooner.
pub(crate) const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Returns the connections that these limits can use: one for each write, and one for the checks of
/// the table.
pub(crate) fn connections(limits: &Limits) -> usize {
    limits.lane_count().saturating_mul(limits.max_writes).saturating_add(1)
}
