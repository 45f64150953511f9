//! Tests of the resources that an emulator creates at its start, as clients see them.

#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use emulator::{Emulator, Options, Profile, Resources};
use serde_json::Value;

const FILE: &str = "
project: p
topics: [raw]
subscriptions: { reader: raw }
datasets: [readings]
buckets: [archive]
documents:
  devices/d1: { ClientID: plant, Position: { floor: 2 } }
";

async fn start(folder: &std::path::Path) -> Emulator {
    let file = folder.join("resources.yaml");
    std::fs::write(&file, FILE).unwrap();
    let resources = Some(Resources::read(&file).unwrap());
    let data_dir = Some(folder.join("data"));
    Emulator::start(Options { data_dir, resources, ..Options::default() }).await.unwrap()
}

#[tokio::test]
async fn all_of_it_is_there_at_the_first_start_and_at_the_second() {
    let folder = tempfile::tempdir().unwrap();
    start(folder.path()).await.shutdown().await;

    let emulator = start(folder.path()).await;

    for path in [
        "v1/projects/p/topics/raw",
        "v1/projects/p/subscriptions/reader",
        "bigquery/v2/projects/p/datasets/readings",
        "storage/v1/b/archive",
    ] {
        let answer = reqwest::get(format!("{}/{path}", emulator.url())).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        let _resource: Value = answer.json().await.unwrap();
    }
}

#[tokio::test]
async fn projects_that_do_not_exist_stay_so_when_the_profile_becomes_googles() {
    let profile = Profile::default().with_project("p");
    let emulator = Emulator::start(Options { profile, ..Options::default() }).await.unwrap();

    let url = format!("{}/emulator/v1/profile/like-google", emulator.url());
    let answer = reqwest::Client::new().post(url).send().await.unwrap();

    assert!(answer.status().is_success(), "{}", answer.status());
    assert_eq!(emulator.profile(), Profile::like_google().with_project("p"));
}

#[test]
fn a_fault_of_the_file_is_told_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resources.yaml");
    let fault = |yaml| {
        std::fs::write(&file, yaml).unwrap();
        let error = format!("{:#}", Resources::read(&file).unwrap_err());
        error.strip_prefix(&format!("{}: ", file.display())).unwrap().to_owned()
    };

    assert_eq!(
        fault("project: p\ntopic: [raw]\n"),
        "unknown key `topic`, must be one of `project`, `topics`, `subscriptions`, `datasets`, \
         `buckets`, `documents`"
    );
    assert_eq!(fault("topics: [raw]\n"), "project: required");
    let of_type = fault("project: p\ntopics: raw\n");
    assert!(of_type.starts_with("topics: invalid type: found string \"raw\""), "{of_type}");
    let of_syntax = fault("project: p\ntopics: [raw\n");
    assert!(of_syntax.contains("line"), "{of_syntax}");
    std::fs::remove_file(&file).unwrap();
    let missing = format!("{:#}", Resources::read(&file).unwrap_err());
    assert!(missing.contains("resources.yaml: No such file"), "{missing}");
}
