//! Names of documents and paths of fields.

use super::order;
use crate::status::Status;

/// Longest id of a document in bytes, from Google's list of Firestore limits.
const MAX_ID_BYTES: usize = 1500;
/// Longest path of a field in bytes, from the same list.
const MAX_PATH_BYTES: usize = 1500;

/// Name of a document as a field in queries.
pub(super) const NAME: &str = "__name__";

/// Refuses a text that is not the full name of a document.
pub(super) fn check_document(name: &str) -> Result<(), Status> {
    let path = check_path(name)?;
    if path.is_empty() || path.len() % 2 != 0 {
        return Err(refused(name, "it must have pairs of collection and id"));
    }
    Ok(())
}

/// Refuses a text that is neither the full name of a document nor the root of all documents of a
/// database.
pub(super) fn check_parent(name: &str) -> Result<(), Status> {
    if check_path(name)?.len() % 2 != 0 {
        return Err(refused(name, "it must have pairs of collection and id"));
    }
    Ok(())
}

/// Returns the ids after `documents`.
fn check_path(name: &str) -> Result<Vec<&str>, Status> {
    let mut parts: Vec<_> = name.split('/').collect();
    let ["projects", project, "databases", database, "documents", path @ ..] = parts.as_slice()
    else {
        return Err(refused(name, "it must be projects/P/databases/D/documents/COLLECTION/ID"));
    };
    if project.is_empty() || database.is_empty() {
        return Err(refused(name, "it must name a project and a database"));
    }
    match path.iter().find(|id| !is_id(id)) {
        Some(id) => Err(refused(name, &format!("\"{id}\" is no valid id"))),
        None => Ok(parts.split_off(5)),
    }
}

fn refused(name: &str, why: &str) -> Status {
    Status::invalid(format!("Invalid document name \"{name}\": {why}"))
}

fn is_id(id: &str) -> bool {
    let is_plain = !id.is_empty() && id != "." && id != ".." && id.len() <= MAX_ID_BYTES;
    is_plain && (!is_reserved(id) || order::numeric_id(id).is_some())
}

/// Returns true for names that Firestore reserves, such as `__x__`.
pub(super) fn is_reserved(name: &str) -> bool {
    name.len() >= 4 && name.starts_with("__") && name.ends_with("__")
}

/// Splits a field path such as `` a.`b.c` `` into its parts.
///
/// # Errors
/// Fails if the path is too long, or if a part is empty. It also fails for a part without
/// back-ticks that is not an identifier.
pub(super) fn field_path(path: &str) -> Result<Vec<String>, Status> {
    if path.len() > MAX_PATH_BYTES {
        let text = format!("A property path has at most {MAX_PATH_BYTES} bytes.");
        return Err(Status::invalid(text));
    }
    let invalid = || {
        let rule = "Unquoted property paths must match regex ([a-zA-Z_][a-zA-Z_0-9]*)";
        Status::invalid(format!("Invalid property path \"{path}\". {rule}."))
    };
    let (mut parts, mut chars) = (Vec::new(), path.chars().peekable());
    loop {
        let part = match chars.next_if_eq(&'`') {
            Some(_) => quoted(&mut chars).ok_or_else(invalid)?,
            None => {
                let part: String =
                    std::iter::from_fn(|| chars.next_if(|char| *char != '.')).collect();
                Some(part).filter(|part| is_identifier(part)).ok_or_else(invalid)?
            }
        };
        parts.push(part);
        match chars.next() {
            None => return Ok(parts),
            Some('.') => {}
            Some(_) => return Err(invalid()),
        }
    }
}

/// Reads a part up to its closing back-tick; `None` if there is none.
fn quoted(chars: &mut impl Iterator<Item = char>) -> Option<String> {
    let mut part = String::new();
    loop {
        match chars.next()? {
            '`' => return Some(part).filter(|part| !part.is_empty()),
            '\\' => part.push(chars.next()?),
            other => part.push(other),
        }
    }
}

fn is_identifier(part: &str) -> bool {
    let is_start = |char: char| char.is_ascii_alphabetic() || char == '_';
    part.starts_with(is_start) && part.chars().all(|char| is_start(char) || char.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_parts_of_a_path_may_hold_dots() {
        assert_eq!(field_path("a.b").unwrap(), ["a", "b"]);
        assert_eq!(field_path(r"a.`b.\`c`").unwrap(), ["a", "b.`c"]);
        assert_eq!(field_path("`a-b`.c").unwrap(), ["a-b", "c"]);
    }

    #[test]
    fn paths_that_firestore_cannot_read_are_refused() {
        for path in ["", "a..b", ".a", "a.", "a-b", "1a", "`a", "`a`b", "``", &"a".repeat(1501)] {
            assert!(field_path(path).is_err(), "{path}");
        }
        assert!(field_path(&"a".repeat(1500)).is_ok());
    }

    #[test]
    fn ids_that_firestore_cannot_hold_are_refused() {
        let name = |id: &str| format!("projects/p/databases/d/documents/devices/{id}");

        assert!(check_document(&name("dev-1")).is_ok());
        assert!(check_document(&name("__id7__")).is_ok());
        for id in ["", ".", "..", "__x__", "a/b", &"x".repeat(1501)] {
            assert!(check_document(&name(id)).is_err(), "{id}");
        }
    }

    #[test]
    fn a_parent_is_a_document_or_the_root() {
        assert!(check_parent("projects/p/databases/d/documents").is_ok());
        assert!(check_parent("projects/p/databases/d/documents/c/d").is_ok());
        assert!(check_parent("projects/p/databases/d/documents/c").is_err());
        assert!(check_parent("projects/p/databases/d").is_err());
    }
}
