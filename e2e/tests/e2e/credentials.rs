//! Tests of endpoints with credentials: every call carries the token, and names the project that
//! pays.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use e2e::cloud::Cloud;
use e2e::process::free_port;
use e2e::process::{Process, binary};
use emulator::{Emulator, Options};
use serde_json::{Value, json};
use service::google::Login;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt as _;

use crate::flow_env::{FlowEnv, PATIENCE, until};
use e2e::names::RAW;

/// Calls by name, with their headers `authorization` and `x-goog-user-project`.
type Seen = Arc<Mutex<BTreeMap<String, (String, String)>>>;

/// A proxy in front of the embedded cloud that records the credentials of each call.
#[derive(Clone)]
struct Front {
    cloud: Channel,
    seen: Seen,
}

/// Returns the headers of a request that identify the caller.
fn caller(request: &Request) -> (String, String) {
    let header = |name| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    (header("authorization"), header("x-goog-user-project"))
}

async fn pass(State(front): State<Front>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    front.seen.lock().unwrap().insert(path, caller(&request));
    let answer = front.cloud.oneshot(request.map(tonic::body::Body::new)).await.unwrap();
    answer.map(axum::body::Body::new)
}

async fn serve(router: Router, tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

/// Writes Application Default Credentials whose token comes from a test server.
async fn write_credentials(file: &Path, tasks: &mut JoinSet<()>) {
    let token = || async {
        let token = json!({ "access_token": "token", "expires_in": 3600, "token_type": "Bearer" });
        axum::Json::<Value>(token)
    };
    let url = serve(Router::new().route("/token", post(token)), tasks).await;
    let user = json!({
        "type": "authorized_user", "client_id": "id", "client_secret": "secret",
        "refresh_token": "refresh", "token_uri": format!("{url}/token"),
        "quota_project_id": "payer",
    });
    std::fs::write(file, user.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_credentials_each_call_bears_the_token_and_the_project_that_pays() {
    let env = FlowEnv::start().await;
    let Some(emulator) = env.faulty_cloud() else { return env.teardown().await };
    env.put_devices(1).await;
    let mut tasks = JoinSet::new();
    let file = env.folder.path().join("credentials.json");
    write_credentials(&file, &mut tasks).await;
    let cloud = Endpoint::from_shared(emulator.url()).unwrap().connect_lazy();
    let front = Front { cloud, seen: Seen::default() };
    let router = Router::new().fallback(pass).with_state(front.clone());
    let url = Some(serve(router, &mut tasks).await.into());
    let login = Some(Login::ApplicationDefault);
    let (mut bigqueries, mut icestore, mut enrich) =
        (env.bigqueries(), env.icestore(), env.enrich(None));
    for pubsub in
        [&mut bigqueries.intake.pubsub, &mut icestore.intake.pubsub, &mut enrich.intake.pubsub]
    {
        (pubsub.endpoint, pubsub.credentials) = (url.clone(), login);
    }
    (bigqueries.bigquery.endpoint, bigqueries.bigquery.credentials) = (url.clone(), login);
    (icestore.storage.endpoint, icestore.storage.credentials) = (url.clone(), login);
    (enrich.firestore.endpoint, enrich.firestore.credentials) = (url, login);

    let mut services = Vec::new();
    for (name, settings) in [
        ("bigqueries", service::settings::to_value(&bigqueries).unwrap()),
        ("icestore", service::settings::to_value(&icestore).unwrap()),
        ("enrich", service::settings::to_value(&enrich).unwrap()),
    ] {
        let (config, log) = (env.folder.path().join(name), env.folder.path().join("log"));
        std::fs::write(&config, settings.to_string()).unwrap();
        let variables = [("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string())];
        let port = free_port().unwrap();
        let mut process = Process::start_with(name, &config, port, &log, &variables).unwrap();
        process.ready().await.unwrap();
        services.push(process);
    }
    let attributes = json!({ "device_id": "device-00000" });
    env.cloud.publish(&env.cloud.name(RAW), b"{}", attributes).await.unwrap();

    for call in [
        "Subscriber/StreamingPull",
        "Publisher/Publish",
        "BigQueryWrite/AppendRows",
        "/bigquery/v2/",
        "Firestore/BatchGetDocuments",
        "/storage/v1/b/",
        "/upload/storage/",
    ] {
        let is_seen = async || front.seen.lock().unwrap().keys().any(|path| path.contains(call));
        until(is_seen).await;
    }
    for (path, caller) in &*front.seen.lock().unwrap() {
        assert_eq!(*caller, ("Bearer token".to_owned(), "payer".to_owned()), "{path}");
    }
    for mut service in services {
        assert!(service.terminate().await.unwrap().success());
    }
    env.teardown().await;
}

/// Copies the table of a service to another embedded cloud, without its rows.
async fn copy_table(env: &FlowEnv, from: &Emulator, to: &Emulator) {
    let (client, dataset) = (reqwest::Client::new(), env.cloud.dataset());
    let tables = format!("bigquery/v2/projects/{}/datasets/{dataset}/tables", env.cloud.project);
    let table = client.get(format!("{}/{tables}/readings", from.url())).send().await.unwrap();
    let table: Value = table.error_for_status().unwrap().json().await.unwrap();
    let copy = json!({ "tableReference": table["tableReference"], "schema": table["schema"] });
    let cloud = Cloud::embedded(&to.url());
    cloud.create_dataset(&dataset).await.unwrap();
    let copied = client.post(format!("{}/{tables}", to.url())).json(&copy).send().await.unwrap();
    copied.error_for_status().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_to_the_endpoint_of_storage_write() {
    let env = FlowEnv::start().await;
    let Some(rest) = env.faulty_cloud() else { return env.teardown().await };
    let storage_write = Emulator::start(Options::default()).await.unwrap();
    let mut tasks = JoinSet::new();
    let file = env.folder.path().join("credentials.json");
    write_credentials(&file, &mut tasks).await;
    let mut settings = env.bigqueries();
    settings.bigquery.credentials = Some(Login::ApplicationDefault);
    settings.bigquery.storage_write_endpoint = Some(storage_write.url().into());
    let (config, log) = (env.folder.path().join("config"), env.folder.path().join("log"));
    let written = service::settings::to_value(&settings).unwrap().to_string();
    std::fs::write(&config, written).unwrap();
    let variables = [("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string())];
    let port = free_port().unwrap();
    let mut service = Process::start_with("bigqueries", &config, port, &log, &variables).unwrap();
    service.ready().await.unwrap();
    copy_table(&env, rest, &storage_write).await;

    let attributes = json!({ "device_id": "device-00000" });
    env.cloud.publish(&env.cloud.name(RAW), b"{}", attributes).await.unwrap();

    let second = Cloud::embedded(&storage_write.url());
    let rows = async || second.rows(&env.cloud.dataset(), "readings").await.unwrap();
    until(async || rows().await.len() == 1).await;
    assert_eq!(rows().await[0]["device_id"], "device-00000");
    assert!(env.rows().await.is_empty());
    assert!(service.terminate().await.unwrap().success());
    env.teardown().await;
}

/// Accepts connections, and keeps the first line of each.
async fn first_lines(listener: TcpListener, lines: Arc<Mutex<Vec<String>>>) {
    while let Ok((connection, _)) = listener.accept().await {
        let mut line = String::new();
        // Input that is not text counts as an empty line.
        drop(BufReader::new(connection).read_line(&mut line).await);
        lines.lock().unwrap().push(line);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_rest_go_through_a_proxy_and_check_says_what_does_not() {
    let env = FlowEnv::start().await;
    if env.faulty_cloud().is_none() {
        return env.teardown().await;
    }
    let mut tasks = JoinSet::new();
    let credentials = env.folder.path().join("credentials.json");
    write_credentials(&credentials, &mut tasks).await;
    let (listener, lines) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::default());
    let proxy = format!("http://user:hunter2@{}", listener.local_addr().unwrap());
    tasks.spawn(first_lines(listener, Arc::clone(&lines)));
    let mut icestore = env.icestore();
    // A host that does not exist, so that only the proxy is asked for it.
    icestore.storage.endpoint = Some("https://storage.example".into());
    icestore.storage.credentials = Some(Login::ApplicationDefault);
    let config = env.folder.path().join("icestore.yaml");
    let written = service::settings::to_value(&icestore).unwrap().to_string();
    std::fs::write(&config, written).unwrap();

    let mut check = tokio::process::Command::new(binary("icestore").unwrap());
    check.arg("--config").arg(&config).args(["check", "--online"]).env("HTTPS_PROXY", proxy);
    check.env("GOOGLE_APPLICATION_CREDENTIALS", &credentials).env("NO_PROXY", "127.0.0.1");
    let said = timeout(PATIENCE, check.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();

    let lines = lines.lock().unwrap().clone();
    assert!(lines.iter().any(|line| line.starts_with("CONNECT storage.example:443")), "{lines:?}");
    assert!(said.contains("HTTPS_PROXY is set: calls over REST"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    env.teardown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_a_type_that_is_not_supported_are_named_with_those_that_are() {
    let env = FlowEnv::start().await;
    let file = env.folder.path().join("credentials.json");
    let mut icestore = env.icestore();
    icestore.storage.endpoint = Some("https://storage.example".into());
    icestore.storage.credentials = Some(Login::ApplicationDefault);
    let config = env.folder.path().join("icestore.yaml");
    let written = service::settings::to_value(&icestore).unwrap().to_string();
    std::fs::write(&config, written).unwrap();
    for kind in ["external_account_authorized_user", "gdch_service_account"] {
        std::fs::write(&file, json!({ "type": kind }).to_string()).unwrap();

        let mut check = tokio::process::Command::new(binary("icestore").unwrap());
        check.arg("--config").arg(&config).args(["check", "--online"]);
        check.env("GOOGLE_APPLICATION_CREDENTIALS", &file);
        let said = timeout(PATIENCE, check.output()).await.unwrap().unwrap();

        let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert!(said.contains(kind), "{said}");
        assert!(
            said.contains("supported are the types service_account, authorized_user"),
            "{said}"
        );
    }
    env.teardown().await;
}
