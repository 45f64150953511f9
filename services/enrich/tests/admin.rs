//! Tests of the admin port.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;
use std::time::Duration;

use enrich::admin;
use enrich::cache::settings::LookupSettings;
use enrich::cache::{Document, Fetch, LayerError, Lookup};
use enrich::config::Admin;
use enrich::metrics::Metrics;
use reqwest::{Client, Method, Response};
use serde_json::Value;
use web::Server;

/// Source without documents.
struct Nothing;

impl Fetch for Nothing {
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        Ok(vec![None; keys.len()])
    }

    fn origin(&self) -> String {
        "nothing".into()
    }
}

/// Starts the port. Returns the URL of a key there.
async fn start(host: &str, cache: &LookupSettings) -> (Server, String) {
    let (lookup, _reader) = Lookup::new(cache, Nothing, Metrics::default()).unwrap();
    let settings = Admin { host: host.into(), port: 0 };
    let bound = admin::bind(&settings).await.unwrap();
    let url = format!("http://127.0.0.1:{}/cache/a%2Fkey", bound.address().port());
    (bound.serve(admin::routes(lookup), &web::Metrics::default()), url)
}

async fn ask(method: Method, url: &str) -> Response {
    Client::new().request(method, url).send().await.unwrap()
}

#[tokio::test]
async fn a_key_is_forgotten_at_any_address_that_the_settings_name() {
    for host in ["127.0.0.1", "0.0.0.0"] {
        let (_server, url) = start(host, &LookupSettings::default()).await;

        let answer = ask(Method::DELETE, &url).await;

        assert_eq!(answer.status(), 204, "{host}");
        assert!(!answer.headers().contains_key("content-type"), "{answer:?}");
        assert_eq!(answer.text().await.unwrap(), "");
    }
}

#[tokio::test]
async fn what_the_port_does_not_have_is_told_in_json() {
    let (_server, url) = start("127.0.0.1", &LookupSettings::default()).await;

    let wrong_method = ask(Method::GET, &url).await;
    let wrong_path = ask(Method::DELETE, &url.replace("cache", "other")).await;

    for (answer, code) in [(wrong_method, 405), (wrong_path, 404)] {
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(problem["status"], code);
    }
}

#[tokio::test]
async fn a_key_that_redis_may_still_have_is_an_error() {
    let mut cache = LookupSettings::default();
    // Nothing listens on this port.
    cache.redis.url = Some("redis://127.0.0.1:1".into());
    cache.redis.timeout = Duration::from_millis(200);
    let (_server, url) = start("127.0.0.1", &cache).await;

    let answer = ask(Method::DELETE, &url).await;

    assert_eq!(answer.status(), 503);
    let problem: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("this replica has forgotten it; Redis and the other"), "{detail}");
}
