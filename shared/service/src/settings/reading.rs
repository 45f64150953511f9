//! Converts values to settings. It continues after a value of a wrong type.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_path_to_error::{Deserializer, Segment, Track};

use super::variables::Layers;
use super::wrong_type::{self, Unreadable};
use super::{Faults, Settings, parts};

/// Maximum number of attempts to read. It is twice the number of values of a wrong type that one
/// report can hold.
const MAX_ATTEMPTS: usize = 400;

/// Values that are read repeatedly. Before each new attempt, the value that could not be read is
/// replaced.
pub(super) struct Reading<'a> {
    values: Value,
    layers: &'a Layers,
    /// Unknown keys, each with the known name that it may mean.
    unknown: BTreeMap<String, Option<String>>,
    /// Number of replacements of each key.
    replaced: BTreeMap<String, usize>,
    /// Original values of variables that are now read as text.
    retyped: BTreeMap<String, Unreadable>,
    /// Values that could not be read, each with its path.
    unreadable: Vec<(Unreadable, Vec<Segment>)>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        values: Value,
        layers: &'a Layers,
        unknown: BTreeMap<String, Option<String>>,
    ) -> Self {
        let (replaced, retyped) = (BTreeMap::new(), BTreeMap::new());
        Self { values, layers, unknown, replaced, retyped, unreadable: Vec::new() }
    }

    /// Reads the settings and reports each value of a wrong type. Returns nothing if not even the
    /// remaining values can be read.
    pub(super) fn read<T: Settings>(mut self, faults: &mut Faults) -> Option<T> {
        let settings = self.read_what_can_be::<T>(faults);
        // The keys of a part were read together, and their place is among the others.
        let section = |key: &str| key.split(['.', '[']).next().map(str::to_owned);
        self.unreadable.sort_by_key(|(unreadable, _)| section(&unreadable.key));
        // The remaining values can be read only now, and they are needed to find the ranges.
        for (unreadable, steps) in &self.unreadable {
            let range = self.range::<T>(unreadable, steps);
            let told =
                format!("{}{}", unreadable.explain(range.as_deref()), self.hints(unreadable));
            faults.add_unreadable(&unreadable.key, told);
        }
        settings
    }

    /// Returns the text that would report a value out of range at this key. It puts values of the
    /// right type there and runs the checks.
    fn range<T: Settings>(&self, unreadable: &Unreadable, steps: &[Segment]) -> Option<String> {
        let steps: Vec<_> = steps.iter().collect();
        unreadable.probes().into_iter().find_map(|probe| {
            let mut values = self.values.clone();
            put(&mut values, &steps, probe)?;
            let settings = match T::deserialize(values) {
                Ok(settings) => settings,
                Err(error) => {
                    let error = error.to_string();
                    return wrong_type::expected(&error).map(|right| format!("must be {right}"));
                }
            };
            let mut faults = Faults::default();
            parts::check(&settings, &mut faults);
            let of_key = |line: &String| Some(line.strip_prefix(&unreadable.key)?.to_owned());
            let told = faults.lines().iter().filter_map(of_key);
            let told: Vec<_> =
                told.filter_map(|told| Some(told.strip_prefix(": ")?.to_owned())).collect();
            told.into_iter().find(|told| told.starts_with("must be "))
        })
    }

    /// Names the unknown keys of a section, if they are the reason why it could not be read.
    fn hints(&self, unreadable: &Unreadable) -> String {
        let Value::Object(section) = &unreadable.value else { return String::new() };
        let hint = |name: &String| {
            let nearest = self.unknown.get(&format!("{}.{name}", unreadable.key))?;
            Some(match nearest {
                Some(nearest) => format!("; `{name}` is unknown, did you mean `{nearest}`?"),
                None => format!("; `{name}` is unknown"),
            })
        };
        section.keys().filter_map(hint).collect()
    }

    /// Reads the settings and records each value that cannot be read. Returns nothing if not even
    /// the remaining values can be read.
    fn read_what_can_be<T: Settings>(&mut self, faults: &mut Faults) -> Option<T> {
        let defaults = serde_json::to_value(T::default()).unwrap_or_default();
        parts::nest::<T>(&mut self.values, &defaults);
        for _ in 0..MAX_ATTEMPTS {
            let mut track = Track::new();
            let deserializer = Deserializer::new(&self.values, &mut track);
            let error = match T::deserialize(deserializer) {
                Ok(settings) => return Some(settings),
                Err(error) => error.to_string(),
            };
            let path = track.path();
            let key = parts::key::<T>(&path.to_string()).to_owned();
            let is_known =
                |step: &&Segment| matches!(step, Segment::Map { .. } | Segment::Seq { .. });
            let place: Vec<_> = path.iter().take_while(is_known).cloned().collect();
            let steps: Vec<_> = place.iter().collect();
            let Some(value) = at(&mut self.values, &steps) else {
                faults.add(&key, error);
                return None;
            };
            let text = self.layers.text(&key).filter(|(origin, _)| {
                faults.origins.get(&key) == Some(origin) && !value.is_string()
            });
            let unreadable = Unreadable { key: key.clone(), value: value.clone(), error };
            if let Some((_, text)) = text {
                // The text of a variable may look like a number or a list, and still be meant as
                // text.
                *value = text.into();
                self.retyped.insert(key, unreadable);
                continue;
            }
            if !self.replaced.contains_key(&key) {
                let first = self.retyped.remove(&key);
                let unreadable =
                    first.filter(|first| first.lacks_same(&unreadable)).unwrap_or(unreadable);
                self.unreadable.push((unreadable, place.clone()));
            }
            if !self.replace(&key, &steps, &defaults) {
                return None;
            }
        }
        None
    }

    /// Replaces a value that could not be read with another one. Returns false when no replacement
    /// is left.
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

/// Sets a value, even if its key was removed from its section.
fn put(values: &mut Value, steps: &[&Segment], value: Value) -> Option<()> {
    let (last, parents) = steps.split_last()?;
    match (at(values, parents)?, last) {
        (Value::Object(parent), Segment::Map { key }) => drop(parent.insert(key.clone(), value)),
        (Value::Array(parent), Segment::Seq { index }) => *parent.get_mut(*index)? = value,
        _ => return None,
    }
    Some(())
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
