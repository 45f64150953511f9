//! Source of documents: a collection of Firestore.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use firestore::gcloud_sdk::google::firestore::v1::Value as Stored;
use firestore::gcloud_sdk::google::firestore::v1::value::ValueType;
use firestore::{FirestoreDb, FirestoreDbOptions, FirestoreDocument};
use futures::TryStreamExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use service::google::{Access, EndpointUrl, Identity, Login};
use service::renewable::{Lease, Renewable};
use service::settings::Parsed;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;

use super::{Document, Fetch, LayerError};
use crate::clients::Clients;

/// Maximum length of a document's id, in bytes.
const MAX_ID_BYTES: usize = 1500;

/// Documents to read, and access to Firestore.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct FirestoreSettings {
    /// Collection whose document ids are the keys, such as `devices`. Required.
    pub collection: String,
    /// Name of the database.
    pub database: String,
    /// URL of an emulator, such as `http://localhost:8085`, or of a regional or private endpoint of
    /// Google; Google's default one if unset. The variable `FIRESTORE_EMULATOR_HOST` overrides it.
    pub endpoint: Option<Parsed<EndpointUrl>>,
    /// Credentials for `endpoint`: `anonymous` for an emulator, which is the default, or
    /// `application_default` for Google.
    pub credentials: Option<Login>,
    /// Maximum duration of a read; 100ms to 1m.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
}

