//! A bucket of Cloud Storage: checks that it exists, and creates, lists and reads its objects.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use google_cloud_gax::error::rpc::StatusDetails;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::Storage;
use pipeline::{Error, Recovery};
use reqwest::{RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::json;
use service::create::{Created, NotCreated};
use service::google::{Access, Identity};
use service::renewable::Renewable;
use service::tools::preflight::State;
use service::{Dependency, credentials};

use crate::clients::Clients;
use crate::contract::{ObjectStore, Outage};
use crate::name::BucketName;
use crate::object::Object;
use crate::settings::Endpoint;

/// Reason of a 412 if an object of this name exists. Other reasons are policies of an organization
/// or of the bucket: <https://cloud.google.com/storage/docs/json_api/v1/status-codes>.
const EXISTS: &str = "conditionNotMet";
/// Longest duration of one check.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time to read an object.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// A bucket. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Bucket {
    storage: Renewable<Storage>,
    client: reqwest::Client,
    access: Access,
    name: BucketName,
    url: String,
    /// URL of all buckets.
    buckets: String,
}

/// A page of a bucket's objects.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(default)]
    items: Vec<Item>,
    next_page_token: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Item {
    name: String,
}

/// Answer to a question about permissions.
#[derive(Debug, Deserialize)]
struct Granted {
    #[serde(default)]
    permissions: Vec<String>,
}

/// Returns the client that was handed in, or builds one that does not retry, because the pipeline
/// does. Reads a credentials file again, because it may have been replaced.
async fn build(
    settings: Endpoint,
    identity: Identity,
    given: Option<Storage>,
) -> Result<Storage, Error> {
    if let Some(given) = given {
        return Ok(given);
    }
    let Endpoint { endpoint, credentials } = settings;
    let access = Access::find(endpoint.as_ref(), credentials, &identity).await?;
    let builder = Storage::builder()
        .with_retry_policy(NeverRetry)
        .with_credentials(access.credentials())
        .with_universe_domain(access.domain());
    let builder = match access.endpoint() {
        Some(url) => builder.with_endpoint(url),
        None => builder,
    };
    let built = builder.build().await;
    built.map_err(|error| {
        Recovery::Stop.because("build Cloud Storage client", credentials::explain(&error))
    })
}

/// Builds the client of all calls but uploads.
fn http() -> Result<reqwest::Client, Error> {
    reqwest::Client::builder()
        .timeout(TIMEOUT)
        // Checks are rare, so a connection that is kept may be dead by the next one.
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| Recovery::Stop.because("build HTTP client", error))
}

/// Returns the reasons in an answer of Cloud Storage.
fn reasons(error: &google_cloud_gax::error::Error) -> Vec<&str> {
    let details = error.status().into_iter().flat_map(|status| &status.details);
    let reasons = details.filter_map(|detail| match detail {
        StatusDetails::ErrorInfo(info) => Some(info.reason.as_str()),
        _ => None,
    });
    reasons.collect()
}

/// Returns true if an attempt was refused, so that it certainly created nothing.
fn is_refused(error: &google_cloud_gax::error::Error) -> bool {
    let is_clients_fault =
        |status: u16| (400..500).contains(&status) && status != StatusCode::REQUEST_TIMEOUT;
    error.is_authentication()
        || error.is_connect()
        || error.http_status_code().is_some_and(is_clients_fault)
}

impl Bucket {
    /// Builds the clients. Sends nothing yet.
    ///
    /// # Errors
    /// `Stop` if no client can be built, for example without credentials.
    pub async fn new(name: &BucketName, settings: &Endpoint) -> Result<Self, Error> {
        Self::open(name, settings, &Identity::default(), &Clients::default()).await
    }

