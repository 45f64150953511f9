//! Tests of the page server with services that the test controls.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod env;

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::time::timeout;
use web::Limits;

use env::{Events, FakeService, PATIENCE, TestEnv, settings};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_viewers_see_the_state_and_one_more_is_refused() {
    let service = FakeService::start(|_| {}).await;
    let env = TestEnv::start(settings(&[&service]), Limits::default()).await;
    let mut viewers = Vec::new();
    for _ in 0..200 {
        viewers.push(env.open("/live/state").await);
    }

    let refused = env.get("/live/state").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    for viewer in &mut viewers {
        let state = viewer.until(|_, state| state["viewers"] == 200).await;
        assert_eq!(state["stages"][0]["received"], 100, "{state:#}");
    }

    viewers.pop();
    let free = async {
        while env.get("/live/state").await.status() != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, free).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_who_does_not_read_is_cut_and_the_others_go_on() {
    // Buffers of the system would hold many small states.
    let large = "x".repeat(1024 * 1024);
    let service = FakeService::start(|answers| answers.guarantees = vec![large]).await;
    let limits = Limits { write_timeout: Duration::from_secs(5), ..Limits::default() };
    let env = TestEnv::start(settings(&[&service]), limits).await;
    let mut reading = env.open("/live/state").await;
    reading.until(|_, state| state["viewers"] == 1).await;

    let _slow = env.open("/live/state").await;

    reading.until(|_, state| state["viewers"] == 2).await;
    reading.until(|_, state| state["viewers"] == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_added_up_and_one_that_is_away_is_said() {
    let service = FakeService::start(|_| {}).await;
    let mut settings = settings(&[&service, &service]);
    settings.services[1].from = Some("one".into());
    settings.services[1].url = "http://127.0.0.1:1".into();
    let env = TestEnv::start(settings, Limits::default()).await;

    let mut events = env.open("/live/state").await;
    let state = events.until(|_, _| true).await;

    assert_eq!(state["ready"], false);
    let [one, two] = [0, 1].map(|index| &state["stages"][index]["replicas"][0]);
    assert_eq!((&one["reachable"], &one["version"]), (&json!(true), &json!("9.9")));
    assert_eq!((&two["reachable"], &two["ready"]), (&json!(false), &json!(false)));
    assert_ne!(two["waiting_for"][0]["detail"], "", "{state:#}");
    let recent = &state["dead_letters"]["recent"][0];
    assert_eq!(
        (&recent["id"], &recent["why"]),
        (&json!("one~2026-01-01T00:00:00.000Z~i-1"), &json!("Why."))
    );
    assert_eq!(recent["replayable"], false, "nothing is set for that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_metrics_is_away() {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let service = FakeService::start(|answers| answers.metrics = unavailable).await;
    let env = TestEnv::start(settings(&[&service]), Limits::default()).await;

    let state = env.open("/live/state").await.until(|_, _| true).await;

    let replica = &state["stages"][0]["replicas"][0];
    assert_eq!(replica["reachable"], false, "{state:#}");
    let detail = replica["waiting_for"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("/metrics answers 503"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_hops_are_counted() {
    let hop = |number: u64| format!("event: hop\ndata: {{\"number\":{number}}}\n\n");
    let many: String = (0..5000).map(hop).collect();
    let events = format!("{many}event: lost\ndata: {{\"dropped\":7}}\n\n");
    let service = FakeService::start(|answers| answers.events = events).await;
    let env = TestEnv::start(settings(&[&service]), Limits::default()).await;

    let mut viewer = env.open("/live/follow?device=a").await;
    let (mut hops, mut lost) = (0, 0);
    while hops + lost < 5007 {
        let (name, event) = timeout(PATIENCE, viewer.next()).await.unwrap();
        match &*name {
            "hop" => hops += 1,
            "lost" => lost += event["dropped"].as_u64().unwrap(),
            _ => {}
        }
    }

    assert_eq!(hops + lost, 5007, "{hops} hops, {lost} lost");
    assert!(lost >= 7, "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_own_page_acts_with_the_rights_of_a_viewer() {
    let service = FakeService::start(|_| {}).await;
    let env = TestEnv::start(settings(&[&service]), Limits::default()).await;
    let post = async |name: &'static str, value: &str| {
        let request = env.client.post(format!("{}/live/messages", env.url)).header(name, value);
        let body = json!({ "device": "a", "payload": 1 });
        request.json(&body).send().await.unwrap().status()
    };

    assert_eq!(post("origin", "https://example.org").await, StatusCode::FORBIDDEN);
    assert_eq!(post("host", "example.org").await, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(post("x-forwarded-for", "10.0.0.1").await, StatusCode::FORBIDDEN);
    assert_eq!(post("origin", &env.url).await, StatusCode::NOT_FOUND, "no ingest_url is set");
    let unknown = env.get("/live/follow").await;
    assert_eq!(unknown.status(), StatusCode::BAD_REQUEST);
    let problem: Value = unknown.json().await.unwrap();
    assert_eq!(problem["detail"], "give either device or ingest_id");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_when_the_page_server_ends() {
    let service = FakeService::start(|_| {}).await;
    let env = TestEnv::start(settings(&[&service]), Limits::default()).await;
    let mut streams: Vec<Events> = Vec::new();
    for path in ["/live/state", "/live/tap", "/live/follow?device=a"] {
        streams.push(env.open(path).await);
    }

    env.live.shutdown().await;

    for stream in streams {
        timeout(PATIENCE, stream.ended()).await.unwrap();
    }
}
