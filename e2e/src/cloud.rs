//! Creates and removes resources in the embedded cloud or in Google's.

mod bigquery;
mod documents;
mod resources;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use google_cloud_auth::credentials::{AccessTokenCredentials, Builder};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::names::DATASET;

/// Variable with the identifier of a trial. A trial is a run of all tests on Google's own cloud,
/// and removes what has its identifier in the name.
const TRIAL: &str = "DATAFLOW_E2E_RUN";

/// A cloud, and the name that the resources of one run share.
#[derive(Debug, Clone)]
pub struct Cloud {
    client: reqwest::Client,
    /// Credentials for Google's own cloud; `None` for an emulator.
    credentials: Option<AccessTokenCredentials>,
    urls: Urls,
    /// The project.
    pub project: String,
    /// Identifier of this run, a part of the name of every resource. It is empty in a cloud that no
    /// other run uses.
    pub run: String,
}

/// Base URLs of the APIs of a cloud.
#[derive(Debug, Clone)]
pub struct Urls {
    /// Base URL of Pub/Sub.
    pub pubsub: String,
    /// Base URL of Firestore.
    pub firestore: String,
    /// Base URL of BigQuery.
    pub bigquery: String,
    /// Base URL of Cloud Storage.
    pub storage: String,
}

impl Urls {
    /// Uses one URL for all APIs, as the embedded cloud does.
    #[must_use]
    pub fn all(url: &str) -> Self {
        let [pubsub, firestore, bigquery, storage] = [url; 4].map(str::to_owned);
        Self { pubsub, firestore, bigquery, storage }
    }

    fn googles() -> Self {
        let url = |api: &str| format!("https://{api}.googleapis.com");
        let [pubsub, firestore] = ["pubsub", "firestore"].map(url);
        let [bigquery, storage] = ["bigquery", "storage"].map(url);
        Self { pubsub, firestore, bigquery, storage }
    }
}

/// A message read from a subscription, unwrapped from its JSON form.
#[derive(Debug, Clone)]
pub struct Received {
    /// Data of the message.
    pub data: Bytes,
    /// Attributes of the message.
    pub attributes: std::collections::HashMap<String, String>,
}

/// A message to publish with an ordering key.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Data of the message.
    pub data: Vec<u8>,
    /// Attributes: a JSON object of strings.
    pub attributes: Value,
    /// Ordering key.
    pub ordering_key: String,
}

impl Cloud {
    /// Uses the embedded cloud at `url`. Names are the same in every run.
    #[must_use]
    pub fn embedded(url: &str) -> Self {
        Self::emulated(Urls::all(url))
    }

    /// Uses emulators at these URLs. Names are the same in every run.
    #[must_use]
    pub fn emulated(urls: Urls) -> Self {
        Self {
            client: reqwest::Client::new(),
            credentials: None,
            urls,
            project: "local".into(),
            run: String::new(),
        }
    }

    /// Gives all resources names that contain a new run.
    #[must_use]
    pub fn in_new_run(self) -> Self {
        Self { run: unique(), ..self }
    }

    /// Returns the same cloud at other URLs, such as those of proxies.
    #[must_use]
    pub fn at(&self, urls: Urls) -> Self {
        Self { urls, ..self.clone() }
    }

    /// Returns the URL of an API, as the settings of a service name it; `None` for Google's own.
    #[must_use]
    pub fn endpoint(&self, api: impl Fn(&Urls) -> &String) -> Option<String> {
        self.credentials.is_none().then(|| api(&self.urls).clone())
    }

    /// Uses Google's own cloud, in a project that exists. The run begins with the identifier of the
    /// trial, if the variable `DATAFLOW_E2E_RUN` has one.
    ///
    /// # Errors
    /// Fails when there are no Application Default Credentials, or the identifier is invalid.
    pub fn google(project: &str) -> anyhow::Result<Self> {
        let credentials = Builder::default().build_access_token_credentials();
        Ok(Self {
            client: reqwest::Client::new(),
            credentials: Some(credentials.context("find Application Default Credentials")?),
            urls: Urls::googles(),
            project: project.to_owned(),
            run: run_of(std::env::var(TRIAL).ok().as_deref())?,
        })
    }

