//! Reads settings in layers, and goes on after a fault, so that all of them are found.

use std::collections::BTreeMap;
use std::path::Path;

use figment::Figment;
use figment::providers::{Format as _, Serialized, YamlExtended};
use serde_json::Value;
use serde_path_to_error::{Deserializer, Segment, Track};

use super::keys::Keys;
use super::variables::Layers;
use super::{Faults, Settings, wrong_type};

/// Most attempts to read: twice the values of a wrong type that are told at once.
const MAX_ATTEMPTS: usize = 400;

/// Reads settings: defaults, then `file`, then `variables`, the later winning.
///
/// # Errors
/// All faults together: values of a wrong type, unknown keys, and wrong values. A syntax error of the
/// file comes alone.
pub fn load<T: Settings>(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<T, Faults> {
    let variables: Vec<_> = variables.into_iter().collect();
    let (keys, mut faults) = (Keys::of::<T>(), Faults::default());
    let layers = Layers::of(T::variables(), &variables, &keys, &mut faults);
    // The service's own defaults, so that a key left out of a section keeps them.
    let mut figment = Figment::from(Serialized::defaults(T::default())).merge(&layers.weak);
    if let Some(file) = file {
        figment = figment.merge(YamlExtended::file_exact(file));
    }
    figment = figment.merge(&layers.own).merge(&layers.strong);
    let values: Value = match figment.extract() {
        Ok(values) => values,
        Err(errors) => {
            // Never `Debug`: it may hold the value of a secret.
            errors.into_iter().for_each(|error| faults.add_line(describe(&error, file)));
            return Err(faults);
        }
    };
    collect_origins(&figment, &layers, ("", &values), &mut faults.origins);
    let unknown = keys.unknown_in(&values);
    let settings = Reading::new(values, &layers).read::<T>(&mut faults);
    for key in unknown {
        add_unknown(&key, &keys, &layers, &mut faults);
    }
    let Some(settings) = settings else { return Err(faults) };
    settings.check(&mut faults);
    if faults.lines().is_empty() { Ok(settings) } else { Err(faults) }
}

fn describe(error: &figment::Error, file: Option<&Path>) -> String {
    let file = file.map(|file| format!("{}: ", file.display())).unwrap_or_default();
    format!("{file}{}", error.kind)
}

fn collect_origins(
    figment: &Figment,
    layers: &Layers,
    (at, value): (&str, &Value),
    origins: &mut BTreeMap<String, String>,
) {
    if let Some(metadata) = figment.find_metadata(at) {
        let origin = match &metadata.source {
            Some(figment::Source::File(path)) => Some(path.display().to_string()),
            // Without a variable it is a default: nobody set it.
            _ => layers.origin(&metadata.name, at),
        };
        origins.extend(origin.map(|origin| (at.to_owned(), origin)));
    }
    if let Value::Object(children) = value {
        for (name, child) in children {
            let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            collect_origins(figment, layers, (&at, child), origins);
        }
    }
}

/// Reports an unknown key, each variable that sets it or something below by its own name.
fn add_unknown(key: &str, keys: &Keys, layers: &Layers, faults: &mut Faults) {
    let told = |key: &str| match keys.nearest(key) {
        Some(nearest) => format!("unknown key, did you mean `{nearest}`?"),
        None => "unknown key".to_owned(),
    };
    let set_by_variables = layers.own.at_or_below(key);
    let is_of_variables = faults.origins.get(key).is_none_or(|origin| layers.is_variable(origin));
    if set_by_variables.is_empty() || !is_of_variables {
        faults.add(key, told(key));
    }
    for below in set_by_variables {
        faults.add(below, told(below));
    }
}

/// Values that are read again without what could not be read.
struct Reading<'a> {
    values: Value,
    layers: &'a Layers,
    /// How often each key was replaced.
    replaced: BTreeMap<String, usize>,
}

impl<'a> Reading<'a> {
    fn new(values: Value, layers: &'a Layers) -> Self {
        Self { values, layers, replaced: BTreeMap::new() }
    }

    /// Reads, and reports each value of a wrong type; nothing when not even the rest can be read.
    fn read<T: Settings>(mut self, faults: &mut Faults) -> Option<T> {
        let defaults = serde_json::to_value(T::default()).unwrap_or_default();
        for _ in 0..MAX_ATTEMPTS {
            let mut track = Track::new();
            let deserializer = Deserializer::new(&self.values, &mut track);
            let error = match T::deserialize(deserializer) {
                Ok(settings) => return Some(settings),
                Err(error) => error.to_string(),
            };
            let path = track.path();
            let key = path.to_string();
            let is_known =
                |step: &&Segment| matches!(step, Segment::Map { .. } | Segment::Seq { .. });
            let steps: Vec<_> = path.iter().take_while(is_known).collect();
            let Some(value) = at(&mut self.values, &steps) else {
                faults.add(&key, error);
                return None;
            };
            let text = self.layers.text(&key).filter(|(origin, _)| {
                faults.origins.get(&key) == Some(origin) && !value.is_string()
            });
            if let Some((_, text)) = text {
                // What looks like a number or a list in a variable may be meant as text.
                *value = text.into();
                continue;
            }
            if !self.replaced.contains_key(&key) {
                faults.add_unreadable(&key, wrong_type::explain(&key, Some(value), &error));
            }
            if !self.replace(&key, &steps, &defaults) {
                return None;
            }
        }
        None
    }

    /// Puts something else in place of a value that could not be read; false when nothing is left to
    /// try.
    fn replace(&mut self, key: &str, steps: &[&Segment], defaults: &Value) -> bool {
        let tried = self.replaced.entry(key.to_owned()).or_default();
        *tried += 1;
        let substitute = match *tried {
            1 => at(&mut defaults.clone(), steps).cloned().unwrap_or_else(|| serde_json::json!({})),
            2 => serde_json::json!({}),
            3 => "".into(),
            4 => return remove(&mut self.values, steps),
            _ => return false,
        };
        at(&mut self.values, steps).map(|value| *value = substitute).is_some()
    }
}

fn at<'a>(mut value: &'a mut Value, steps: &[&Segment]) -> Option<&'a mut Value> {
    for step in steps {
        value = match step {
            Segment::Map { key } => value.get_mut(key)?,
            Segment::Seq { index } => value.get_mut(index)?,
            Segment::Enum { .. } | Segment::Unknown => return None,
        };
    }
    Some(value)
}

fn remove(values: &mut Value, steps: &[&Segment]) -> bool {
    let Some((last, parents)) = steps.split_last() else { return false };
    match (at(values, parents), last) {
        (Some(Value::Object(parent)), Segment::Map { key }) => parent.remove(key).is_some(),
        (Some(Value::Array(parent)), Segment::Seq { index }) if *index < parent.len() => {
            parent.remove(*index);
            true
        }
        _ => false,
    }
}
