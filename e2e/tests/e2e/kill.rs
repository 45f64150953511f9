//! The kill test: the four services as processes, killed and terminated again and again under load,
//! the broker restarted, Redis killed, the cloud refusing, delaying and losing replies. Every message
//! whose receipt was confirmed must be in the table and in the archive, intact and enriched.

use std::path::PathBuf;
use std::time::Duration;

use crate::stage::{Stage, until};
use e2e::account::{self, Account, Arrived, Ends};
use e2e::archive;
use e2e::fleet::{Fleet, Plan};
use e2e::mosquitto::free_port;
use e2e::process::Process;
use e2e::redis::Redis;
use tokio::time::{sleep, timeout};
use tonic::Code;

/// How long the fleet sends before something is killed again.
const UNDER_LOAD: Duration = Duration::from_millis(700);

/// A service with what it takes to start it again.
struct Victim {
    name: &'static str,
    config: PathBuf,
    port: u16,
    log: PathBuf,
    process: Process,
}

impl Victim {
    fn start(name: &'static str, stage: &Stage, settings: &impl serde::Serialize) -> Self {
        let folder = stage.folder.path();
        let (config, log) =
            (folder.join(format!("{name}.yaml")), folder.join(format!("{name}.log")));
        // YAML holds JSON.
        std::fs::write(&config, serde_json::to_vec_pretty(settings).unwrap()).unwrap();
        let port = free_port().unwrap();
        let process = Process::start(name, &config, port, &log).unwrap();
        Self { name, config, port, log, process }
    }

    fn start_again(&mut self) {
        self.process = Process::start(self.name, &self.config, self.port, &self.log).unwrap();
    }

    async fn is_killed(&mut self) {
        self.process.kill().await.unwrap();
        self.start_again();
    }

    /// SIGTERM under load drains and exits with 0.
    async fn is_terminated(&mut self) {
        self.process.ready().await.unwrap();
        let status = self.process.terminate().await.unwrap();
        let log = std::fs::read_to_string(&self.log).unwrap();
        assert!(status.success(), "{} ended with {status}:\n{log}", self.name);
        self.start_again();
    }
}

