//! Client for the parts of BigQuery's REST API that the services use.
//!
//! Tables are raw JSON. A change must keep all properties that the services do not know, such as
//! masks and default values. A typed client would drop them, because it knows only a fixed list of
//! fields.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, IF_MATCH};
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use service::credentials;
use service::google::Access;

use crate::table_name::TableName;

/// Characters that need no escape in a path.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Maximum characters that are shown of an answer that is not JSON.
const MAX_TEXT: usize = 200;

/// Client of the REST API. Clones share their connections.
#[derive(Debug, Clone)]
pub struct RestApi {
    client: reqwest::Client,
    access: Access,
    /// Base URL of all calls, ending in `/bigquery/v2`.
    url: String,
}

/// Reason for which a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// BigQuery answered with an error.
    Refused(Refused),
    /// There was no answer, or the answer could not be read. Holds the reason.
    Unanswered(String),
}

/// Error of BigQuery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// First reason, such as `notFound`; empty if there is none.
    pub reason: String,
    /// Text for people.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(Refused { message, .. }) => f.write_str(message),
            Self::Unanswered(why) => write!(f, "BigQuery does not answer: {why}"),
        }
    }
}

/// Body of an error. Every part of it may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    error: Described,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Described {
    message: String,
    errors: Vec<Value>,
}

impl Refused {
    fn new(status: u16, body: &[u8]) -> Self {
        let described = serde_json::from_slice::<Body>(body).unwrap_or_default().error;
        let reason = described.errors.first().and_then(|error| error["reason"].as_str());
        let message = if described.message.is_empty() {
            let text = String::from_utf8_lossy(body);
            format!("HTTP status {status}: {}", text.chars().take(MAX_TEXT).collect::<String>())
        } else {
            described.message
        };
        Self { status, reason: reason.unwrap_or_default().to_owned(), message }
    }
}

impl RestApi {
    /// Creates a client with this access, on `given` or on a new client of HTTP. Nothing is sent yet.
    ///
    /// # Errors
    /// The client cannot be built.
    pub(crate) fn new(
        access: Access,
        given: Option<reqwest::Client>,
    ) -> Result<Self, reqwest::Error> {
        let client = match given {
            Some(given) => given,
            None => reqwest::Client::builder().build()?,
        };
        let url = format!("{}/bigquery/v2", access.url("bigquery"));
        Ok(Self { client, access, url })
    }

    /// Returns the resource of a table.
    ///
    /// # Errors
    /// BigQuery refuses the call, or does not answer.
    pub async fn table(&self, name: &TableName) -> Result<Value, Failure> {
        self.call(Method::GET, &self.path(name), |request| request).await
    }

    /// Returns the resource of the dataset of `name`.
    ///
    /// # Errors
    /// BigQuery refuses the call, or does not answer.
    pub async fn dataset(&self, name: &TableName) -> Result<Value, Failure> {
        let path = format!("projects/{}/datasets/{}", encode(&name.project), encode(&name.dataset));
        self.call(Method::GET, &path, |request| request).await
    }

    /// Creates the dataset of `name`, in Google's default location.
    ///
    /// # Errors
    /// BigQuery refuses the call, or does not answer.
    pub async fn create_dataset(&self, name: &TableName) -> Result<Value, Failure> {
        let TableName { project, dataset, .. } = name;
        let path = format!("projects/{}/datasets", encode(project));
        let reference = json!({ "projectId": project, "datasetId": dataset });
        let resource = json!({ "datasetReference": reference });
        self.call(Method::POST, &path, |request| request.json(&resource)).await
    }

    /// Creates a table in the dataset of `name`. The resource holds the table's id.
    ///
    /// # Errors
    /// BigQuery refuses the call, or does not answer.
    pub async fn create_table(&self, name: &TableName, resource: &Value) -> Result<Value, Failure> {
        let TableName { project, dataset, .. } = name;
        let path = format!("projects/{}/datasets/{}/tables", encode(project), encode(dataset));
        self.call(Method::POST, &path, |request| request.json(resource)).await
    }

