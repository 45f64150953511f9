//! Tests over HTTP.

use crate::env::{Env, planned, run};

const TEMPLATE: &str = r#"--template={"device":"{{device}}","seq": {{seq}} ,"t":{{walk 20 0.5}}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn items_arrive_as_they_were_sent_alone_and_in_batches() {
    let env = Env::usual().await;
    let url = env.ingest();
    for batch in ["--batch=1", "--batch=30"] {
        // 100 of 3 devices are batches that are not full.
        let options = [&*url, TEMPLATE, batch, "--devices=3", "--messages=100", "--seed=3"];

        let sent = run(&options).await;

        sent.assert(0, &[("expected", 100), ("sent", 100), ("confirmed", 100), ("refused", 0)]);
        assert_eq!(sent.report["answers"]["202 Accepted"], 100, "{}", sent.report);
        assert_eq!(env.arrived(100).await, planned(&options).await);
    }
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_a_rate_is_sent_when_its_last_item_is_due() {
    let env = Env::usual().await;

    let options = ["--devices=1", "--messages=20", "--batch=10", "--rate=50", TEMPLATE];
    let sent = run(&[&[&*env.ingest()][..], &options].concat()).await;

    sent.assert(0, &[("confirmed", 20)]);
    // The last item is due 380 ms after the start.
    assert!(sent.report["seconds"].as_f64().unwrap() >= 0.38, "{}", sent.report);
    env.arrived(20).await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_a_file_lets_requests_in_and_a_wrong_one_is_refused() {
    let key = "0123456789abcdef0123456789abcdef";
    let env = Env::start("allow_anonymous true", |settings, folder| {
        std::fs::write(folder.join("keys"), format!("{key}\n")).unwrap();
        let ingest = settings.http_ingest.as_mut().unwrap();
        ingest.auth.api_keys_file = Some(folder.join("keys"));
    })
    .await;
    let folder = env.env.folder.path();
    let wrong = folder.join("wrong");
    std::fs::write(&wrong, "ffffffffffffffffffffffffffffffff").unwrap();
    let (url, keys) = (env.ingest(), folder.join("keys").display().to_string());
    let file = |option: &str, file: &str| format!("--{option}={file}");

    for option in [file("api-key-file", &keys), file("token-file", &keys)] {
        run(&[&url, &option, "--messages=10"]).await.assert(0, &[("confirmed", 10)]);
    }
    let wrong = file("api-key-file", &wrong.display().to_string());
    let refused = run(&[&url, &wrong, "--messages=10"]).await;

    refused.assert(3, &[("sent", 10), ("confirmed", 0), ("refused", 10)]);
    assert_eq!(refused.report["answers"]["401 Unauthorized"], 10, "{}", refused.report);
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_a_route_and_a_payload_without_json_are_refused() {
    let env = Env::usual().await;
    let file = env.env.folder.path().join("lines");
    std::fs::write(&file, "{\"a\":1}\nnone\n").unwrap();
    let (url, lines) = (env.ingest(), format!("--lines={}", file.display()));

    let unknown = run(&[&url, "--source=plant/{{device}}", "--messages=4"]).await;
    let text = run(&[&url, &lines, "--devices=1", "--messages=4"]).await;

    unknown.assert(3, &[("refused", 4)]);
    let refusals = unknown.report["refusals"].as_object().unwrap();
    assert!(refusals.keys().all(|why| why.starts_with("404: ")), "{refusals:?}");
    text.assert(3, &[("sent", 4), ("confirmed", 2), ("refused", 2)]);
    env.stop().await;
}
