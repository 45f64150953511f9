//! Tests of early ends: Ctrl-C, silence, and arguments that are wrong.

use tokio::time::{sleep, timeout};

use crate::env::{Env, PATIENCE, ended, interrupt, run, start};
use crate::scripted::{Peer, listen};

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_sending_and_waits_for_what_is_under_way() {
    let env = Env::usual().await;
    let report = env.env.folder.path().join("report.json");
    let (option, broker) = (format!("--report={}", report.display()), env.broker());
    for (limit, code) in [(None, 0), (Some("--messages=1000000"), 5)] {
        let template = r#"--template={"run":"{{run}}","number":{{number}}}"#;
        let options: Vec<_> =
            [&*broker, &option, template, "--rate=500"].into_iter().chain(limit).collect();
        let before = env.ingestion.metrics().count(e2e::metrics::SENT);

        let process = start(&options);
        let begun = async {
            while env.ingestion.metrics().count(e2e::metrics::SENT) < before + 50 {
                sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, begun).await.unwrap();
        interrupt(&process).await;
        let sent = ended(process, Some(&report)).await;

        let count = sent.report["sent"].as_u64().unwrap();
        sent.assert(code, &[("confirmed", count), ("unconfirmed", 0)]);
        assert_eq!(sent.report["stopped"], "by a signal");
        let unsent = if limit.is_some() { 1_000_000 - count } else { 0 };
        assert_eq!(sent.report["unsent"], unsent);
        let arrived = env.arrived(usize::try_from(count).unwrap()).await;
        assert_eq!(arrived.len() as u64, count, "what was sent has arrived, and nothing else");
    }
    env.stop().await;
}

#[tokio::test]
async fn the_wait_for_confirmations_is_bounded() {
    let (listener, port) = listen().await;
    let url = format!("mqtt://127.0.0.1:{port}");
    let options = ["--devices=1", "--grace=300ms", "--max-in-flight=3", "--template={{seq}}"];
    let broker = async {
        let mut peer = Peer::accept(&listener, false).await;
        for _ in 0..3 {
            peer.publish().await;
        }
        // Nothing is confirmed, and the connection stays open.
        peer
    };
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let option = format!("--report={}", report.display());

    let process = start(&[&[&*url, &*option][..], &options].concat());
    let _peer = broker.await;
    interrupt(&process).await;
    let sent = ended(process, Some(&report)).await;

    sent.assert(4, &[("sent", 3), ("confirmed", 0), ("unconfirmed", 3)]);
}

#[tokio::test]
async fn a_silent_target_ends_a_run() {
    let (listener, port) = listen().await;
    let url = format!("mqtt://127.0.0.1:{port}");
    let options = [&*url, "--devices=1", "--messages=5", "--patience=1s"];
    let broker = async {
        let mut peer = Peer::accept(&listener, false).await;
        peer.publish().await;
        peer
    };

    let (sent, _peer) = tokio::join!(run(&options), broker);

    sent.assert(4, &[("sent", 5), ("unconfirmed", 5)]);
    assert_eq!(sent.report["stopped"], "nothing was confirmed for 1s (--patience)");
}

#[tokio::test]
async fn wrong_arguments_are_shown_at_their_place() {
    let target = "mqtt://127.0.0.1:1";
    for (options, right) in [
        (&[target, "--template={\"a\":{{sqe}}}"][..], "line 1, column 6: sqe is no placeholder"),
        (&[target, "--topic=devices/#"], "--topic must make topics without + and #"),
        (&[target, "--lines=/nowhere/lines"], "read /nowhere/lines"),
        (&[target, "--archive=/nowhere"], "read /nowhere"),
        (&[target, "--ca-file=ca.pem"], "use mqtts:// instead of mqtt://"),
        (&["http://127.0.0.1:1", "--template=none"], "needs payloads in JSON, not none"),
        (&["amqp://127.0.0.1"], "TARGET must be mqtt://host:port"),
        (&[], "TARGET"),
    ] {
        let ended = run(options).await;

        assert_eq!(ended.code, Some(2), "{options:?}: {}", ended.err);
        assert!(ended.err.contains(right), "{options:?}: {}", ended.err);
    }
    let ended = run(&[target, "--template={\"a\":{{sqe}}}"]).await;
    assert!(ended.err.ends_with("    {\"a\":{{sqe}}}\n         ^\n"), "{}", ended.err);
}

#[tokio::test]
async fn a_target_that_is_away_is_told_before_anything_is_sent() {
    let port = e2e::process::free_port().unwrap();
    let url = format!("mqtt://127.0.0.1:{port}");

    let ended = run(&[&url, "--devices=3", "--connect-timeout=300ms"]).await;

    assert_eq!(ended.code, Some(1), "{}", ended.err);
    let said = "0 of 3 devices are connected after 300ms: connect: ";
    assert!(ended.err.contains(said), "{}", ended.err);
}
