//! Tests of the replay.

use std::collections::HashMap;

use time::macros::datetime;
use tokio::time::advance;
use tonic::Code;

use super::super::print::Printed;
use super::super::tests::{ToolEnv, given, refused, texts};
use super::*;

/// Returns a dead letter with an `ingest_id`.
fn named(data: &str, id: &str) -> Message {
    refused(data).with_attribute("ingest_id", id)
}

/// Returns a dead letter whose data is in an object.
fn in_object(id: &str) -> Message {
    named("", id).with_attribute("dl_object", "gs://b/o")
}

/// Prepares a replay to the topic `messages`.
async fn sending<'a>(
    env: &ToolEnv,
    filter: &'a Filter,
    out: &'a mut Printed,
) -> Sending<'a, impl Prepare> {
    Sending {
        filter,
        prepare: as_it_was,
        topic: Some(TopicName::new("p", "messages")),
        counter: Counter::open(&Connection::new(env.endpoint.clone())).await.unwrap(),
        ticks: interval(Duration::from_millis(1)),
        mode: Mode::Real,
        form: Form::Text,
        out,
        tally: Tally::default(),
        sent: HashSet::new(),
    }
}

fn seen(read: usize) -> Seen {
    Seen { read, shortfall: None, unsettled: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_sent_as_they_were_and_removed() {
    let env = ToolEnv::with_letters(0).await.with_source().await;
    env.add(named("a", "i-a").with_attribute("dl_first_seen", "2025-06-15T10:00:00Z")).await;
    env.add(named("b", "i-b").with_attribute("device_id", "d1")).await;
    env.add(refused("c").with_attribute("dl_service", "enrich")).await;

    let (outcome, printed) = env.run(&["replay"]).await;

    outcome.unwrap();
    let expected = [
        "2025-06-15T10:00:00Z  row_type_mismatch  i-a  -  x is text",
        "-  row_type_mismatch  i-b  d1  x is text",
        "2 letters match, of 3 read; no more letters came",
        "2 replayed",
    ];
    assert_eq!(printed.lines, expected);
    let sent = env.pull("messages").await;
    assert_eq!(texts(&sent), ["a", "b"]);
    let attributes = [("ingest_id", "i-b"), ("device_id", "d1")];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(*sent[1].attributes, HashMap::from(attributes));
    assert_eq!(texts(&env.backlog().await), ["c"], "of another service");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_cannot_be_replayed_stay_and_are_told_with_the_reason() {
    let env = ToolEnv::with_letters(0).await.with_source().await;
    for dead_letter in
        [named("a", "1"), in_object("2"), named("c", "3"), in_object("4"), named("e", "5")]
    {
        env.add(dead_letter).await;
    }

    let (outcome, printed) = env.run(&["replay", "--json"]).await;

    let error = outcome.unwrap_err().to_string();
    assert_eq!(error, "letters that could not be replayed: 2");
    let told = printed.json();
    let why = "replay: its data is too big for Pub/Sub and lies in gs://b/o";
    let rows: Vec<_> = told[..5].iter().map(|row| (&row["id"], &row["error"])).collect();
    let expected = json!([["1", null], ["2", why], ["3", null], ["4", why], ["5", null]]);
    assert_eq!(json!(rows), expected);
    assert_eq!(told[0]["reason"], "row_type_mismatch");
    let sum = json!({ "complete": true, "read": 5, "matching": 5, "replayed": 3, "failed": 2 });
    assert_eq!(told[5..], [sum]);
    assert_eq!(texts(&env.pull("messages").await), ["a", "c", "e"]);
    assert_eq!(env.backlog().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_sends_and_removes_nothing() {
    let env = ToolEnv::with_letters(0).await.with_source().await;
    env.add(named("a", "i-1")).await;
    env.add(in_object("i-2")).await;

    let (outcome, printed) = env.run(&["replay", "--dry-run"]).await;

    assert_eq!(outcome.unwrap_err().to_string(), "letters that could not be replayed: 1");
    let expected = [
        "-  row_type_mismatch  i-1  -  x is text",
        "-  row_type_mismatch  i-2  -  x is text",
        "    cannot be replayed: replay: its data is too big for Pub/Sub and lies in gs://b/o",
        "2 letters match, of 2 read; no more letters came",
        "1 would be replayed, 1 cannot be replayed, for the reason beside each",
    ];
    assert_eq!(printed.lines, expected);
    assert_eq!(env.pull("messages").await, []);
    assert_eq!(env.backlog().await.len(), 2);
    assert_eq!(env.read().await.len(), 2, "all are back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_would_see_stays_a_letter() {
    let env = ToolEnv::with_letters(0).await.with_source().await;
    env.add_topic("nobody").await;
    env.add(named("a", "i-1")).await;

    let (outcome, printed) = env.run(&["replay", "--to", "nobody"]).await;

    assert_eq!(outcome.unwrap_err().to_string(), "letters that could not be replayed: 1");
    let why = "    cannot be replayed: publish: projects/p/topics/nobody has neither a subscription \
               nor retention";
    assert_eq!(printed.lines[1], why);
    assert_eq!(printed.lines[3], "0 replayed, 1 cannot be replayed, for the reason beside each");
    assert_eq!(texts(&env.backlog().await), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_topic_is_asked_once_for_its_audience() {
    let env = ToolEnv::with_letters(0).await.with_source().await;
    env.add(named("a", "i-1")).await;
    env.add(named("b", "i-2")).await;

    let (outcome, _) = env.run(&["replay"]).await;

    outcome.unwrap();
    assert_eq!(env.emulator.faults().calls()["ListTopicSubscriptions"], 1);
    assert_eq!(texts(&env.pull("messages").await), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_copy_of_a_sent_message_is_left_for_the_next_run() {
    let env = ToolEnv::with_letters(0).await.with_source().await;
    // The last three have no `ingest_id`.
    for dead_letter in
        [named("a", "i-1"), named("b", "i-1"), refused("c"), refused("d"), refused("c")]
    {
        env.add(dead_letter).await;
    }

    let (filter, mut printed) = (Filter::default(), Printed::default());
    let mut sending = sending(&env, &filter, &mut printed).await;
    let mut reader = env.reader(10).await;
    let page = reader.page().await.unwrap().unwrap();
    reader.start_at(datetime!(2025-06-15 10:00 UTC));

    sending.page(page, &mut reader).await.unwrap();

    assert_eq!((sending.tally.replayed, sending.tally.failed), (3, 0));
    assert_eq!(texts(&env.pull("messages").await), ["a", "c", "d"]);
    assert_eq!(texts(&env.backlog().await), ["b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_copies_of_a_message_are_all_sent_oldest_first() {
    let env = ToolEnv::with_letters(0).await.with_source().await;
    for data in ["a", "b", "c"] {
        env.add(named(data, "i-1")).await;
    }
    let (filter, mut printed) = (Filter::default(), Printed::default());
    let mut sending = sending(&env, &filter, &mut printed).await;
    let mut reader = env.reader(10).await;
    let mut page = reader.page().await.unwrap().unwrap();
    page.rotate_left(1);
    reader.start_at(datetime!(9999-01-01 0:00 UTC));

    sending.page(page, &mut reader).await.unwrap();

    assert_eq!((sending.tally.replayed, sending.tally.failed), (3, 0));
    assert_eq!(texts(&env.pull("messages").await), ["a", "b", "c"]);
    assert_eq!(env.backlog().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_replay_sends_no_more() {
    let env = ToolEnv::with_letters(0).await.with_source().await;
    env.add(named("a", "i-1")).await;
    let (filter, mut printed) = (Filter::default(), Printed::default());
    let mut sending = sending(&env, &filter, &mut printed).await;
    let mut reader = env.reader(10).await;
    let page = reader.page().await.unwrap().unwrap();
    reader.interrupt();

    sending.page(page, &mut reader).await.unwrap();
    reader.close().await.unwrap();

    assert_eq!(env.pull("messages").await, []);
    assert_eq!(env.read().await.len(), 1, "it is back");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_were_sent_but_not_removed_are_reported() {
    let env = ToolEnv::with_letters(0).await.with_source().await;
    env.add(named("a", "i-1")).await;
    env.emulator.faults().refuse("Acknowledge", 1, Code::PermissionDenied);

    let (outcome, printed) = env.run(&["replay"]).await;

    let error = format!("{:#}", outcome.unwrap_err());
    let expected =
        "letters that were sent could not be removed, and may come again: acknowledge: 403";
    assert!(error.starts_with(expected), "{error}");
    assert_eq!(printed.lines.last().unwrap(), "1 replayed");
    assert_eq!(env.backlog().await, [], "the close has removed it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topic_is_given_or_the_one_of_the_subscription() {
    let env = ToolEnv::with_letters(0).await;
    let reads = crate::settings::Subscription { id: "messages".into(), ..<_>::default() };
    let dead_letter_tool = DeadLetterTool { reads: Some(&reads), ..env.dead_letter_tool() };

    let missing = dead_letter_tool.target(None).await.unwrap_err().to_string();
    let env = &env.with_source().await;
    let dead_letter_tool = DeadLetterTool { reads: Some(&reads), ..env.dead_letter_tool() };

    assert_eq!(
        missing,
        "projects/p/subscriptions/messages does not exist; give the topic with --to"
    );
    let topic = |id| Some(TopicName::new("p", id));
    assert_eq!(dead_letter_tool.target(None).await.unwrap(), topic("messages"));
    assert_eq!(dead_letter_tool.target(Some("other")).await.unwrap(), topic("other"));
    assert_eq!(env.dead_letter_tool().target(None).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_stays_if_its_topic_is_not_known() {
    let env = ToolEnv::with_letters(0).await;
    env.add(named("a", "i-1")).await;
    let mut printed = Printed::default();

    let outcome = env.dead_letter_tool().run(given(&["replay"]), as_it_was, &mut printed).await;

    assert_eq!(outcome.unwrap_err().to_string(), "letters that could not be replayed: 1");
    let why = "    cannot be replayed: replay: the topic is not known: give it with --to";
    assert_eq!(printed.lines[1], why);
    assert_eq!(texts(&env.backlog().await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_removal_is_due_a_second_after_the_last_one() {
    let removed_at = Instant::now();
    let milli = Duration::from_millis(1);

    advance(REMOVAL_INTERVAL - milli).await;
    assert!(!is_removal_due(removed_at));

    advance(milli).await;
    assert!(is_removal_due(removed_at));
}

#[test]
fn a_message_is_known_by_its_id_and_otherwise_by_its_data() {
    assert_eq!(identity(&named("data", "i-1")), b"i-1");
    assert_eq!(identity(&refused("data")), b"data");
}

#[test]
fn each_letter_is_told_with_its_error() {
    let told = |sent: Result<(), Error>, form| {
        let mut printed = Printed::default();
        tell(&named("data", "i-1"), &sent, form, &mut printed);
        printed
    };
    let failed = || Err(Recovery::Retry.because("publish", "no answer"));
    let line = "-  row_type_mismatch  i-1  -  x is text";

    assert_eq!(told(Ok(()), Form::Text).lines, [line]);
    let with_reason = [line, "    cannot be replayed: publish: no answer"];
    assert_eq!(told(failed(), Form::Text).lines, with_reason);
    let row = |error: Option<&str>| {
        json!({
            "id": "i-1",
            "first_seen": "",
            "service": "bigqueries",
            "reason": "row_type_mismatch",
            "detail": "x is text",
            "device_id": "",
            "bytes": 4,
            "error": error,
        })
    };
    assert_eq!(told(Ok(()), Form::Json).json(), [row(None)]);
    assert_eq!(told(failed(), Form::Json).json(), [row(Some("publish: no answer"))]);
}

#[test]
fn the_sum_tells_what_was_or_would_be_replayed() {
    let print = |mode, form| {
        let mut printed = Printed::default();
        Tally { replayed: 3, failed: 2 }.print(&seen(7), mode, form, &mut printed);
        printed
    };

    let read = "5 letters match, of 7 read; no more letters came";
    let words = "3 replayed, 2 cannot be replayed, for the reason beside each";
    assert_eq!(print(Mode::Real, Form::Text).lines, [read, words]);
    let words = "3 would be replayed, 2 cannot be replayed, for the reason beside each";
    assert_eq!(print(Mode::Dry, Form::Text).lines, [read, words]);
    let sum =
        |done: &str| json!({ "complete": true, "read": 7, "matching": 5, done: 3, "failed": 2 });
    assert_eq!(print(Mode::Real, Form::Json).json(), [sum("replayed")]);
    assert_eq!(print(Mode::Dry, Form::Json).json(), [sum("would_be_replayed")]);
}

#[test]
fn a_replay_without_failures_is_reported_in_few_words() {
    let words = |replayed, mode| Tally { replayed, failed: 0 }.words(mode);

    assert_eq!(words(0, Mode::Real), "nothing was replayed");
    assert_eq!(words(0, Mode::Dry), "nothing would be replayed");
    assert_eq!(words(3, Mode::Real), "3 replayed");
    assert_eq!(words(3, Mode::Dry), "3 would be replayed");
}

#[test]
fn a_letter_becomes_the_message_that_it_was() {
    let dead_letter = Message::new("data")
        .with_attribute("ingest_id", "i-1")
        .with_attribute("dl_reason", "row_type_mismatch")
        .with_attribute("dl_first_seen", "2025-06-15T10:00:00Z");

    let message = original(&dead_letter).unwrap();

    assert_eq!(&message.data[..], b"data");
    assert_eq!(message.attributes.len(), 1);
    assert_eq!(message.attributes["ingest_id"], "i-1");
    assert_eq!(message.publish_time, datetime!(2025-06-15 10:00 UTC));
}

#[test]
fn what_is_not_whole_is_not_replayed() {
    for (name, value) in [("dl_object", "gs://b/o"), ("dl_truncated", "true")] {
        let dead_letter = Message::new("da").with_attribute(name, value);

        assert_eq!(
            original(&dead_letter).unwrap_err().recovery(),
            Recovery::Reject(reasons::NOT_REPLAYABLE)
        );
    }
}
