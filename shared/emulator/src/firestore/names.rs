//! Names of documents, and paths of fields.

use crate::status::Status;

/// Longest id of a document, in bytes; from Google's list of Firestore's limits.
const MAX_ID_BYTES: usize = 1500;

/// Refuses what cannot be a document's full name.
pub(super) fn check_document(name: &str) -> Result<(), Status> {
    let refuse =
        |why: &str| Err(Status::invalid(format!("Invalid document name \"{name}\": {why}")));
    let parts: Vec<_> = name.split('/').collect();
    let ["projects", project, "databases", database, "documents", path @ ..] = parts.as_slice()
    else {
        return refuse("it must be projects/P/databases/D/documents/COLLECTION/ID");
    };
    if project.is_empty() || database.is_empty() || path.is_empty() || path.len() % 2 != 0 {
        return refuse("it must have pairs of collection and id");
    }
    match path.iter().find(|id| !is_id(id)) {
        Some(id) => refuse(&format!("\"{id}\" is no valid id")),
        None => Ok(()),
    }
}

fn is_id(id: &str) -> bool {
    let is_reserved = id.len() >= 4 && id.starts_with("__") && id.ends_with("__");
    !id.is_empty() && id != "." && id != ".." && id.len() <= MAX_ID_BYTES && !is_reserved
}

/// The parts of a field path such as `` a.`b.c` ``.
pub(super) fn field_path(path: &str) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let (mut is_quoted, mut chars) = (false, path.chars());
    while let Some(char) = chars.next() {
        match char {
            '`' => is_quoted = !is_quoted,
            '\\' if is_quoted => part.extend(chars.next()),
            '.' if !is_quoted => parts.push(std::mem::take(&mut part)),
            other => part.push(other),
        }
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_parts_of_a_path_may_hold_dots() {
        assert_eq!(field_path("a.b"), ["a", "b"]);
        assert_eq!(field_path(r"a.`b.\`c`"), ["a", "b.`c"]);
    }

    #[test]
    fn ids_that_firestore_cannot_hold_are_refused() {
        let name = |id: &str| format!("projects/p/databases/d/documents/devices/{id}");

        assert!(check_document(&name("dev-1")).is_ok());
        for id in ["", ".", "..", "__x__", "a/b", &"x".repeat(1501)] {
            assert!(check_document(&name(id)).is_err(), "{id}");
        }
    }
}
