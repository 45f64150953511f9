//! Tests of endpoints with credentials: every call carries the token, and names the project that
//! pays.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use bigqueries::Bigqueries;
use e2e::cloud::Cloud;
use e2e::names::{RAW, TABLE};
use e2e::process::{Process, binary, free_port};
use emulator::{Emulator, Options};
use enrich::Enrich;
use google_cloud_auth::credentials::user_account;
use icestore::Icestore;
use query::Query;
use query::config::BigQuerySettings;
use serde_json::{Value, json};
use service::google::Login;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt as _;

use crate::flow_env::{FlowEnv, GRACE, PATIENCE, start, until};

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

/// Settings of services whose calls go over a front, with credentials.
struct FrontedSettings {
    bigqueries: bigqueries::config::Settings,
    icestore: icestore::config::Settings,
    enrich: enrich::config::Settings,
    query: query::config::Settings,
}

impl FrontedSettings {
    fn new(env: &FlowEnv, front: &str) -> Self {
        let url = || Some(front.into());
        let login = Some(Login::ApplicationDefault);
        let (mut bigqueries, mut icestore, mut enrich) =
            (env.bigqueries(), env.icestore(), env.enrich(None));
        for pubsub in
            [&mut bigqueries.intake.pubsub, &mut icestore.intake.pubsub, &mut enrich.intake.pubsub]
        {
            (pubsub.endpoint, pubsub.credentials) = (url(), login);
        }
        (bigqueries.bigquery.endpoint, bigqueries.bigquery.credentials) = (url(), login);
        (icestore.storage.endpoint, icestore.storage.credentials) = (url(), login);
        (enrich.firestore.endpoint, enrich.firestore.credentials) = (url(), login);
        let mut query = query::config::Settings {
            process: bigqueries.process.clone(),
            bigquery: Some(BigQuerySettings {
                dataset: env.cloud.dataset(),
                endpoint: url(),
                credentials: login,
                ..BigQuerySettings::default()
            }),
            // A query of an emulator on a busy machine.
            timeout: Duration::from_secs(60),
            ..query::config::Settings::default()
        };
        query.api.port = 0;
        query.table.name = TABLE.into();
        query.table.source_column = "device_id".into();
        Self { bigqueries, icestore, enrich, query }
    }

    /// Names a file with credentials in the settings of each service.
    fn name_credentials(&mut self, file: &Path) {
        let Self { bigqueries, icestore, enrich, query } = self;
        for process in [
            &mut bigqueries.process,
            &mut icestore.process,
            &mut enrich.process,
            &mut query.process,
        ] {
            process.google.credentials_file = Some(file.to_owned());
        }
    }

    /// Returns the name and the settings of each service. The last one reads the table of the first
    /// one.
    fn to_json(&self) -> [(&'static str, Value); 4] {
        [
            ("bigqueries", service::settings::to_value(&self.bigqueries).unwrap()),
            ("icestore", service::settings::to_value(&self.icestore).unwrap()),
            ("enrich", service::settings::to_value(&self.enrich).unwrap()),
            ("query", service::settings::to_value(&self.query).unwrap()),
        ]
    }
}

/// Embedded cloud behind a front, and a file with credentials.
struct FrontedEnv {
    env: FlowEnv,
    front: Front,
    settings: FrontedSettings,
    file: PathBuf,
    /// The front, and the server of tokens.
    _tasks: JoinSet<()>,
}

impl FrontedEnv {
    /// Starts the environment. On Google's cloud, prints that the test is skipped and returns `None`.
    async fn start() -> Option<Self> {
        let env = FlowEnv::start().await;
        let Some(emulator) = env.faulty_cloud() else {
            env.teardown().await;
            return None;
        };
        env.put_devices(1).await;
        let mut tasks = JoinSet::new();
        let file = env.folder.path().join("credentials.json");
        write_credentials(&file, &mut tasks).await;
        let cloud = Endpoint::from_shared(emulator.url()).unwrap().connect_lazy();
        let front = Front { cloud, seen: Seen::default() };
        let router = Router::new().fallback(pass).with_state(front.clone());
        let url = serve(router, &mut tasks).await;
        let settings = FrontedSettings::new(&env, &url);
        Some(Self { env, front, settings, file, _tasks: tasks })
    }

    /// Starts the services as processes with these variables, and waits until they are ready.
    async fn start_processes(&self, variables: &[(&str, String)]) -> Vec<Process> {
        let folder = self.env.folder.path();
        let mut processes = Vec::new();
        for (name, settings) in self.settings.to_json() {
            let (config, log) = (folder.join(name), folder.join("log"));
            std::fs::write(&config, settings.to_string()).unwrap();
            let port = free_port().unwrap();
            let mut process = Process::start_with(name, &config, port, &log, variables).unwrap();
            process.ready().await.unwrap();
            processes.push(process);
        }
        processes
    }

    /// Sends a message through the services, and checks the credentials of all their calls.
    async fn check_calls(&self) {
        let Self { env, front, .. } = self;
        let attributes = json!({ "device_id": "device-00000" });
        env.cloud.publish(&env.cloud.name(RAW), b"{}", attributes).await.unwrap();
        for call in [
            "Subscriber/StreamingPull",
            "Publisher/Publish",
            "BigQueryWrite/AppendRows",
            "/tables",
            "/queries",
            "Firestore/BatchGetDocuments",
            "/storage/v1/b/",
            "/upload/storage/",
        ] {
            let is_seen =
                async || front.seen.lock().unwrap().keys().any(|path| path.contains(call));
            until(is_seen).await;
        }
        for (path, caller) in &*front.seen.lock().unwrap() {
            assert_eq!(*caller, ("Bearer token".to_owned(), "payer".to_owned()), "{path}");
        }
    }
}

/// Place that names the file with the credentials of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NamedBy {
    Variable,
    Setting,
}

#[tokio::test(flavor = "multi_thread")]
async fn with_credentials_each_call_bears_the_token_and_the_project_that_pays() {
    for named_by in [NamedBy::Variable, NamedBy::Setting] {
        let Some(mut fronted) = FrontedEnv::start().await else { return };
        let file = fronted.file.clone();
        let variables = match named_by {
            NamedBy::Variable => {
                vec![("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string())]
            }
            NamedBy::Setting => {
                fronted.settings.name_credentials(&file);
                Vec::new()
            }
        };

        let processes = fronted.start_processes(&variables).await;
        fronted.check_calls().await;

        for mut process in processes {
            assert!(process.terminate().await.unwrap().success(), "{named_by:?}");
        }
        fronted.env.teardown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_bears_the_token_of_credentials_that_a_program_made() {
    let Some(fronted) = FrontedEnv::start().await else { return };
    let user = serde_json::from_slice(&std::fs::read(&fronted.file).unwrap()).unwrap();
    let credentials = user_account::Builder::new(user).build().unwrap();
    let bigqueries = Bigqueries::new(fronted.settings.bigqueries.clone());
    let icestore = Icestore::new(fronted.settings.icestore.clone());
    let enrich = Enrich::new(fronted.settings.enrich.clone());
    let query = Query::new(fronted.settings.query.clone());

    let services = [
        start(bigqueries.with_clients(credentials.clone().into())).await,
        start(icestore.with_clients(credentials.clone().into())).await,
        start(enrich.with_clients(credentials.clone().into())).await,
        // It reads the table of the first one.
        start(query.with_clients(credentials.into())).await,
    ];
    fronted.check_calls().await;

    for service in services {
        service.shutdown(GRACE).await.unwrap();
    }
    fronted.env.teardown().await;
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
