//! The kill test: ingestion and icestore as processes, killed and terminated again and again under
//! load, the broker restarted, the cloud refusing, delaying and losing replies. Every message whose
//! receipt was confirmed must be in the archive, intact.

use std::path::PathBuf;
use std::time::Duration;

use crate::stage::{Stage, until};
use e2e::account::{self, Arrived, Ends};
use e2e::archive;
use e2e::fleet::{Fleet, Plan};
use e2e::mosquitto::free_port;
use e2e::process::Process;
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

#[tokio::test(flavor = "multi_thread")]
async fn nothing_confirmed_is_lost() {
    let mut stage = Stage::set().await;
    let mut ingestion = Victim::start("ingestion", &stage, &stage.ingestion());
    let mut icestore = Victim::start("icestore", &stage, &stage.icestore());
    ingestion.process.ready().await.unwrap();
    icestore.process.ready().await.unwrap();
    let plan = Plan { port: stage.broker.port(), devices: 100, rate: 1_000, ..Plan::default() };
    let mut fleet = Fleet::start(plan);

    for _ in 0..2 {
        sleep(UNDER_LOAD).await;
        ingestion.is_killed().await;
        sleep(UNDER_LOAD).await;
        icestore.is_killed().await;
        sleep(UNDER_LOAD).await;
        plan_faults(&stage);
        sleep(UNDER_LOAD).await;
        ingestion.is_terminated().await;
        icestore.is_terminated().await;
        sleep(UNDER_LOAD).await;
        stage.broker.stop().await.unwrap();
        sleep(UNDER_LOAD).await;
        stage.broker.start_again().await.unwrap();
    }
    fleet.stop();
    timeout(crate::stage::PATIENCE, fleet.finish()).await.unwrap();

    let lines = settled_archive(&stage, &fleet).await;
    let arrived: Vec<_> = lines.iter().map(|line| Arrived::of_line(line).unwrap()).collect();
    let account = account::settle(&fleet, Ends::archive(&arrived));
    println!("{account:?}");
    assert!(account.acknowledged > 1_000, "{account:?}");
    assert!(account.is_clean(), "{account:?}");
    assert!(account.duplicates > 0, "the faults must have bitten: {account:?}");
    ingestion.process.kill().await.unwrap();
    icestore.process.kill().await.unwrap();
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_drain_that_cannot_end() {
    let stage = Stage::set().await;
    let Some(emulator) = &stage.emulator else { return stage.strike().await };
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
    faults.refuse("Acknowledge", 2, Code::Unavailable);
    faults.cut_streams();
}

/// The archive's lines, once every obligation is there or nothing more comes.
async fn settled_archive(stage: &Stage, fleet: &Fleet) -> Vec<archive::Line> {
    let mut lines = Vec::new();
    let bucket = stage.cloud.name("bucket");
    let acknowledged = fleet.log().acknowledged();
    until(async || {
        lines = archive::read(&stage.cloud, &bucket, "archive/").await.unwrap();
        let arrived: Vec<_> = lines.iter().map(|line| Arrived::of_line(line).unwrap()).collect();
        let account = account::settle(fleet, Ends::archive(&arrived));
        !acknowledged.is_empty() && account.missing == 0
    })
    .await;
    lines
}
