//! Tests of the dead-letter tool on a subscription of the embedded cloud.

mod commands;

use std::collections::BTreeSet;
use std::time::Duration;

use clap::builder::TypedValueParser as _;
use clap::{FromArgMatches as _, value_parser};
use emulator::{Emulator, Fault, Kind, Options};
use google_cloud_pubsub::model::DeadLetterPolicy;
use message::Attributes;
use pipeline::{Reasons, Recovery};
use reqwest::Method;
use serde_json::json;
use tonic::Code;

use super::print::Printed;
use super::*;
use crate::outgoing::Outgoing;
use crate::publishers::Publishers;

pub(super) mod reasons {
    pipeline::reasons! {
        /// Reasons of these tests.
        OF_THE_TESTS {
            /// A value does not fit its column.
            ROW_TYPE_MISMATCH = "row_type_mismatch";
            /// No route matches the topic.
            NO_ROUTE = "no_route";
        }
    }
}

const REASONS: Reasons = Reasons { refused: &[reasons::OF_THE_TESTS], skipped: &[] };
const SUBSCRIPTION: &str = "projects/p/subscriptions/dead-letters";

/// A dead-letter topic with its subscription.
pub(super) struct ToolEnv {
    pub(super) emulator: Emulator,
    pub(super) endpoint: Endpoint,
    publishers: Publishers,
}

impl ToolEnv {
    pub(super) async fn with_letters(count: usize) -> Self {
        service::install_crypto();
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let endpoint = Endpoint { endpoint: Some(emulator.url().into()), ..Endpoint::default() };
        let publishers = Publishers::new(&Connection::new(endpoint.clone())).await.unwrap();
        let env = Self { emulator, endpoint, publishers };
        env.add_topic("dead-letters").await;
        env.add_subscription("dead-letters", "dead-letters").await;
        env.publish(count).await;
        env
    }

    /// Adds the topic `messages` with its subscription, from which the service reads.
    pub(super) async fn with_source(self) -> Self {
        self.add_topic("messages").await;
        self.add_subscription("messages", "messages").await;
        self
    }

    pub(super) async fn add_topic(&self, id: &str) {
        self.request(Method::PUT, &format!("topics/{id}"), json!({})).await;
    }

    async fn add_subscription(&self, id: &str, topic: &str) {
        let topic = format!("projects/p/topics/{topic}");
        let settings = json!({ "topic": topic, "ackDeadlineSeconds": 600 });
        self.request(Method::PUT, &format!("subscriptions/{id}"), settings).await;
    }

    async fn request(&self, method: Method, resource: &str, body: serde_json::Value) {
        let url = format!("{}/v1/projects/p/{resource}", self.emulator.url());
        let request = reqwest::Client::new().request(method, url).json(&body);
        request.send().await.unwrap().error_for_status().unwrap();
    }

    /// Publishes a dead letter.
    pub(super) async fn add(&self, dead_letter: Message) {
        let topic = TopicName::new("p", "dead-letters");
        let Message { data, attributes, .. } = dead_letter;
        let outgoing =
            Outgoing { topic: topic.clone(), data, attributes, ordering_key: String::new() };
        self.publishers.publish(&topic, &[outgoing]).await.unwrap();
    }

    /// Saves the backlog of the subscription.
    pub(super) async fn take_snapshot(&self, id: &str) {
        let body = json!({ "subscription": SUBSCRIPTION });
        self.request(Method::PUT, &format!("snapshots/{id}"), body).await;
    }

    /// Sets the backlog of a subscription to a saved one.
    pub(super) async fn seek(&self, subscription: &str, snapshot: &str) {
        let body = json!({ "snapshot": format!("projects/p/snapshots/{snapshot}") });
        self.request(Method::POST, &format!("subscriptions/{subscription}:seek"), body).await;
    }

    /// Returns the dead letters that are not acknowledged, with those that are leased.
    pub(super) async fn backlog(&self) -> Vec<Message> {
        let copy = format!("copy-{}", uuid::Uuid::new_v4());
        self.take_snapshot(&copy).await;
        self.add_subscription(&copy, "dead-letters").await;
        self.seek(&copy, &copy).await;
        self.pull(&copy).await
    }

    /// Returns the messages of a subscription that are not leased.
    pub(super) async fn pull(&self, subscription: &str) -> Vec<Message> {
        let name = format!("projects/p/subscriptions/{subscription}");
        let puller = Puller::new(&self.connection(), &name).await.unwrap();
        let pulled = puller.pull(1000).await.unwrap();
        pulled.leased.into_iter().map(|leased| leased.message).collect()
    }

    /// Runs the tool of the service `bigqueries`, which reads from the topic `messages`.
    pub(super) async fn run(&self, args: &[&str]) -> (anyhow::Result<()>, Printed) {
        let reads = Subscription { id: "messages".into(), ..Subscription::default() };
        let dead_letter_tool = DeadLetterTool { reads: Some(&reads), ..self.dead_letter_tool() };
        let mut printed = Printed::default();
        let outcome = dead_letter_tool.run(given(args), as_it_was, &mut printed).await;
        (outcome, printed)
    }

