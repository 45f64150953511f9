//! Tests over MQTT.

use tokio::time::{sleep, timeout};

use crate::env::{Env, PATIENCE, ended, planned, run, start};

/// Template whose payloads are all different, and the same for the same seed.
const TEMPLATE: &str =
    r#"{"device":"{{device}}","seq":{{seq}},"t":{{walk 20 0.5}},"n":{{number}},"u":"{{uuid}}"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_message_arrives_as_it_was_sent_in_both_versions() {
    let env = Env::usual().await;
    for version in ["5", "3.1.1"] {
        let template = format!("--template={TEMPLATE}");
        let version = format!("--mqtt={version}");
        let broker = env.broker();
        let options = [&broker, &version, &template, "--devices=7", "--messages=500", "--seed=5"];

        let sent = run(&options).await;

        sent.assert(
            0,
            &[("expected", 500), ("sent", 500), ("confirmed", 500), ("refused", 0), ("unsent", 0)],
        );
        assert!(sent.err.starts_with(&format!("sending to {broker} (MQTT ")), "{}", sent.err);
        assert_eq!(env.arrived(500).await, planned(&options).await);
        let rows = sent.report["histogram"].as_array().unwrap();
        let counted: u64 = rows.iter().map(|row| row["from_send"].as_u64().unwrap()).sum();
        assert_eq!(counted, 500);
        let answer = if version.ends_with('5') { "0x00 Success" } else { "PUBACK" };
        assert_eq!(sent.report["answers"], serde_json::json!({ answer: 500 }));
        assert!(sent.out.contains("confirmed 500, refused 0, unconfirmed 0"), "{}", sent.out);
    }
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_a_file_are_sent_in_turn() {
    let env = Env::usual().await;
    let file = env.env.folder.path().join("lines");
    std::fs::write(&file, "{\"n\": 1}\n{\"n\": 2}\nno json\n").unwrap();

    let lines = format!("--lines={}", file.display());
    let sent = run(&[&env.broker(), &lines, "--devices=1", "--messages=7"]).await;

    sent.assert(0, &[("confirmed", 7)]);
    let expected = [r#"{"n": 1}"#, r#"{"n": 2}"#, "no json"]
        .map(|payload| ("devices/device-00000/up".to_owned(), payload.to_owned()));
    assert_eq!(env.arrived(3).await, expected.into());
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_not_exceeded_and_its_duration_sets_the_number() {
    let env = Env::usual().await;

    let sent = run(&[&env.broker(), "--device-rate=20", "--devices=5", "--duration=500ms"]).await;

    // 100 a second for half a second. The last one is due 490 ms after the start.
    sent.assert(0, &[("expected", 50), ("confirmed", 50)]);
    assert_eq!(sent.report["planned_rate"], 100.0);
    assert!(sent.report["achieved_rate"].as_f64().unwrap() < 101.0, "{}", sent.report);
    assert!(sent.report["seconds"].as_f64().unwrap() >= 0.49, "{}", sent.report);
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_is_survived_and_counted() {
    for version in ["5", "3.1.1"] {
        let mut env = Env::usual().await;
        let (template, version) = (format!("--template={TEMPLATE}"), format!("--mqtt={version}"));
        let report = env.env.folder.path().join("report.json");
        let (option, broker) = (format!("--report={}", report.display()), env.broker());
        let mut options = vec![
            &*broker,
            &version,
            &template,
            "--devices=4",
            "--messages=2000",
            "--rate=1000",
            "--seed=9",
        ];

        let process = start(&[&options[..], &[&option]].concat());
        let begun = async {
            while env.ingestion.metrics().count(e2e::metrics::SENT) < 200 {
                sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, begun).await.unwrap();
        env.env.broker.stop().await.unwrap();
        env.env.broker.start_again().await.unwrap();
        let sent = ended(process, Some(&report)).await;

        sent.assert(0, &[("sent", 2000), ("confirmed", 2000), ("unconfirmed", 0)]);
        assert!(sent.report["reconnects"].as_u64().unwrap() >= 4, "{}", sent.report);
        options.retain(|option| !option.starts_with("--rate"));
        let arrived = env.arrived(2000).await;
        assert!(arrived == planned(&options).await, "other messages have arrived");
        env.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_has_its_reason_and_its_exit_code() {
    let lines = "allow_anonymous true\nacl_file FOLDER/acl";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("acl"), "topic readwrite allowed/#\n").unwrap();
    let lines = lines.replace("FOLDER", &folder.path().display().to_string());
    let home = folder.path().join("broker");
    let broker = e2e::mosquitto::Mosquitto::start_with(&home, 0, &lines).await.unwrap();
    let url = format!("mqtt://127.0.0.1:{}", broker.port());

    let topic = "--topic={{pick allowed denied}}/{{device}}";
    let sent = run(&[&url, topic, "--messages=60", "--devices=3", "--seed=1"]).await;
    let planned = planned(&[&url, topic, "--messages=60", "--devices=3", "--seed=1"]).await;

    let denied = planned.iter().filter(|(topic, _)| topic.starts_with("denied/")).count() as u64;
    assert!((1..60).contains(&denied), "{denied}");
    sent.assert(
        3,
        &[("sent", 60), ("confirmed", 60 - denied), ("refused", denied), ("unconfirmed", 0)],
    );
    assert_eq!(sent.report["refusals"], serde_json::json!({ "0x87 Not authorized": denied }));
    // Nobody subscribes at this broker.
    let answers = &sent.report["answers"];
    assert_eq!(answers["0x10 No matching subscribers"], 60 - denied, "{answers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_and_a_password_let_devices_in() {
    let port = e2e::process::free_port().unwrap();
    // The first listener is for the test, which looks if the broker answers.
    let lines = format!(
        "allow_anonymous true\npassword_file FOLDER/passwords\nlistener {port} 127.0.0.1\n\
         cafile FOLDER/ca.pem\ncertfile FOLDER/server.pem\nkeyfile FOLDER/server.key\n\
         require_certificate true"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    e2e::certificates::make(folder.path()).unwrap();
    let mut passwd = std::process::Command::new("mosquitto_passwd");
    passwd.args(["-b", "-c", &path("passwords"), "sensor", "12345"]);
    assert!(passwd.status().unwrap().success());
    std::fs::write(path("password"), "12345\n").unwrap();
    std::fs::write(path("wrong"), "54321\n").unwrap();
    let lines = lines.replace("FOLDER", &folder.path().display().to_string());
    let home = folder.path().join("broker");
    let _broker = e2e::mosquitto::Mosquitto::start_with(&home, 0, &lines).await.unwrap();
    let url = format!("mqtts://127.0.0.1:{port}");
    let (ca, cert) = (format!("--ca-file={}", path("ca.pem")), path("client.pem"));
    let (cert, key) =
        (format!("--client-cert-file={cert}"), format!("--client-key-file={}", path("client.key")));
    let stranger = format!("--ca-file={}", path("stranger.pem"));
    let password = |file| format!("--password-file={}", path(file));
    let (right, wrong) = (password("password"), password("wrong"));
    let common = [&*url, &cert, &key, "--messages=20", "--username=sensor", "--connect-timeout=2s"];

    let allowed = run(&[&common[..], &[&ca, &right]].concat()).await;
    let unverified = run(&[&common[..], &[&stranger, &right]].concat()).await;
    let unknown = run(&[&common[..], &[&ca, &wrong]].concat()).await;

    allowed.assert(0, &[("confirmed", 20)]);
    for (ended, why) in [(unverified, "TLS: "), (unknown, "the broker refuses the connection: ")] {
        assert_eq!(ended.code, Some(1), "{}", ended.err);
        let said = format!("0 of 10 devices are connected after 2s: {why}");
        assert!(ended.err.contains(&said), "{}", ended.err);
    }
}