    /// Builds the clients that are not handed in. Calls carry the credentials of `identity`. Sends
    /// nothing yet.
    ///
    /// # Errors
    /// `Stop` if no client can be built, for example without credentials.
    pub async fn open(
        name: &BucketName,
        settings: &Endpoint,
        identity: &Identity,
        clients: &Clients,
    ) -> Result<Self, Error> {
        let Endpoint { endpoint, credentials } = settings;
        let access = Access::find(endpoint.as_ref(), *credentials, identity).await?;
        let buckets = format!("{}/storage/v1/b", access.url("storage"));
        let storage = Renewable::open({
            let (settings, identity) = (settings.clone(), identity.clone());
            let uploads = clients.uploads.clone();
            move || Box::pin(build(settings.clone(), identity.clone(), uploads.clone()))
        });
        Ok(Self {
            storage: storage.await?,
            client: match &clients.http {
                Some(given) => given.clone(),
                None => http()?,
            },
            access,
            name: name.clone(),
            url: format!("{buckets}/{name}"),
            buckets,
        })
    }

    async fn fetch(&self, request: RequestBuilder, action: &'static str) -> Result<Bytes, Error> {
        let failed = |error: reqwest::Error| Recovery::Retry.because(action, error);
        let request = self.signed(request).await;
        let request = request.map_err(|why| Recovery::Retry.because(action, why))?;
        let answer = request.send().await.and_then(reqwest::Response::error_for_status);
        answer.map_err(failed)?.bytes().await.map_err(failed)
    }

    /// Returns true if we have a permission.
    async fn may(&self, permission: &str) -> Result<bool, Error> {
        const ACTION: &str = "ask for rights";
        let url = format!("{}/iam/testPermissions", self.url);
        let request = self.client.get(url).query(&[("permissions", permission)]);
        let granted: Granted = serde_json::from_slice(&self.fetch(request, ACTION).await?)
            .map_err(|error| Recovery::Retry.because(ACTION, error))?;
        Ok(granted.permissions.iter().any(|granted| granted == permission))
    }

    /// Adds our credentials to a request.
    async fn signed(&self, request: RequestBuilder) -> Result<RequestBuilder, String> {
        let headers = self.access.headers().await;
        Ok(request.headers(headers.map_err(|error| credentials::explain(&error))?))
    }
}

impl ObjectStore for Bucket {
    /// If the object may exist (see [`Object::may_exist`]) and does exist, it counts as created. The
    /// service has no right to read it, and no other object gets its name.
    ///
    /// # Errors
    /// Always `Retry`. A missing bucket or permission can come back, and the content is never at
    /// fault.
    async fn create(&self, object: &Object) -> Result<(), Error> {
        let bucket = format!("projects/_/buckets/{}", self.name);
        let metadata = object.metadata.iter().map(|(key, value)| (*key, value.as_str()));
        let storage = self.storage.lease().await?;
        // Stays true if this call is dropped before its answer.
        let may_exist = object.may_exist.swap(true, Ordering::Relaxed);
        let upload = storage
            .write_object(bucket, &object.name, object.content.clone())
            .set_if_generation_match(0)
            .set_content_type(object.content_type)
            .set_metadata(metadata)
            .send_unbuffered();
        // Boxed, because the client's future takes 30 KiB.
        let uploaded = Box::pin(upload).await;
        storage.done();
        let Err(error) = uploaded else { return Ok(()) };
        let reasons = reasons(&error);
        if may_exist && error.http_status_code() == Some(412) && reasons.contains(&EXISTS) {
            return Ok(());
        }
        if is_refused(&error) {
            object.may_exist.store(may_exist, Ordering::Relaxed);
        }
        let text = credentials::explain(&error);
        let text = match &*reasons {
            [] => text,
            reasons => format!("{text} ({})", reasons.join(", ")),
        };
        Err(Recovery::Retry.because("upload object", text))
    }

    async fn list(
        &self,
        prefix: &str,
        page: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        let query = [("prefix", prefix), ("pageToken", page.unwrap_or_default())];
        let request = self.client.get(format!("{}/o", self.url)).query(&query);
        let listed: Listed = serde_json::from_slice(&self.fetch(request, "list objects").await?)
            .map_err(|error| Recovery::Retry.because("list objects", error))?;
        Ok((listed.items.into_iter().map(|item| item.name).collect(), listed.next_page_token))
    }

