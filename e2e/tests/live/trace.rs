//! One message on its way, and samples of all, from a server with a script.

use serde_json::json;

use crate::browser::{Browser, Screen};
use crate::fixture::Fixture;
use crate::state::{good, hop};
use crate::until;

const ALL_STEPS: &str = "return document.querySelectorAll('.hops li').length";

async fn open() -> Option<(Fixture, Browser)> {
    let browser = Browser::start(Screen::Wide).await?;
    let fixture = Fixture::start(good()).await;
    browser.open(&fixture.url()).await;
    Some((fixture, browser))
}

async fn asked(fixture: &Fixture, request: &str) {
    until(request, async || fixture.requests().iter().any(|asked| asked == request)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_sent_after_the_services_report_and_followed_to_all_sinks() {
    let Some((fixture, browser)) = open().await else { return };

    browser.fill("#send-device", "abc").await;
    browser.fill("#send-payload", "{\"temperature\": 21.5}").await;
    browser.click("#send button").await;
    asked(&fixture, r#"send {"device":"abc","payload":{"temperature":21.5}}"#).await;
    assert_eq!(fixture.requests()[0], r#"follow {"device": "abc"}"#, "it listens before it sends");

    let mut envelope = hop("ingestion", "transformed", 4);
    // The payload of the envelope is `{"temperature":21.5}`.
    let text = json!({ "payload": "eyJ0ZW1wZXJhdHVyZSI6MjEuNX0=" }).to_string();
    envelope["record"] = json!({ "kind": "envelope", "text": text });
    let mut other = hop("ingestion", "durable", 9);
    other["ingest_id"] = json!("another-message");
    let mut row = hop("bigqueries", "durable", 500);
    row["destination"] = json!("dataflow.readings");
    row["record"] = json!({ "kind": "row", "text": "{\"device_id\":\"abc\"}", "truncated": true });
    let first = [hop("ingestion", "received", 0), envelope, other, hop("ingestion", "durable", 10)];
    for step in first.into_iter().chain([row]) {
        fixture.hop(step);
    }

    browser.shows("#trace-status", "Waiting for enrich and icestore.").await;
    browser.shows("[data-step-stage=ingestion] .hops", "+10 ms").await;
    browser.shows("[data-step-stage=bigqueries] .hops", "to dataflow.readings").await;
    browser.shows("[data-step-stage=bigqueries] summary", "row, cut to 16 KiB").await;
    browser.click("[data-step-stage=ingestion] summary").await;
    browser.shows("[data-step-stage=ingestion] .record", "\"temperature\": 21.5").await;
    browser.shows("#trace-facts", "1 step not shown").await;

    fixture.hop(hop("enrich", "durable", 20));
    fixture.hop(hop("icestore", "durable", 900));
    browser.shows("#trace-status", "Durable in bigqueries and icestore after 900 ms.").await;
    browser.shows("#trace-facts", "890 ms").await;
    assert_eq!(browser.script(ALL_STEPS).await, 6);
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_a_dead_letter_with_its_reason() {
    let Some((fixture, browser)) = open().await else { return };
    browser.fill("#follow-value", "abc").await;
    browser.click("#follow button").await;
    asked(&fixture, r#"follow {"device": "abc"}"#).await;
    browser.shows("#trace-status", "Waiting for a message with device abc.").await;

    let mut refused = hop("ingestion", "dead_lettered", 3);
    refused["reason"] = json!("no_route");
    refused["detail"] = json!("no route takes this topic");
    fixture.hop(refused);

    browser.shows("#trace-status", "Dead letter in ingestion: no_route.").await;
    browser.shows("#steps", "no route takes this topic").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_json_is_not_sent_and_a_refusal_is_quoted() {
    let Some((fixture, browser)) = open().await else { return };

    browser.fill("#send-payload", "{warm}").await;
    browser.click("#send button").await;
    browser.shows("#send-error", "This is no JSON").await;
    assert_eq!(fixture.requests(), Vec::<String>::new());

    fixture.answer("/live/messages", 429, json!({ "detail": "too many requests wait" }));
    browser.fill("#send-payload", "1").await;
    browser.click("#send button").await;
    browser.shows("#send-error", "too many requests wait").await;
    browser.shows("#trace-status", "The message was not sent.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_can_be_filtered_and_paused_and_drops_are_shown() {
    let Some((fixture, browser)) = open().await else { return };
    browser.fill("#tap-device", "device-00007").await;
    browser.click("#tap-start").await;
    asked(&fixture, r#"tap {"device": "device-00007"}"#).await;

    for number in 0..150 {
        fixture.sample("sample", hop("enrich", "transformed", number));
    }
    fixture.sample("lost", json!({ "dropped": 1500 }));
    browser.shows("#tap-lost", "1 500 lost.").await;
    browser.shows("#samples tr", "04:00:00.149").await;
    assert_eq!(browser.script("return document.querySelectorAll('#samples tr').length").await, 100);

    browser.click("#tap-pause").await;
    fixture.sample("sample", hop("enrich", "transformed", 999));
    browser.shows("#tap-lost", "1 passed while paused.").await;
    browser.shows("#samples tr", "04:00:00.149").await;

    browser.click("#tap-start").await;
    browser.shows("#tap-status", "Off.").await;
}
