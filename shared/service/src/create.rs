//! Creation of missing resources at the start of a service. The setting `create` turns it on.

use std::time::Duration;

use tokio::time::sleep;
use tracing::info;

use crate::{Condition, WrongSettings};

/// Pause between two attempts to create a resource.
const PAUSE: Duration = Duration::from_secs(1);
/// Detail of the state `will create`.
pub const AT_START: &str = "it does not exist; the service creates it at its start";
/// Warning of settings with `create`.
pub const WARNING: &str = "create is on: the service creates missing resources at its start. It is meant for \
                           development; deploy/gcp.sh creates them with the least roles";

/// Result of an attempt to create a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It did not exist before.
    Now,
    /// It existed already, and was not changed.
    Before,
}

/// Reason why a resource was not created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotCreated {
    /// Another attempt may succeed.
    Yet(String),
    /// Each attempt would fail in the same way.
    Ever(String),
}

impl NotCreated {
    /// Returns the refusal of a caller without this permission. The role grants it, and `why` is the
    /// text of the refusal.
    #[must_use]
    pub fn denied(permission: &str, role: &str, why: &str) -> Self {
        Self::Ever(format!("we lack {permission}: grant {role} ({why})"))
    }
}

/// Creates a resource unless it exists. Attempts are repeated while Google does not answer.
///
/// # Errors
/// The resource can never be created, for example because of a missing permission.
pub async fn ensure<F>(
    resource: &str,
    condition: &Condition,
    mut attempt: impl FnMut() -> F + Send,
) -> Result<Created, WrongSettings>
where
    F: Future<Output = Result<Created, NotCreated>> + Send,
{
    loop {
        match attempt().await {
            Ok(created) => {
                if created == Created::Now {
                    info!(resource, "created");
                }
                return Ok(created);
            }
            Err(NotCreated::Yet(why)) => {
                condition.not_ready(format!("{resource} cannot be created: {why}"));
                sleep(PAUSE).await;
            }
            Err(NotCreated::Ever(why)) => {
                return Err(WrongSettings(format!(
                    "create: {resource} cannot be created: {why}; or create it yourself, and set create: false"
                )));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Health;

    #[tokio::test(start_paused = true)]
    async fn attempts_are_repeated_until_a_resource_exists_or_never_can() {
        let health = Health::default();
        let condition = health.condition("topics");
        let ensured = async |answers: Vec<Result<Created, NotCreated>>| {
            let mut answers = answers.into_iter();
            ensure("topic t", &condition, || std::future::ready(answers.next().unwrap())).await
        };
        let yet = || Err(NotCreated::Yet("no answer".into()));

        assert_eq!(ensured(vec![yet(), yet(), Ok(Created::Now)]).await.unwrap(), Created::Now);
        assert_eq!(health.conditions()["topics"].reason, "topic t cannot be created: no answer");
        assert_eq!(ensured(vec![Ok(Created::Before)]).await.unwrap(), Created::Before);
        let denied = Err(NotCreated::denied("a.b.create", "roles/a.editor", "403"));
        assert_eq!(
            ensured(vec![yet(), denied]).await.unwrap_err().to_string(),
            "create: topic t cannot be created: we lack a.b.create: grant roles/a.editor (403); or create it \
             yourself, and set create: false"
        );
    }
}
