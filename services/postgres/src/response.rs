//! Error table: classifies each answer of PostgreSQL by its SQLSTATE.
//!
//! | SQLSTATE | class |
//! |---|---|
//! | 22, 23, 54, P0: a value, a constraint, a limit of a row, a trigger | the row is refused; a batch is split, until the culprit stands alone |
//! | 23514 without a constraint: no partition takes the row | not ready |
//! | 26, 3D, 3F, 42, 28, 0A, 0L, 0P: the table, its columns, a right, a login | not ready |
//! | 08, 25, 40, 53, 55, 57, 58, XX: connection, read-only server, deadlock, resources, locks, shutdown | retry |
//! | anything else, or no answer | retry |
//!
//! Before a row is refused, the table is compared with the settings. While the two differ, the row
//! is retried. An answer that is not in this list is retried. It may delay a row, but it cannot lose
//! one. The classes are those of
//! <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use pipeline::{Error, Recovery};
use rows::reasons::ROW_REFUSED;

/// Meaning of an answer that is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// A row can never succeed.
    Refused,
    /// The same rows can succeed later.
    Retry,
    /// The rows can succeed once the table, a right or the login is as the settings say.
    NotReady,
}

/// Classifies an SQLSTATE. `has_constraint` is true if the answer names a constraint.
#[must_use]
pub fn of_state(state: &str, has_constraint: bool) -> Response {
    let class = state.get(..2).unwrap_or_default();
    match (class, state) {
        // The text of this error is "no partition of relation found for row".
        ("23", "23514") if !has_constraint => Response::NotReady,
        ("22" | "23" | "54" | "P0", _) => Response::Refused,
        ("0A" | "0L" | "0P" | "26" | "28" | "3D" | "3F" | "42", _) => Response::NotReady,
        _ => Response::Retry,
    }
}

/// Classifies an error of the client.
#[must_use]
pub fn of_error(error: &tokio_postgres::Error) -> Response {
    error.as_db_error().map_or(Response::Retry, |error| {
        of_state(error.code().code(), error.constraint().is_some())
    })
}

/// Returns the error for the pipeline.
pub(crate) fn because(response: Response, action: &'static str, detail: String) -> Error {
    let recovery = match response {
        Response::Refused => Recovery::Reject(ROW_REFUSED),
        // The pipeline reports "not ready" while a write is retried.
        Response::Retry | Response::NotReady => Recovery::Retry,
    };
    recovery.because(action, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_meaning() {
        for (state, what, response) in [
            ("22001", "string_data_right_truncation", Response::Refused),
            ("22003", "numeric_value_out_of_range", Response::Refused),
            ("22021", "character_not_in_repertoire", Response::Refused),
            ("22P05", "untranslatable_character", Response::Refused),
            ("23502", "not_null_violation", Response::Refused),
            ("23503", "foreign_key_violation", Response::Refused),
            ("23505", "unique_violation", Response::Refused),
            ("54000", "program_limit_exceeded", Response::Refused),
            ("P0001", "raise_exception", Response::Refused),
            ("0A000", "feature_not_supported", Response::NotReady),
            ("0L000", "invalid_grantor", Response::NotReady),
            ("0P000", "invalid_role_specification", Response::NotReady),
            ("26000", "invalid_sql_statement_name", Response::NotReady),
            ("28P01", "invalid_password", Response::NotReady),
            ("3D000", "invalid_catalog_name", Response::NotReady),
            ("3F000", "invalid_schema_name", Response::NotReady),
            ("42501", "insufficient_privilege", Response::NotReady),
            ("42703", "undefined_column", Response::NotReady),
            ("42804", "datatype_mismatch", Response::NotReady),
            ("42P01", "undefined_table", Response::NotReady),
            ("42P10", "invalid_column_reference", Response::NotReady),
            ("08006", "connection_failure", Response::Retry),
            ("21000", "cardinality_violation", Response::Retry),
            ("25006", "read_only_sql_transaction", Response::Retry),
            ("40001", "serialization_failure", Response::Retry),
            ("40P01", "deadlock_detected", Response::Retry),
            ("53100", "disk_full", Response::Retry),
            ("53300", "too_many_connections", Response::Retry),
            ("55P03", "lock_not_available", Response::Retry),
            ("57014", "query_canceled", Response::Retry),
            ("57P01", "admin_shutdown", Response::Retry),
            ("57P03", "cannot_connect_now", Response::Retry),
            ("58030", "io_error", Response::Retry),
            ("XX000", "internal_error", Response::Retry),
            ("ZZ999", "unknown", Response::Retry),
            ("", "no state", Response::Retry),
        ] {
            assert_eq!(of_state(state, true), response, "{state} {what}");
        }
    }

    #[test]
    fn a_missing_partition_is_no_fault_of_the_row() {
        assert_eq!(of_state("23514", false), Response::NotReady);
        assert_eq!(of_state("23514", true), Response::Refused, "a check of the table");
    }
}
