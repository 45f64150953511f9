//! Errors of the client, in words.

use tokio_postgres::error::DbError;

/// Describes an error like [`describe`], with what the server adds. That may repeat values of the
/// row, so it is for dead letters only, which have the whole message anyway.
#[must_use]
pub fn describe_with_values(error: &tokio_postgres::Error) -> String {
    let added = error.as_db_error().and_then(DbError::detail);
    added.map_or_else(|| describe(error), |added| format!("{} ({added})", describe(error)))
}

/// Describes an error with its SQLSTATE, and with the column or constraint that it names.
#[must_use]
pub fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => describe_answer(error),
        None => {
            let mut text = error.to_string();
            let mut next = std::error::Error::source(error);
            while let Some(cause) = next {
                text = format!("{text}: {cause}");
                next = cause.source();
            }
            text
        }
    }
}

fn describe_answer(error: &DbError) -> String {
    let mut text = format!("SQLSTATE {}", error.code().code());
    for (what, name) in [("column", error.column()), ("constraint", error.constraint())] {
        if let Some(name) = name {
            text = format!("{text}, {what} {name}");
        }
    }
    format!("{text}: {}", error.message())
}
