//! Dependencies of a service outside of its process, and their states.

use std::fmt::Display;

use serde::Serialize;

use crate::cloud::Address;
use crate::cost::Estimate;
use crate::settings::url;
use crate::{create, credentials, output};

/// Resource outside of the process that the settings name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dependency {
    /// Kind of resource: `topic`, `subscription`, `table`, `view`, `bucket`, `folder`, `documents`, `redis`,
    /// `redis channel` or `mqtt broker`.
    pub kind: &'static str,
    /// Name of the resource.
    pub name: String,
    /// Least roles on it that the service needs. Empty if Google has no role for it.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub roles: &'static [&'static str],
    /// State of the resource.
    #[serde(flatten)]
    pub state: State,
}

/// State of a dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "detail", rename_all = "snake_case")]
pub enum State {
    /// Present, as the settings need it.
    Ready,
    /// Present, but not all of it could be checked.
    Unchecked(String),
    /// Missing or incomplete. The service will create or extend it when it starts.
    WillCreate(String),
    /// Missing.
    Missing(String),
    /// Present, but this process lacks a permission on it.
    Denied(String),
    /// Present, but different from what the settings need.
    Differs(String),
    /// Unknown, because it does not answer or refuses the request.
    Unreachable(String),
}

/// Reader of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// People.
    Text,
    /// Programs.
    Json,
}

impl Dependency {
    /// Returns the same dependency. If the service creates it at its start, it does not count as
    /// missing.
    #[must_use]
    pub fn created(self, is_created: bool) -> Self {
        match self.state {
            State::Missing(_) if is_created => {
                Self { state: State::WillCreate(create::AT_START.into()), ..self }
            }
            _ => self,
        }
    }
}

impl State {
    /// Returns true if the service can work with it.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        match self {
            Self::Ready | Self::Unchecked(_) | Self::WillCreate(_) => true,
            Self::Missing(_) | Self::Denied(_) | Self::Differs(_) | Self::Unreachable(_) => false,
        }
    }

    /// Returns the state of a resource that exists. `may` tells if this process has the permission that
    /// the role grants, or why that is not known.
    #[must_use]
    pub fn of_right(permission: &str, role: &str, may: Result<bool, impl Display>) -> Self {
        match may {
            Ok(true) => Self::Ready,
            Ok(false) => Self::Denied(format!("we lack {permission}: grant {role}")),
            Err(why) => Self::Unchecked(format!("whether we have {permission} is not told: {why}")),
        }
    }

    fn word_and_detail(&self) -> (&'static str, &str) {
        match self {
            Self::Ready => ("ready", ""),
            Self::Unchecked(detail) => ("unchecked", detail),
            Self::WillCreate(detail) => ("will create", detail),
            Self::Missing(detail) => ("MISSING", detail),
            Self::Denied(detail) => ("DENIED", detail),
            Self::Differs(detail) => ("DIFFERS", detail),
            Self::Unreachable(detail) => ("UNREACHABLE", detail),
        }
    }
}

/// Prints the dependencies with their states.
///
/// # Errors
/// A dependency is not fine.
pub(crate) fn report(dependencies: Vec<Dependency>, form: Form) -> anyhow::Result<()> {
    let dependencies = masked(dependencies);
    match form {
        Form::Json => output::line(serde_json::to_string_pretty(&dependencies)?),
        Form::Text => output::line(table(&dependencies, Roles::Hidden).trim_end()),
    }
    expect_fine(&dependencies)
}

/// Everything that settings need outside of the process.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    /// Settings that work, but may surprise.
    pub(crate) warnings: Vec<String>,
    /// Known costs.
    pub(crate) costs: Vec<String>,
    /// Estimate of the monthly cost, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) estimate: Option<Estimate>,
    /// Addresses of Google's APIs.
    pub(crate) cloud: Vec<Address>,
    /// Resources, with the roles that they need.
    pub(crate) dependencies: Vec<Dependency>,
}

impl Plan {
    /// Prints the plan.
    ///
    /// # Errors
    /// A dependency is not fine.
    pub(crate) fn report(self, form: Form) -> anyhow::Result<()> {
        let plan = Self { dependencies: masked(self.dependencies), ..self };
        match form {
            Form::Json => output::line(serde_json::to_string_pretty(&plan)?),
            Form::Text => output::line(plan.text().trim_end()),
        }
        expect_fine(&plan.dependencies)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for line in self.warnings.iter().chain(&self.costs) {
            text.push_str(&format!("{line}\n"));
        }
        if let Some(estimate) = &self.estimate {
            text.push_str(&estimate.to_string());
        }
        for Address { api, url, caller } in &self.cloud {
            text.push_str(&format!("{:<12} {api:<13} {url}  ({caller})\n", "cloud"));
        }
        text + &table(&self.dependencies, Roles::Shown)
    }
}

/// Hides passwords in names, because the settings of an embedded service may not have been checked.
fn masked(mut dependencies: Vec<Dependency>) -> Vec<Dependency> {
    dependencies.iter_mut().for_each(|dependency| url::mask(&mut dependency.name));
    dependencies
}

fn expect_fine(dependencies: &[Dependency]) -> anyhow::Result<()> {
    let wrong = dependencies.iter().filter(|dependency| !dependency.state.is_fine()).count();
    match wrong {
        0 => Ok(()),
        wrong => {
            anyhow::bail!("{wrong} of {} dependencies are not as they must be", dependencies.len())
        }
    }
}

