//! The bucket: whether it is there, and how objects get into it.

use std::time::Duration;

use bytes::Bytes;
use google_cloud_auth::credentials::{AccessTokenCredentials, Builder, anonymous};
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::Storage;
use pipeline::{Error, Recovery, Renewable};
use reqwest::StatusCode;
use service::Condition;

use crate::settings::Endpoint;

/// Where Google's own service answers.
const GOOGLE: &str = "https://storage.googleapis.com";
/// Longest duration of one look.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at a bucket that is there; outages show earlier at the uploads.
const INTERVAL: Duration = Duration::from_secs(30);
/// Between two looks at one that is not.
const MISSING_INTERVAL: Duration = Duration::from_secs(1);

/// A whole object.
#[derive(Debug)]
pub struct Object {
    /// Its name in the bucket, which no other object has.
    pub name: String,
    /// Its content.
    pub content: Bytes,
    /// The content's media type.
    pub content_type: &'static str,
    /// What its metadata says.
    pub metadata: Vec<(&'static str, String)>,
}

/// A bucket; clones share their connections.
#[derive(Debug, Clone)]
pub struct Bucket {
    storage: Renewable<Storage>,
    client: reqwest::Client,
    /// `None` for an emulator, which wants none.
    credentials: Option<AccessTokenCredentials>,
    name: String,
    url: String,
}

/// Builds a client that never tries again by itself: the pipeline does.
async fn build(endpoint: Option<String>) -> Result<Storage, Error> {
    let builder = Storage::builder().with_retry_policy(NeverRetry);
    let builder = match endpoint {
        Some(url) => builder.with_endpoint(url).with_credentials(anonymous::Builder::new().build()),
        None => builder,
    };
    let built = builder.build().await;
    built.map_err(|error| Recovery::Stop.because("build Cloud Storage client", error))
}

impl Bucket {
    /// Builds the clients; nothing is sent yet.
    ///
    /// # Errors
    /// `Stop` when no client can be built, for want of credentials for example.
    pub async fn new(name: &str, settings: &Endpoint) -> Result<Self, Error> {
        let credentials = match &settings.endpoint {
            Some(_) => None,
            None => {
                let credentials = Builder::default().build_access_token_credentials();
                let stop = |error| Recovery::Stop.because("find credentials", error);
                Some(credentials.map_err(stop)?)
            }
        };
        let endpoint = settings.endpoint.clone();
        let storage = Renewable::open(move || Box::pin(build(endpoint.clone())));
        let host = settings.endpoint.as_deref().unwrap_or(GOOGLE);
        Ok(Self {
            storage: storage.await?,
            client: reqwest::Client::builder()
                .timeout(TIMEOUT)
                // Looks are rare, and a connection that is kept may be dead by the next one.
                .pool_max_idle_per_host(0)
                .build()
                .map_err(|error| Recovery::Stop.because("build HTTP client", error))?,
            credentials,
            name: name.to_owned(),
            url: format!("{host}/storage/v1/b/{name}"),
        })
    }

    /// Uploads a whole object under a name that no other object has.
    ///
    /// # Errors
    /// Always `Retry`: a missing bucket or right can come back, and no line is at fault.
    pub async fn create(&self, object: &Object) -> Result<(), Error> {
        let bucket = format!("projects/_/buckets/{}", self.name);
        let metadata = object.metadata.iter().map(|(key, value)| (*key, value.as_str()));
        let storage = self.storage.lease().await?;
        let upload = storage
            .write_object(bucket, &object.name, object.content.clone())
            .set_if_generation_match(0)
            .set_content_type(object.content_type)
            .set_metadata(metadata)
            .send_unbuffered();
        // The client's future takes 30 KiB.
        let uploaded = Box::pin(upload).await;
        storage.done();
        match uploaded {
            Ok(_) => Ok(()),
            // The name is ours alone, so an object that exists is this one: an earlier attempt
            // succeeded, and its reply was lost.
            Err(error) if error.http_status_code() == Some(412) => Ok(()),
            Err(error) => Err(Recovery::Retry.because("upload object", error)),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the bucket is there.
    pub async fn wait(&self, condition: &Condition) {
        while !self.look(condition).await {
            tokio::time::sleep(MISSING_INTERVAL).await;
        }
    }

    /// Keeps `condition` true to whether the bucket is there. Never returns.
    pub async fn watch(self, condition: Condition) {
        loop {
            let interval = if self.look(&condition).await { INTERVAL } else { MISSING_INTERVAL };
            tokio::time::sleep(interval).await;
        }
    }

    async fn look(&self, condition: &Condition) -> bool {
        match self.find().await {
            Ok(()) => {
                condition.ready();
                true
            }
            Err(reason) => {
                condition.not_ready(reason);
                false
            }
        }
    }

    async fn find(&self) -> Result<(), String> {
        let mut request = self.client.get(&self.url);
        if let Some(credentials) = &self.credentials {
            let token = credentials.access_token().await;
            request = request.bearer_auth(token.map_err(|error| error.to_string())?.token);
        }
        let answer = request.send().await;
        let answer = answer.map_err(|error| format!("Cloud Storage does not answer: {error}"))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            // Writing objects takes no right to see the bucket; the uploads will tell.
            StatusCode::FORBIDDEN => Ok(()),
            StatusCode::NOT_FOUND => Err(format!("bucket {} does not exist", self.name)),
            status => Err(format!("bucket {} cannot be read: {status}", self.name)),
        }
    }
}
