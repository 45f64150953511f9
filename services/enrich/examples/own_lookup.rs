//! Enrich with a custom key, source of documents and applier.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use enrich::apply::Apply;
use enrich::cache::{Document, Fetch, LayerError};
use enrich::key::Key;
use enrich::tools::ACTIONS;
use enrich::{Enrich, config::Settings};
use message::{Envelope, Message};

/// Rule that uses the site as the key. The site is the first level of the MQTT topic.
pub(crate) struct Site;

impl Key for Site {
    fn key(&self, message: &Message, _envelope: &Envelope) -> Option<String> {
        let topic = message.attributes.get("mqtt_topic")?;
        topic.split('/').next().filter(|site| !site.is_empty()).map(str::to_owned)
    }
}

/// Source of sites from a file, with one `name=city` per line. The caches work in front of it, as
/// they do for Firestore.
pub(crate) struct Sites(PathBuf);

impl Fetch for Sites {
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        let text = tokio::fs::read_to_string(&self.0).await;
        let text = text.map_err(|error| LayerError(format!("read {}: {error}", self.origin())))?;
        let city = |key: &str| {
            let (_, city) = text
                .lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| *name == key)?;
            Some(Document::from_iter([("city".to_owned(), city.into())]))
        };
        Ok(keys.iter().map(|key| city(key)).collect())
    }

    fn origin(&self) -> String {
        self.0.display().to_string()
    }
}

/// Applier that copies only the city, in upper case.
pub(crate) struct City;

impl Apply for City {
    fn apply(&self, document: &Document, envelope: &mut Envelope) {
        if let Some(city) = document.get("city").and_then(|city| city.as_str()) {
            envelope.enrichment.insert("city".into(), city.to_uppercase().into());
        }
    }
}

/// Returns enrich with these parts.
pub(crate) fn with_own_lookup(settings: Settings, sites: PathBuf) -> Enrich<Site, City, Sites> {
    Enrich::with(settings, Site, City, Sites(sites))
}

fn main() -> ExitCode {
    service::run("Enrich by site", &ACTIONS, |settings: Settings| {
        with_own_lookup(settings, "sites.txt".into())
    })
}
