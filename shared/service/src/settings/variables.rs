//! Provider for figment that reads variables from a list. The list is the environment of the
//! process, or made by a test.

use std::collections::{BTreeMap, BTreeSet};

use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};
use tracing::info;

use super::environment::{Environment, Given};
use super::faults::OF_VARIABLE;
use super::keys::Keys;
use super::{Faults, Variable, VariableKind};

/// Prefix of our own variables. It ends with two underscores, because Kubernetes injects variables
/// that start with `DATAFLOW_` for services of that name.
const PREFIX: &str = "DATAFLOW__";
/// Prefix with one underscore missing.
const SHORT_PREFIX: &str = "DATAFLOW_";
/// Start of the values that Kubernetes injects into variables named after ports.
const LINKS: [&str; 3] = ["tcp://", "udp://", "sctp://"];

/// All variables that set a key.
pub(super) struct Layers {
    /// Ecosystem variables that the file overrides.
    pub weak: Variables,
    /// Ecosystem variables that override the file alone.
    pub middle: Variables,
    /// Our own variables, `DATAFLOW__...`.
    pub own: Variables,
    /// Ecosystem variables that override everything else.
    pub strong: Variables,
}

/// Variables with the same precedence.
pub(super) struct Variables {
    layer: &'static str,
    /// Name of the variable for people, and its text, by the key that it sets.
    values: BTreeMap<String, (String, String)>,
    /// Keys of passwords. Their texts are not parsed.
    passwords: BTreeSet<String>,
}

impl Layers {
    /// Sorts variables into layers. Reports variables that set nothing by mistake.
    pub(super) fn of(
        known: &[Variable],
        environment: &Environment,
        keys: &Keys,
        faults: &mut Faults,
    ) -> Self {
        let is_meant = |known: &&Variable| !is_of_kubernetes(known, environment);
        let known: Vec<_> = known.iter().filter(is_meant).collect();
        let ecosystem = |layer| {
            let of_layer = known.iter().filter(|known| known.kind.layer() == layer);
            let values = of_layer.flat_map(|known| ecosystem(known, environment, keys)).collect();
            Variables::new(layer, values, keys)
        };
        let is_emulator = |known: &&&Variable| known.kind == VariableKind::EmulatorHost;
        for known in known.iter().filter(is_emulator) {
            let is_wrong = set(known, environment).is_some_and(|given| has_no_port(&given.text));
            let right = "must be host:port, such as localhost:8085, or a URL";
            if is_wrong {
                faults.add_line(format!("{}: {right}; the port is missing", known.name));
            }
        }
        check_others(&known, environment, faults);
        let mut values = BTreeMap::new();
        for given in environment.all() {
            match own_key(&given.name, &given.text, keys) {
                Ok(Some(key)) => drop(values.insert(key, (given.shown(), given.text.clone()))),
                Ok(None) => {}
                Err(wrong) => faults.add_line(format!("{}: {wrong}", given.shown())),
            }
        }
        let own = Variables::new("own variables", values, keys);
        let [weak, middle, strong] = [WEAK, MIDDLE, STRONG].map(ecosystem);
        Self { weak, middle, own, strong }
    }

    /// Ignores variables of a section whose alternative is set instead. `is_set` tells whether the
    /// file or one of our own variables sets a section.
    pub(super) fn leave_alternatives(&mut self, known: &[Variable], is_set: impl Fn(&str) -> bool) {
        for Variable { name, key, kind } in known {
            let VariableKind::ValueUnless(other) = kind else { continue };
            let section = key.split('.').next().unwrap_or(key);
            if is_set(other) && !is_set(section) && self.middle.values.remove(*key).is_some() {
                info!(variable = name, "ignored, because {other} is set and {section} is not");
            }
        }
    }

