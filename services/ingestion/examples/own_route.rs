//! Ingestion with a route of its own on the health server: `/messages` counts messages by route.
//!
//! `cargo run -p ingestion --example own_route -- --config services/ingestion/example.yaml`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::routing::get;
use ingestion::Ingestion;
use ingestion::config::Settings;
use ingestion::enricher::{Arrival, Enricher as _, FromTopic};
use ingestion::tools::ACTIONS;
use serde_json::{Map, Value};
use service::{Routes, Service};

/// Messages so far, by the name of their route. Clones share the counts.
#[derive(Debug, Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

impl Counts {
    fn add(&self, route: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(route.to_owned()).or_default() += 1;
    }

    fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Returns ingestion that counts messages.
pub(crate) fn with_own_route(settings: Settings) -> impl Service<Settings = Settings> {
    let counts = Counts::default();
    let counted = counts.clone();
    let enricher = move |arrival: Arrival<'_>, data: &mut Map<String, Value>| {
        FromTopic.enrich(arrival, data);
        counted.add(arrival.route);
    };
    let routes = Routes::new().route("/messages", get(async move || Json(counts.all())));
    Ingestion::with_enricher(settings, enricher).with_routes(routes)
}

fn main() -> ExitCode {
    service::run("Ingestion that counts messages", &ACTIONS, with_own_route)
}
