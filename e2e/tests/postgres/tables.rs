//! The table is created and extended; any other difference is an error.

use e2e::hosted::HostedService;
use e2e::postgres::Postgres as Server;
use e2e::proxy::{Link, Proxy};
use postgres::Postgres;
use postgres::config::Settings;
use postgresql::SslMode;
use rows::column::{Column, Kind};
use serde_json::{Value, json};
use service::Service as _;

use crate::env::{Env, GRACE, TABLE, sent, start, until};

/// Returns the error of a service that ends at its start.
async fn refused(settings: Settings) -> String {
    let mut service = HostedService::start(Postgres::new(settings)).await.unwrap();
    format!("{:#}", service.hosted.ended().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_create_one_table() {
    let env = Env::start().await;
    let (first, second) = (env.settings(), env.settings());

    let (first, second) = tokio::join!(start(first), start(second));
    env.publish(0, &[json!({})]).await;
    until(async || sent(&first) + sent(&second) >= 1).await;
    first.shutdown(GRACE).await.unwrap();
    second.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_columns_are_added_and_other_differences_end_the_service() {
    let env = Env::start().await;
    start(env.settings()).await.shutdown(GRACE).await.unwrap();
    let mut settings = env.settings();
    settings.table.columns = vec![Column::new("number", Kind::Int64)];
    start(settings.clone()).await.shutdown(GRACE).await.unwrap();

    settings.table.columns = vec![Column::new("number", Kind::String)];
    let error = refused(settings).await;

    let both =
        "table public.readings: the column number is text in the settings, and bigint in the table";
    assert!(error.contains(both), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_wait_while_the_table_differs() {
    let env = Env::start().await;
    let mut settings = env.settings();
    settings.table.columns = vec![Column::new("text", Kind::String)];
    let hosted = start(settings).await;

    let shorten = format!("ALTER TABLE {TABLE} ALTER COLUMN text TYPE varchar(2)");
    env.server.run(&shorten).await.unwrap();
    env.publish(0, &[json!({ "text": "long" })]).await;
    until(async || !hosted.health().is_ready()).await;
    env.server.run(&format!("ALTER TABLE {TABLE} ALTER COLUMN text TYPE text")).await.unwrap();
    until(async || sent(&hosted) >= 1).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_shows_the_statements_and_changes_nothing() {
    let env = Env::start().await;
    let mut settings = env.settings();

    let plan = Postgres::new(settings.clone()).preflight().await.unwrap();
    let table = serde_json::to_value(plan.last().unwrap()).unwrap();
    assert_eq!(table["state"], "will_create", "{table}");
    assert!(table["detail"].as_str().unwrap().contains("CREATE TABLE \"public\".\"readings\""));
    let tables = "SELECT count(*) FROM pg_class WHERE relname = 'readings'";
    assert_eq!(env.server.count(tables).await.unwrap(), 0);

    start(settings.clone()).await.shutdown(GRACE).await.unwrap();
    let plan = Postgres::new(settings.clone()).preflight().await.unwrap();
    assert_eq!(serde_json::to_value(plan.last().unwrap()).unwrap()["state"], "ready");
    settings.table.columns = vec![Column::new("number", Kind::Int64)];
    let plan = Postgres::new(settings).preflight().await.unwrap();
    let table = serde_json::to_value(plan.last().unwrap()).unwrap();
    assert!(table["detail"].as_str().unwrap().contains("ADD COLUMN \"number\" bigint"), "{table}");
}

/// Returns the last dependency of the plan, which is the table.
async fn planned(settings: &Settings) -> Value {
    let plan = Postgres::new(settings.clone()).preflight().await.unwrap();
    serde_json::to_value(plan.last().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_promises_nothing_that_the_login_may_not_do() {
    let env = Env::start().await;
    let mut settings = env.settings();
    env.server.run("CREATE ROLE writer LOGIN; CREATE SCHEMA data").await.unwrap();
    settings.postgres.user = "writer".into();
    let told = async |settings: &Settings, state: &str, detail: &str| {
        let table = planned(settings).await;
        assert_eq!(table["state"], state, "{table}");
        assert!(table["detail"].as_str().unwrap_or_default().contains(detail), "{table}");
    };

    settings.table.schema = "nowhere".into();
    told(&settings, "missing", "there is no schema nowhere (table.schema)").await;
    settings.table.schema = "data".into();
    told(&settings, "denied", r#"GRANT USAGE ON SCHEMA "data" TO "writer""#).await;
    env.server.run("GRANT USAGE ON SCHEMA data TO writer").await.unwrap();
    told(&settings, "denied", r#"GRANT CREATE ON SCHEMA "data" TO "writer""#).await;
    let mut admin = settings.clone();
    admin.postgres.user = e2e::postgres::USER.into();
    start(admin).await.shutdown(GRACE).await.unwrap();
    told(&settings, "denied", "writer lacks INSERT and SELECT").await;
    env.server.run("GRANT INSERT, SELECT ON data.readings TO writer").await.unwrap();
    assert_eq!(planned(&settings).await["state"], "ready");
    settings.table.columns = vec![Column::new("number", Kind::Int64)];
    told(&settings, "denied", "writer does not own it").await;
    env.server.run("ALTER TABLE data.readings OWNER TO writer").await.unwrap();
    told(&settings, "will_create", "ADD COLUMN").await;
    env.server
        .run("DROP TABLE data.readings; GRANT CREATE ON SCHEMA data TO writer")
        .await
        .unwrap();
    told(&settings, "will_create", "CREATE TABLE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_fails_names_the_setting_and_its_right_value() {
    let env = Env::start().await;
    env.server.run("CREATE ROLE reader LOGIN; ALTER ROLE reader CONNECTION LIMIT 0").await.unwrap();
    let standby =
        Server::start_with(&["default_transaction_read_only=on"], |_| Ok(())).await.unwrap();
    let free = e2e::process::free_port().unwrap();
    type Change<'a> = &'a dyn Fn(&mut Settings);
    let cases: [(Change<'_>, &str); 6] = [
        (
            &|settings| settings.postgres.port = free,
            "check postgres.host and postgres.port: nobody",
        ),
        (&|settings| settings.postgres.host = "/nowhere".into(), "check postgres.host: a path"),
        (
            &|settings| settings.postgres.sslmode = SslMode::VerifyFull,
            "check postgres.sslmode: verify-full",
        ),
        (
            &|settings| settings.postgres.user = "nobody".into(),
            "check postgres.user: the server must",
        ),
        (
            &|settings| settings.postgres.database = "none".into(),
            "check postgres.database: the server",
        ),
        (
            &|settings| settings.postgres.port = standby.port(),
            "check postgres.host: this server takes no",
        ),
    ];
    for (change, advice) in cases {
        let mut settings = env.settings();
        change(&mut settings);
        let table = planned(&settings).await;
        assert!(table["detail"].as_str().unwrap().contains(advice), "{advice}: {table}");
    }
    let mut settings = env.settings();
    settings.postgres.user = "reader".into();
    let table = planned(&settings).await;
    assert!(
        table["detail"].as_str().unwrap().contains("check postgres.max_connections"),
        "{table}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_hosts_the_one_that_takes_writes_is_used() {
    let standby =
        Server::start_with(&["default_transaction_read_only=on"], |_| Ok(())).await.unwrap();
    let env = Env::start().await;
    let mut settings = env.settings();
    settings.postgres.host = format!("127.0.0.1:{},127.0.0.1", standby.port());
    let hosted = start(settings).await;

    env.publish(0, &[json!({})]).await;
    until(async || sent(&hosted) >= 1).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_does_not_hide_the_next() {
    let env = Env::start().await;
    let silent = Proxy::start(env.server.port()).unwrap();
    silent.set(Link::Silent);
    let mut settings = env.settings();
    settings.postgres.host = format!("127.0.0.1:{},127.0.0.1", silent.port());
    let hosted = start(settings).await;

    env.publish(0, &[json!({})]).await;
    until(async || sent(&hosted) >= 1).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_proves_its_name_and_the_client_its_own() {
    let files = tempfile::tempdir().unwrap();
    e2e::certificates::make(files.path()).unwrap();
    let options = [
        "ssl=on",
        "ssl_cert_file=FOLDER/server.pem",
        "ssl_key_file=FOLDER/server.key",
        "ssl_ca_file=FOLDER/ca.pem",
        "hba_file=FOLDER/hba.conf",
    ];
    let server = Server::start_with(&options, |folder| {
        use std::os::unix::fs::PermissionsExt as _;
        for name in ["server.pem", "server.key", "ca.pem"] {
            std::fs::copy(files.path().join(name), folder.join(name))?;
        }
        let key = folder.join("server.key");
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600))?;
        // The test's own client may connect in plain text, the service must show a certificate.
        let rules = "host all postgres 127.0.0.1/32 trust\n\
                     hostssl all client 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n";
        Ok(std::fs::write(folder.join("hba.conf"), rules)?)
    });
    let env = Env::start_with(server.await.unwrap()).await;
    env.server.run("CREATE ROLE client LOGIN SUPERUSER PASSWORD 'secret'").await.unwrap();
    let mut settings = env.settings();
    settings.postgres.user = "client".into();
    settings.postgres.sslmode = SslMode::VerifyFull;
    settings.postgres.tls.ca_file = Some(files.path().join("ca.pem"));
    settings.postgres.tls.client_cert_file = Some(files.path().join("client.pem"));
    settings.postgres.tls.client_key_file = Some(files.path().join("client.key"));
    let password = files.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    settings.postgres.password_file = Some(password);

    start(settings.clone()).await.shutdown(GRACE).await.unwrap();

    let state = async |settings: &Settings| {
        let plan = Postgres::new(settings.clone()).preflight().await.unwrap();
        serde_json::to_value(plan.last().unwrap()).unwrap().to_string()
    };
    assert!(state(&settings).await.contains("\"ready\""));
    let mut stranger = settings.clone();
    stranger.postgres.tls.ca_file = Some(files.path().join("stranger.pem"));
    let told = state(&stranger).await;
    assert!(told.contains("unreachable") && told.contains("postgres.tls.ca_file"), "{told}");
    let mut other_name = settings.clone();
    other_name.postgres.host = "localhost".into();
    let told = state(&other_name).await;
    assert!(told.contains("unreachable") && told.contains("check postgres.host"), "{told}");
    let mut without = settings;
    without.postgres.tls.client_cert_file = None;
    without.postgres.tls.client_key_file = None;
    assert!(state(&without).await.contains("postgres.tls.client_cert_file"));
}