    /// Returns the tool of a service that reads from no topic.
    pub(super) fn dead_letter_tool(&self) -> DeadLetterTool<'_> {
        DeadLetterTool {
            service: "bigqueries",
            project: "p",
            pubsub: &self.endpoint,
            topic: Some(TopicName::new("p", "dead-letters")),
            reads: None,
            clients: Clients::default(),
        }
    }

    fn connection(&self) -> Connection {
        Connection::new(self.endpoint.clone())
    }

    async fn publish(&self, count: usize) {
        let topic = TopicName::new("p", "dead-letters");
        let dead_letter = |index: usize| Outgoing {
            topic: topic.clone(),
            data: index.to_string().into(),
            attributes: Attributes::default(),
            ordering_key: String::new(),
        };
        let dead_letters: Vec<_> = (0..count).map(dead_letter).collect();
        for chunk in dead_letters.chunks(1000) {
            self.publishers.publish(&topic, chunk).await.unwrap();
        }
    }

    pub(super) async fn puller(&self) -> Puller {
        Puller::new(&self.connection(), SUBSCRIPTION).await.unwrap()
    }

    pub(super) async fn reader(&self, max: usize) -> Reader {
        let limits = Limits { max, wait: Duration::ZERO };
        Reader::new(self.puller().await, limits).unwrap()
    }

    /// Returns the ids of all dead letters that a reader finds. They are returned to the
    /// subscription.
    pub(super) async fn read(&self) -> BTreeSet<String> {
        let mut reader = self.reader(1_000_000).await;
        let ids = rest(&mut reader).await;
        assert_eq!(reader.shortfall(), None);
        reader.close().await.unwrap();
        ids
    }

    /// Injects a fault into the next pull.
    pub(super) fn disturb_pull(&self, kind: Kind) {
        let fault = Fault { method: "Pull".into(), topic: None, count: 1, for_millis: None, kind };
        self.emulator.faults().add(fault);
    }
}

/// Returns a dead letter of the service `bigqueries`.
pub(super) fn refused(data: &str) -> Message {
    Message::new(data.to_owned())
        .with_attribute("dl_service", "bigqueries")
        .with_attribute("dl_reason", "row_type_mismatch")
        .with_attribute("dl_detail", "x is text")
}

/// Parses a command line. Reading ends at the first empty answer.
pub(super) fn given(args: &[&str]) -> Arguments {
    let command = command(REASONS.refused());
    let seconds = value_parser!(u64).map(Duration::from_secs);
    let command = command.mut_arg("wait", |wait| wait.value_parser(seconds));
    let args = ["dead-letters", "--wait", "0"].iter().chain(args);
    Arguments::from_arg_matches(&command.get_matches_from(args)).unwrap()
}

/// Returns the data of messages as texts.
pub(super) fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(&message.data).into_owned()).collect()
}

/// Returns the ids of all dead letters that are left to read. None may arrive twice.
async fn rest(reader: &mut Reader) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    while let Some(page) = reader.page().await.unwrap() {
        for dead_letter in page {
            assert!(ids.insert(dead_letter.id.clone()), "{} came twice", dead_letter.id);
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn every_letter_is_read_in_every_run() {
    let env = ToolEnv::with_letters(3500).await;

    let first = env.read().await;

    assert_eq!(first.len(), 3500);
    assert_eq!(env.read().await, first);
    assert_eq!(env.read().await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_that_hides_letters_is_told() {
    let env = ToolEnv::with_letters(30).await;

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
    let env = ToolEnv::with_letters(20).await;

    let mut reader = env.reader(20).await;

    assert_eq!(rest(&mut reader).await.len(), 20);
    assert_eq!(reader.shortfall(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_lost_answer_are_told_to_be_missing() {
    let env = ToolEnv::with_letters(1200).await;
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
    let env = ToolEnv::with_letters(1).await;
    env.disturb_pull(Kind::refuse(Code::PermissionDenied));

    let error = env.reader(10).await.page().await.unwrap_err();

    assert!(format!("{error:#}").starts_with("pull: 403"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_come_while_it_runs_are_left_for_the_next_run() {
    let env = ToolEnv::with_letters(2).await;
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
    let env = ToolEnv::with_letters(1).await;

    let pulled = env.puller().await.pull(1).await.unwrap();

    let published = pulled.leased[0].message.publish_time;
    let gap = pulled.served_at.unwrap() - published;
    assert!(gap.whole_seconds().abs() < 60, "{gap}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_is_gone_and_the_others_are_back() {
    let env = ToolEnv::with_letters(5).await;
    let mut reader = env.reader(1_000_000).await;
    let page = reader.page().await.unwrap().unwrap();

    reader.finish(&page[0].id);
    reader.remove().await.unwrap();
    reader.finish(&page[1].id);
    reader.close().await.unwrap();

    assert_eq!(texts(&env.backlog().await), texts(&page[2..]), "leased or not");
    assert_eq!(env.read().await.len(), 3);
}

#[test]
fn a_subscription_that_loses_what_is_looked_at_is_refused() {
    let plain = model::Subscription::new().set_name(SUBSCRIPTION);
    let policy = DeadLetterPolicy::new().set_max_delivery_attempts(5);

    let mut out = Printed::default();
    assert!(check_policies(&plain, &mut out).is_ok());
    let with_policy = plain.set_dead_letter_policy(policy);
    let error = check_policies(&with_policy, &mut out).unwrap_err().to_string();
    assert!(error.contains("after 5 of them") && error.contains("--subscription"), "{error}");
    assert!(out.notes.is_empty());
}

#[test]
fn a_subscription_that_keeps_letters_for_a_while_is_noted_beside_the_result() {
    let delayed = model::Subscription::new()
        .set_name(SUBSCRIPTION)
        .set_retry_policy(model::RetryPolicy::new());
    let mut out = Printed::default();

    check_policies(&delayed, &mut out).unwrap();

    assert!(out.notes[0].contains("has a retry policy"), "{:?}", out.notes);
    assert!(out.lines.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_extended_beside_a_slow_step() {
    let env = ToolEnv::with_letters(2).await;
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
