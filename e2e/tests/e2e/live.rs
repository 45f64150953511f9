//! Tests of the live page on real services.

use std::path::PathBuf;
use std::time::Duration;

use e2e::names::{ARCHIVE, DEAD_LETTERS, ENRICH, ENRICHED, RAW, ROUTE, ROWS, TABLE};
use e2e::reading::Reading;
use ingestion::config::{HttpIngest, RouteSettings};
use live::Live;
use live::settings::{Replay, Settings, Stage};
use pubsub::Endpoint;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use service::Hosted;
use tokio::time::timeout;
use web::auth::settings::Auth;
use web::{Authenticator, Bound, Listener, Metrics, Server};

use crate::flow_env::{
    FlowEnv, GRACE, PATIENCE, start_bigqueries, start_enrich, start_icestore, start_ingestion,
    until,
};

/// Key of somebody who may do everything, and of somebody who may only watch.
const OWNER: &str = "the-key-of-the-owner-0123456789-0123456789";
const WATCHER: &str = "the-key-of-the-watcher-0123456789-0123456";

/// All services, with the live page.
struct LiveEnv {
    flow: FlowEnv,
    services: Vec<Hosted>,
    live: Live,
    server: Server,
    url: String,
    client: Client,
}

impl LiveEnv {
    async fn start() -> Self {
        let flow = FlowEnv::start().await;
        flow.put_devices(10).await;
        let dead_letters = flow.cloud.name(DEAD_LETTERS);
        flow.cloud.create_subscription(&dead_letters, &dead_letters).await.unwrap();
        let mut ingestion = flow.ingestion();
        ingestion.http_ingest = Some(HttpIngest { port: 0, ..HttpIngest::default() });
        let mut route = RouteSettings::default();
        route.source.http_source = Some("{device_id}".into());
        route.destination.route_name = ROUTE.into();
        ingestion.routes.insert("http".into(), route);
        let services = vec![
            start_ingestion(ingestion).await,
            start_enrich(flow.enrich(None)).await,
            start_bigqueries(flow.enriched_bigqueries()).await,
            start_icestore(flow.enriched_icestore()).await,
        ];
        let settings = settings(&flow, &services);
        let auth = Auth { api_keys_file: Some(keys(&flow)), ..Auth::default() };
        let listener = Listener { port: 0, ..Listener::default() };
        let reach = auth.reach();
        let auth = Authenticator::start(&auth, "auth").await.unwrap();
        let bound = Bound::bind(&listener, "live", auth).await.unwrap();
        let url = format!("http://{}", bound.address());
        let live = Live::start(&settings, reach).unwrap();
        let server = bound.with_open(live.page()).serve(live.routes(), &Metrics::default());
        let env = Self { flow, services, live, server, url, client: Client::new() };
        // What was counted before the first look does not count as growth.
        env.state(OWNER, |state| state["ready"] == true).await;
        env
    }

    async fn open(&self, path: &str, key: &str) -> Events {
        let request = self.client.get(format!("{}{path}", self.url)).bearer_auth(key);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        Events { response, buffer: String::new() }
    }