impl Default for FirestoreSettings {
    fn default() -> Self {
        Self {
            collection: String::new(),
            database: "(default)".into(),
            endpoint: None,
            credentials: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// Collection of Firestore. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Firestore {
    project: String,
    settings: FirestoreSettings,
    identity: Identity,
    database: Renewable<FirestoreDb, LayerError>,
}

impl Firestore {
    /// Creates the collection of the settings. The connection is opened when it is first needed.
    #[must_use]
    pub fn new(project: &str, settings: &FirestoreSettings) -> Self {
        Self::with_identity(project, settings, Identity::default())
    }

    /// Creates the collection of the settings, with these credentials. The connection is opened when
    /// it is first needed.
    #[must_use]
    pub fn with_identity(project: &str, settings: &FirestoreSettings, identity: Identity) -> Self {
        let (owner, open, caller) = (project.to_owned(), settings.clone(), identity.clone());
        let database = Renewable::lazy(move || {
            Box::pin(open_database(owner.clone(), open.clone(), caller.clone()))
        });
        Self { project: project.to_owned(), settings: settings.clone(), identity, database }
    }

    /// Reads the collection of the settings with a client that was handed in.
    fn with_database(self, database: FirestoreDb) -> Self {
        let options = database.get_options();
        let (project, id) = (options.google_project_id.clone(), options.database_id.clone());
        // The documents are where the client says. Redis keeps those of each place apart.
        let endpoint = options.firebase_api_url.as_deref().map(Into::into);
        let settings = FirestoreSettings { database: id, endpoint, ..self.settings };
        let database = Renewable::lazy(move || {
            let database = database.clone();
            Box::pin(async move { Ok(database) })
        });
        Self { project, settings, database, ..self }
    }

    /// Returns the connection, and opens it if there is none yet.
    ///
    /// # Errors
    /// Fails when Firestore cannot be reached.
    pub async fn connect(&self) -> Result<Lease<FirestoreDb, LayerError>, LayerError> {
        let connected = timeout(self.settings.timeout, self.database.lease()).await;
        connected.map_err(|_| LayerError("Firestore does not answer".into()))?
    }

    pub(super) fn collection(&self) -> &str {
        &self.settings.collection
    }
}

async fn open_database(
    project: String,
    settings: FirestoreSettings,
    identity: Identity,
) -> Result<FirestoreDb, LayerError> {
    let options = FirestoreDbOptions::new(project)
        .with_database_id(settings.database)
        // Our own time-out ends first, and then discards the connection.
        .with_request_timeout(settings.timeout * 2)
        // The lookup decides when to try again.
        .with_max_retries(0);
    let access = Access::find(settings.endpoint.as_ref(), settings.credentials, &identity).await;
    let access = access.map_err(|error| LayerError::of(&error))?;
    let options = options.with_firebase_api_url(access.url("firestore"));
    let opened = FirestoreDb::with_options_auth(options, access.credentials()).await;
    opened.map_err(|error| LayerError::of(&error))
}

impl Fetch for Firestore {
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        let database = self.connect().await?;
        let ids = keys.iter().map(ToString::to_string);
        let read = async {
            let select = database.fluent().select().by_id_in(self.collection());
            select
                .batch_with_errors(ids)
                .await?
                .try_collect::<HashMap<String, Option<FirestoreDocument>>>()
                .await
        };
        let read = timeout(self.settings.timeout, read).await;
        if read.is_ok() {
            database.done();
        }
        let read = read.map_err(|_| LayerError("Firestore does not answer in time".into()))?;
        let mut found = read.map_err(|error| LayerError::of(&error))?;
        keys.iter()
            .map(|key| match found.remove(&**key) {
                Some(document) => Ok(document.map(|document| to_document(document.fields))),
                // The key was neither found nor missing, so nothing is known about it.
                None => Err(LayerError(format!("Firestore left out {key}"))),
            })
            .collect()
    }

    fn origin(&self) -> String {
        let FirestoreSettings { collection, database, endpoint, .. } = &self.settings;
        // All endpoints of Google lead to the same documents. Any other endpoint can be an emulator
        // with its own documents, even if credentials are sent to it.
        let is_google = |url: &Parsed<EndpointUrl>| {
            url.value("firestore.endpoint").is_ok_and(EndpointUrl::is_google)
        };
        let other = endpoint.as_ref().filter(|url| !is_google(url));
        let other = other.map(|url| format!("{}/", url.text().trim_end_matches('/')));
        format!("{}{}/{database}/{collection}", other.unwrap_or_default(), self.project)
    }

    fn with_clients(self, clients: &Clients) -> Self {
        match &clients.firestore {
            Some(given) => self.with_database(given.clone()),
            None => {
                let identity = clients.intake.identity.clone().or(self.identity);
                Self::with_identity(&self.project, &self.settings, identity)
            }
        }
    }

    fn can_exist(&self, id: &str) -> bool {
        let is_reserved = id.len() >= 4 && id.starts_with("__") && id.ends_with("__");
        let is_path = id == "." || id == ".." || id.contains('/');
        !id.is_empty() && id.len() <= MAX_ID_BYTES && !is_path && !is_reserved
    }
}

/// Converts the fields of a document to JSON. Times become RFC 3339, bytes become base64, and geo
/// points become `{"latitude", "longitude"}`.
#[must_use]
pub fn to_document(fields: HashMap<String, Stored>) -> Document {
    fields.into_iter().map(|(name, value)| (name, to_json(value))).collect()
}

fn to_json(stored: Stored) -> Value {
    match stored.value_type {
        None | Some(ValueType::NullValue(_)) => Value::Null,
        Some(ValueType::BooleanValue(value)) => value.into(),
        Some(ValueType::IntegerValue(value)) => value.into(),
        Some(ValueType::DoubleValue(value)) => value.into(),
        Some(ValueType::StringValue(value) | ValueType::ReferenceValue(value)) => value.into(),
        Some(ValueType::BytesValue(value)) => STANDARD.encode(value).into(),
        Some(ValueType::TimestampValue(value)) => {
            let nanos = i128::from(value.seconds) * 1_000_000_000 + i128::from(value.nanos);
            let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
            time.and_then(|time| time.format(&Rfc3339).ok()).into()
        }
        Some(ValueType::GeoPointValue(value)) => {
            json!({ "latitude": value.latitude, "longitude": value.longitude })
        }
        Some(ValueType::ArrayValue(value)) => value.values.into_iter().map(to_json).collect(),
        Some(ValueType::MapValue(value)) => to_document(value.fields).into(),
        // These are parts of queries. No stored document has them.
        Some(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_firestore_cannot_hold_cannot_exist() {
        let firestore = Firestore::new("p", &FirestoreSettings::default());

        assert!(firestore.can_exist("dev-1"));
        for id in ["", ".", "..", "a/b", "__x__", &"x".repeat(1501)] {
            assert!(!firestore.can_exist(id), "{id}");
        }
    }

    #[test]
    fn all_endpoints_of_google_lead_to_the_same_documents() {
        let origin = |endpoint: Option<&str>, credentials| {
            let (collection, endpoint) = ("devices".into(), endpoint.map(Into::into));
            let settings = FirestoreSettings {
                collection,
                endpoint,
                credentials,
                ..FirestoreSettings::default()
            };
            Firestore::new("p", &settings).origin()
        };
        let google = Some(Login::ApplicationDefault);
        let regional = Some("https://firestore.europe-west3.rep.googleapis.com");

        assert_eq!(origin(None, None), "p/(default)/devices");
        assert_eq!(origin(regional, google), "p/(default)/devices");
        for url in ["http://localhost:8085", "http://localhost:8085/"] {
            let emulator = "http://localhost:8085/p/(default)/devices";
            assert_eq!(origin(Some(url), None), emulator);
            assert_eq!(origin(Some(url), Some(Login::Anonymous)), emulator);
            assert_eq!(origin(Some(url), google), emulator, "its documents stay apart");
        }
    }

    #[test]
    fn values_become_json() {
        let stored = |value_type| Stored { value_type: Some(value_type) };
        let time = firestore::gcloud_sdk::prost_types::Timestamp { seconds: 0, nanos: 500_000_000 };

        assert_eq!(to_json(stored(ValueType::IntegerValue(7))), json!(7));
        assert_eq!(to_json(stored(ValueType::BytesValue(b"hi".to_vec()))), json!("aGk="));
        assert_eq!(
            to_json(stored(ValueType::TimestampValue(time))),
            json!("1970-01-01T00:00:00.5Z")
        );
        assert_eq!(to_json(stored(ValueType::DoubleValue(f64::NAN))), Value::Null);
    }
}
