//! Names of resources.

use crate::status::Status;

/// Refuses a name that is not `projects/<project>/<kind>/<id>` with a valid id.
///
/// An id has 3 to 255 characters and starts with a letter. It contains letters, digits and
/// `-_.~+%`, and does not start with `goog`
/// (<https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names>).
pub(super) fn check(name: &str, kind: &str) -> Result<(), Status> {
    let invalid = || Status::invalid(format!("Invalid [{kind}] name: (name={name})"));
    let parts: Vec<_> = name.split('/').collect();
    let ["projects", project, found, id] = parts.as_slice() else { return Err(invalid()) };
    let starts_well = id.starts_with(|first: char| first.is_ascii_alphabetic());
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.~+%".contains(c);
    let is_valid = !project.is_empty()
        && *found == kind
        && (3..=255).contains(&id.len())
        && starts_well
        && id.chars().all(is_allowed)
        && !id.to_ascii_lowercase().starts_with("goog");
    if is_valid { Ok(()) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_pubsub() {
        let valid = ["abc", "raw-topic_1.x~y+z%20", &"a".repeat(255)];
        let invalid = ["ab", "1abc", "googtopic", "a b c", "a/b", "tür", &"a".repeat(256)];

        for id in valid {
            assert!(check(&format!("projects/p/topics/{id}"), "topics").is_ok(), "{id}");
        }
        for id in invalid {
            assert!(check(&format!("projects/p/topics/{id}"), "topics").is_err(), "{id}");
        }
        assert!(check("projects/p/topics/abc", "subscriptions").is_err());
        assert!(check("projects//topics/abc", "topics").is_err());
    }
}
