//! Settings of the live page.

use std::path::{Path, PathBuf};

use pubsub::Endpoint;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::Faults;

/// Maximum number of viewers. A service takes 256, and each viewer may be one of those.
const MAX_VIEWERS: usize = 250;

/// Live page: the state of the services, messages on their way, and dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Settings {
    /// Services in the order of the flow. Required.
    pub services: Vec<Stage>,
    /// File with the key for the paths `/live` of the services, as in their `http.live_key_file`.
    /// Without it, these paths answer only on the same machine, and only if the services have no key.
    pub key_file: Option<PathBuf>,
    /// URL of HTTP ingest, such as `http://ingestion:8081`. Without it, the page sends no messages.
    pub ingest_url: Option<String>,
    /// File with the API key for HTTP ingest, if it asks for one.
    pub ingest_key_file: Option<PathBuf>,
    /// Dead letters that the page may send again. Without it, it sends none.
    pub dead_letters: Option<Replay>,
    /// Maximum number of viewers; 1 to 250. Each may watch messages, too. Each service takes 256, from
    /// all page servers together.
    pub max_viewers: usize,
    /// Samples of messages that a viewer gets in a second; 1 to 100. Each replica sends 10 at most.
    pub sample_rate: u32,
}

/// Service that the page shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Stage {
    /// Name of the service, which is also that of its pipeline.
    pub name: String,
    /// URL of its health port, such as `http://enrich:8080`. Each address of the host is a replica.
    pub url: String,
    /// Name of the service before it. The first service has none.
    pub from: Option<String>,
    /// Subscription that the service reads. Its dead letters return to the topic of it.
    pub subscription: Option<String>,
}

/// Dead letters that the page may send again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Replay {
    /// Google Cloud project. Required.
    pub project: String,
    /// Subscription of the dead-letter topic. Required.
    pub subscription: String,
    /// Connection settings of Pub/Sub.
    pub pubsub: Endpoint,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            key_file: None,
            ingest_url: None,
            ingest_key_file: None,
            dead_letters: None,
            max_viewers: 200,
            sample_rate: 10,
        }
    }
}

impl Settings {
    /// Reports all faults. `key` is the section of these settings, such as `live`.
    pub fn check(&self, key: &str, faults: &mut Faults) {
        let services = format!("{key}.services");
        faults.require(!self.services.is_empty(), &services, "required");
        for (index, stage) in self.services.iter().enumerate() {
            let key = format!("{services}[{index}]");
            let before = &self.services[..index];
            let is_new = before.iter().all(|other| other.name != stage.name);
            let is_named = !stage.name.is_empty() && is_new;
            faults.require(is_named, &format!("{key}.name"), "must be a name that no other has");
            check_url(&format!("{key}.url"), &stage.url, faults);
            let is_known = |from: &String| before.iter().any(|other| other.name == *from);
            faults.require(
                stage.from.as_ref().is_none_or(is_known),
                &format!("{key}.from"),
                "must be the name of a service before it",
            );
        }
        if let Some(url) = &self.ingest_url {
            check_url(&format!("{key}.ingest_url"), url, faults);
        }
        for (name, file) in
            [("key_file", &self.key_file), ("ingest_key_file", &self.ingest_key_file)]
        {
            if let Some(Err(wrong)) = file.as_deref().map(read_key) {
                faults.add(&format!("{key}.{name}"), wrong);
            }
        }
        if let Some(Replay { project, subscription, .. }) = &self.dead_letters {
            for (name, value) in [("project", project), ("subscription", subscription)] {
                faults.require(
                    !value.is_empty(),
                    &format!("{key}.dead_letters.{name}"),
                    "required",
                );
            }
        }
        faults.range(&format!("{key}.max_viewers"), self.max_viewers, 1..=MAX_VIEWERS);
        faults.range(&format!("{key}.sample_rate"), self.sample_rate, 1..=100);
    }
}

fn check_url(key: &str, url: &str, faults: &mut Faults) {
    faults.require(
        address_of(url).is_some(),
        key,
        "must be a URL such as http://enrich:8080, with a port and without a path",
    );
}

/// Returns the host with the port of a URL without a path. `None` for any other URL.
pub(crate) fn address_of(url: &str) -> Option<&str> {
    let address = url.strip_prefix("http://")?.trim_end_matches('/');
    let (host, port) = address.rsplit_once(':')?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    (is_port && !host.is_empty() && !host.contains(['/', '@', '?', '#'])).then_some(address)
}

/// Reads a key of a file. Errors do not repeat it.
pub(crate) fn read_key(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| format!("cannot be read: {error}"))?;
    let key = text.trim();
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    is_key.then(|| key.to_owned()).ok_or_else(|| "must hold one key without spaces".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(settings: &Settings) -> Vec<String> {
        let mut faults = Faults::default();
        settings.check("live", &mut faults);
        faults.lines().iter().filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect()
    }

    fn stage(name: &str, url: &str, from: Option<&str>) -> Stage {
        let (name, url, from) = (name.into(), url.into(), from.map(Into::into));
        Stage { name, url, from, subscription: None }
    }

    #[test]
    fn every_fault_names_its_key() {
        let right = Settings {
            services: vec![
                stage("ingestion", "http://ingestion:8080", None),
                stage("enrich", "http://[::1]:8080/", Some("ingestion")),
            ],
            ..Settings::default()
        };
        let wrong = Settings {
            services: vec![
                stage("a", "ftp://a:1", Some("b")),
                stage("a", "http://a", None),
                stage("", "http://a:1/path", Some("c")),
            ],
            key_file: Some("/nowhere".into()),
            ingest_url: Some("ingestion".into()),
            dead_letters: Some(Replay::default()),
            max_viewers: 251,
            sample_rate: 0,
            ..Settings::default()
        };

        assert_eq!(faults(&right), Vec::<String>::new());
        assert_eq!(faults(&Settings::default()), ["live.services"]);
        let expected = [
            "live.services[0].url",
            "live.services[0].from",
            "live.services[1].name",
            "live.services[1].url",
            "live.services[2].name",
            "live.services[2].url",
            "live.services[2].from",
            "live.ingest_url",
            "live.key_file",
            "live.dead_letters.project",
            "live.dead_letters.subscription",
            "live.max_viewers",
            "live.sample_rate",
        ];
        assert_eq!(faults(&wrong), expected);
    }
}
