//! Reads settings in layers. It continues after a fault, so that all faults are found.

use std::collections::BTreeMap;
use std::path::Path;

use figment::Figment;
use figment::providers::Serialized;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::keys::Keys;
use super::reading::Reading;
use super::variables::{self, Layers};
use super::{Demand, Environment, Faults, Files, OF_PROCESS, Settings, duplicates, parts};

/// Reads settings: defaults, then `file`, then `variables`. Later layers override earlier ones.
///
/// # Errors
/// Returns all faults together: values of a wrong type, unknown keys, and invalid values. A syntax
/// error of the file is reported alone.
pub fn load<T: Settings>(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<T, Faults> {
    load_in(file, &variables.into_iter().collect())
}

/// Reads settings in an environment, as [`load`] does.
///
/// # Errors
/// Returns all faults together.
pub fn load_in<T: Settings>(file: Option<&Path>, environment: &Environment) -> Result<T, Faults> {
    load_files(&Files::of(file), environment, Demand::AsSet)
}

/// Reads settings of several files in an environment, as [`load`] does. A value whose guarantee is
/// weaker than the demand is a fault.
///
/// # Errors
/// Returns all faults together.
pub fn load_files<T: Settings>(
    files: &Files,
    environment: &Environment,
    demand: Demand,
) -> Result<T, Faults> {
    let (keys, mut faults) = (Keys::of::<T>(), Faults::default());
    let known = [&OF_PROCESS[..], &T::variables()].concat();
    let mut layers = Layers::of(&known, environment, &keys, &mut faults);
    // These are the service's own defaults, so a key that a section omits keeps its default.
    let defaults = parts::to_value(&T::default()).unwrap_or_default();
    let figment = Figment::from(Serialized::defaults(defaults)).merge(&layers.weak);
    let figment = files.merge_into(figment, &mut faults);
    let meant = figment.clone().merge(&layers.own);
    layers.fill_names(&meant, &mut faults);
    layers.leave_alternatives(&known, |section| {
        meant.find_value(section).is_ok_and(|value| value.to_empty().is_none())
    });
    let figment = figment.merge(&layers.middle).merge(&layers.own).merge(&layers.strong);
    let values: Value = match figment.extract() {
        Ok(values) => values,
        Err(errors) => {
            // Never use `Debug` here: it may print the value of a secret.
            errors.into_iter().for_each(|error| faults.add_line(describe(&error)));
            return Err(faults);
        }
    };
    collect_origins(&figment, &layers, "", &values, &mut faults.origins);
    let unknown = keys.unknown_in(&values);
    let hints = unknown.iter().map(|key| (key.clone(), nearest_name(key, &keys)));
    let settings = Reading::new(values, &layers, hints.collect()).read::<T>(&mut faults);
    for key in unknown {
        add_unknown(&key, &keys, &layers, &mut faults);
    }
    let Some(settings) = settings else { return Err(faults) };
    parts::check(&settings, &mut faults);
    if demand == Demand::AtLeastOnce {
        settings.check_guarantee(&mut faults);
    }
    if faults.lines().is_empty() { Ok(settings) } else { Err(faults) }
}

fn describe(error: &figment::Error) -> String {
    let source = error.metadata.as_ref().and_then(|metadata| metadata.source.as_ref());
    let Some(figment::Source::File(file)) = source else { return error.kind.to_string() };
    let yaml = std::fs::read_to_string(file).unwrap_or_default();
    if is_no_section(&yaml) {
        let right = "must hold keys with values, such as `project: my-project`";
        return format!("{}: {right}", file.display());
    }
    match duplicates::find(&yaml) {
        Some((line, key)) => {
            format!("{}: line {line}: `{key}` is set twice in its section", file.display())
        }
        None => {
            let error = error.kind.to_string();
            format!("{}: {}", file.display(), too_large(&error).unwrap_or(error))
        }
    }
}

/// Returns true if a file holds anything but keys with values. It may be a password file, and the
/// error text of the YAML reader would show the password.
fn is_no_section(yaml: &str) -> bool {
    let read = serde_yaml::from_str::<Option<BTreeMap<String, IgnoredAny>>>(yaml);
    read.is_err_and(|error| error.to_string().contains("expected a map"))
}

/// Replaces the YAML reader's error about a number that 64 bits cannot hold with plain words.
fn too_large(error: &str) -> Option<String> {
    let (key, rest) = error.split_once("invalid type: integer `")?;
    let (number, rest) = rest.split_once('`')?;
    let (bits, line) = rest.split_once(", expected any YAML value")?;
    [" as u128", " as i128"].contains(&bits).then(|| {
        let most = u64::MAX;
        format!("{key}{number} is too large: a number is at most {most}{line}; other faults are told once this is mended")
    })
}

fn collect_origins(
    figment: &Figment,
    layers: &Layers,
    at: &str,
    value: &Value,
    origins: &mut BTreeMap<String, String>,
) {
    if let Some(metadata) = figment.find_metadata(at) {
        let origin = match &metadata.source {
            Some(figment::Source::File(path)) => Some(path.display().to_string()),
            // A value that no variable sets is a default.
            _ => layers.origin(&metadata.name, at),
        };
        origins.extend(origin.map(|origin| (at.to_owned(), origin)));
    }
    if let Value::Object(children) = value {
        for (name, child) in children {
            let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            collect_origins(figment, layers, &at, child, origins);
        }
    }
}

/// Returns the last part of the known key that an unknown one may mean.
fn nearest_name(key: &str, keys: &Keys) -> Option<String> {
    let nearest = keys.nearest(key)?;
    nearest.rsplit('.').next().map(str::to_owned)
}

/// Reports an unknown key. Each variable that sets it, or a key below it, is reported by its own
/// name.
fn add_unknown(key: &str, keys: &Keys, layers: &Layers, faults: &mut Faults) {
    let told = |key: &str| match keys.nearest(key) {
        Some(nearest) => format!("unknown key, did you mean `{nearest}`?"),
        None => "unknown key".to_owned(),
    };
    let told_of_variable = |key: &str| match keys.nearest(key) {
        Some(nearest) => {
            let variable = variables::name(&nearest);
            format!("unknown key, did you mean {variable}, which sets `{nearest}`?")
        }
        None => "unknown key".to_owned(),
    };
    let set_by_variables = layers.own.at_or_below(key);
    let is_of_variables = faults.origins.get(key).is_none_or(|origin| layers.is_variable(origin));
    if set_by_variables.is_empty() || !is_of_variables {
        faults.add(key, told(key));
    }
    for below in set_by_variables {
        faults.add(below, told_of_variable(below));
    }
}
