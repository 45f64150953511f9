//! Names of tables and columns in SQL.

/// Maximum length of a name in bytes. PostgreSQL cuts longer ones, so two could become one:
/// <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS>.
pub const MAX_BYTES: usize = 63;

/// Returns a name as SQL, whatever it holds.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns the fault of a name, if it has one.
#[must_use]
pub fn fault(name: &str) -> Option<String> {
    let length = name.len();
    if name.is_empty() {
        return Some("required".into());
    }
    if length > MAX_BYTES {
        return Some(format!("must be at most {MAX_BYTES} bytes, PostgreSQL's limit, is {length}"));
    }
    name.contains('\0').then(|| "must not contain the character U+0000".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_its_quotes() {
        assert_eq!(quoted(r#"a"; DROP TABLE b; --"#), r#""a""; DROP TABLE b; --""#);
    }

    #[test]
    fn a_name_that_postgresql_would_cut_is_refused() {
        assert_eq!(fault(&"ä".repeat(31)), None);
        assert!(fault(&"ä".repeat(32)).is_some_and(|wrong| wrong.contains("is 64")));
        assert_eq!(fault("").as_deref(), Some("required"));
        assert!(fault("a\0b").is_some());
    }
}