/// Selects whether roles are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Roles {
    Shown,
    Hidden,
}

fn table(dependencies: &[Dependency], roles: Roles) -> String {
    /// Replaces a text that is printed once, at the end.
    const BELOW: &str = "no Google credentials were found, see below";
    let mut text = String::new();
    let mut missing = None;
    for dependency in dependencies {
        let (word, detail) = dependency.state.word_and_detail();
        text.push_str(&format!("{word:<12} {:<13} {}", dependency.kind, dependency.name));
        if roles == Roles::Shown && !dependency.roles.is_empty() {
            text.push_str(&format!("  [{}]", dependency.roles.join(", ")));
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
    use crate::cloud::Caller;

    fn dependency(state: State) -> Dependency {
        let roles = &["roles/pubsub.publisher", "roles/pubsub.viewer"];
        Dependency { kind: "topic", name: "projects/p/topics/raw".into(), roles, state }
    }

    #[test]
    fn a_table_shows_what_is_wrong_and_which_roles_it_takes() {
        let dependencies =
            [dependency(State::Ready), dependency(State::Missing("create it".into()))];

        assert_eq!(
            table(&dependencies, Roles::Shown),
            "ready        topic         projects/p/topics/raw  [roles/pubsub.publisher, roles/pubsub.viewer]\n\
             MISSING      topic         projects/p/topics/raw  [roles/pubsub.publisher, roles/pubsub.viewer]\n\
             \u{20}            create it\n"
        );
        assert!(report(dependencies[..1].to_vec(), Form::Text).is_ok());
        assert!(report(dependencies.to_vec(), Form::Text).is_err());
        assert!(plan(dependencies[..1].to_vec()).report(Form::Text).is_ok());
        assert!(plan(dependencies.to_vec()).report(Form::Text).is_err());
    }

    fn plan(dependencies: Vec<Dependency>) -> Plan {
        let address = Address {
            api: "pubsub",
            url: "https://pubsub.googleapis.com".into(),
            caller: Caller {
                credentials: "service_account".into(),
                credentials_file: None,
                quota_project: Some("payer".into()),
            },
        };
        Plan {
            warnings: vec!["a proxy is set".into()],
            costs: vec!["objects cost".into()],
            estimate: None,
            cloud: vec![address],
            dependencies,
        }
    }

    #[test]
    fn a_plan_shows_the_cloud_and_what_has_no_role() {
        let (kind, name) = ("redis", "redis://h".to_owned());
        let redis = Dependency { kind, name, roles: &[], state: State::Ready };
        let plan = plan(vec![dependency(State::Ready), redis]);

        assert_eq!(
            plan.text(),
            "a proxy is set\n\
             objects cost\n\
             cloud        pubsub        https://pubsub.googleapis.com  (service_account, quota project payer)\n\
             ready        topic         projects/p/topics/raw  [roles/pubsub.publisher, roles/pubsub.viewer]\n\
             ready        redis         redis://h\n"
        );
        assert_eq!(
            serde_json::to_value(&plan).unwrap(),
            serde_json::json!({
                "warnings": ["a proxy is set"],
                "costs": ["objects cost"],
                "cloud": [{
                    "api": "pubsub", "url": "https://pubsub.googleapis.com",
                    "credentials": "service_account", "quota_project": "payer",
                }],
                "dependencies": [
                    { "kind": "topic", "name": "projects/p/topics/raw",
                      "roles": ["roles/pubsub.publisher", "roles/pubsub.viewer"], "state": "ready" },
                    { "kind": "redis", "name": "redis://h", "state": "ready" },
                ],
            })
        );
    }

    #[test]
    fn what_to_do_about_missing_credentials_is_said_once() {
        let unseen = |words| {
            let why = format!("Pub/Sub does not answer: {} ({words})", credentials::MISSING);
            dependency(State::Unreachable(why))
        };
        let dependencies =
            [unseen("no token"), unseen("no headers"), dependency(State::Missing("gone".into()))];

        let text = table(&dependencies, Roles::Hidden);

        assert_eq!(text.matches("gcloud auth application-default login").count(), 1, "{text}");
        let below = "does not answer: no Google credentials were found, see below\n";
        assert_eq!(text.matches(below).count(), 2, "{text}");
        assert!(text.ends_with(" (no token)\n"), "the words of the first one: {text}");
    }

    #[test]
    fn a_right_that_we_lack_is_named_with_its_role() {
        let of = |may: Result<bool, &str>| State::of_right("a.b.write", "roles/writer", may);

        assert_eq!(of(Ok(true)), State::Ready);
        let denied = of(Ok(false));
        assert_eq!(denied, State::Denied("we lack a.b.write: grant roles/writer".into()));
        assert_eq!(denied.word_and_detail().0, "DENIED");
        assert!(!denied.is_fine());
        assert!(matches!(of(Err("503")), State::Unchecked(why) if why.ends_with("told: 503")));
    }

    #[test]
    fn programs_read_the_same() {
        let json =
            serde_json::to_value(dependency(State::Differs("another topic".into()))).unwrap();

        assert_eq!(
            json,
            serde_json::json!({
                "kind": "topic", "name": "projects/p/topics/raw",
                "roles": ["roles/pubsub.publisher", "roles/pubsub.viewer"], "state": "differs", "detail": "another topic",
            })
        );
    }
}