    /// Puts names in the place of `*` in keys. `meant` has what the file and our own variables set.
    /// Reports a variable that could mean several names.
    pub(super) fn fill_names(&mut self, meant: &Figment, faults: &mut Faults) {
        let is_open = |key: &&String| key.contains(ANY_NAME);
        let open: Vec<_> = self.middle.values.keys().filter(is_open).cloned().collect();
        for key in open {
            let Some((section, below)) = key.split_once(ANY_NAME) else { continue };
            let Some((shown, text)) = self.middle.values.remove(&key) else { continue };
            let in_full = |name: &str| format!("{section}.{name}.{below}");
            match only_name(meant, section, below) {
                Ok(name) => drop(self.middle.values.insert(in_full(&name), (shown, text))),
                Err(names) => {
                    let own = names.first().map(|name| self::name(&in_full(name)));
                    faults.add_line(format!(
                        "{shown}: sets {below} of the only one of {section}, and there are several: {}; \
                         leave it out, or set {} instead",
                        names.join(", "),
                        own.unwrap_or_default(),
                    ));
                }
            }
        }
    }

    /// Returns the origin of the value at `key`, if figment found it in this layer.
    pub(super) fn origin(&self, layer: &str, key: &str) -> Option<String> {
        let mut layers = self.all().into_iter();
        let variables = layers.find(|variables| variables.layer == layer)?;
        let mut at = key;
        loop {
            if let Some((name, _)) = variables.values.get(at) {
                return Some(format!("{OF_VARIABLE}{name}"));
            }
            at = at.rsplit_once('.')?.0;
        }
    }

    /// Returns whether an origin is a variable.
    pub(super) fn is_variable(&self, origin: &str) -> bool {
        let mut names = self.all().into_iter().flat_map(|variables| variables.values.values());
        names.any(|(name, _)| origin.strip_prefix(OF_VARIABLE) == Some(name))
    }

    /// Returns the text of the variable that sets `key`, and its origin.
    pub(super) fn text(&self, key: &str) -> Option<(String, &str)> {
        let layers = self.all().into_iter().rev();
        let mut set = layers.filter_map(|variables| variables.values.get(key));
        set.next().map(|(name, text)| (format!("{OF_VARIABLE}{name}"), text.as_str()))
    }

    /// Returns all layers. Later ones override earlier ones.
    fn all(&self) -> [&Variables; 4] {
        [&self.weak, &self.middle, &self.own, &self.strong]
    }
}

/// Part of a key that stands for any name, with the dots around it.
const ANY_NAME: &str = ".*.";
/// Name of a section that a variable creates.
const NEW_NAME: &str = "default";

/// Returns the only name in a section whose key `below` is set, else the only name. Returns all names
/// if there are several.
fn only_name(meant: &Figment, section: &str, below: &str) -> Result<String, Vec<String>> {
    let names = meant.find_value(section).ok().and_then(Value::into_dict).unwrap_or_default();
    let has_key = |(_, value): &(&String, &Value)| value.find_ref(below).is_some();
    let with_key: Vec<_> = names.iter().filter(has_key).map(|(name, _)| name.clone()).collect();
    let all: Vec<_> = names.keys().cloned().collect();
    match (with_key.as_slice(), all.as_slice()) {
        ([name], _) | ([], [name]) => Ok(name.clone()),
        ([], []) => Ok(NEW_NAME.to_owned()),
        ([], _) => Err(all),
        _ => Err(with_key),
    }
}

const WEAK: &str = "weak variables";
const MIDDLE: &str = "variables above the file";
const STRONG: &str = "strong variables";

impl VariableKind {
    /// Returns the layer of variables of this kind.
    fn layer(self) -> &'static str {
        match self {
            Self::Default => WEAK,
            Self::Value
            | Self::ValueUnless(_)
            | Self::Address(_)
            | Self::Seconds
            | Self::Refused(_) => MIDDLE,
            Self::Override | Self::EmulatorHost => STRONG,
        }
    }
}

