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
            Err(StoreError::NotFound { .. }) => "a write of this name is in progress".to_owned(),
            Err(error) => {
                format!(
                    "an object of this name exists, and comparing it takes s3:GetObject: {error}"
                )
            }
        };
        Err(Recovery::Retry.because("upload object", why))
    }

    /// Returns why the answer to a request about the probe is an outage.
    fn outage(&self, error: &StoreError) -> Outage {
        let (text, bucket) = (error.to_string(), &self.bucket);
        match error {
            StoreError::NotFound { .. } => {
                Outage::Missing(format!("bucket {bucket} does not exist"))
            }
            // A header that the store does not know.
            _ if ["501 Not Implemented", "NotImplemented"]
                .iter()
                .any(|code| text.contains(code)) =>
            {
                Outage::Unfit(format!("bucket {bucket} does not take If-None-Match: {text}"))
            }
            _ => Outage::Unreachable(format!("bucket {bucket} cannot be written to: {text}")),
        }
    }
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
            Err(StoreError::AlreadyExists { .. }) => self.compare(&name, object).await,
            Err(error) => Err(Recovery::Retry.because("upload object", error)),
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
            let next = next.map_err(|error| Recovery::Retry.because("list objects", error))?;
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
        content.map_err(|error| Recovery::Retry.because("read object", error))
    }

    fn address(&self, name: &str) -> String {
        format!("s3://{}/{name}", self.bucket)
    }

    /// Creates a small object twice. The second attempt must be refused, even in a later process.
    async fn find(&self) -> Result<(), Outage> {
        let probe = Path::from(PROBE);
        for _ in 0..2 {
            match self.put(&probe, Bytes::new(), Attributes::new()).await {
                Ok(()) => {}
                Err(StoreError::AlreadyExists { .. }) => return Ok(()),
                Err(error) => return Err(self.outage(&error)),
            }
        }
        let bucket = &self.bucket;
        Err(Outage::Unfit(format!(
            "bucket {bucket} replaces objects, because the store ignores If-None-Match: use a store that has it"
        )))
    }

    async fn dependency(&self) -> Dependency {
        let state = match self.get(&Path::from(PROBE)).await {
            Ok(_) => State::Ready,
            Err(error @ StoreError::NotFound { .. })
                if error.to_string().contains("NoSuchBucket") =>
            {
                State::Missing(format!("bucket {} does not exist", self.bucket))
            }
            Err(StoreError::NotFound { .. } | StoreError::PermissionDenied { .. }) => {
                State::Unchecked("the rights to write and read are checked at the start".into())
            }
            Err(error) => State::Unreachable(error.to_string()),
        };
        Dependency { kind: "bucket", name: self.address(""), roles: &[], state }
    }
}
