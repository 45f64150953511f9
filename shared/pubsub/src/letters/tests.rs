//! Tests of the dead-letter tool on a subscription of the embedded cloud.

use std::collections::BTreeSet;

use emulator::{Emulator, Fault, Kind, Options};
use google_cloud_pubsub::model::DeadLetterPolicy;
use pipeline::Recovery;
use pipeline::message::Attributes;
use serde_json::json;
use tonic::Code;

use super::*;
use crate::publishers::Publishers;
use crate::sink::Outgoing;

const REASONS: Reasons = Reasons { refused: &["row_type_mismatch", "no_route"], skipped: &[] };
const SUBSCRIPTION: &str = "projects/p/subscriptions/dead-letters";

/// A dead-letter topic with its subscription.
struct TestEnv {
    emulator: Emulator,
    endpoint: Endpoint,
    publishers: Publishers,
}

impl TestEnv {
    async fn with_letters(count: usize) -> Self {
        service::install_crypto();
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let endpoint = Endpoint { endpoint: Some(emulator.url()), ..Endpoint::default() };
        let put = async |resource: &str, body: serde_json::Value| {
            let url = format!("{}/v1/projects/p/{resource}", emulator.url());
            let answer = reqwest::Client::new().put(url).json(&body).send().await.unwrap();
            answer.error_for_status().unwrap();
        };
        put("topics/dead-letters", json!({})).await;
        let subscription =
            json!({ "topic": "projects/p/topics/dead-letters", "ackDeadlineSeconds": 600 });
        put("subscriptions/dead-letters", subscription).await;
        let publishers = Publishers::new(&Connection::new(endpoint.clone())).await.unwrap();
        let env = Self { emulator, endpoint, publishers };
        env.publish(count).await;
        env
    }

    async fn publish(&self, count: usize) {
        let topic = TopicName::new("p", "dead-letters");
        let letter = |index: usize| Outgoing {
            topic: topic.clone(),
            data: index.to_string().into(),
            attributes: Attributes::default(),
            ordering_key: String::new(),
        };
        let letters: Vec<_> = (0..count).map(letter).collect();
        for chunk in letters.chunks(1000) {
            self.publishers.publish(&topic, chunk).await.unwrap();
        }
    }

    async fn reader(&self, max: usize) -> Reader {
        let limits = Limits { max, wait: Duration::ZERO };
        Reader::new(Puller::new(&self.endpoint, SUBSCRIPTION).await.unwrap(), limits).unwrap()
    }

    /// Returns the ids of all dead letters that a reader finds. They are returned to the
    /// subscription.
    async fn read(&self) -> BTreeSet<String> {
        let mut reader = self.reader(1_000_000).await;
        let ids = rest(&mut reader).await;
        assert_eq!(reader.shortfall(), None);
        reader.close().await.unwrap();
        ids
    }

    /// Injects a fault into the next pull.
    fn disturb_pull(&self, kind: Kind) {
        let fault = Fault { method: "Pull".into(), topic: None, count: 1, for_millis: None, kind };
        self.emulator.faults().add(fault);
    }
}

