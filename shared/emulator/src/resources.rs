//! Resources that an emulator creates at its start.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format as _, YamlExtended};
use googleapis_tonic_google_firestore_v1::google::firestore::v1 as firestore;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as pubsub;
use serde::Deserialize;
use serde_json::{Map, Value};
use tonic::Code;

use crate::cloud::Cloud;
use crate::status::Status;

/// Resources of one project by id. Existing resources stay unchanged, but documents are
/// overwritten.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Project of all resources.
    pub project: String,
    /// Pub/Sub topics.
    #[serde(default)]
    pub topics: Vec<String>,
    /// Pub/Sub subscriptions, each with its topic.
    #[serde(default)]
    pub subscriptions: BTreeMap<String, String>,
    /// BigQuery datasets.
    #[serde(default)]
    pub datasets: Vec<String>,
    /// Cloud Storage buckets.
    #[serde(default)]
    pub buckets: Vec<String>,
    /// Firestore documents of the database `(default)`, by path such as `devices/abc`.
    #[serde(default)]
    pub documents: BTreeMap<String, Map<String, Value>>,
}

impl Resources {
    /// Reads a YAML file.
    ///
    /// # Errors
    /// Fails when the file cannot be read, or does not describe resources.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let read = Figment::from(YamlExtended::file_exact(file)).extract();
        read.map_err(|error: figment::Error| anyhow!("{}: {}", file.display(), describe(&error)))
    }
}

/// Names the key that is wrong, and what would be right.
fn describe(error: &figment::Error) -> String {
    let key = error.path.join(".");
    match &error.kind {
        Kind::UnknownField(key, known) => {
            format!("unknown key `{key}`, must be one of `{}`", known.join("`, `"))
        }
        Kind::MissingField(key) => format!("{key}: required"),
        kind if key.is_empty() => kind.to_string(),
        kind => format!("{key}: {kind}"),
    }
}

impl Cloud {
    /// Creates the resources that do not exist yet.
    pub(crate) async fn provide(&self, resources: &Resources) -> anyhow::Result<()> {
        let project = &resources.project;
        for topic in &resources.topics {
            let name = format!("projects/{project}/topics/{topic}");
            let created = self.pubsub.create_topic(pubsub::Topic { name, ..<_>::default() });
            unless_there(created).with_context(|| format!("create the topic {topic}"))?;
        }
        for (subscription, topic) in &resources.subscriptions {
            let created = self.pubsub.create_subscription(pubsub::Subscription {
                name: format!("projects/{project}/subscriptions/{subscription}"),
                topic: format!("projects/{project}/topics/{topic}"),
                ..<_>::default()
            });
            unless_there(created)
                .with_context(|| format!("create the subscription {subscription}"))?;
        }
        for dataset in &resources.datasets {
            let created = self.bigquery.create_dataset(project, dataset).await;
            unless_there(created).with_context(|| format!("create the dataset {dataset}"))?;
        }
        for bucket in &resources.buckets {
            let created = self.storage.create_bucket(bucket);
            unless_there(created).with_context(|| format!("create the bucket {bucket}"))?;
        }
        for (path, fields) in &resources.documents {
            let name = format!("projects/{project}/databases/(default)/documents/{path}");
            let put = self.firestore.put(&name, to_fields(fields));
            put.with_context(|| format!("write the document {path}"))?;
        }
        Ok(())
    }
}

fn unless_there<T>(created: Result<T, Status>) -> Result<(), Status> {
    match created {
        Err(status) if status.code == Code::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

/// Converts the fields of a JSON object to those of Firestore.
fn to_fields(fields: &Map<String, Value>) -> HashMap<String, firestore::Value> {
    fields.iter().map(|(name, value)| (name.clone(), to_firestore(value))).collect()
}

/// Converts JSON to a value of Firestore. Whole numbers become integers.
fn to_firestore(value: &Value) -> firestore::Value {
    use firestore::value::ValueType;
    let kind = match value {
        Value::Null => ValueType::NullValue(0),
        Value::Bool(value) => ValueType::BooleanValue(*value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => ValueType::IntegerValue(whole),
            None => ValueType::DoubleValue(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => ValueType::StringValue(text.clone()),
        Value::Array(values) => ValueType::ArrayValue(firestore::ArrayValue {
            values: values.iter().map(to_firestore).collect(),
        }),
        Value::Object(fields) => {
            ValueType::MapValue(firestore::MapValue { fields: to_fields(fields) })
        }
    };
    firestore::Value { value_type: Some(kind) }
}
