//! Names of columns. The rules are those of `rows::column`, which settings must follow, too.

/// Maximum length of a name.
const MAX_NAME: usize = 300;
/// Beginnings of names that BigQuery reserves.
const RESERVED: [&str; 5] = ["_table_", "_file_", "_partition", "_row_timestamp", "__root__"];

/// Returns the fault of a column's name, if it has one. `earlier` are the names before it.
pub(crate) fn fault(name: &str, earlier: &[String]) -> Option<String> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_letter) {
        return Some(format!("must be letters, digits and `_`, is `{name}`"));
    }
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        return Some(format!("must not begin with a digit, is `{name}`"));
    }
    if RESERVED.iter().any(|reserved| lower.starts_with(reserved)) {
        return Some(format!("`{name}` begins as BigQuery's own names do"));
    }
    let is_twice = earlier.iter().any(|earlier| earlier.eq_ignore_ascii_case(name));
    is_twice.then(|| format!("`{name}` is there twice; BigQuery ignores case"))
}
