//! Names of Google's resources in settings.

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

/// Returns what is wrong with a bucket's name, if anything. See
/// <https://cloud.google.com/storage/docs/buckets#naming>.
pub(super) fn bucket(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("gs://") {
        return Some(format!("must be the bucket's name without gs://, is `{name}`: try `{rest}`"));
    }
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let most = if name.contains('.') { 222 } else { 63 };
    let is_right = name.len() <= most
        && is_end(name.chars().next())
        && is_end(name.chars().next_back())
        && name.chars().all(|c| is_end(Some(c)) || "-_.".contains(c));
    let right = "must be a bucket's name: small letters, digits, hyphens, underscores and dots";
    (!is_right).then(|| format!("{right}, is `{name}`"))
}

/// Returns what is wrong with the id or the full name of a topic or a subscription, if anything.
/// `collection` is `topics` or `subscriptions`. See
/// <https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names>.
pub(super) fn resource(name: &str, collection: &str) -> Option<String> {
    let id = match name.split('/').collect::<Vec<_>>()[..] {
        [id] => id,
        ["projects", project, of, id] if of == collection && !project.is_empty() => id,
        _ => {
            let form = format!("projects/<project>/{collection}/<id>");
            return Some(format!("must be an id, or a full name {form}, is `{name}`"));
        }
    };
    let is_right = id.len() <= 255
        && id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._~%+".contains(c))
        && !id.starts_with("goog");
    let right = "must begin with a letter, hold only letters, digits and `-._~%+`, and not begin with `goog`";
    (!is_right).then(|| format!("{right}, is `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_google_takes_are_right() {
        for id in ["p", "local", "my-project-1", "example.com:my-project"] {
            assert_eq!(project(id), None, "{id}");
        }
        for name in ["my-archive", "a_b.example.com", &"b".repeat(63)] {
            assert_eq!(bucket(name), None, "{name}");
        }
        for name in ["raw", "a.b_c~d%2B+e", "projects/p/topics/raw"] {
            assert_eq!(resource(name, "topics"), None, "{name}");
        }
    }

    #[test]
    fn names_that_google_refuses_are_told_with_what_is_right() {
        for id in ["My-project", "a project", "1a", "", ":x", &"p".repeat(64)] {
            assert!(project(id).unwrap().ends_with(&format!("is `{id}`")), "{id}");
        }
        for name in ["Bad_Bucket!", "-b", "b-", &"b".repeat(64), "a/b"] {
            assert!(bucket(name).unwrap().ends_with(&format!("is `{name}`")), "{name}");
        }
        assert!(bucket("gs://b").unwrap().ends_with("try `b`"));
        let long = "t".repeat(256);
        for name in
            ["goog-topic", "a topic", "1raw", "topics/raw", "projects/p/subscriptions/s", &long]
        {
            assert!(resource(name, "topics").unwrap().contains(&format!("is `{name}`")), "{name}");
        }
    }
}