    /// Returns the name of a resource in this run.
    #[must_use]
    pub fn name(&self, kind: &str) -> String {
        if self.run.is_empty() { kind.to_owned() } else { format!("{kind}-{}", self.run) }
    }

    /// Returns the name of the dataset of this run, where hyphens are not allowed.
    #[must_use]
    pub fn dataset(&self) -> String {
        self.name(DATASET).replace('-', "_")
    }

    /// Creates a topic if it does not exist.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn create_topic(&self, id: &str) -> anyhow::Result<()> {
        let url = format!("{}/v1/projects/{}/topics/{id}", self.urls.pubsub, self.project);
        self.create(Method::PUT, url, json!({})).await
    }

    /// Creates a subscription to a topic if it does not exist.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn create_subscription(&self, id: &str, topic: &str) -> anyhow::Result<()> {
        self.subscribe(id, topic, json!({})).await
    }

    /// Creates a subscription that delivers the messages of each ordering key in order.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn create_ordered_subscription(&self, id: &str, topic: &str) -> anyhow::Result<()> {
        self.subscribe(id, topic, json!({ "enableMessageOrdering": true })).await
    }

    async fn subscribe(&self, id: &str, topic: &str, mut settings: Value) -> anyhow::Result<()> {
        let url = format!("{}/v1/projects/{}/subscriptions/{id}", self.urls.pubsub, self.project);
        settings["topic"] = format!("projects/{}/topics/{topic}", self.project).into();
        settings["ackDeadlineSeconds"] = 10.into();
        self.create(Method::PUT, url, settings).await
    }

    /// Creates a bucket if it does not exist.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn create_bucket(&self, name: &str) -> anyhow::Result<()> {
        let url = format!("{}/storage/v1/b?project={}", self.urls.storage, self.project);
        self.create(Method::POST, url, json!({ "name": name })).await
    }

    /// Reads all rows of a table, each as values by column. A table that does not exist has no
    /// rows.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn rows(
        &self,
        dataset: &str,
        table: &str,
    ) -> anyhow::Result<Vec<Map<String, Value>>> {
        self.rows_from(dataset, table, 0).await
    }

    /// Reads the rows of a table after the first `skipped` ones.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn rows_from(
        &self,
        dataset: &str,
        table: &str,
        skipped: usize,
    ) -> anyhow::Result<Vec<Map<String, Value>>> {
        let base = format!("{}/bigquery/v2/projects/{}", self.urls.bigquery, self.project);
        let url = format!("{base}/datasets/{dataset}/tables/{table}");
        let (status, body) = self.send(Method::GET, &url, None).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let described: Value = serde_json::from_slice(&body).context("read the table")?;
        let fields = described["schema"]["fields"].as_array().cloned().unwrap_or_default();
        let names: Vec<_> = fields.iter().filter_map(|field| field["name"].as_str()).collect();
        let mut rows = Vec::new();
        let mut from = format!("startIndex={skipped}");
        loop {
            let page = self.call(Method::GET, format!("{url}/data?{from}"), None).await?;
            let page: Value = serde_json::from_slice(&page).context("read rows")?;
            for row in page["rows"].as_array().into_iter().flatten() {
                let cells = row["f"].as_array().into_iter().flatten();
                let cells = names.iter().zip(cells);
                rows.push(
                    cells.map(|(name, cell)| ((*name).to_owned(), cell["v"].clone())).collect(),
                );
            }
            match page["pageToken"].as_str() {
                Some(next) => from = format!("pageToken={}", encode(next)),
                None => return Ok(rows),
            }
        }
    }

    /// Creates a table if it does not exist.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn create_table(
        &self,
        dataset: &str,
        table: &str,
        columns: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let base = format!("{}/bigquery/v2/projects/{}", self.urls.bigquery, self.project);
        let fields = columns.iter().map(|(name, kind)| json!({ "name": name, "type": kind }));
        let body = json!({
            "tableReference": { "tableId": table },
            "schema": { "fields": fields.collect::<Vec<_>>() },
        });
        self.create(Method::POST, format!("{base}/datasets/{dataset}/tables"), body).await
    }

    /// Adds a STRING column to a table.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn add_column(&self, dataset: &str, table: &str, name: &str) -> anyhow::Result<()> {
        let base = format!("{}/bigquery/v2/projects/{}", self.urls.bigquery, self.project);
        let url = format!("{base}/datasets/{dataset}/tables/{table}");
        let described = self.call(Method::GET, url.clone(), None).await?;
        let mut described: Value = serde_json::from_slice(&described).context("read the table")?;
        let fields = described["schema"]["fields"].as_array_mut().context("read the columns")?;
        fields.push(json!({ "name": name, "type": "STRING" }));
        let patch = json!({ "schema": described["schema"] });
        self.call(Method::PATCH, url, Some(patch)).await.map(drop)
    }

    /// Lists the names of all objects with a prefix.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn list(&self, bucket: &str, prefix: &str) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        let mut token = String::new();
        loop {
            let prefix = encode(prefix);
            let base = format!("{}/storage/v1/b/{bucket}/o?prefix={prefix}", self.urls.storage);
            let url = format!("{base}&pageToken={}", encode(&token));
            let page: Value = serde_json::from_slice(&self.call(Method::GET, url, None).await?)?;
            let items = page["items"].as_array().cloned().unwrap_or_default();
            names.extend(items.iter().filter_map(|item| Some(item["name"].as_str()?.to_owned())));
            match page["nextPageToken"].as_str() {
                Some(next) => next.clone_into(&mut token),
                None => return Ok(names),
            }
        }
    }

    /// Reads the content of an object.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn read(&self, bucket: &str, object: &str) -> anyhow::Result<Bytes> {
        self.call(Method::GET, format!("{}?alt=media", self.object_url(bucket, object)), None).await
    }

    /// Reads the metadata of an object from the JSON API.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn metadata(&self, bucket: &str, object: &str) -> anyhow::Result<Value> {
        let body = self.call(Method::GET, self.object_url(bucket, object), None).await?;
        serde_json::from_slice(&body).context("read metadata")
    }

    /// Publishes a message.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn publish(&self, topic: &str, data: &[u8], attributes: Value) -> anyhow::Result<()> {
        self.publish_all(topic, &[(data, attributes)]).await
    }

    /// Publishes messages, up to 1,000 in a request.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn publish_all(
        &self,
        topic: &str,
        messages: &[(impl AsRef<[u8]>, Value)],
    ) -> anyhow::Result<()> {
        let url =
            format!("{}/v1/projects/{}/topics/{topic}:publish", self.urls.pubsub, self.project);
        for messages in messages.chunks(1000) {
            let message = |(data, attributes): &(_, Value)| json!({ "data": base64(AsRef::as_ref(data)), "attributes": attributes });
            let messages: Vec<_> = messages.iter().map(message).collect();
            self.call(Method::POST, url.clone(), Some(json!({ "messages": messages }))).await?;
        }
        Ok(())
    }

    /// Publishes messages with ordering keys in one request.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn publish_with_keys(&self, topic: &str, all: &[Publication]) -> anyhow::Result<()> {
        let url =
            format!("{}/v1/projects/{}/topics/{topic}:publish", self.urls.pubsub, self.project);
        let messages = all.iter().map(|one| {
            let data = base64(&one.data);
            json!({ "data": data, "attributes": one.attributes, "orderingKey": one.ordering_key })
        });
        let messages: Vec<_> = messages.collect();
        self.call(Method::POST, url, Some(json!({ "messages": messages }))).await?;
        Ok(())
    }

    /// Pulls messages of a subscription and acknowledges them. Returns an empty list if none is
    /// there.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn pull(&self, subscription: &str) -> anyhow::Result<Vec<Received>> {
        let url = format!(
            "{}/v1/projects/{}/subscriptions/{subscription}",
            self.urls.pubsub, self.project
        );
        let request = json!({ "maxMessages": 1000, "returnImmediately": true });
        let body = self.call(Method::POST, format!("{url}:pull"), Some(request)).await?;
        let pulled: Value = serde_json::from_slice(&body).context("read pulled messages")?;
        let pulled = pulled["receivedMessages"].as_array().cloned().unwrap_or_default();
        let mut received = Vec::new();
        for one in &pulled {
            let data = one["message"]["data"].as_str().unwrap_or_default();
            received.push(Received {
                data: decode(data)?.into(),
                attributes: serde_json::from_value(one["message"]["attributes"].clone())
                    .unwrap_or_default(),
            });
        }
        let ids: Vec<_> = pulled.iter().map(|one| &one["ackId"]).collect();
        if !ids.is_empty() {
            let request = json!({ "ackIds": ids });
            // A message whose acknowledgement fails is delivered again.
            drop(self.call(Method::POST, format!("{url}:acknowledge"), Some(request)).await);
        }
        Ok(received)
    }

    async fn create(&self, method: Method, url: String, body: Value) -> anyhow::Result<()> {
        match self.send(method, &url, Some(body)).await? {
            (status, _) if status.is_success() || status == StatusCode::CONFLICT => Ok(()),
            (status, body) => bail!("create {url}: {status}: {}", String::from_utf8_lossy(&body)),
        }
    }

    async fn call(
        &self,
        method: Method,
        url: String,
        body: Option<Value>,
    ) -> anyhow::Result<Bytes> {
        match self.send(method.clone(), &url, body).await? {
            (status, body) if status.is_success() => Ok(body),
            (status, body) => bail!("{method} {url}: {status}: {}", String::from_utf8_lossy(&body)),
        }
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = self.client.request(method, url);
        if let Some(credentials) = &self.credentials {
            request = request.bearer_auth(credentials.access_token().await?.token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.with_context(|| format!("reach {url}"))?;
        Ok((answer.status(), answer.bytes().await.with_context(|| format!("read {url}"))?))
    }

    fn object_url(&self, bucket: &str, object: &str) -> String {
        format!("{}/storage/v1/b/{bucket}/o/{}", self.urls.storage, encode(object))
    }
}

/// Returns a new identifier of 12 hexadecimal digits.
fn unique() -> String {
    Uuid::new_v4().simple().to_string()[..12].to_owned()
}

/// Returns a new identifier of a run, which begins with that of its trial. Names stay within the 63
/// characters of a bucket.
fn run_of(trial: Option<&str>) -> anyhow::Result<String> {
    let Some(trial) = trial else { return Ok(unique()) };
    let is_right = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit();
    if !(1..=20).contains(&trial.len()) || !trial.chars().all(is_right) {
        bail!("{TRIAL} must be 1 to 20 lowercase letters and digits, is `{trial}`");
    }
    Ok(format!("{trial}-{}", unique()))
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn base64(data: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(data)
}

fn decode(text: &str) -> anyhow::Result<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).context("read base64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_a_trial_bear_its_identifier_and_are_unique() {
        let [one, other] = [(); 2].map(|()| run_of(Some("0123456789ab")).unwrap_or_default());

        let unique = one.strip_prefix("0123456789ab-");
        assert!(unique.is_some_and(|unique| unique.len() == 12), "{one}");
        assert_ne!(one, other);
        assert_eq!(run_of(None).map(|run| run.len()).ok(), Some(12));
    }

    #[test]
    fn an_identifier_that_does_not_fit_into_names_is_refused() {
        for wrong in ["", "Upper", "a-b", "a_b", "a23456789012345678901"] {
            let refused = run_of(Some(wrong)).err().map(|error| error.to_string());
            assert!(refused.is_some_and(|why| why.contains("DATAFLOW_E2E_RUN must be 1 to 20")));
        }
    }
}
