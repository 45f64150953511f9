//! States that a running chain shows rarely, or that only a hostile one shows.

use e2e::proxy::{Link, Proxy};
use serde_json::{Value, json};

use crate::browser::{Browser, Screen};
use crate::fixture::Fixture;
use crate::state::{fresh, good, hop, letter};
use crate::until;

/// Starts a server and a browser that shows its page. Returns `None` if there is no browser.
async fn open(state: Value) -> Option<(Fixture, Browser)> {
    let browser = Browser::start(Screen::Wide).await?;
    let fixture = Fixture::start(state).await;
    browser.open(&fixture.url()).await;
    Some((fixture, browser))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_rates_backlog_and_the_slowest_stage() {
    let Some((fixture, browser)) = open(good()).await else { return };

    browser.shows("#headline", "All 4 services are ready").await;
    browser.shows("[data-stage=enrich] .received", "100/s").await;
    browser.shows("[data-stage=enrich] .backlog", "1 234").await;
    browser.shows("[data-stage=enrich] .ready", "2 of 2 replicas ready").await;
    browser.shows("[data-stage=bigqueries] .slowest", "slowest").await;
    browser.shows("[data-latency=ingestion] .v99", "200 ms").await;
    browser.shows("[data-latency='confirmed to icestore'] .v50", "4.30 s").await;
    browser.shows("#promises", "bigqueries: at least once").await;
    assert_eq!(browser.text("[data-stage=icestore] .slowest").await, "");
    assert_eq!(browser.text("[data-stage=ingestion] .backlog").await, "", "it has no stage before");
    assert_eq!(browser.script("return document.querySelectorAll('.rail').length").await, 4);

    fixture.change(|state| state["stages"][0]["received_per_second"] = json!(7.25));
    browser.shows("[data-stage=ingestion] .received", "7.3/s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_asks_only_its_own_server_breaks_no_rule() {
    let Some((fixture, browser)) = open(good()).await else { return };
    browser.click("#tap-start").await;
    until("the stream of samples", async || fixture.requests().contains(&"tap {}".to_owned()))
        .await;

    let requests = browser.requests().await;
    let foreign: Vec<_> = requests
        .iter()
        .filter(|url| !url.starts_with(&fixture.url()) && !url.starts_with("data:"))
        .collect();

    assert!(requests.iter().any(|url| url.ends_with("/live/state")), "{requests:?}");
    assert_eq!(foreign, Vec::<&String>::new());
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_shows_what_the_policy_forbids() {
    let Some((_fixture, browser)) = open(good()).await else { return };

    browser.script("document.body.append(Object.assign(document.createElement('script'), { textContent: '1' }))").await;

    let console = browser.console().await;
    assert!(console.iter().any(|line| line.contains("Content Security Policy")), "{console:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_broker_is_named() {
    let Some((fixture, browser)) = open(good()).await else { return };

    fixture.change(|state| {
        let wait = json!([{ "dependency": "mqtt", "detail": "connection refused" }]);
        state["stages"][0]["replicas"][0]["ready"] = json!(false);
        state["stages"][0]["replicas"][0]["waiting_for"] = wait;
    });

    browser.shows("#headline", "The MQTT broker is gone").await;
    browser.shows("#troubles", "connection refused").await;
    browser.shows("[data-stage=ingestion] .ready", "not ready").await;
    browser.shows(".origin", "broker gone").await;
    assert!(browser.client.title().await.unwrap().contains("broker is gone"));

    fixture.change(|state| *state = good());
    browser.shows("#headline", "All 4 services are ready").await;
    assert_eq!(browser.text("#troubles").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_replicas_that_do_not_answer_are_named() {
    let Some((fixture, browser)) = open(good()).await else { return };

    fixture.change(|state| {
        for (stage, replica) in [(1, 1), (3, 0)] {
            let replica = &mut state["stages"][stage]["replicas"][replica];
            replica["reachable"] = json!(false);
            replica["ready"] = json!(false);
        }
    });

    browser.shows("#headline", "icestore does not answer").await;
    browser.shows("#troubles", "1 of 2 replicas of enrich do not answer (127.0.0.1:8094)").await;
    browser.shows("#troubles", "icestore does not answer (127.0.0.1:8093)").await;
    browser.shows("[data-stage=enrich] .ready", "1 of 2 replicas ready").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_dependencies_are_named_with_their_detail() {
    let Some((fixture, browser)) = open(good()).await else { return };

    fixture.change(|state| {
        let wait = json!([{ "dependency": "bucket", "detail": "permission is missing" }]);
        state["stages"][3]["replicas"][0]["ready"] = json!(false);
        state["stages"][3]["replicas"][0]["waiting_for"] = wait;
    });

    browser.shows("#headline", "Not everything is ready: icestore").await;
    browser.shows("#troubles", "icestore waits for bucket: permission is missing.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_lost_or_silent_is_named_until_it_is_back() {
    let Some(browser) = Browser::start(Screen::Wide).await else { return };
    let fixture = Fixture::start(good()).await;
    let proxy = Proxy::start(fixture.port).unwrap();
    browser.open(&format!("http://127.0.0.1:{}/", proxy.port())).await;

    for link in [Link::Cut, Link::Silent] {
        proxy.set(link);
        browser
            .shows("#lost", "This page has lost its server. What you see is of 04:00:00 UTC.")
            .await;
        proxy.set(Link::Up);
        browser.click("#lost-retry").await;
        until("the page", async || browser.text("#lost").await.is_empty()).await;
        browser.shows("#beat", "04:00:00").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_server_is_quoted() {
    let Some(browser) = Browser::start(Screen::Wide).await else { return };
    let fixture = Fixture::start(good()).await;
    fixture.answer("/live/state", 503, json!({ "detail": "200 viewers watch already" }));

    browser.client.goto(&fixture.url()).await.unwrap();

    browser.shows("#lost", "200 viewers watch already").await;
    assert_eq!(browser.text("#letters").await, "", "nothing is known of dead letters");
    fixture.answer_as_usual("/live/state");
    browser.shows("#headline", "All 4 services are ready").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_asked_for_once_and_can_be_forgotten() {
    let Some(browser) = Browser::start(Screen::Wide).await else { return };
    let fixture = Fixture::start(good()).await;
    fixture.ask_for("the-right-key");
    browser.client.goto(&fixture.url()).await.unwrap();
    browser.shows("#gate", "This page needs a key").await;
    assert_eq!(browser.text("#gate-error").await, "");

    browser.fill("#gate-key", "a-wrong-key").await;
    browser.click("#gate button").await;
    browser.shows("#gate-error", "This key is not enough: the key is unknown.").await;
    browser.fill("#gate-key", "the-right-key").await;
    browser.click("#gate button").await;
    browser.shows("#headline", "All 4 services are ready").await;

    browser.client.refresh().await.unwrap();
    browser.shows("#headline", "All 4 services are ready").await;
    let keys = browser.script("return [Object.values(localStorage), location.href]").await;
    assert!(!keys.to_string().contains("the-right-key"), "{keys}");

    browser.click("#forget").await;
    browser.shows("#gate", "This page needs a key").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_devices_is_never_markup() {
    let Some((fixture, browser)) = open(good()).await else { return };
    let hostile = "<img src=x onerror=alert(1)>";

    browser.click("#tap-start").await;
    until("the stream of samples", async || fixture.requests().contains(&"tap {}".to_owned()))
        .await;
    let mut sample = hop("ingestion", "received", 0);
    sample["device_id"] = json!(hostile);
    sample["record"] = json!({ "kind": "payload", "text": hostile });
    fixture.sample("sample", sample);

    browser.shows("#samples", hostile).await;
    browser.shows("[data-letter=letter-1] .detail", hostile).await;
    assert_eq!(
        browser.script("return document.querySelectorAll('main img, main script').length").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_replayed_after_a_confirmation() {
    let Some((fixture, browser)) = open(good()).await else { return };
    let path = "/live/dead-letters/replay";
    browser.shows("[data-letter=letter-1]", "A value does not fit its column.").await;

    browser.click("[data-letter=letter-1] .actions button").await;
    browser.shows("[data-letter=letter-1] .actions", "Publish it again?").await;
    // A state that arrives meanwhile changes neither the question nor the focus.
    fixture.change(|state| state["viewers"] = json!(77));
    browser.shows("#facts", "77 viewers").await;
    let focused = browser.script("return document.activeElement.textContent").await;
    assert_eq!(focused, "Replay now");
    assert_eq!(fixture.requests(), Vec::<String>::new(), "nothing was sent before");

    fixture.answer(path, 503, json!({ "detail": "the subscription is away" }));
    browser.click("[data-letter=letter-1] .actions .primary").await;
    browser.shows("[data-letter=letter-1]", "Not replayed: the subscription is away").await;
    fixture.answer_as_usual(path);
    browser.click("[data-letter=letter-1] .actions button").await;
    browser.click("[data-letter=letter-1] .actions .primary").await;

    browser.shows("[data-letter=letter-1]", "Replayed at").await;
    browser.shows("#announce", "was replayed").await;
    assert_eq!(fixture.requests(), ["replay letter-1", "replay letter-1"]);
    assert_eq!(browser.text("[data-letter=letter-2] .actions").await, "Replay");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_last_letter_of_a_message_can_be_replayed() {
    let mut state = good();
    let mut letters = ["letter-3", "letter-2", "letter-1"].map(letter);
    letters[2]["ingest_id"] = letters[0]["ingest_id"].clone();
    letters[0]["at"] = json!("2026-11-30T04:00:00.000Z");
    state["dead_letters"]["recent"] = json!(letters);
    let Some((_fixture, browser)) = open(state).await else { return };

    browser.shows("[data-letter=letter-1] .actions", "Refused again at").await;

    let buttons = "return [...document.querySelectorAll('.letter')]\
                   .filter((letter) => letter.querySelector('.actions button'))\
                   .map((letter) => letter.dataset.letter)";
    assert_eq!(browser.script(buttons).await, json!(["letter-3", "letter-2"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_show_no_controls() {
    let mut state = good();
    state["rights"] = json!({ "payload": false, "replay": false, "send": false });
    state["dead_letters"]["recent"][0]["payload"] = Value::Null;
    let Some((_fixture, browser)) = open(state).await else { return };

    browser.shows("#send-note", "Sending is off").await;
    assert_eq!(
        browser.script("return document.querySelector('#send button').disabled").await,
        true
    );
    assert_eq!(browser.text(".letter .actions button").await, "");
    assert_eq!(browser.text("[data-letter=letter-1] summary").await, "Id");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_five_letters_are_shown_on_demand() {
    let mut state = good();
    let letters: Vec<_> = (0..20).map(|number| letter(&format!("letter-{number}"))).collect();
    state["dead_letters"]["recent"] = json!(letters);
    let Some((_fixture, browser)) = open(state).await else { return };
    let count = "return document.querySelectorAll('.letter').length";
    assert_eq!(browser.script(count).await, 5);

    browser.click("#letters-more").await;

    assert_eq!(browser.script(count).await, 20);
    browser.shows("#letters-note", "26 since the services started").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_is_told_what_to_do() {
    let Some((_fixture, browser)) = open(fresh()).await else { return };

    browser.shows("[data-latency=bigqueries]", "no messages").await;
    browser.shows("#trace-empty", "mosquitto_pub").await;
    browser.shows("#trace-empty", "curl localhost:8088/ingest").await;
    browser.shows("#letters-empty", "No dead letters").await;
    browser.click("#letters-example").await;

    let payload = browser.script("return document.querySelector('#send-payload').value").await;
    assert_eq!(payload, "{\"temperature\": \"warm\"}");
}