/// All four, in the order of the flow.
async fn start_all(stage: &Stage, redis: &Redis) -> Vec<Victim> {
    let mut enrich = stage.enrich(Some(redis.url()));
    // So little memory that Redis and Firestore are asked all the time.
    enrich.cache.memory.max_entries = 16;
    let (mut bigqueries, mut icestore) = (stage.bigqueries(), stage.icestore());
    bigqueries.subscription.id = stage.cloud.name("enriched-rows");
    icestore.subscription.id = stage.cloud.name("enriched-archive");
    let mut services = vec![
        Victim::start("ingestion", stage, &stage.ingestion()),
        Victim::start("enrich", stage, &enrich),
        Victim::start("bigqueries", stage, &bigqueries),
        Victim::start("icestore", stage, &icestore),
    ];
    for service in &mut services {
        service.process.ready().await.unwrap();
    }
    services
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_confirmed_is_lost() {
    let mut stage = Stage::set().await;
    stage.put_devices(100).await;
    let mut redis = Redis::start().await.unwrap();
    let mut services = start_all(&stage, &redis).await;
    let plan = Plan { port: stage.broker.port(), devices: 100, rate: 1_000, ..Plan::default() };
    let mut fleet = Fleet::start(plan);

    for _ in 0..2 {
        for service in &mut services {
            sleep(UNDER_LOAD).await;
            service.is_killed().await;
        }
        sleep(UNDER_LOAD).await;
        plan_faults(&stage);
        redis.kill().await.unwrap();
        sleep(UNDER_LOAD).await;
        for service in &mut services {
            service.is_terminated().await;
        }
        redis.start_again().await.unwrap();
        sleep(UNDER_LOAD).await;
        stage.broker.stop().await.unwrap();
        sleep(UNDER_LOAD).await;
        stage.broker.start_again().await.unwrap();
    }
    fleet.stop();
    timeout(crate::stage::PATIENCE, fleet.finish()).await.unwrap();

    let account = settled(&stage, &fleet).await;
    println!("{account:?}");
    assert!(account.acknowledged > 1_000, "{account:?}");
    assert!(account.is_clean(), "{account:?}");
    assert!(account.duplicates > 0, "the faults must have bitten: {account:?}");
    for service in &mut services {
        service.process.kill().await.unwrap();
    }
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_binary_answers_and_takes_variables_over_its_file() {
    let stage = Stage::set().await;
    let redis = Redis::start().await.unwrap();
    let mut services = start_all(&stage, &redis).await;

    for service in &services {
        let get = async |path: &str| {
            let answer = reqwest::get(format!("{}{path}", service.process.url())).await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        assert_eq!(get("/healthz").await, (200, "OK".into()), "{}", service.name);
        assert_eq!(get("/readyz").await, (200, "READY".into()), "{}", service.name);
        let (_, metrics) = get("/metrics").await;
        assert!(metrics.contains("dataflow_pipeline_received_messages_total 0"), "{metrics}");
        let status: serde_json::Value = serde_json::from_str(&get("/status").await.1).unwrap();
        // The file says 0; PORT, a variable, said this one.
        assert_eq!(status["settings"]["http"]["port"], service.port, "{status}");
        assert!(status["guarantees"].is_array(), "{status}");
    }
    for service in &mut services {
        let ended = service.process.terminate().await.unwrap();
        assert!(ended.success(), "{} ended with {ended}", service.name);
    }
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_drain_that_cannot_end() {
    let stage = Stage::set().await;
    let Some(emulator) = stage.faulty_cloud() else { return stage.strike().await };
    let mut ingestion = Victim::start("ingestion", &stage, &stage.ingestion());
    ingestion.process.ready().await.unwrap();
    emulator.faults().delay("Publish", 1, Duration::from_secs(3600));
    let fleet = stage.fleet(1);
    let status = format!("{}/status", ingestion.process.url());
    let in_flight = async || {
        let status: serde_json::Value = reqwest::get(&status).await.unwrap().json().await.unwrap();
        status["counts"]["in_flight_messages"] == 1
    };
    until(in_flight).await;

    ingestion.process.ask_to_end().unwrap();
    until(async || std::fs::read_to_string(&ingestion.log).unwrap().contains("a second signal"))
        .await;
    let ended = ingestion.process.terminate().await.unwrap();

    assert_eq!(ended.code(), Some(1));
    drop(fleet);
    stage.strike().await;
}

fn plan_faults(stage: &Stage) {
    let Some(emulator) = &stage.emulator else { return };
    let faults = emulator.faults();
    faults.lose_reply("Publish", 3);
    faults.refuse("Publish", 3, Code::Unavailable);
    faults.refuse("Publish", 2, Code::ResourceExhausted);
    faults.delay("Publish", 3, Duration::from_millis(300));
    faults.lose_reply("storage.objects.insert", 1);
    faults.refuse("storage.objects.insert", 1, Code::Unavailable);
    faults.delay("storage.objects.insert", 1, Duration::from_millis(300));
    faults.lose_reply("AppendRows", 2);
    faults.refuse("AppendRows", 2, Code::Unavailable);
    faults.refuse("AppendRows", 1, Code::NotFound);
    faults.delay("AppendRows", 2, Duration::from_millis(300));
    faults.refuse("BatchGetDocuments", 3, Code::Unavailable);
    faults.refuse("Acknowledge", 2, Code::Unavailable);
    faults.cut_streams();
}

/// The account, once every obligation is at both ends or nothing more comes.
async fn settled(stage: &Stage, fleet: &Fleet) -> Account {
    let bucket = stage.cloud.name("bucket");
    let mut account = Account::default();
    until(async || {
        let lines = archive::read(&stage.cloud, &bucket, "archive/").await.unwrap();
        let lines: Vec<_> = lines.iter().map(|line| Arrived::of_line(line).unwrap()).collect();
        let rows: Vec<_> = stage.rows().await.iter().map(Arrived::of_row).collect();
        let ends = Ends {
            archive: Some(&lines),
            table: Some(&rows),
            is_enriched: true,
            ..Ends::default()
        };
        account = account::settle(fleet, ends);
        account.acknowledged > 0 && account.missing == 0
    })
    .await;
    account
}
