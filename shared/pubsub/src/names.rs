//! Names of topics and subscriptions.

use std::fmt;
use std::sync::Arc;

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

pub(crate) fn full_name(project: &str, kind: &str, id: &str) -> String {
    if id.starts_with("projects/") {
        id.to_owned()
    } else {
        format!("projects/{project}/{kind}/{id}")
    }
}
