//! A bucket of a store with the API of S3.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientOptions, Error as StoreError, ObjectStore as _,
    ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig,
};
use pipeline::{Error, Recovery};
use service::Dependency;
use service::tools::preflight::State;

use super::S3Settings;
use crate::contract::{ObjectStore, Outage};
use crate::object::Object;

/// Variables with the keys of an account, or with the role of a pod.
const VARIABLES: [&str; 8] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];
/// Time limit of one request.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Time limit of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Object that the checks create. A second attempt must be refused.
const PROBE: &str = ".dataflow-create-only";
/// Maximum attempts of one check to create it.
const PROBES: usize = 5;
/// Names in one page of a listing.
const PAGE: usize = 1000;

/// A bucket of a store with the API of S3. Clones share their connections.
///
/// An object is created with `If-None-Match: *`, so the store refuses a name that exists.
#[derive(Clone)]
pub struct S3 {
    client: AmazonS3,
    bucket: String,
}

/// Shows no keys.
impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl S3 {
    /// Creates a client with the keys of the environment. Sends nothing yet.
    ///
    /// # Errors
    /// `Stop` without keys, and for settings that nobody has checked.
    pub fn new(settings: &S3Settings) -> Result<Self, Error> {
        Self::with_variables(settings, |name| std::env::var(name).ok())
    }

    /// Creates a client with the keys that `variable` returns.
    ///
    /// # Errors
    /// `Stop` without keys, and for settings that nobody has checked.
    pub fn with_variables(
        settings: &S3Settings,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        const ACTION: &str = "build S3 client";
        let stop = |why: String| Recovery::Stop.because(ACTION, why);
        let bucket = settings.bucket.value("storage.s3.bucket")?.as_str();
        let options = ClientOptions::new()
            .with_timeout(TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(settings.allow_http);
        // The pipeline retries.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&settings.region)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(options)
            .with_retry(retry);
        if let Some(endpoint) = &settings.endpoint {
            endpoint.value("storage.s3.endpoint")?;
            builder = builder.with_endpoint(endpoint.text().trim_end_matches('/'));
        }
        let mut has_keys = false;
        for name in VARIABLES {
            let Some(value) = variable(name).filter(|value| !value.is_empty()) else { continue };
            let key: AmazonS3ConfigKey = name
                .to_ascii_lowercase()
                .parse()
                .map_err(|error: StoreError| stop(error.to_string()))?;
            builder = builder.with_config(key, value);
            has_keys = true;
        }
        if !has_keys {
            return Err(stop("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".into()));
        }
        let client = builder.build().map_err(|error| stop(error.to_string()))?;
        Ok(Self { client, bucket: bucket.to_owned() })
    }

    /// Sends an object, and fails if its name exists.
    async fn put(
        &self,
        name: &Path,
        content: Bytes,
        attributes: Attributes,
    ) -> Result<(), StoreError> {
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        self.client.put_opts(name, PutPayload::from(content), options).await.map(|_| ())
    }

    async fn get(&self, name: &Path) -> Result<Bytes, StoreError> {
        self.client.get(name).await?.bytes().await
    }

    /// Returns success if the object of this name is the same. An attempt without an answer has
    /// created it then.
    async fn compare(&self, name: &Path, object: &Object) -> Result<(), Error> {
        let why = match self.get(name).await {
            Ok(found) if found == object.content => return Ok(()),
            Ok(_) => "an object of this name has another content".to_owned(),
            Err(StoreError::NotFound { .. }) => "an object of this name was removed".to_owned(),
            Err(error) => {
                let why = explain(error);
                format!("an object of this name exists, and comparing it takes s3:GetObject: {why}")
            }
        };
        Err(Recovery::Retry.because("upload object", why))
    }

    /// Returns why the answer to a request about the probe is an outage.
    fn outage(&self, error: StoreError) -> Outage {
        let bucket = &self.bucket;
        if matches!(error, StoreError::NotFound { .. }) {
            return Outage::Missing(format!("bucket {bucket} does not exist"));
        }
        let why = explain(error);
        // A header that the store does not know.
        if ["501 Not Implemented", "NotImplemented"].iter().any(|code| why.contains(code)) {
            return Outage::Unfit(format!("bucket {bucket} does not take If-None-Match: {why}"));
        }
        Outage::Unreachable(format!("bucket {bucket} cannot be written to: {why}"))
    }
}

/// Returns true if the store refused to create an object, because its name exists.
///
/// Other attempts that the store refuses prove nothing. For example, it answers 409 while another
/// write of the name is in progress.
fn is_refused(error: &StoreError) -> bool {
    let StoreError::AlreadyExists { source, .. } = error else { return false };
    // The client wraps the answers 412 and 304, and reports 409 as it came.
    matches!(
        source.downcast_ref::<StoreError>(),
        Some(StoreError::Precondition { .. } | StoreError::NotModified { .. })
    )
}

/// Describes an error with its causes. Of an answer it shows the status and the code, such as
/// `403 Forbidden: AccessDenied`. The rest of an answer can have any content, so it is left out.
fn explain(error: StoreError) -> String {
    /// Words of the client before the status and the content of an answer.
    const ANSWER: &str = "non-2xx status code: ";
    let text = Recovery::Retry.because("call store", error).detail();
    let Some((_, answer)) = text.split_once(ANSWER) else { return text };
    let (status, content) = answer.split_once(": ").unwrap_or((answer, ""));
    match code(content) {
        Some(code) => format!("{status}: {code}"),
        None => status.to_owned(),
    }
}

/// Returns the code in the content of an answer.
fn code(content: &str) -> Option<&str> {
    const MAX_BYTES: usize = 64;
    let (_, rest) = content.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_code = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (code.len() <= MAX_BYTES && code.bytes().all(is_code)).then_some(code)
}

/// Returns the name of an object for the client, unchanged.
fn path(name: &str) -> Result<Path, Error> {
    Path::parse(name).map_err(|error| Recovery::Retry.because("name object", error))
}

impl ObjectStore for S3 {
    /// An object of the same name and content counts as created.
    async fn create(&self, object: &Object) -> Result<(), Error> {
        let name = path(&object.name)?;
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, object.content_type.into());
        for (key, value) in &object.metadata {
            attributes.insert(Attribute::Metadata((*key).into()), value.clone().into());
        }
        match self.put(&name, object.content.clone(), attributes).await {
            Ok(()) => Ok(()),
            Err(error) if is_refused(&error) => self.compare(&name, object).await,
            Err(error) => Err(Recovery::Retry.because("upload object", explain(error))),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        page: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        // The client lists whole folders.
        let folder = prefix.rsplit_once('/').map(|(folder, _)| path(folder)).transpose()?;
        let mut objects = match page {
            None => self.client.list(folder.as_ref()),
            Some(last) => self.client.list_with_offset(folder.as_ref(), &path(last)?),
        };
        let mut names = Vec::new();
        while names.len() < PAGE {
            let next = objects.try_next().await;
            let next =
                next.map_err(|error| Recovery::Retry.because("list objects", explain(error)))?;
            let Some(found) = next else { return Ok((names, None)) };
            let name = found.location.to_string();
            if name.starts_with(prefix) {
                names.push(name);
            }
        }
        let next = names.last().cloned();
        Ok((names, next))
    }

    async fn read(&self, name: &str) -> Result<Bytes, Error> {
        let content = self.get(&path(name)?).await;
        content.map_err(|error| Recovery::Retry.because("read object", explain(error)))
    }

    fn address(&self, name: &str) -> String {
        format!("s3://{}/{name}", self.bucket)
    }

    /// The client takes no other names.
    fn needs_levels(&self) -> bool {
        true
    }

    /// Creates a small object twice. The second attempt must be refused, even in a later process.
    async fn find(&self) -> Result<(), Outage> {
        let (probe, bucket) = (Path::from(PROBE), &self.bucket);
        let mut is_created = false;
        for _ in 0..PROBES {
            match self.put(&probe, Bytes::new(), Attributes::new()).await {
                Ok(()) if is_created => {
                    return Err(Outage::Unfit(format!(
                        "bucket {bucket} replaces objects, because the store ignores If-None-Match: \
                         use a store that has it"
                    )));
                }
                Ok(()) => is_created = true,
                Err(error) if is_refused(&error) => return Ok(()),
                // Another replica creates it at the same time.
                Err(StoreError::AlreadyExists { .. }) => {}
                Err(error) => return Err(self.outage(error)),
            }
        }
        let why = "409 Conflict, each time that it was checked";
        Err(Outage::Unreachable(format!("bucket {bucket} cannot be written to: {why}")))
    }

    async fn dependency(&self) -> Dependency {
        let state = match self.get(&Path::from(PROBE)).await {
            Ok(_) => State::Ready,
            Err(error) => {
                let is_refusal = matches!(
                    error,
                    StoreError::NotFound { .. } | StoreError::PermissionDenied { .. }
                );
                let why = explain(error);
                if why.contains("NoSuchBucket") {
                    State::Missing(format!("bucket {} does not exist", self.bucket))
                } else if is_refusal {
                    let when = "the rights to write and read are checked at the start";
                    State::Unchecked(when.into())
                } else {
                    State::Unreachable(why)
                }
            }
        };
        Dependency { kind: "bucket", name: self.address(""), roles: &[], state }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_code_of_an_answer_is_shown() {
        let answered = |content: &str| {
            let text =
                format!("Error performing PUT - Server returned non-2xx status code: {content}");
            explain(StoreError::Generic { store: "S3", source: text.into() })
        };

        let denied =
            "403 Forbidden: <Error><Code>AccessDenied</Code><Message>hunter2</Message></Error>";
        assert_eq!(answered(denied), "403 Forbidden: AccessDenied");
        assert_eq!(answered("502 Bad Gateway: <html>hunter2: no</html>"), "502 Bad Gateway");
        assert_eq!(answered("400 Bad Request: <Code>hunter 2</Code>"), "400 Bad Request");
        assert_eq!(answered("400 Bad Request: <Code>hunter2"), "400 Bad Request");
        assert_eq!(answered("301 Moved Permanently: "), "301 Moved Permanently");
        let silent = StoreError::Generic { store: "S3", source: "no connection".into() };
        assert_eq!(explain(silent), "Generic S3 error: no connection");
    }
}
