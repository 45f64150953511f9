//! Parts of settings: structs that several services share. Users write the keys of a part at the
//! top level, as if it were not there.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Faults, Http, Settings, names};
use crate::cloud;
use crate::google::{CredentialsFile, GoogleSettings};

/// Settings of the process, which every service has.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct ProcessSettings {
    /// Google Cloud project. Required; the variable `GOOGLE_CLOUD_PROJECT` is its default, else
    /// `GCP_PROJECT_ID`.
    pub project: String,
    /// Access to Google's APIs.
    pub google: GoogleSettings,
    /// Address of the health server.
    pub http: Http,
    /// Maximum duration of a drain; 1ms to 1d.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub grace_period: Duration,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        let grace_period = Duration::from_secs(30);
        Self {
            project: String::new(),
            google: GoogleSettings::default(),
            http: Http::default(),
            grace_period,
        }
    }
}

/// Reports every invalid value of settings. Only those that use an API of Google need a project.
pub(super) fn check<T: Settings>(settings: &T, faults: &mut Faults) {
    let ProcessSettings { project, google, http, grace_period } = settings.process();
    let apis = settings.apis();
    match project.as_str() {
        _ if apis.is_empty() => {}
        "" => faults.add("project", "required (or GOOGLE_CLOUD_PROJECT)"),
        id => faults.name("project", names::project(id)),
    }
    settings.check(faults);
    // The settings of production may be tried with emulators, on a machine without the file.
    let is_emulated = !apis.is_empty() && !cloud::need_credentials(&apis);
    if let Some(file) = google.credentials_file.as_ref().filter(|_| !is_emulated)
        && let Err(wrong) = CredentialsFile::read(file)
    {
        faults.add(GoogleSettings::FILE_KEY, wrong);
    }
    faults.host("http.host", &http.host);
    if let Some(file) = &http.live_key_file
        && let Err(wrong) = crate::live::key::read(file)
    {
        faults.add("http.live_key_file", wrong);
    }
    let day = Duration::from_secs(24 * 3600);
    faults.duration("grace_period", *grace_period, Duration::from_millis(1)..=day);
}

/// Returns settings as users write them: the keys of parts are at the top level.
///
/// # Errors
/// A value has no form in JSON.
pub fn to_value<T: Settings>(settings: &T) -> serde_json::Result<Value> {
    let mut values = serde_json::to_value(settings)?;
    for part in T::PARTS {
        let Some(values) = values.as_object_mut() else { break };
        if let Some(Value::Object(of_part)) = values.remove(*part) {
            values.extend(of_part);
        }
    }
    Ok(values)
}

/// Moves the keys of parts from the top level into their parts, as the types have them. `defaults`
/// are those of the same settings, and say which keys a part has.
pub(super) fn nest<T: Settings>(values: &mut Value, defaults: &Value) {
    let Some(values) = values.as_object_mut() else { return };
    for part in T::PARTS {
        let names = defaults[part].as_object().into_iter().flat_map(|part| part.keys());
        let of_part: Value = names.filter_map(|name| values.remove_entry(name)).collect();
        values.insert((*part).to_owned(), of_part);
    }
}

/// Returns the key as users write it, of a path as the types have it.
pub(super) fn key<T: Settings>(path: &str) -> &str {
    let in_part = |part: &&str| path.strip_prefix(*part)?.strip_prefix('.');
    T::PARTS.iter().find_map(in_part).unwrap_or(path)
}