/// Returns whether Kubernetes set this variable, and nobody meant it as a setting. In every container it
/// sets `NAME_PORT=tcp://..`, `NAME_SERVICE_HOST` and `NAME_SERVICE_PORT` for each service of its namespace.
fn is_of_kubernetes(known: &Variable, environment: &Environment) -> bool {
    let is_link = |name: &str| {
        let text = environment.text(name).unwrap_or_default();
        LINKS.iter().any(|link| text.starts_with(link))
    };
    let is_set = |name: &str| environment.text(name).is_some();
    let is_service = |service: &str| {
        is_set(&format!("{service}_SERVICE_HOST")) && is_link(&format!("{service}_PORT"))
    };
    let is_of_kubernetes = is_set(known.name)
        && match known.name.strip_suffix("_SERVICE_PORT") {
            Some(service) => is_service(service),
            None => known.name.ends_with("_PORT") && is_link(known.name),
        };
    if is_of_kubernetes {
        let own = name(known.key);
        info!(
            variable = known.name,
            "ignored, because Kubernetes set it for a service of that name; {own} sets {}",
            known.key
        );
    }
    is_of_kubernetes
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
    environment: &Environment,
    keys: &Keys,
) -> Vec<(String, (String, String))> {
    let Some(given) = set(known, environment) else { return Vec::new() };
    let (shown, text) = (given.shown(), given.text.clone());
    let is_emulator = known.kind == VariableKind::EmulatorHost;
    let value = match known.kind {
        VariableKind::EmulatorHost => url("http", text),
        VariableKind::Address(scheme) => url(scheme, text),
        VariableKind::Seconds if is_whole(&text) => format!("{text}s"),
        // Both are reported as faults.
        VariableKind::Seconds | VariableKind::Refused(_) => return Vec::new(),
        VariableKind::Default
        | VariableKind::Value
        | VariableKind::ValueUnless(_)
        | VariableKind::Override => text,
    };
    let mut set = vec![(known.key.to_owned(), (shown.clone(), value))];
    let section = known.key.strip_suffix(".endpoint").filter(|_| is_emulator);
    let credentials = section.map(|section| format!("{section}.credentials"));
    if let Some(credentials) = credentials.filter(|key| keys.has(key)) {
        set.push((credentials, (shown, "anonymous".into())));
    }
    set
}

/// Reports variables of other programs that have no meaning here.
fn check_others(known: &[&Variable], environment: &Environment, faults: &mut Faults) {
    for known in known {
        let Some(given) = set(known, environment) else { continue };
        let shown = given.shown();
        match known.kind {
            VariableKind::Seconds if !is_whole(&given.text) => {
                faults.add_line(format!("{shown}: must be a whole number of seconds, such as 60"));
            }
            VariableKind::Refused(why) if !["false", "0"].contains(&given.text.as_str()) => {
                faults.add_line(format!("{shown}: {why}"));
            }
            _ => {} // Right, or checked where its key is.
        }
    }
}

fn is_whole(text: &str) -> bool {
    text.parse::<u32>().is_ok()
}

/// Returns the URL of an address `host:port`. A URL stays as it is.
fn url(scheme: &str, address: String) -> String {
    if address.contains("://") { address } else { format!("{scheme}://{address}") }
}

/// Returns an ecosystem variable, unless it is unset or empty.
fn set<'a>(known: &Variable, environment: &'a Environment) -> Option<&'a Given> {
    let mut all = environment.all().iter();
    all.find(|given| given.name == known.name && !given.text.is_empty())
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
    fn new(layer: &'static str, values: BTreeMap<String, (String, String)>, keys: &Keys) -> Self {
        let passwords = values.keys().filter(|key| keys.is_password(key)).cloned().collect();
        Self { layer, values, passwords }
    }

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
            let value = if self.passwords.contains(key) {
                Value::from(text.clone())
            } else {
                // Parsing never fails: a text that is no number, list or object is a string.
                text.parse::<Value>().unwrap_or_else(|never| match never {})
            };
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
