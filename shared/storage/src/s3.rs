//! Stores with the API of S3. The client is a feature of this crate, because it adds dependencies.

#[cfg(feature = "s3")]
mod client;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::Faults;
use service::google::EndpointUrl;
use service::settings::Parsed;

use crate::name::BucketName;
#[cfg(feature = "s3")]
pub use client::S3;

/// Bucket of a store with the API of S3. Its keys come from the variables `AWS_ACCESS_KEY_ID` and
/// `AWS_SECRET_ACCESS_KEY`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct S3Settings {
    /// Name of the bucket. Required, and it must exist.
    pub bucket: Parsed<BucketName>,
    /// URL of the store, such as `https://minio.example.org:9000`. Left out, Amazon's own endpoint
    /// of the region is used.
    pub endpoint: Option<Parsed<EndpointUrl>>,
    /// Region of the bucket.
    pub region: String,
    /// If true, `endpoint` may begin with `http://`. Messages are then readable on the network.
    pub allow_http: bool,
}

impl Default for S3Settings {
    fn default() -> Self {
        let (bucket, region) = (Parsed::default(), "us-east-1".into());
        Self { bucket, endpoint: None, region, allow_http: false }
    }
}

impl S3Settings {
    /// Reports faults in these settings, whose section is `section`.
    pub fn check(&self, section: &str, faults: &mut Faults) {
        let right = "this binary cannot use S3: build it with `cargo build --release -p icestore --features s3`";
        faults.require(cfg!(feature = "s3"), section, right);
        self.bucket.check_required(&format!("{section}.bucket"), "required", faults);
        let region = format!("{section}.region");
        faults.require(
            !self.region.is_empty(),
            &region,
            "must not be empty, the default is us-east-1",
        );
        let Some(endpoint) = &self.endpoint else { return };
        let key = format!("{section}.endpoint");
        let is_plain = endpoint.text().starts_with("http://");
        if endpoint.check(&key, faults).is_some() && is_plain {
            let right = format!("must begin with https://, or set {section}.allow_http: true");
            faults.require(self.allow_http, &key, right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(settings: &S3Settings) -> Vec<String> {
        let mut faults = Faults::default();
        settings.check("storage.s3", &mut faults);
        let is_about_build = |line: &&String| !line.starts_with("storage.s3: ");
        faults.lines().iter().filter(is_about_build).cloned().collect()
    }

    #[test]
    fn every_fault_names_its_key() {
        let right = S3Settings { bucket: "b".into(), ..S3Settings::default() };
        let at = |url: &str, allow_http| S3Settings {
            endpoint: Some(url.into()),
            allow_http,
            ..right.clone()
        };

        assert!(faults(&right).is_empty());
        assert!(faults(&at("https://minio:9000", false)).is_empty());
        assert!(faults(&at("http://minio:9000", true)).is_empty());
        let plain =
            "storage.s3.endpoint: must begin with https://, or set storage.s3.allow_http: true";
        assert_eq!(faults(&at("http://minio:9000", false)), [plain]);
        assert!(
            faults(&at("minio:9000", true))[0].starts_with("storage.s3.endpoint: must be a URL")
        );
        let empty = S3Settings { region: String::new(), ..S3Settings::default() };
        let keys: Vec<_> =
            faults(&empty).iter().map(|line| line.split(':').next().unwrap().to_owned()).collect();
        assert_eq!(keys, ["storage.s3.bucket", "storage.s3.region"]);
    }

    #[test]
    fn a_build_without_the_feature_tells_how_to_get_it() {
        let mut faults = Faults::default();
        S3Settings { bucket: "b".into(), ..S3Settings::default() }.check("storage.s3", &mut faults);

        if cfg!(feature = "s3") {
            assert!(faults.lines().is_empty());
        } else {
            assert!(faults.lines()[0].contains("-p icestore --features s3"), "{faults}");
        }
    }
}
