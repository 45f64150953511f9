//! Settings of the place of the archive.

use std::path::PathBuf;

use pipeline::Error;
use pubsub::Clients;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::Faults;
use service::google::{EndpointUrl, Login};
use service::settings::Parsed;
use storage::{Bucket, BucketName, Endpoint, Folder, S3Settings, Store};

use crate::objects::Price;

/// Place of the archive. One of `bucket`, `folder` and `s3` is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Storage {
    /// Name of a bucket of Cloud Storage.
    pub bucket: Parsed<BucketName>,
    /// Absolute path of a folder. Each object is a file in it. The folder must exist, and its file
    /// system must have hard links.
    pub folder: Option<PathBuf>,
    /// Bucket of a store with the API of S3. It needs a binary with the feature `s3`.
    pub s3: Option<S3Settings>,
    /// URL of an emulator of Cloud Storage, such as `http://localhost:8085`, or of a regional or
    /// private endpoint of Google. Left out, Google's usual endpoint is used. The variable
    /// `STORAGE_EMULATOR_HOST` overrides it.
    pub endpoint: Option<Parsed<EndpointUrl>>,
    /// Credentials for `endpoint`: `anonymous` for an emulator, which is the default, or
    /// `application_default` for an endpoint of Google.
    pub credentials: Option<Login>,
}

impl Storage {
    const BUCKET_KEY: &str = "storage.bucket";

    /// Opens the store. A bucket of Cloud Storage is used with these clients. Sends nothing yet.
    ///
    /// # Errors
    /// No client can be built, or nobody has checked these settings.
    pub async fn open(&self, clients: &Clients) -> Result<Store, Error> {
        if let Some(folder) = &self.folder {
            return Ok(Store::Folder(Folder::new(folder)));
        }
        if let Some(s3) = &self.s3 {
            return open_s3(s3);
        }
        let name = self.bucket.value(Self::BUCKET_KEY)?;
        let (identity, clients) = (&clients.identity, &clients.storage);
        Ok(Store::Bucket(Bucket::open(name, &self.endpoint(), identity, clients).await?))
    }

    /// Returns the address of Cloud Storage, with its credentials.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { endpoint: self.endpoint.clone(), credentials: self.credentials }
    }

    /// Returns the address of the object with this name, for people.
    #[must_use]
    pub fn address(&self, name: &str) -> String {
        match (&self.folder, &self.s3) {
            (Some(folder), _) => folder.join(name).display().to_string(),
            (None, Some(s3)) => format!("s3://{}/{name}", s3.bucket),
            (None, None) => format!("gs://{}/{name}", self.bucket),
        }
    }

    /// Returns true if the archive is in Cloud Storage.
    pub(crate) fn is_bucket(&self) -> bool {
        self.folder.is_none() && self.s3.is_none()
    }

    /// Returns the price of an object.
    pub(crate) fn price(&self) -> Price {
        if self.folder.is_some() { Price::Free } else { Price::ClassA }
    }

    /// Reports faults in these settings.
    pub(super) fn check(&self, faults: &mut Faults) {
        let places = [
            ("bucket", !self.bucket.text().is_empty()),
            ("folder", self.folder.is_some()),
            ("s3", self.s3.is_some()),
        ];
        let named: Vec<_> =
            places.iter().filter(|(_, is_named)| *is_named).map(|(key, _)| *key).collect();
        match *named {
            [] => faults.add(Self::BUCKET_KEY, "required; or set storage.folder or storage.s3"),
            [_] => {}
            _ => faults.add(
                "storage",
                format!("must have one of bucket, folder and s3, has {}", named.join(" and ")),
            ),
        }
        if !self.bucket.text().is_empty() {
            self.bucket.check(Self::BUCKET_KEY, faults);
        }
        if let Some(folder) = &self.folder {
            let right = format!("must be an absolute path, is `{}`", folder.display());
            faults.require(folder.is_absolute(), "storage.folder", right);
        }
        if let Some(s3) = &self.s3 {
            s3.check("storage.s3", faults);
        }
        self.endpoint().check(faults);
    }
}

#[cfg(feature = "s3")]
fn open_s3(settings: &S3Settings) -> Result<Store, Error> {
    Ok(Store::S3(storage::S3::new(settings)?))
}

#[cfg(not(feature = "s3"))]
fn open_s3(_: &S3Settings) -> Result<Store, Error> {
    Err(pipeline::Recovery::Stop
        .because("open store", "this binary was built without the feature s3"))
}