/// Returns the ids of all dead letters that are left to read. None may arrive twice.
async fn rest(reader: &mut Reader) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    while let Some(page) = reader.page().await.unwrap() {
        for letter in page {
            assert!(ids.insert(letter.id.clone()), "{} came twice", letter.id);
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn every_letter_is_read_in_every_run() {
    let env = TestEnv::with_letters(3500).await;

    let first = env.read().await;

    assert_eq!(first.len(), 3500);
    assert_eq!(env.read().await, first);
    assert_eq!(env.read().await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_that_hides_letters_is_told() {
    let env = TestEnv::with_letters(30).await;

    let mut reader = env.reader(20).await;
    let found = rest(&mut reader).await;

    assert_eq!((found.len(), reader.read()), (20, 20));
    assert_eq!(reader.shortfall(), Some(&reader::Shortfall::Max(20)));
    let seen = Seen::close(reader).await;
    assert_eq!(seen.to_json()["complete"], false);
    assert!(
        seen.sum(3).contains("NOT COMPLETE: there are more than the 20 letters"),
        "{}",
        seen.sum(3)
    );
    assert!(seen.whole().unwrap_err().to_string().ends_with("give a larger --max"));
    assert_eq!(env.read().await.len(), 30, "all are back at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_that_is_just_enough_hides_nothing() {
    let env = TestEnv::with_letters(20).await;

    let mut reader = env.reader(20).await;

    assert_eq!(rest(&mut reader).await.len(), 20);
    assert_eq!(reader.shortfall(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_lost_answer_are_told_to_be_missing() {
    let env = TestEnv::with_letters(1200).await;
    env.disturb_pull(Kind::LoseReply);

    let mut reader = env.reader(1_000_000).await;
    let found = rest(&mut reader).await;

    assert_eq!(found.len(), 200, "a thousand are leased to nobody");
    assert!(
        matches!(reader.shortfall(), Some(reader::Shortfall::Lost(_))),
        "{:?}",
        reader.shortfall()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_stops_the_tool_with_the_words_of_pubsub() {
    let env = TestEnv::with_letters(1).await;
    env.disturb_pull(Kind::refuse(Code::PermissionDenied));

    let error = env.reader(10).await.page().await.unwrap_err();

    assert!(format!("{error:#}").starts_with("pull: 403"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_come_while_it_runs_are_left_for_the_next_run() {
    let env = TestEnv::with_letters(2).await;
    let mut reader = env.reader(1_000_000).await;
    let page = reader.page().await.unwrap().unwrap();
    // The service's clock is reported in whole seconds.
    reader.forget_the_second();
    env.publish(3).await;

    let new = rest(&mut reader).await;
    reader.close().await.unwrap();

    assert_eq!((page.len(), new.len()), (2, 0));
    assert_eq!(env.read().await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_the_service_is_told() {
    let env = TestEnv::with_letters(1).await;
    let puller = Puller::new(&env.endpoint, SUBSCRIPTION).await.unwrap();

    let pulled = puller.pull(1).await.unwrap();

    let published = pulled.leased[0].message.publish_time;
    let gap = pulled.served_at.unwrap() - published;
    assert!(gap.whole_seconds().abs() < 60, "{gap}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_is_gone_and_the_others_are_back() {
    let env = TestEnv::with_letters(5).await;
    let mut reader = env.reader(1_000_000).await;
    let page = reader.page().await.unwrap().unwrap();

    reader.finish(&page[0].id);
    reader.remove().await.unwrap();
    reader.finish(&page[1].id);
    reader.close().await.unwrap();

    let left: BTreeSet<_> = page[2..].iter().map(|letter| letter.id.clone()).collect();
    assert_eq!(env.read().await, left);
}

#[test]
fn a_subscription_that_loses_what_is_looked_at_is_refused() {
    let plain = model::Subscription::new().set_name(SUBSCRIPTION);
    let policy = DeadLetterPolicy::new().set_max_delivery_attempts(5);

    assert!(check_policies(&plain).is_ok());
    let error = check_policies(&plain.set_dead_letter_policy(policy)).unwrap_err().to_string();
    assert!(error.contains("after 5 of them") && error.contains("--subscription"), "{error}");
}

#[test]
fn the_command_line_holds_together() {
    command(&REASONS).debug_assert();
}

#[test]
fn a_misspelt_reason_is_refused_with_the_nearest_one() {
    let given = ["dead-letters", "replay", "--reason", "row_tpye"];

    let error = command(&REASONS).try_get_matches_from(given).unwrap_err();

    let text = error.to_string();
    assert_eq!(error.exit_code(), 2);
    assert!(text.contains("[possible values: row_type_mismatch, no_route]"), "{text}");
    let given = ["dead-letters", "list", "--reason", "row_tpye_mismatch"];
    let text = command(&REASONS).try_get_matches_from(given).unwrap_err().to_string();
    assert!(text.contains("a similar value exists: 'row_type_mismatch'"), "{text}");
}

#[test]
fn times_are_given_in_three_forms_and_others_are_refused_with_examples() {
    let parse = |time: &str| {
        command(&REASONS).try_get_matches_from(["dead-letters", "list", "--since", time])
    };

    for time in ["1h", "2026-11-20", "2026-11-20T10:00:00Z"] {
        assert!(parse(time).is_ok(), "{time}");
    }
    let text = parse("soon").unwrap_err().to_string();
    assert!(text.contains("--since") && text.contains("2026-11-20"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_extended_beside_a_slow_step() {
    let env = TestEnv::with_letters(2).await;
    let mut reader = env.reader(10).await;
    let page = reader.page().await.unwrap().unwrap();
    reader.finish(&page[0].id);
    let extended = || env.emulator.faults().calls().get("ModifyAckDeadline").copied();
    let before = extended();
    reader.forget_the_extension();

    let step = async {
        while extended() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(30), reader.while_leased(step)).await;

    assert!(done.is_ok(), "{before:?}");
    reader.close().await.unwrap();
}

#[test]
fn a_letter_that_is_not_found_or_not_given_back_is_an_error() {
    let error = || Recovery::Retry.because("give back", "no answer");
    let seen = |shortfall: Option<&str>, unsettled| {
        let shortfall = shortfall.map(|why| (why.to_owned(), "wait".to_owned()));
        Seen { read: 3, shortfall, unsettled }
    };
    let text = |result: anyhow::Result<()>| result.unwrap_err().to_string();

    seen(None, None).given_back().unwrap();
    let hidden = text(seen(None, Some(error())).given_back());
    assert!(hidden.contains("stay hidden for up to"), "{hidden}");
    assert_eq!(
        text(seen(None, None).without("7")),
        "no letter has the id 7; 3 were read, which is all"
    );
    let bounded = text(seen(Some("a bound"), None).without("7"));
    assert_eq!(bounded, "no letter of the id 7 among the 3 read; a bound; wait");
    assert_eq!(text(seen(None, Some(error())).without("7")), hidden);
}
