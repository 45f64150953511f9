//! Names of topics and subscriptions.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Maximum length of an id.
const MAX_ID_BYTES: usize = 255;

/// Full name of a topic, `projects/<project>/topics/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Creates the name of a topic in a project. An id that is already a full name stays unchanged.
    #[must_use]
    pub fn new(project: &str, id: &str) -> Self {
        Self(full_name(project, "topics", id).into())
    }

    /// Returns the full name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Topic in settings: its id in the project of the service, or its full name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicId(ResourceId);

impl TopicId {
    /// Returns the full name. `project` is the project of the service.
    #[must_use]
    pub fn name(&self, project: &str) -> TopicName {
        TopicName(self.0.name(project, "topics").into())
    }
}

impl FromStr for TopicId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ResourceId::parse(text, "topics").map(Self)
    }
}

/// Subscription in settings: its id in the project of the service, or its full name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionId(ResourceId);

impl SubscriptionId {
    /// Returns the full name. `project` is the project of the service.
    #[must_use]
    pub fn name(&self, project: &str) -> String {
        self.0.name(project, "subscriptions")
    }
}

impl FromStr for SubscriptionId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ResourceId::parse(text, "subscriptions").map(Self)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ResourceId {
    /// An id in the project of the service.
    InProject(String),
    /// A full name, in any project.
    Full(String),
}

impl ResourceId {
    /// Parses an id, or a full name in this collection, by the rules of
    /// <https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names>. An id of fewer than
    /// three characters is left to Pub/Sub.
    fn parse(text: &str, collection: &str) -> Result<Self, String> {
        let (id, parsed) = match text.split('/').collect::<Vec<_>>()[..] {
            [id] => (id, Self::InProject(text.to_owned())),
            ["projects", project, of, id] if of == collection && !project.is_empty() => {
                (id, Self::Full(text.to_owned()))
            }
            _ => {
                let form = format!("projects/<project>/{collection}/<id>");
                return Err(format!("must be an id, or a full name {form}, is `{text}`"));
            }
        };
        let is_right = id.len() <= MAX_ID_BYTES
            && id.starts_with(|first: char| first.is_ascii_alphabetic())
            && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._~%+".contains(c))
            && !id.starts_with("goog");
        let right = "must begin with a letter, hold only letters, digits and `-._~%+`, and not \
                     begin with `goog`";
        if is_right { Ok(parsed) } else { Err(format!("{right}, is `{text}`")) }
    }

    fn name(&self, project: &str, collection: &str) -> String {
        match self {
            Self::InProject(id) => format!("projects/{project}/{collection}/{id}"),
            Self::Full(name) => name.clone(),
        }
    }
}

/// Returns the full name for an id or a full name that is not from settings, such as an argument of
/// a tool.
pub(crate) fn full_name(project: &str, kind: &str, id: &str) -> String {
    if id.starts_with("projects/") {
        id.to_owned()
    } else {
        format!("projects/{project}/{kind}/{id}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids that break a rule of Pub/Sub.
    const WRONG_IDS: [&str; 12] = [
        "",
        "1raw",
        "-raw",
        "a topic",
        "raw!",
        "raw#1",
        "raw\n",
        "r\u{e4}w",
        "raw:1",
        "goog",
        "goog-topic",
        "google",
    ];

    #[test]
    fn an_id_is_in_the_project_of_the_service() {
        let long = "t".repeat(255);
        for id in ["raw", "R", "a.b_c~d%2B+e-f", "my-goog", "Goog", "projects", &long] {
            let topic: TopicId = id.parse().unwrap();
            let subscription: SubscriptionId = id.parse().unwrap();

            assert_eq!(topic.name("p").as_str(), format!("projects/p/topics/{id}"));
            assert_eq!(subscription.name("p"), format!("projects/p/subscriptions/{id}"));
        }
    }

    #[test]
    fn a_full_name_may_be_in_another_project() {
        for project in ["q", "example.com:q"] {
            let topic = format!("projects/{project}/topics/raw");
            let subscription = format!("projects/{project}/subscriptions/raw");

            assert_eq!(topic.parse::<TopicId>().unwrap().name("p").as_str(), topic);
            assert_eq!(subscription.parse::<SubscriptionId>().unwrap().name("p"), subscription);
        }
    }

    #[test]
    fn an_id_that_pubsub_refuses_is_told_with_what_is_right() {
        let long = "t".repeat(256);
        for id in WRONG_IDS.into_iter().chain([long.as_str()]) {
            let full = ["topics", "subscriptions"].map(|of| format!("projects/q/{of}/{id}"));
            let wrong = |name: &str| {
                format!(
                    "must begin with a letter, hold only letters, digits and `-._~%+`, and not begin with \
                     `goog`, is `{name}`"
                )
            };

            assert_eq!(id.parse::<TopicId>(), Err(wrong(id)));
            assert_eq!(id.parse::<SubscriptionId>(), Err(wrong(id)));
            assert_eq!(full[0].parse::<TopicId>(), Err(wrong(&full[0])));
            assert_eq!(full[1].parse::<SubscriptionId>(), Err(wrong(&full[1])));
        }
    }

    #[test]
    fn a_name_of_another_form_is_told_with_the_right_form() {
        for name in
            ["topics/raw", "projects/p/raw", "/", "projects/p/topics/raw/x", "projects//topics/raw"]
        {
            let wrong = |of| {
                format!("must be an id, or a full name projects/<project>/{of}/<id>, is `{name}`")
            };

            assert_eq!(name.parse::<TopicId>(), Err(wrong("topics")));
            assert_eq!(name.parse::<SubscriptionId>(), Err(wrong("subscriptions")));
        }
        assert!("projects/p/subscriptions/raw".parse::<TopicId>().is_err());
        assert!("projects/p/topics/raw".parse::<SubscriptionId>().is_err());
    }
}