    async fn post(&self, path: &str, key: &str, body: Value) -> (StatusCode, Value) {
        let request = self.client.post(format!("{}{path}", self.url)).bearer_auth(key);
        let response = request.json(&body).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// Sends a message of a device. Returns its id.
    async fn send(&self, device: &str, payload: Value) -> String {
        let body = json!({ "device": device, "payload": payload });
        let (status, answer) = self.post("/live/messages", OWNER, body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        answer["ingest_id"].as_str().unwrap().to_owned()
    }

    /// Waits for a state that is as the test wants it.
    async fn state(&self, key: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut states = self.open("/live/state", key).await;
        let mut last = Value::Null;
        let waited = timeout(PATIENCE, async {
            loop {
                let (name, state) = states.next().await;
                assert_eq!(name, "state");
                let is_right = holds(&state);
                last = state;
                if is_right {
                    return;
                }
            }
        });
        if waited.await.is_err() {
            panic!("no such state, the last was {last:#}");
        }
        last
    }

    async fn stop(self) {
        self.live.shutdown().await;
        self.server.shutdown(GRACE).await;
        for service in self.services {
            service.shutdown(GRACE).await.unwrap();
        }
        self.flow.teardown().await;
    }
}

fn keys(flow: &FlowEnv) -> PathBuf {
    let file = flow.folder.path().join("keys");
    let scopes = "[ingest, live, payload]";
    let entries = format!(
        "- {{name: owner, key: {OWNER}, scopes: {scopes}}}\n\
         - {{name: watcher, key: {WATCHER}, scopes: [live]}}\n"
    );
    std::fs::write(&file, entries).unwrap();
    file
}

fn settings(flow: &FlowEnv, services: &[Hosted]) -> Settings {
    let stage = |index: usize, name: &str, from: Option<&str>, subscription: Option<&str>| Stage {
        name: name.into(),
        url: format!("http://{}", services[index].address()),
        from: from.map(Into::into),
        subscription: subscription.map(|id| flow.cloud.name(id)),
    };
    let report = services[0].health().report();
    let ingest = report["http_ingest"].as_str().unwrap();
    Settings {
        services: vec![
            stage(0, "ingestion", None, None),
            stage(1, "enrich", Some("ingestion"), Some(ENRICH)),
            stage(2, "bigqueries", Some("enrich"), Some(ROWS)),
            stage(3, "icestore", Some("enrich"), Some(ARCHIVE)),
        ],
        ingest_url: Some(format!("http://{ingest}")),
        dead_letters: Some(Replay {
            project: flow.cloud.project.clone(),
            subscription: flow.cloud.name(DEAD_LETTERS),
            pubsub: Endpoint { endpoint: flow.endpoint(), ..Endpoint::default() },
        }),
        ..Settings::default()
    }
}

/// Stream of events.
struct Events {
    response: reqwest::Response,
    buffer: String,
}

impl Events {
    /// Waits for the next event that is no comment.
    async fn next(&mut self) -> (String, Value) {
        loop {
            while let Some(end) = self.buffer.find("\n\n") {
                let event: String = self.buffer.drain(..end + 2).collect();
                let field = |name: &str| {
                    event.lines().find_map(|line| Some(line.strip_prefix(name)?.to_owned()))
                };
                if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                    return (name, serde_json::from_str(&data).unwrap());
                }
            }
            let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Waits for hops until all these stages have the message durable.
    async fn hops(&mut self, stages: &[&str]) -> Vec<Value> {
        let mut hops = Vec::new();
        let is_durable = |hops: &[Value], stage: &str| {
            hops.iter().any(|hop| hop["stage"] == stage && hop["step"] == "durable")
        };
        let waited = timeout(PATIENCE, async {
            while !stages.iter().all(|stage| is_durable(&hops, stage)) {
                let (name, hop) = self.next().await;
                assert_eq!(name, "hop", "{hop}");
                hops.push(hop);
            }
        });
        if waited.await.is_err() {
            panic!("not durable in all of {stages:?}: {hops:#?}");
        }
        hops
    }
}

fn device(number: u32) -> String {
    Reading { device: number, number: 0 }.device_name()
}

const ALL: [&str; 4] = ["ingestion", "enrich", "bigqueries", "icestore"];

async fn assert_two_messages_are_counted(env: &LiveEnv) {
    let state = env
        .state(OWNER, |state| {
            let sent = |index: usize| state["stages"][index]["sent"] == 2;
            (0..4).all(sent) && state["end_to_end"].as_array().is_some_and(|all| all.len() == 2)
        })
        .await;
    assert_eq!(state["ready"], true, "{state:#}");
    assert_eq!(state["rights"], json!({ "payload": true, "replay": true, "send": true }));
    let kinds = ["source", "transform", "sink", "sink"];
    for (index, (name, kind)) in ALL.into_iter().zip(kinds).enumerate() {
        let stage = &state["stages"][index];
        assert_eq!((&stage["name"], &stage["kind"]), (&json!(name), &json!(kind)));
        assert!(stage["latency"]["count"].as_u64().unwrap() >= 1, "{stage:#}");
        assert_eq!(stage["replicas"][0]["version"], env!("CARGO_PKG_VERSION"));
    }
    assert_eq!(
        (&state["stages"][0]["backlog"], &state["stages"][3]["backlog"]),
        (&json!(null), &json!(0))
    );
    for end in state["end_to_end"].as_array().unwrap() {
        let (p50, p99) =
            (end["p50_seconds"].as_f64().unwrap(), end["p99_seconds"].as_f64().unwrap());
        assert!(p50 > 0.0 && p99 >= p50 && p99 < PATIENCE.as_secs_f64(), "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_followed_through_all_stages_and_counted() {
    let env = LiveEnv::start().await;
    let device = device(7);
    let mut events = env.open(&format!("/live/follow?device={device}"), OWNER).await;
    assert_eq!(events.next().await, ("ready".into(), json!({ "replicas": 4, "missing": [] })));

    let id = env.send(&device, json!({ "temperature": 21.5 })).await;
    env.send("another", json!({})).await;
    let hops = events.hops(&ALL).await;

    let cloud = &env.flow.cloud;
    let table = format!("{}.{}", cloud.dataset(), TABLE);
    for (stage, kinds, destination) in [
        ("ingestion", ["payload", "envelope"], cloud.name(RAW)),
        ("enrich", ["envelope", "document"], cloud.name(ENRICHED)),
        ("bigqueries", ["envelope", "row"], table),
        ("icestore", ["envelope", "line"], format!("gs://{}/", cloud.name(ARCHIVE))),
    ] {
        let of_stage: Vec<_> = hops.iter().filter(|hop| hop["stage"] == stage).collect();
        let steps: Vec<_> = of_stage.iter().map(|hop| hop["step"].as_str().unwrap()).collect();
        assert_eq!(steps, ["received", "transformed", "durable"], "{stage}");
        let found: Vec<_> = of_stage.iter().map(|hop| &hop["record"]["kind"]).collect();
        assert_eq!(found[..2], kinds, "{stage}: {of_stage:#?}");
        let to = of_stage[2]["destination"].as_str().unwrap();
        assert!(to.contains(&destination), "{stage}: {to} is not {destination}");
        for hop in of_stage {
            assert_eq!((&hop["ingest_id"], &hop["device_id"]), (&json!(id), &json!(device)));
            assert!(hop["replica"].as_str().unwrap().starts_with("127.0.0.1:"), "{hop}");
        }
    }
    let text = |stage: &str, step: &str| {
        let hop = hops.iter().find(|hop| hop["stage"] == stage && hop["step"] == step).unwrap();
        serde_json::from_str::<Value>(hop["record"]["text"].as_str().unwrap()).unwrap()
    };
    assert_eq!(text("ingestion", "received"), json!({ "temperature": 21.5 }));
    assert!(text("enrich", "transformed")["location"].is_string());
    assert_eq!(text("bigqueries", "transformed")["temperature"], 21.5);
    // Each service has a stream of its own, so hops of different services come in any order.
    let transformed = |stage: &str| {
        let mut hops = hops.iter();
        let hop = hops.find(|hop| hop["stage"] == stage && hop["step"] == "transformed").unwrap();
        hop["at"].as_str().unwrap()
    };
    assert!(transformed("ingestion") <= transformed("enrich"));
    assert!(transformed("enrich") <= transformed("bigqueries").min(transformed("icestore")));

    assert_two_messages_are_counted(&env).await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_shows_the_samples_of_one_device() {
    let env = LiveEnv::start().await;
    let mut events = env.open("/live/tap?device=a", OWNER).await;
    env.state(OWNER, |state| state["tap"]["viewers"] == 1).await;
    // The hooks of all services are on when each has the viewer.
    until(async || {
        let watched = env.services.iter().filter(|service| service.is_watched()).count();
        watched == env.services.len()
    })
    .await;

    env.send("b", json!({})).await;
    let id = env.send("a", json!({})).await;

    let mut stages = std::collections::BTreeSet::new();
    while stages.len() < ALL.len() {
        let (name, hop) = timeout(PATIENCE, events.next()).await.unwrap();
        assert_eq!((&*name, &hop["ingest_id"]), ("sample", &json!(id)), "{hop}");
        assert_eq!(hop["step"], "transformed");
        stages.insert(hop["stage"].as_str().unwrap().to_owned());
    }
    drop(events);
    until(async || !env.services.iter().any(Hosted::is_watched)).await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_shown_with_its_reason_and_replayed() {
    let env = LiveEnv::start().await;
    let id = env.send("a", json!({ "temperature": "hot" })).await;
    let has_letter = |state: &Value| state["dead_letters"]["recent"][0]["ingest_id"] == id;

    let state = env.state(OWNER, has_letter).await;
    let letters = &state["dead_letters"];
    assert_eq!(letters["unavailable"], Value::Null);
    assert_eq!(
        letters["by_reason"],
        json!([{ "stage": "bigqueries", "reason": "row_type_mismatch", "count": 1 }])
    );
    let letter = &letters["recent"][0];
    assert_eq!((&letter["stage"], &letter["device_id"]), (&json!("bigqueries"), &json!("a")));
    assert_eq!(letter["why"], "A value does not fit its column.");
    assert!(letter["detail"].as_str().unwrap().contains("temperature"), "{letter}");
    assert!(letter["payload"].as_str().unwrap().contains(&id), "{letter}");
    assert_eq!(letter["replayable"], true);
    let path = format!("/live/dead-letters/{}/replay", letter["id"].as_str().unwrap());

    let (status, _) = env.post(&path, WATCHER, Value::Null).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let mut events = env.open(&format!("/live/follow?ingest_id={id}"), OWNER).await;
    assert_eq!(events.next().await.0, "ready");
    let replayed = env.post(&path, OWNER, Value::Null).await;

    assert_eq!(replayed, (StatusCode::OK, json!({ "replayed": true })));
    let hops = events.hops(&["icestore"]).await;
    assert!(hops.iter().all(|hop| hop["stage"] != "ingestion" && hop["stage"] != "enrich"));
    // It is refused again, which is a new dead letter. The old one is gone.
    env.state(OWNER, |state| state["dead_letters"]["total"] == 2).await;
    let (status, problem) =
        env.post("/live/dead-letters/bigqueries~2026~x/replay", OWNER, json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{problem}");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_scope_nobody_sees_a_payload() {
    let env = LiveEnv::start().await;
    let mut events = env.open("/live/follow?device=a", WATCHER).await;
    assert_eq!(events.next().await.0, "ready");

    env.send("a", json!({ "temperature": "secret" })).await;
    let hops = events.hops(&["icestore"]).await;
    let has_letter = |state: &Value| state["dead_letters"]["total"] == 1;
    let state = env
        .state(WATCHER, |state| has_letter(state) && state["dead_letters"]["recent"][0].is_object())
        .await;

    assert!(hops.iter().all(|hop| hop["record"].is_null() && hop["detail"].is_null()), "{hops:#?}");
    assert!(!state.to_string().contains("secret"), "{state:#}");
    assert_eq!(state["rights"], json!({ "payload": false, "replay": false, "send": false }));
    let (status, _) =
        env.post("/live/messages", WATCHER, json!({ "device": "a", "payload": 1 })).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let get = async |path: &str| env.client.get(format!("{}{path}", env.url)).send().await.unwrap();
    assert_eq!(get("/live/state").await.status(), StatusCode::UNAUTHORIZED);
    let page = get("/").await;
    assert_eq!(page.status(), StatusCode::OK, "the page has no data");
    assert_eq!(
        page.headers()["content-security-policy"].to_str().unwrap(),
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_gone_is_said() {
    let mut env = LiveEnv::start().await;

    env.flow.broker.stop().await.unwrap();

    let state = env.state(OWNER, |state| state["ready"] == false).await;
    let replica = &state["stages"][0]["replicas"][0];
    assert_eq!((&replica["reachable"], &replica["ready"]), (&json!(true), &json!(false)));
    let waiting = &replica["waiting_for"][0];
    assert!(waiting["dependency"].as_str().unwrap().contains("mqtt"), "{waiting}");
    assert_ne!(waiting["detail"], "");
    env.flow.broker.start_again().await.unwrap();
    env.state(OWNER, |state| state["ready"] == true).await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_gone_is_said() {
    let mut env = LiveEnv::start().await;

    let icestore = env.services.pop().unwrap();
    icestore.shutdown(Duration::from_secs(20)).await.unwrap();

    let gone = |state: &Value| state["stages"][3]["replicas"][0]["reachable"] == false;
    let state = env.state(OWNER, gone).await;
    let waiting = &state["stages"][3]["replicas"][0]["waiting_for"][0];
    assert_eq!(waiting["dependency"], "health port", "{waiting}");
    let mut events = env.open("/live/follow?device=a", OWNER).await;
    let (name, ready) = events.next().await;
    assert_eq!((&*name, &ready["replicas"]), ("ready", &json!(3)));
    assert_eq!(ready["missing"].as_array().unwrap().len(), 1, "{ready}");
    env.stop().await;
}
