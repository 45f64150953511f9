//! Variables as a provider for figment, from a list: the process's own, or a test's.

use figment::value::{Dict, Map, Value};
use figment::{Error, Metadata, Profile, Provider};

use super::{Variable, VariableKind};

/// Two underscores after the prefix too: Kubernetes injects `DATAFLOW_...` variables for services
/// of that name.
const PREFIX: &str = "DATAFLOW__";

/// How the origin of a value from a variable starts.
pub(super) const ORIGIN: &str = "variable ";

pub(super) struct Variables {
    origin: String,
    values: Vec<(String, String)>,
}

impl Variables {
    /// `DATAFLOW__A__B=1` as `a.b: 1`.
    pub(super) fn own(variables: &[(String, String)]) -> Self {
        let key = |name: &str| Some(name.strip_prefix(PREFIX)?.to_lowercase().replace("__", "."));
        let values = variables
            .iter()
            .filter_map(|(name, value)| Some((key(name)?, value.clone())))
            .filter(|(key, _)| !key.is_empty())
            .collect();
        Self { origin: format!("{ORIGIN}{PREFIX}{{key}}"), values }
    }

    /// The ecosystem's variables, those that override the file or those that do not.
    pub(super) fn ecosystem(
        known: &[Variable],
        variables: &[(String, String)],
        overriding: bool,
    ) -> Self {
        let known =
            known.iter().filter(|known| (known.kind != VariableKind::Default) == overriding);
        let mut names = Vec::new();
        let mut values = Vec::new();
        for variable in known {
            let set =
                variables.iter().find(|(name, value)| name == variable.name && !value.is_empty());
            let Some((name, value)) = set else { continue };
            let is_host = variable.kind == VariableKind::EmulatorHost && !value.contains("://");
            let value = if is_host { format!("http://{value}") } else { value.clone() };
            names.push(name.as_str());
            values.push((variable.key.to_owned(), value));
        }
        Self { origin: format!("{ORIGIN}{}", names.join(", ")), values }
    }
}

impl Provider for Variables {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut dict = Dict::new();
        for (key, text) in &self.values {
            // Parsing never fails: what is no number, list or object is a string.
            let value = text.parse::<Value>().unwrap_or_else(|never| match never {});
            let nested = figment::util::nest(key, value);
            if let Value::Dict(_, nested) = nested {
                merge(&mut dict, nested);
            }
        }
        Ok(Profile::Default.collect(dict))
    }
}

fn merge(into: &mut Dict, from: Dict) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Dict(_, into)), Value::Dict(_, from)) => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}