    async fn read(&self, name: &str) -> Result<Bytes, Error> {
        let mut url = reqwest::Url::parse(&self.url)
            .map_err(|error| Recovery::Stop.because("read object", error))?;
        let no_path = |()| Recovery::Stop.because("read object", "the endpoint takes no path");
        url.path_segments_mut().map_err(no_path)?.extend(["o", name]);
        let request = self.client.get(url).query(&[("alt", "media")]).timeout(READ_TIMEOUT);
        self.fetch(request, "read object").await
    }

    fn address(&self, name: &str) -> String {
        format!("gs://{}/{name}", self.name)
    }

    async fn find(&self) -> Result<(), Outage> {
        let request = self.signed(self.client.get(&self.url)).await.map_err(Outage::Unreachable)?;
        let answer =
            request.send().await.map_err(|error| Outage::Unreachable(no_answer(&error)))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            // Writing objects does not need the permission to see the bucket. The uploads will show
            // whether it exists.
            StatusCode::FORBIDDEN => Ok(()),
            StatusCode::NOT_FOUND => {
                Err(Outage::Missing(format!("bucket {} does not exist", self.name)))
            }
            status => {
                Err(Outage::Unreachable(format!("bucket {} cannot be read: {status}", self.name)))
            }
        }
    }

    /// Checks that the bucket exists, and that we may create objects in it.
    async fn dependency(&self) -> Dependency {
        const PERMISSION: &str = "storage.objects.create";
        const ROLE: &str = "roles/storage.objectCreator";
        let state = match self.find().await {
            Err(Outage::Missing(why)) => State::Missing(why),
            Err(Outage::Unreachable(why) | Outage::Unfit(why)) => State::Unreachable(why),
            Ok(()) => {
                let may = self.may(PERMISSION).await.map_err(|error| format!("{error:#}"));
                State::of_right(PERMISSION, ROLE, may)
            }
        };
        Dependency { kind: "bucket", name: format!("gs://{}", self.name), roles: &[ROLE], state }
    }

    fn is_creatable(&self) -> bool {
        true
    }

    /// Creates the bucket in Google's default location, with the properties of `deploy/gcp.sh`.
    async fn ensure(&self, project: &str) -> Result<Created, NotCreated> {
        let looked = self.signed(self.client.get(&self.url)).await.map_err(NotCreated::Yet)?;
        let found = looked.send().await.map_err(|error| NotCreated::Yet(no_answer(&error)))?;
        if found.status().is_success() {
            return Ok(Created::Before);
        }
        let bucket = json!({
            "name": self.name.as_str(),
            "iamConfiguration": {
                "uniformBucketLevelAccess": { "enabled": true },
                "publicAccessPrevention": "enforced",
            },
        });
        let request = self.client.post(&self.buckets).query(&[("project", project)]).json(&bucket);
        let request = self.signed(request).await.map_err(NotCreated::Yet)?;
        let answer = request.send().await.map_err(|error| NotCreated::Yet(no_answer(&error)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Created::Now);
        }
        let why = format!("{status}: {}", answer.text().await.unwrap_or_default().trim());
        match status {
            StatusCode::FORBIDDEN => {
                Err(NotCreated::denied("storage.buckets.create", "roles/storage.admin", &why))
            }
            // Names are the same for everybody, so it may be a bucket of another project. Then the
            // uploads show that we may not write to it.
            StatusCode::CONFLICT => Ok(Created::Before),
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED => {
                Err(NotCreated::Ever(why))
            }
            _ => Err(NotCreated::Yet(why)),
        }
    }
}

fn no_answer(error: &reqwest::Error) -> String {
    format!("Cloud Storage does not answer: {error}")
}
