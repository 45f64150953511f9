//! Tests of the whole service on the embedded Pub/Sub, with a custom key, source and applier, and
//! with each destination of dead letters.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emulator::{Emulator, Options};
use enrich::Enrich;
use enrich::apply::Apply;
use enrich::cache::{Document, Fetch, LayerError};
use enrich::config::Settings;
use enrich::enrichment::OnMissing;
use enrich::key::Key;
use message::{Envelope, Message};
use pubsub::{DeadLetterConfig, Keyword};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use service::Hosted;
use tokio::time::{sleep, timeout};

/// Maximum wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(60);

/// Embedded Pub/Sub with the topics and subscriptions of these tests.
struct Cloud {
    emulator: Emulator,
    client: Client,
}

impl Cloud {
    /// Creates the topics, and a subscription of each. That of `raw` gets further settings.
    async fn start(raw: Value) -> Self {
        service::install_crypto();
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let cloud = Self { emulator, client: Client::new() };
        let topics = ["raw", "enriched", "refused"];
        // A subscription may name any of them for its dead letters.
        for topic in topics {
            cloud.call(Method::PUT, &format!("topics/{topic}"), json!({})).await;
        }
        for topic in topics {
            let mut settings = json!({ "topic": format!("projects/p/topics/{topic}") });
            if topic == "raw" {
                settings.as_object_mut().unwrap().extend(raw.as_object().unwrap().clone());
            }
            cloud.call(Method::PUT, &format!("subscriptions/{topic}"), settings).await;
        }
        cloud
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("{}/v1/projects/p/{path}", self.emulator.url());
        let answer = self.client.request(method, url).json(&body).send().await.unwrap();
        answer.error_for_status().unwrap().json().await.unwrap()
    }

    async fn publish(&self, data: &str, attributes: Value) {
        let message = json!({ "data": STANDARD.encode(data), "attributes": attributes });
        let body = json!({ "messages": [message] });
        self.call(Method::POST, "topics/raw:publish", body).await;
    }

    /// Takes a message from a subscription, if there is one.
    async fn take(&self, subscription: &str) -> Option<Value> {
        let path = |call| format!("subscriptions/{subscription}:{call}");
        let body = json!({ "maxMessages": 1, "returnImmediately": true });
        let mut answer = self.call(Method::POST, &path("pull"), body).await;
        let received = answer["receivedMessages"].get_mut(0)?;
        let ids = json!({ "ackIds": [received["ackId"]] });
        self.call(Method::POST, &path("acknowledge"), ids).await;
        Some(received["message"].take())
    }

