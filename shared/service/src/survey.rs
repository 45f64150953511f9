//! What a service's settings need outside of its process, and how that is there.

use std::fmt::Display;

use serde::Serialize;
use serde_json::json;

use crate::settings::url;
use crate::{credentials, output};

/// Something that the settings name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Need {
    /// What it is: `topic`, `subscription`, `table`, `view`, `bucket`, `documents`, `redis`, `redis channel`,
    /// `mqtt broker`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The least role on it that lets the service work; `None` where Google's roles mean nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// How it is there.
    #[serde(flatten)]
    pub state: State,
}

/// How something is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "detail", rename_all = "snake_case")]
pub enum State {
    /// As the settings need it.
    Ready,
    /// As far as we may see; what could not be seen is said.
    Unchecked(String),
    /// The service will create or extend it at its start.
    WillCreate(String),
    /// Not there.
    Missing(String),
    /// There, but not as the settings need it.
    Differs(String),
    /// It does not answer, or refuses us.
    Unreachable(String),
}

/// For whom output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// People.
    Text,
    /// Programs.
    Json,
}

impl State {
    /// Whether the service can work with it.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        match self {
            Self::Ready | Self::Unchecked(_) | Self::WillCreate(_) => true,
            Self::Missing(_) | Self::Differs(_) | Self::Unreachable(_) => false,
        }
    }

    /// Of what is there, by whether we have the permission on it that a role grants; an error says why
    /// that is not told.
    #[must_use]
    pub fn of_right(permission: &str, role: &str, may: Result<bool, impl Display>) -> Self {
        match may {
            Ok(true) => Self::Ready,
            Ok(false) => Self::Differs(format!("we lack {permission}: grant {role}")),
            Err(why) => Self::Unchecked(format!("whether we have {permission} is not told: {why}")),
        }
    }

    fn word_and_detail(&self) -> (&'static str, &str) {
        match self {
            Self::Ready => ("ready", ""),
            Self::Unchecked(detail) => ("unchecked", detail),
            Self::WillCreate(detail) => ("will create", detail),
            Self::Missing(detail) => ("MISSING", detail),
            Self::Differs(detail) => ("DIFFERS", detail),
            Self::Unreachable(detail) => ("UNREACHABLE", detail),
        }
    }
}

/// Prints the dependencies as a check has found them.
///
/// # Errors
/// When one of them is not fine, so that the exit code tells.
pub(crate) fn report(needs: Vec<Need>, form: Form) -> anyhow::Result<()> {
    let needs = masked(needs);
    match form {
        Form::Json => output::line(serde_json::to_string_pretty(&needs)?),
        Form::Text => output::line(table(&needs, Roles::Hidden).trim_end()),
    }
    expect_fine(&needs)
}

/// Prints the costs of the settings, then the dependencies with the roles that they take.
///
/// # Errors
/// When a dependency is not fine, so that the exit code tells.
pub(crate) fn report_plan(costs: &[String], needs: Vec<Need>, form: Form) -> anyhow::Result<()> {
    // A plan is of what IAM has a role for.
    let mut needs = masked(needs);
    needs.retain(|need| need.role.is_some());
    match form {
        Form::Json => {
            output::line(format_args!("{:#}", json!({ "costs": costs, "dependencies": needs })));
        }
        Form::Text => {
            costs.iter().for_each(output::line);
            output::line(table(&needs, Roles::Shown).trim_end());
        }
    }
    expect_fine(&needs)
}

/// Hides passwords in names: the settings of an embedded service may not have been checked.
fn masked(mut needs: Vec<Need>) -> Vec<Need> {
    needs.iter_mut().for_each(|need| url::mask(&mut need.name));
    needs
}

fn expect_fine(needs: &[Need]) -> anyhow::Result<()> {
    let wrong = needs.iter().filter(|need| !need.state.is_fine()).count();
    match wrong {
        0 => Ok(()),
        wrong => anyhow::bail!("{wrong} of {} dependencies are not as they must be", needs.len()),
    }
}

/// Whether roles are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Roles {
    Shown,
    Hidden,
}

fn table(needs: &[Need], roles: Roles) -> String {
    /// Stands for what is said once, at the end.
    const BELOW: &str = "no Google credentials were found, see below";
    let mut text = String::new();
    let mut missing = None;
    for need in needs {
        let (word, detail) = need.state.word_and_detail();
        text.push_str(&format!("{word:<12} {:<13} {}", need.kind, need.name));
        if let (Roles::Shown, Some(role)) = (roles, need.role) {
            text.push_str(&format!("  [{role}]"));
        }
        text.push('\n');
        if !detail.is_empty() {
            let (detail, below) = match detail.split_once(credentials::MISSING) {
                Some((who, words)) => (format!("{who}{BELOW}"), Some(words)),
                None => (detail.to_owned(), None),
            };
            missing = missing.or(below);
            text.push_str(&format!("{:<12} {detail}\n", ""));
        }
    }
    if let Some(words) = missing {
        text.push_str(&format!("{}{words}\n", credentials::MISSING));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(state: State) -> Need {
        let role = Some("roles/pubsub.publisher");
        Need { kind: "topic", name: "projects/p/topics/raw".into(), role, state }
    }

    #[test]
    fn a_table_shows_what_is_wrong_and_which_role_it_takes() {
        let needs = [need(State::Ready), need(State::Missing("create it".into()))];

        assert_eq!(
            table(&needs, Roles::Shown),
            "ready        topic         projects/p/topics/raw  [roles/pubsub.publisher]\n\
             MISSING      topic         projects/p/topics/raw  [roles/pubsub.publisher]\n\
             \u{20}            create it\n"
        );
        assert!(report(needs[..1].to_vec(), Form::Text).is_ok());
        assert!(report(needs.to_vec(), Form::Text).is_err());
        assert!(report_plan(&[], needs[..1].to_vec(), Form::Text).is_ok());
        assert!(report_plan(&[], needs.to_vec(), Form::Text).is_err());
    }

    #[test]
    fn what_to_do_about_missing_credentials_is_said_once() {
        let unseen = |words| {
            let why = format!("Pub/Sub does not answer: {} ({words})", credentials::MISSING);
            need(State::Unreachable(why))
        };
        let needs = [unseen("no token"), unseen("no headers"), need(State::Missing("gone".into()))];

        let text = table(&needs, Roles::Hidden);

        assert_eq!(text.matches("gcloud auth application-default login").count(), 1, "{text}");
        let below = "does not answer: no Google credentials were found, see below\n";
        assert_eq!(text.matches(below).count(), 2, "{text}");
        assert!(text.ends_with(" (no token)\n"), "the words of the first one: {text}");
    }

    #[test]
    fn a_right_that_we_lack_is_named_with_its_role() {
        let of = |may: Result<bool, &str>| State::of_right("a.b.write", "roles/writer", may);

        assert_eq!(of(Ok(true)), State::Ready);
        assert_eq!(of(Ok(false)), State::Differs("we lack a.b.write: grant roles/writer".into()));
        assert!(matches!(of(Err("503")), State::Unchecked(why) if why.ends_with("told: 503")));
    }

    #[test]
    fn programs_read_the_same() {
        let json = serde_json::to_value(need(State::Differs("another topic".into()))).unwrap();

        assert_eq!(
            json,
            serde_json::json!({
                "kind": "topic", "name": "projects/p/topics/raw",
                "role": "roles/pubsub.publisher", "state": "differs", "detail": "another topic",
            })
        );
    }
}
