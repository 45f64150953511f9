//! Ingestion that takes messages over HTTP and gRPC alone.

use std::collections::HashMap;

use e2e::names::ROUTE;
use e2e::timings;
use emulator::Emulator;
use ingestion::config::{HttpIngest, RouteSettings, Settings};
use message::Envelope;
use reqwest::Client;
use service::Hosted;

use crate::flow_env::{FlowEnv, GRACE, RAW_ARCHIVE, counter, start_ingestion, until};

/// Number of refusals that no test reaches.
pub(crate) const ALWAYS: u64 = 1_000_000;

/// Ingestion without a broker.
pub(crate) struct IngestEnv {
    pub(crate) flow: FlowEnv,
    pub(crate) ingestion: Hosted,
    pub(crate) address: String,
    pub(crate) client: Client,
}

/// Message as Pub/Sub has it.
pub(crate) struct Published {
    pub(crate) envelope: Envelope,
    pub(crate) ingest_id: String,
    pub(crate) attributes: HashMap<String, String>,
}

impl IngestEnv {
    pub(crate) async fn start(change: impl FnOnce(&mut Settings, &mut HttpIngest)) -> Self {
        let flow = FlowEnv::start().await;
        let mut settings = flow.ingestion();
        settings.mqtt.url = "".into();
        let mut route = RouteSettings::default();
        route.source.http_source = Some("{device_id}".into());
        route.destination.route_name = ROUTE.into();
        settings.routes = [("over_http".to_owned(), route)].into();
        let mut http = HttpIngest { port: 0, ..HttpIngest::default() };
        change(&mut settings, &mut http);
        settings.http_ingest = Some(http);
        let ingestion = start_ingestion(settings).await;
        let mut address = String::new();
        until(async || {
            let report = ingestion.health().report();
            address = report["http_ingest"].as_str().unwrap_or_default().to_owned();
            !address.is_empty()
        })
        .await;
        timings::phase(timings::SEND);
        Self { flow, ingestion, address, client: Client::new() }
    }

    pub(crate) fn cloud(&self) -> &Emulator {
        self.flow.server.as_ref().unwrap()
    }

    /// Waits for this number of messages, and returns them.
    pub(crate) async fn published(&self, count: usize) -> Vec<Published> {
        let mut published = Vec::new();
        until(async || {
            let name = self.flow.cloud.name(RAW_ARCHIVE);
            for one in self.flow.cloud.pull(&name).await.unwrap() {
                let envelope = Envelope::read(&one.data).unwrap();
                let ingest_id = one.attributes["ingest_id"].clone();
                published.push(Published { envelope, ingest_id, attributes: one.attributes });
            }
            published.len() >= count
        })
        .await;
        published
    }

    /// Returns whether nothing is in the pipeline.
    pub(crate) fn is_idle(&self) -> bool {
        counter(&self.ingestion, "dataflow_pipeline_in_flight_messages") == 0
    }

    pub(crate) async fn stop(self) {
        self.ingestion.shutdown(GRACE).await.unwrap();
        self.flow.teardown().await;
    }
}
