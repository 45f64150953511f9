//! Ids of Google's projects in settings.

/// Returns what is wrong with a project id, if anything. See
/// <https://cloud.google.com/resource-manager/docs/creating-managing-projects>.
pub(super) fn project(id: &str) -> Option<String> {
    // Ids of old projects start with a domain: `example.com:name`.
    let is_part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_lowercase())
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
    };
    let is_right = id.len() <= 63 && id.splitn(2, ':').all(is_part);
    let right = "must be a project's id: a small letter, then small letters, digits and hyphens";
    (!is_right).then(|| format!("{right}, is `{id}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_google_takes_are_right() {
        for id in ["p", "local", "my-project-1", "example.com:my-project"] {
            assert_eq!(project(id), None, "{id}");
        }
    }

    #[test]
    fn ids_that_google_refuses_are_told_with_what_is_right() {
        for id in ["My-project", "a project", "1a", "", ":x", &"p".repeat(64)] {
            assert!(project(id).unwrap().ends_with(&format!("is `{id}`")), "{id}");
        }
    }
}
