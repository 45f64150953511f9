//! Provider for figment that reads variables from a list. The list is the environment of the
//! process, or made by a test.

use std::collections::BTreeMap;

use figment::value::{Dict, Map, Value};
use figment::{Error, Metadata, Profile, Provider};

use super::keys::Keys;
use super::{Faults, Variable, VariableKind};

/// Prefix of our own variables. It ends with two underscores, because Kubernetes injects variables
/// that start with `DATAFLOW_` for services of that name.
const PREFIX: &str = "DATAFLOW__";
/// Prefix with one underscore missing.
const SHORT_PREFIX: &str = "DATAFLOW_";
/// Start of the origin of a value that a variable sets.
const ORIGIN: &str = "variable ";
/// Start of the values that Kubernetes injects into variables named after ports.
const LINKS: [&str; 3] = ["tcp://", "udp://", "sctp://"];

/// All variables that set a key.
pub(super) struct Layers {
    /// Ecosystem variables that the file overrides.
    pub weak: Variables,
    /// Our own variables, `DATAFLOW__...`.
    pub own: Variables,
    /// Ecosystem variables that override everything else.
    pub strong: Variables,
}

/// Variables with the same precedence.
pub(super) struct Variables {
    layer: &'static str,
    /// Name and text of the variable, by the key that it sets.
    values: BTreeMap<String, (String, String)>,
}

impl Layers {
    /// Sorts variables into layers. Reports variables that set nothing by mistake.
    pub(super) fn of(
        known: &[Variable],
        variables: &[(String, String)],
        keys: &Keys,
        faults: &mut Faults,
    ) -> Self {
        let ecosystem = |is_strong| {
            let layer = if is_strong { "strong variables" } else { "weak variables" };
            let known = known.iter();
            let known = known.filter(|known| (known.kind != VariableKind::Default) == is_strong);
            let values = known.flat_map(|known| ecosystem(known, variables, keys)).collect();
            Variables { layer, values }
        };
        let is_emulator = |known: &&Variable| known.kind == VariableKind::EmulatorHost;
        for known in known.iter().filter(is_emulator) {
            let is_wrong = set(known, variables).is_some_and(|(_, value)| has_no_port(value));
            let right = "must be host:port, such as localhost:8085, or a URL";
            if is_wrong {
                faults.add_line(format!("{}: {right}; the port is missing", known.name));
            }
        }
        let mut values = BTreeMap::new();
        for (name, text) in variables {
            match own_key(name, text, keys) {
                Ok(Some(key)) => drop(values.insert(key, (name.clone(), text.clone()))),
                Ok(None) => {}
                Err(wrong) => faults.add_line(format!("{name}: {wrong}")),
            }
        }
        let own = Variables { layer: "own variables", values };
        Self { weak: ecosystem(false), own, strong: ecosystem(true) }
    }

    /// Returns the origin of the value at `key`, if figment found it in this layer.
    pub(super) fn origin(&self, layer: &str, key: &str) -> Option<String> {
        let layers = [&self.weak, &self.own, &self.strong];
        let variables = layers.into_iter().find(|variables| variables.layer == layer)?;
        let mut at = key;
        loop {
            if let Some((name, _)) = variables.values.get(at) {
                return Some(format!("{ORIGIN}{name}"));
            }
            at = at.rsplit_once('.')?.0;
        }
    }

    /// Returns whether an origin is a variable.
    pub(super) fn is_variable(&self, origin: &str) -> bool {
        let layers = [&self.weak, &self.own, &self.strong];
        let mut names = layers.into_iter().flat_map(|variables| variables.values.values());
        names.any(|(name, _)| origin.strip_prefix(ORIGIN) == Some(name))
    }

    /// Returns the text of the variable that sets `key`, and its origin.
    pub(super) fn text(&self, key: &str) -> Option<(String, &str)> {
        let layers = [&self.strong, &self.own, &self.weak];
        let mut set = layers.into_iter().filter_map(|variables| variables.values.get(key));
        set.next().map(|(name, text)| (format!("{ORIGIN}{name}"), text.as_str()))
    }
}

/// Returns the key that one of our variables sets. Returns nothing for a variable that is not ours.
fn own_key(name: &str, text: &str, keys: &Keys) -> Result<Option<String>, String> {
    let key = |rest: &str| rest.to_lowercase().replace("__", ".");
    if let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| !rest.is_empty()) {
        let key = key(rest);
        return match keys.list_on(&key) {
            None => Ok(Some(key)),
            Some(list) => {
                let whole = self::name(list);
                Err(format!("a list is set as a whole, as {whole}='[a, b]' or '[{{key=value}}]'"))
            }
        };
    }
    let Some(rest) = name.strip_prefix(SHORT_PREFIX) else { return Ok(None) };
    let is_link = LINKS.iter().any(|link| text.starts_with(link));
    let meant = Some(key(rest)).filter(|key| keys.has(key));
    let meant = meant.or_else(|| keys.joined_as(&rest.to_lowercase()));
    match meant.filter(|_| !is_link) {
        None => Ok(None),
        Some(key) => Err(format!("sets nothing; {} sets {key}", self::name(&key))),
    }
}

/// Returns the name of the variable that sets a key.
pub(super) fn name(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// Returns the keys that an ecosystem variable sets, each with the variable's name and text.
/// Returns nothing while it is unset or empty.
///
/// For an emulator it also sets `credentials` to `anonymous`. So credentials are never sent to an
/// emulator, even if the file says otherwise.
fn ecosystem(
    known: &Variable,
    variables: &[(String, String)],
    keys: &Keys,
) -> Vec<(String, (String, String))> {
    let Some((name, value)) = set(known, variables) else { return Vec::new() };
    let is_emulator = known.kind == VariableKind::EmulatorHost;
    let is_host = is_emulator && !value.contains("://");
    let url = if is_host { format!("http://{value}") } else { value.clone() };
    let mut set = vec![(known.key.to_owned(), (name.clone(), url))];
    let section = known.key.strip_suffix(".endpoint").filter(|_| is_emulator);
    let credentials = section.map(|section| format!("{section}.credentials"));
    if let Some(credentials) = credentials.filter(|key| keys.has(key)) {
        set.push((credentials, (name.clone(), "anonymous".into())));
    }
    set
}

/// Returns the name and the text of an ecosystem variable, unless it is unset or empty.
fn set<'a>(known: &Variable, variables: &'a [(String, String)]) -> Option<&'a (String, String)> {
    variables.iter().find(|(name, value)| name == known.name && !value.is_empty())
}

/// Returns true for the address of an emulator that has neither a scheme nor a port. Port 80 is never
/// meant.
fn has_no_port(address: &str) -> bool {
    let authority = address.split('/').next().unwrap_or_default();
    // The colons in brackets are those of an IPv6 address.
    let after_host = authority.rsplit(']').next().unwrap_or_default();
    !address.contains("://") && !after_host.contains(':')
}

impl Variables {
    /// Returns the keys that variables set at `key` and below it.
    pub(super) fn at_or_below(&self, key: &str) -> Vec<&str> {
        let is_below = |set: &&str| {
            set.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.values.keys().map(String::as_str).filter(is_below).collect()
    }
}

impl Provider for &Variables {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.layer)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut dict = Dict::new();
        for (key, (_, text)) in &self.values {
            // Parsing never fails: a text that is no number, list or object is a string.
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
