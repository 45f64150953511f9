//! Settings: defaults, then a YAML file, then variables; all faults are reported at once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format as _, Serialized, YamlExtended};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod variables;

use variables::Variables;

/// The settings of a service.
///
/// Every struct in them carries `#[serde(default)]`: what is required is checked, not parsed, so that
/// all faults come together.
pub trait Settings:
    DeserializeOwned + Serialize + JsonSchema + Default + Clone + Send + Sync + 'static
{
    /// Reports every value that is wrong.
    fn check(&self, faults: &mut Faults);

    /// The Google Cloud project.
    fn project(&self) -> &str;

    /// Where the health server listens.
    fn http(&self) -> &Http;

    /// How long a drain may take.
    fn grace_period(&self) -> Duration;

    /// What these settings promise, one line each, for `check`.
    fn explain(&self) -> Vec<String> {
        Vec::new()
    }

    /// The keys that the ecosystem's own variables set.
    fn variables() -> &'static [Variable];
}

/// A variable of the ecosystem, such as `PUBSUB_EMULATOR_HOST`, and the key that it sets.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// The variable's name.
    pub name: &'static str,
    /// The key, with dots between its parts.
    pub key: &'static str,
    /// What it holds.
    pub kind: VariableKind,
}

/// What a variable of the ecosystem holds, and whether it wins over the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariableKind {
    /// A value that the file may override.
    Default,
    /// A value that wins over the file and over `DATAFLOW__` variables.
    Override,
    /// `host:port` of an emulator, which wins, so that nothing reaches the real service by mistake.
    EmulatorHost,
}

/// `PORT`, as every platform sets it.
pub const PORT: Variable =
    Variable { name: "PORT", key: "http.port", kind: VariableKind::Override };

/// The project, as Google's tools name it.
pub const PROJECT: Variable =
    Variable { name: "GOOGLE_CLOUD_PROJECT", key: "project", kind: VariableKind::Default };

/// Where the health server listens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Http {
    /// The address; all of them by default, because probes come from outside.
    pub host: String,
    /// The port; 0 takes a free one. The variable `PORT` wins.
    pub port: u16,
}

impl Default for Http {
    fn default() -> Self {
        Self { host: "0.0.0.0".into(), port: 8080 }
    }
}

/// What is wrong with settings, each with its key, where its value came from, and what is right.
#[derive(Debug, Default)]
pub struct Faults {
    found: Vec<String>,
    origins: BTreeMap<String, String>,
}

impl Faults {
    /// Reports a value: `right` says what would be right, such as `must be 1 to 1000, is 0`.
    pub fn add(&mut self, key: &str, right: impl fmt::Display) {
        // A missing value comes from nowhere; its nearest section tells the file.
        let mut at = key;
        let origin = loop {
            if let Some(origin) = self.origins.get(at) {
                break format!(" (from {origin})");
            }
            match at.rsplit_once('.') {
                Some((parent, _)) => at = parent,
                None => break String::new(),
            }
        };
        self.found.push(format!("{key}: {right}{origin}"));
    }

    /// Reports a value unless it is right.
    pub fn require(&mut self, is_right: bool, key: &str, right: impl fmt::Display) {
        if !is_right {
            self.add(key, right);
        }
    }

    /// Reports what is wrong with a pipeline's limits, which stand at `key`.
    pub fn limits(&mut self, key: &str, limits: &pipeline::Limits) {
        for (name, right) in limits.faults() {
            self.add(&format!("{key}.{name}"), format_args!("must be {right}"));
        }
    }

    /// Every fault found, a line each.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.found
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.found.iter().try_for_each(|fault| writeln!(f, "{fault}"))
    }
}

/// Reads settings: defaults, then `file`, then `variables`, the later winning.
///
/// # Errors
/// All faults: unknown keys and wrong values together; a syntax or type error comes alone.
pub fn load<T: Settings>(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<T, Faults> {
    let variables: Vec<_> = variables.into_iter().collect();
    // The service's own defaults, so that a key left out of a section keeps them.
    let mut figment = Figment::from(Serialized::defaults(T::default()));
    figment = figment.merge(Variables::ecosystem(T::variables(), &variables, false));
    if let Some(file) = file {
        figment = figment.merge(YamlExtended::file_exact(file));
    }
    figment = figment.merge(Variables::own(&variables));
    figment = figment.merge(Variables::ecosystem(T::variables(), &variables, true));

    let mut faults = Faults::default();
    let values: Value = match figment.extract() {
        Ok(values) => values,
        Err(errors) => {
            // Never `Debug`: it may hold the value of a secret.
            errors.into_iter().for_each(|error| faults.found.push(describe(&error, file)));
            return Err(faults);
        }
    };
    collect_origins(&figment, "", &values, &mut faults.origins);
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(values, &mut track);
    let settings = serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()));
    let settings: T = settings.map_err(|error: serde_json::Error| {
        let mut alone = Faults { found: Vec::new(), origins: std::mem::take(&mut faults.origins) };
        alone.add(&track.path().to_string(), error);
        alone
    })?;
    for key in unknown {
        faults.add(&key, "unknown key");
    }
    settings.check(&mut faults);
    if faults.found.is_empty() { Ok(settings) } else { Err(faults) }
}

fn describe(error: &figment::Error, file: Option<&Path>) -> String {
    let file = file.map(|file| format!("{}: ", file.display())).unwrap_or_default();
    format!("{file}{}", error.kind)
}

fn collect_origins(
    figment: &Figment,
    at: &str,
    value: &Value,
    origins: &mut BTreeMap<String, String>,
) {
    if let Some(metadata) = figment.find_metadata(at) {
        let origin = match &metadata.source {
            Some(figment::Source::File(path)) => Some(path.display().to_string()),
            _ if metadata.name.starts_with(variables::ORIGIN) => {
                Some(metadata.name.replace("{key}", &at.to_uppercase().replace('.', "__")))
            }
            // A default: nobody set it.
            _ => None,
        };
        origins.extend(origin.map(|origin| (at.to_owned(), origin)));
    }
    if let Value::Object(children) = value {
        for (name, child) in children {
            let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            collect_origins(figment, &at, child, origins);
        }
    }
}

#[cfg(test)]
mod tests;