    /// Waits for the next message of a subscription.
    async fn next(&self, subscription: &str) -> Value {
        let taken = async {
            loop {
                match self.take(subscription).await {
                    Some(message) => return message,
                    None => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        timeout(PATIENCE, taken).await.unwrap()
    }

    fn settings(&self) -> Settings {
        let url = || Some(self.emulator.url().into());
        let mut settings = Settings { topic_id: "enriched".into(), ..Settings::default() };
        settings.process.project = "p".into();
        settings.process.http = service::Http { host: "127.0.0.1".into(), ..<_>::default() };
        settings.process.http.port = 0;
        settings.admin.port = 0;
        settings.intake.subscription.id = "raw".into();
        settings.intake.dead_letters = Some(DeadLetterConfig::Keyword(Keyword::Drop));
        settings.intake.pubsub.endpoint = url();
        settings.firestore.endpoint = url();
        settings
    }
}

/// Waits until a metric of the service has this value.
async fn until(hosted: &Hosted, metric: &str, value: u64) {
    let line = format!("{metric} {value}");
    let counted = async {
        while !hosted.metrics().unwrap().lines().any(|counted| counted == line) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let counted = timeout(PATIENCE, counted).await;
    counted.unwrap_or_else(|_| panic!("no {line} in\n{}", hosted.metrics().unwrap()));
}

/// Key that is the first level of the MQTT topic.
struct Site;

impl Key for Site {
    fn key(&self, message: &Message, _envelope: &Envelope) -> Option<String> {
        let topic = message.attributes.get("mqtt_topic")?;
        topic.split('/').next().map(str::to_owned)
    }
}

/// Source that writes down what is asked of it.
#[derive(Clone, Default)]
struct Cities(Arc<Mutex<Vec<String>>>);

impl Cities {
    fn asked(&self, what: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what.to_owned());
    }
}

impl Fetch for Cities {
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        keys.iter().for_each(|key| self.asked(key));
        let city =
            |key: &str| Document::from_iter([("city".to_owned(), format!("c-{key}").into())]);
        Ok(keys.iter().map(|key| Some(city(key))).collect())
    }

    fn origin(&self) -> String {
        "cities".into()
    }

    async fn close(&self) {
        self.asked("close");
    }
}

/// Applier that writes the city in capitals.
struct Capitals;

impl Apply for Capitals {
    fn apply(&self, document: &Document, envelope: &mut Envelope) {
        let city = document["city"].as_str().unwrap_or_default();
        envelope.enrichment.insert("where".into(), city.to_uppercase().into());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_key_source_and_applier_enrich_and_the_source_is_closed_at_the_end() {
    let cloud = Cloud::start(json!({})).await;
    let cities = Cities::default();
    let enrich = Enrich::with(cloud.settings(), Site, Capitals, cities.clone());
    let hosted = Hosted::start(enrich).await.unwrap();

    cloud.publish("{}", json!({ "mqtt_topic": "north/1" })).await;
    let enriched = cloud.next("enriched").await;
    cloud.publish("raw", json!({ "colour": "red" })).await;
    let without = cloud.next("enriched").await;
    until(&hosted, "dataflow_enrich_unenriched_total{reason=\"no_key\"}", 1).await;
    hosted.shutdown(PATIENCE).await.unwrap();

    let read = |message: &Value| {
        let data = STANDARD.decode(message["data"].as_str().unwrap()).unwrap();
        serde_json::from_slice::<Value>(&data).unwrap()
    };
    assert_eq!(read(&enriched)["enrichmentData"], json!({ "where": "C-NORTH" }));
    assert_eq!(read(&without)["payload"], STANDARD.encode("raw"), "never emptied");
    assert_eq!(without["attributes"]["colour"], "red");
    assert_eq!(*cities.0.lock().unwrap(), ["north", "close"]);
}

/// Source without documents.
struct Nothing;

impl Fetch for Nothing {
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        Ok(vec![None; keys.len()])
    }

    fn origin(&self) -> String {
        "nothing".into()
    }
}

/// Starts a service that refuses each message.
async fn refusing(cloud: &Cloud, dead_letters: DeadLetterConfig) -> Hosted {
    let mut settings = cloud.settings();
    settings.enrichment.on_missing = OnMissing::DeadLetter;
    settings.intake.dead_letters = Some(dead_letters);
    Hosted::start(Enrich::with(settings, Site, Capitals, Nothing)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_drop_acknowledges_what_is_refused_and_counts_it_as_lost() {
    let cloud = Cloud::start(json!({})).await;
    let hosted = refusing(&cloud, DeadLetterConfig::Keyword(Keyword::Drop)).await;

    cloud.publish("{}", json!({ "mqtt_topic": "north/1" })).await;
    let labels = "{pipeline=\"enrich\",reason=\"document_missing\"}";
    until(&hosted, &format!("dataflow_pipeline_dropped_messages_total{labels}"), 1).await;

    let metrics = hosted.metrics().unwrap();
    assert!(metrics.contains(&format!("dead_lettered_messages_total{labels} 0\n")), "{metrics}");
    let guarantees = hosted.health().report()["guarantees"].to_string();
    assert!(guarantees.contains("dead letters are dropped: may be lost"), "{guarantees}");
    hosted.shutdown(PATIENCE).await.unwrap();
    assert_eq!(cloud.take("raw").await, None, "it does not come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_subscription_leaves_what_is_refused_to_the_policy_of_pubsub() {
    let policy =
        json!({ "deadLetterTopic": "projects/p/topics/refused", "maxDeliveryAttempts": 5 });
    let cloud = Cloud::start(json!({ "deadLetterPolicy": policy })).await;
    let hosted = refusing(&cloud, DeadLetterConfig::Keyword(Keyword::Subscription)).await;

    cloud.publish("refused", json!({ "mqtt_topic": "north/1" })).await;
    let left = cloud.next("refused").await;

    assert_eq!(left["data"], STANDARD.encode("refused"), "as it came");
    assert_eq!(left["attributes"]["mqtt_topic"], "north/1");
    let labels = "{pipeline=\"enrich\",reason=\"document_missing\"}";
    until(&hosted, &format!("dataflow_pipeline_nacked_messages_total{labels}"), 5).await;
    hosted.shutdown(PATIENCE).await.unwrap();
}
