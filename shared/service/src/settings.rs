//! Settings: defaults, then a YAML file, then variables; all faults are reported at once.

use std::time::Duration;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::memory::Share;

mod duplicates;
mod faults;
pub mod host;
mod keys;
mod load;
mod names;
mod reading;
#[cfg(test)]
mod tests;
mod tls;
pub mod url;
mod variables;
mod wrong_type;

pub use faults::Faults;
pub use load::load;
pub use tls::Tls;

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

    /// The cost of what these settings ask for, as far as it can be told, one line each, for `plan`.
    fn costs(&self) -> Vec<String> {
        Vec::new()
    }

    /// The memory that these settings allow, by setting: everything at its bound, as often as it is in
    /// memory. Nothing where nobody knows.
    fn memory(&self) -> Vec<Share> {
        Vec::new()
    }

    /// The sum of [`Settings::memory`]. A container's limit below it may end the process.
    fn memory_bytes(&self) -> u64 {
        self.memory().iter().fold(0, |sum, share| sum.saturating_add(share.bytes))
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
