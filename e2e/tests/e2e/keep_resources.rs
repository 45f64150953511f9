//! `KEEP_RESOURCES`: resources in the cloud stay if it is set. Servers that a test started never do.

use std::net::Ipv4Addr;

use e2e::cloud::Cloud;
use e2e::mosquitto::Mosquitto;
use e2e::names::{ARCHIVE, DEVICES, ENRICH, RAW, SUBSCRIPTIONS};
use emulator::{Emulator, Options};
use tokio::net::TcpStream;
use tokio::process::Command;

/// Variable with the URL of the cloud in which the process leaves or removes resources.
const URL: &str = "DATAFLOW_TEST_CLOUD";
/// Run and test whose names all resources bear.
const RUN: &str = "keep-0123456789ab";
/// Beginning of the line with the port of the broker.
const PORT: &str = "broker: ";

fn cloud(url: &str) -> Cloud {
    let mut cloud = Cloud::embedded(url);
    RUN.clone_into(&mut cloud.run);
    cloud
}

/// Returns the kinds of the resources that are there.
async fn kinds(cloud: &Cloud, url: &str) -> Vec<&'static str> {
    let paths = [
        ("topic", format!("/v1/projects/local/topics/{}", cloud.name(RAW))),
        ("subscription", format!("/v1/projects/local/subscriptions/{}", cloud.name(ENRICH))),
        ("bucket", format!("/storage/v1/b/{}", cloud.name(ARCHIVE))),
        ("dataset", format!("/bigquery/v2/projects/local/datasets/{}", cloud.dataset())),
    ];
    let mut kinds = Vec::new();
    for (kind, path) in paths {
        let answer = reqwest::get(format!("{url}{path}")).await.unwrap();
        match answer.status().as_u16() {
            200 => kinds.push(kind),
            status => assert_eq!(status, 404, "{path}"),
        }
    }
    if cloud.collections_of("keep").await.unwrap() == [cloud.name(DEVICES)] {
        kinds.push("documents");
    }
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_stay_if_the_variable_is_set_and_servers_never_do() {
    service::install_crypto();
    let emulator = Emulator::start(Options::default()).await.unwrap();
    let cloud = cloud(&emulator.url());
    let all = ["topic", "subscription", "bucket", "dataset", "documents"];

    for (value, left) in [(Some("1"), &all[..]), (Some("0"), &[]), (Some("1"), &all), (None, &[])] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "keep_resources::creates_and_removes", "--ignored"]);
        command.arg("--nocapture").env(URL, emulator.url()).env_remove("KEEP_RESOURCES");
        command.envs(value.map(|value| ("KEEP_RESOURCES", value))).kill_on_drop(true);
        let ended = command.output().await.unwrap();

        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{said}{}", String::from_utf8_lossy(&ended.stderr));
        // The test runner writes the name of the test on the same line.
        let port = said.lines().find_map(|line| line.split_once(PORT)).unwrap().1;
        let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().unwrap())).await;
        assert!(connected.is_err(), "{value:?}: the broker still runs");
        assert_eq!(kinds(&cloud, &emulator.url()).await, left, "{value:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of the test above, which runs it as a process"]
async fn creates_and_removes() {
    service::install_crypto();
    let cloud = cloud(&std::env::var(URL).unwrap());
    let folder = tempfile::tempdir().unwrap();

    let broker = Mosquitto::start(folder.path(), 0).await.unwrap();
    println!("{PORT}{}", broker.port());
    cloud.create_resources(&SUBSCRIPTIONS).await.unwrap();
    let documents = e2e::reading::documents(3);
    cloud.put_documents(&cloud.name(DEVICES), documents).await.unwrap();

    cloud.delete_resources(&SUBSCRIPTIONS).await.unwrap();
}
