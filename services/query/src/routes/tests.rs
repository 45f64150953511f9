use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use serde_json::Value;
use service::health::Health;
use tower::ServiceExt as _;

use super::*;
use crate::store::{MAX_PAGE_BYTES, Page};

/// Store that gives the next planned answer.
#[derive(Clone, Default)]
struct PlannedStore {
    answers: Arc<Mutex<Vec<Result<Page, Failure>>>>,
    asked: Arc<AtomicUsize>,
}

impl Store for PlannedStore {
    async fn page(&self, _: &Parameters) -> Result<Page, Failure> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.answers.lock().unwrap().pop().unwrap_or_else(|| Ok(Page::default()))
    }

    async fn check(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn name(&self) -> String {
        "planned".into()
    }
}

struct TestApi {
    store: PlannedStore,
    health: Health,
    router: Router,
}

impl TestApi {
    fn new(answers: Vec<Result<Page, Failure>>) -> Self {
        let store = PlannedStore { answers: Arc::new(Mutex::new(answers)), ..<_>::default() };
        let health = Health::default();
        let condition = health.condition("table");
        condition.ready();
        let memory = AnswerMemory::new(2 * MAX_PAGE_BYTES);
        let timeout = Duration::from_secs(5);
        let api = Api { store: store.clone(), timeout, memory, condition };
        let router = routes(api).layer(Extension(Identity::unknown()));
        Self { store, health, router }
    }

    async fn get(&self, uri: &str) -> Response {
        let request = Request::get(uri).body(Body::empty()).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }
}

fn page(bytes: usize) -> Result<Page, Failure> {
    Ok(Page { rows: vec![format!("{{\"a\":\"{}\"}}", "x".repeat(bytes))], next: None })
}

async fn json(response: Response) -> Value {
    serde_json::from_slice(&to_bytes(response.into_body(), usize::MAX).await.unwrap()).unwrap()
}

#[tokio::test]
async fn answers_that_nobody_reads_bound_those_to_others() {
    // The last one is the first answer.
    let pages = [MAX_PAGE_BYTES, MAX_PAGE_BYTES * 7 / 4, MAX_PAGE_BYTES / 2].map(page);
    let api = TestApi::new(pages.into());

    let unread = api.get("/data").await;
    assert_eq!(unread.status(), StatusCode::OK);
    let refused = api.get("/data").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "its rows have no room");
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    drop(unread);
    let unread = api.get("/data").await;
    assert_eq!(unread.status(), StatusCode::OK);
    let asked = api.store.asked.load(Ordering::Relaxed);
    let refused = api.get("/data").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "no page has room");

    assert_eq!(api.store.asked.load(Ordering::Relaxed), asked, "no query for nothing");
    drop(unread);
    assert_eq!(api.get("/data").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_answer_has_its_length_and_all_of_its_bytes() {
    let api = TestApi::new(vec![page(200_000)]);

    let response = api.get("/data").await;

    let length = response.headers()[header::CONTENT_LENGTH].to_str().unwrap().to_owned();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    assert_eq!(body.len().to_string(), length);
    assert!(body.ends_with(b"\"}],\"next\":null}"));
}

#[tokio::test]
async fn a_request_that_meets_an_outage_makes_the_service_not_ready_at_once() {
    for (failure, is_ready) in [
        (Failure::Away("10.0.0.1: refused".into()), false),
        (Failure::Missing("gone".into()), false),
        (Failure::Slow, true),
        (Failure::Costly, true),
        (Failure::Busy("10.0.0.1: quota".into()), true),
    ] {
        let api = TestApi::new(vec![Err(failure.clone())]);

        let answer = api.get("/data").await;

        let state = &api.health.conditions()["table"];
        assert_eq!(state.ready, is_ready, "{failure:?}");
        assert!(is_ready || state.reason.contains("planned"), "{}", state.reason);
        let status = answer.status();
        let has_time = answer.headers().contains_key(header::RETRY_AFTER);
        assert_eq!(has_time, status == StatusCode::SERVICE_UNAVAILABLE, "{failure:?}");
        let problem = json(answer).await;
        assert_eq!(problem["status"], status.as_u16());
        assert!(!problem.to_string().contains("10.0.0.1"), "{problem}");
        let expected = if failure == Failure::Costly { 400 } else { 503 };
        assert_eq!(status.as_u16(), expected, "{failure:?}");
    }
}
