//! Settings: defaults, then a YAML file, then variables. All faults are reported together.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cloud::Api;
use crate::cost::{Item, Load, Prices};
use crate::memory::Share;

mod demand;
mod duplicates;
mod environment;
mod faults;
mod files;
pub mod host;
mod keys;
mod load;
mod names;
mod parsed;
mod parts;
mod password;
mod reading;
#[cfg(test)]
mod tests;
mod tls;
pub mod url;
mod variables;
mod wrong_type;

pub use demand::Demand;
pub use environment::Environment;
pub use faults::Faults;
pub use files::{Files, SectionFile};
pub use load::{load, load_files, load_in};
pub use parsed::{Parsed, WrongSettings};
pub use parts::{ProcessSettings, to_value};
pub use password::Password;
pub use tls::Tls;

/// Settings of a service.
///
/// Every struct in them carries `#[serde(default)]`. Required keys are enforced by `check`, not by
/// the parser, so all faults are reported together. A field that is a part, such as [`ProcessSettings`],
/// carries `#[schemars(flatten)]`, and its name is in [`Settings::PARTS`]. Users write its keys at
/// the top level.
pub trait Settings:
    DeserializeOwned + Serialize + JsonSchema + Default + Clone + Send + Sync + 'static
{
    /// Names of the fields that are parts.
    const PARTS: &'static [&'static str] = &["process"];

    /// Sections that may be in a file of their own.
    const SECTION_FILES: &'static [SectionFile] = &[];

    /// Returns the settings of the process. Their faults are reported beside those of `check`.
    fn process(&self) -> &ProcessSettings;

    /// Reports every other invalid value.
    fn check(&self, faults: &mut Faults);

    /// Reports each value whose guarantee is weaker than at least once, for `--strict`. Use
    /// [`Faults::add_weak`].
    fn check_guarantee(&self, _faults: &mut Faults) {}

    /// Returns the guarantees of these settings, one line each, for `check`.
    ///
    /// # Errors
    /// A value is wrong, and nobody has checked these settings.
    fn explain(&self) -> Result<Vec<String>, WrongSettings> {
        Ok(Vec::new())
    }

    /// Returns settings that work, but may surprise, one line each. For `check`, `plan` and the log.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the cost of the resources that these settings need, as far as it is known, one line
    /// each. For `plan`.
    fn costs(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the cost of a month for these messages, line by line. Each service tells its own part.
    fn estimate(&self, _load: &Load, _prices: &Prices) -> Vec<Item> {
        Vec::new()
    }

    /// Returns the APIs of Google that these settings need, for `plan`.
    fn apis(&self) -> Vec<Api> {
        Vec::new()
    }

    /// Returns the memory that each setting allows. Every bounded item is counted at its bound,
    /// once per copy in memory. Returns nothing if the amount is unknown.
    fn memory(&self) -> Vec<Share> {
        Vec::new()
    }

    /// Returns the sum of [`Settings::memory`]. A container whose limit is lower may be killed.
    fn memory_bytes(&self) -> u64 {
        self.memory().iter().fold(0, |sum, share| sum.saturating_add(share.bytes))
    }

    /// Returns the standard variables of the ecosystem that set keys, besides `PORT` and
    /// `GOOGLE_CLOUD_PROJECT`.
    fn variables() -> Vec<Variable> {
        Vec::new()
    }
}

/// Standard variable of the ecosystem, such as `PUBSUB_EMULATOR_HOST`, and the key that it sets.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Name of the variable.
    pub name: &'static str,
    /// Key that it sets, with dots between its parts. A part `*` stands for the only name there, as in
    /// `routes.*.source.mqtt_topic`. If several names have the key, the variable is a fault.
    pub key: &'static str,
    /// Kind of its value.
    pub kind: VariableKind,
}

/// Kind of an ecosystem variable's value, and its precedence over the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariableKind {
    /// Value that the file may override.
    Default,
    /// Value that overrides the file. `DATAFLOW__` variables override it.
    Value,
    /// [`VariableKind::Value`] of a section that has an alternative: the section of this name. It is
    /// ignored if the file or a `DATAFLOW__` variable sets the alternative, and not its own section.
    ValueUnless(&'static str),
    /// Address `host:port`, which becomes a URL with this scheme. It has the precedence of a
    /// [`VariableKind::Value`].
    Address(&'static str),
    /// Whole number of seconds, for a key with a duration. It has the precedence of a
    /// [`VariableKind::Value`].
    Seconds,
    /// Setting of other programs that this one does not have. It is a fault unless it is `false` or
    /// `0`. The text says why, and names another way.
    Refused(&'static str),
    /// Value that overrides the file and `DATAFLOW__` variables.
    Override,
    /// Address `host:port` of an emulator. It overrides the file, so nothing reaches the real
    /// service by mistake.
    EmulatorHost,
}

/// Variables that every service knows: `PORT`, which hosting platforms set, and the project as
/// Google's tools name it.
const OF_PROCESS: [Variable; 3] = [
    Variable { name: "PORT", key: "http.port", kind: VariableKind::Override },
    // A later one of the same kind wins.
    Variable { name: "GCP_PROJECT_ID", key: "project", kind: VariableKind::Default },
    Variable { name: "GOOGLE_CLOUD_PROJECT", key: "project", kind: VariableKind::Default },
];

/// Address at which the health server listens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Http {
    /// Host to listen on. The default is all addresses, because probes come from outside.
    pub host: String,
    /// Port to listen on; 0 takes a free one. The variable `PORT` overrides it.
    pub port: u16,
    /// File with the key for `/live/events` and `/live/dead-letters`, which show data of devices; at
    /// least 32 characters. It is read at each request. With it, all callers need the key. Without
    /// it, only callers on the same machine are answered there.
    pub live_key_file: Option<PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        Self { host: "0.0.0.0".into(), port: 8080, live_key_file: None }
    }
}
