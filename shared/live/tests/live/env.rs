//! A page server, and services that answer as the test says.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use live::settings::Stage;
use live::{Live, Settings};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use web::{Bound, Limits, Listener, Metrics, Open, Reach, Server};

/// Maximum wait for an expected event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Answers of a service.
#[derive(Clone, Default)]
pub(crate) struct Answers {
    pub(crate) guarantees: Vec<String>,
    /// Status of the metrics.
    pub(crate) metrics: StatusCode,
    /// Events of a stream, which does not end.
    pub(crate) events: String,
}

/// Service that answers as the test says.
pub(crate) struct FakeService {
    url: String,
    _task: JoinSet<()>,
}

impl FakeService {
    pub(crate) async fn start(change: impl FnOnce(&mut Answers)) -> Self {
        let mut answers = Answers::default();
        change(&mut answers);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = routes(Arc::new(answers));
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, _task: task }
    }
}

fn routes(answers: Arc<Answers>) -> Router {
    const METRICS: &str = "dataflow_pipeline_received_messages_total{pipeline=\"one\"} 100\n";
    let metrics = async |State(answers): State<Arc<Answers>>| (answers.metrics, METRICS);
    let status = async |State(answers): State<Arc<Answers>>| {
        Json(json!({ "version": "9.9", "guarantees": answers.guarantees }))
    };
    let letters = async || {
        Json(json!([{
            "stage": "one", "reason": "bad", "why": "Why.", "detail": "d", "at": "2026-01-01T00:00:00.000Z",
            "ingest_id": "i-1", "device_id": "a", "message_id": "1", "record": null,
        }]))
    };
    let events = async |State(answers): State<Arc<Answers>>| {
        let bytes = Bytes::from(answers.events.clone());
        let events = stream::iter([Ok::<_, std::io::Error>(bytes)]).chain(stream::pending());
        Body::from_stream(events)
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/readyz", get(async || Json(json!({ "ready": true, "conditions": {} }))))
        .route("/status", get(status))
        .route("/live/dead-letters", get(letters))
        .route("/live/events", get(events))
        .with_state(answers)
}

/// Returns settings of the page for these services.
pub(crate) fn settings(services: &[&FakeService]) -> Settings {
    let names = ["one", "two"].into_iter().zip(services);
    let stage = |(name, service): (&str, &&FakeService)| Stage {
        name: name.into(),
        url: service.url.clone(),
        from: None,
        subscription: None,
    };
    Settings { services: names.map(stage).collect(), ..Settings::default() }
}

/// Running page server.
pub(crate) struct TestEnv {
    pub(crate) live: Live,
    pub(crate) url: String,
    pub(crate) client: Client,
    _server: Server,
}

impl TestEnv {
    pub(crate) async fn start(settings: Settings, limits: Limits) -> Self {
        service::install_crypto();
        let listener = Listener { port: 0, ..Listener::default() };
        let bound = Bound::bind(&listener, "live", Open::on_loopback()).await.unwrap();
        let url = format!("http://{}", bound.address());
        let live = Live::start(&settings, Reach::Loopback).unwrap();
        let bound = bound.with_open(live.page()).with_limits(limits);
        let server = bound.serve(live.routes(), &Metrics::default());
        Self { live, url, client: Client::new(), _server: server }
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    pub(crate) async fn open(&self, path: &str) -> Events {
        let response = self.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        Events { response, buffer: Vec::new(), searched: 0 }
    }
}

/// Stream of events.
pub(crate) struct Events {
    response: reqwest::Response,
    buffer: Vec<u8>,
    /// Bytes of the buffer that have no end of an event.
    searched: usize,
}

impl Events {
    /// Waits for the next event that is no comment.
    pub(crate) async fn next(&mut self) -> (String, Value) {
        loop {
            while let Some(end) = self.end() {
                let event: Vec<u8> = self.buffer.drain(..end).collect();
                self.searched = 0;
                let text = String::from_utf8(event).unwrap();
                let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                    return (name.to_owned(), serde_json::from_str(data).unwrap());
                }
            }
            let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// Returns the length of the first event with the empty line behind it.
    fn end(&mut self) -> Option<usize> {
        let begin = self.searched.saturating_sub(1);
        let found = self.buffer[begin..].windows(2).position(|pair| pair == b"\n\n");
        self.searched = self.buffer.len();
        found.map(|at| begin + at + 2)
    }

    /// Waits for an event that is as the test wants it.
    pub(crate) async fn until(&mut self, holds: impl Fn(&str, &Value) -> bool) -> Value {
        let found = timeout(PATIENCE, async {
            loop {
                let (name, event) = self.next().await;
                if holds(&name, &event) {
                    return event;
                }
            }
        });
        found.await.expect("such an event comes")
    }

    /// Waits for the end of the stream.
    pub(crate) async fn ended(mut self) {
        while let Ok(Some(_)) = self.response.chunk().await {}
    }
}