    /// Changes those members of a table's resource that `patch` has. The call fails if the table is
    /// no longer the version of `etag`.
    ///
    /// # Errors
    /// BigQuery refuses the call, or does not answer.
    pub async fn patch_table(
        &self,
        name: &TableName,
        etag: &str,
        patch: &Value,
    ) -> Result<Value, Failure> {
        let conditional = |request: RequestBuilder| request.header(IF_MATCH, etag).json(patch);
        self.call(Method::PATCH, &self.path(name), conditional).await
    }

    /// Inserts rows. `body` is a `tabledata.insertAll` request, compressed with gzip.
    ///
    /// # Errors
    /// BigQuery refuses the call, or does not answer.
    pub async fn insert_all(&self, name: &TableName, body: Vec<u8>) -> Result<Value, Failure> {
        let path = format!("{}/insertAll", self.path(name));
        let compressed = |request: RequestBuilder| {
            let request = request.header(CONTENT_ENCODING, "gzip");
            request.header(CONTENT_TYPE, "application/octet-stream").body(body)
        };
        self.call(Method::POST, &path, compressed).await
    }

    /// Returns true if the service has a permission on a table.
    ///
    /// # Errors
    /// BigQuery refuses the call, or does not answer.
    pub async fn may(&self, name: &TableName, permission: &str) -> Result<bool, Failure> {
        let path = format!("{}:testIamPermissions", self.path(name));
        let question = json!({ "permissions": [permission] });
        let answer = self.call(Method::POST, &path, |request| request.json(&question)).await?;
        let granted = answer["permissions"].as_array();
        Ok(granted.is_some_and(|granted| granted.iter().any(|granted| granted == permission)))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        complete: impl FnOnce(RequestBuilder) -> RequestBuilder + Send,
    ) -> Result<Value, Failure> {
        let body = self.send(method, path, complete).await?;
        serde_json::from_slice(&body).map_err(|error| Failure::Unanswered(error.to_string()))
    }

    /// Sends a call, and returns the body of its answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        complete: impl FnOnce(RequestBuilder) -> RequestBuilder + Send,
    ) -> Result<Vec<u8>, Failure> {
        let unanswered = |error: reqwest::Error| Failure::Unanswered(credentials::explain(&error));
        let request = complete(self.client.request(method, format!("{}/{path}", self.url)));
        let headers = self.access.headers().await;
        let headers = headers.map_err(|error| Failure::Unanswered(credentials::explain(&error)))?;
        let answer = request.headers(headers).send().await.map_err(unanswered)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(unanswered)?;
        if !status.is_success() {
            return Err(Failure::Refused(Refused::new(status.as_u16(), &body)));
        }
        Ok(body.into())
    }

    fn path(&self, name: &TableName) -> String {
        let [project, dataset, table] =
            [&name.project, &name.dataset, &name.table].map(|part| encode(part));
        format!("projects/{project}/datasets/{dataset}/tables/{table}")
    }
}

pub(crate) fn encode(id: &str) -> String {
    utf8_percent_encode(id, UNRESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_its_reason_and_its_text() {
        let body = br#"{"error": {"code": 404, "message": "Not found: Table t",
            "errors": [{"reason": "notFound", "index": 7}], "status": "NOT_FOUND"}}"#;

        let refused = Refused::new(404, body);

        let (reason, message) = ("notFound".into(), "Not found: Table t".into());
        assert_eq!(refused, Refused { status: 404, reason, message });
    }

    #[test]
    fn an_error_of_another_form_is_told_by_its_status() {
        for body in ["<html>Bad gateway", r#"{"error": "text"}"#, r#"{"error": {"errors": [1]}}"#] {
            let refused = Refused::new(502, body.as_bytes());

            assert_eq!((refused.status, refused.reason.as_str()), (502, ""));
            assert_eq!(refused.message, format!("HTTP status 502: {body}"));
        }
        assert_eq!(Refused::new(500, &[b'x'; 999]).message.len(), "HTTP status 500: ".len() + 200);
    }

    #[test]
    fn ids_cannot_leave_their_place_in_a_path() {
        assert_eq!(encode("example.com:p-1_~"), "example.com%3Ap-1_~");
        assert_eq!(encode("../t?x#y"), "..%2Ft%3Fx%23y");
    }
}
