//! Tests of the XML API of Cloud Storage, which signed and public URLs use.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use emulator::{Emulator, Options};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// An emulator with a NEARLINE bucket, and a client of it.
struct Cloud {
    emulator: Emulator,
    client: Client,
}

impl Cloud {
    async fn start() -> Self {
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let cloud = Self { emulator, client: Client::new() };
        let bucket = json!({ "name": "bucket", "storageClass": "NEARLINE" });
        let created = cloud.call(Method::POST, "/storage/v1/b?project=p").json(&bucket);
        assert_eq!(created.send().await.unwrap().status(), StatusCode::OK);
        cloud
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.emulator.url()))
    }

    async fn class(&self, name: &str) -> Value {
        let object = self.call(Method::GET, &format!("/storage/v1/b/bucket/o/{name}"));
        object.send().await.unwrap().json::<Value>().await.unwrap()["storageClass"].clone()
    }
}

#[tokio::test]
async fn parameters_of_a_signed_url_replace_headers_of_the_download() {
    let cloud = Cloud::start().await;
    let put = cloud.call(Method::PUT, "/bucket/o").header("content-type", "text/plain");
    put.body("data").send().await.unwrap();

    let path = "/bucket/o?X-Goog-Signature=0&response-content-type=text/csv\
                &response-content-disposition=attachment%3B%20filename%3D%22a.csv%22";
    let read = cloud.call(Method::GET, path).send().await.unwrap();

    assert_eq!(read.headers()["content-type"], "text/csv");
    assert_eq!(read.headers()["content-disposition"], "attachment; filename=\"a.csv\"");
}

#[tokio::test]
async fn parts_of_objects_and_headers_that_are_not_supported_change_nothing() {
    let cloud = Cloud::start().await;
    cloud.call(Method::PUT, "/bucket/o").body("data").send().await.unwrap();

    for (method, path, header) in [
        (Method::GET, "/bucket/o?acl", None),
        (Method::PUT, "/bucket/o?acl", None),
        (Method::PUT, "/bucket/o?tagging", None),
        (Method::PUT, "/bucket/o?partNumber=1&uploadId=x", None),
        (Method::PUT, "/bucket/o", Some(("x-amz-copy-source", "/bucket/other"))),
        (Method::PUT, "/bucket/o", Some(("x-goog-acl", "public-read"))),
        (Method::PUT, "/bucket/o", Some(("x-goog-object-lock-mode", "GOVERNANCE"))),
    ] {
        let call = cloud.call(method.clone(), path).body("<xml/>");
        let call = header.into_iter().fold(call, |call, (name, value)| call.header(name, value));
        let answer = call.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_IMPLEMENTED, "{method} {path} {header:?}");
        assert!(answer.text().await.unwrap().contains("<Code>NotImplemented</Code>"));
    }

    let read = cloud.call(Method::GET, "/bucket/o").send().await.unwrap();
    assert_eq!(read.text().await.unwrap(), "data");
}

#[tokio::test]
async fn an_upload_outside_of_the_signed_range_of_sizes_is_refused() {
    let cloud = Cloud::start().await;
    let put = async |range: &str| {
        let put = cloud.call(Method::PUT, "/bucket/o").header("x-goog-content-length-range", range);
        put.body("data").send().await.unwrap().status()
    };

    let statuses = [put("0,3").await, put("5,9").await, put("a").await, put("0,4").await];

    let refused = StatusCode::BAD_REQUEST;
    assert_eq!(statuses, [refused, refused, refused, StatusCode::OK]);
}

#[tokio::test]
async fn objects_have_the_storage_class_of_the_bucket_unless_they_name_another() {
    let cloud = Cloud::start().await;

    cloud.call(Method::PUT, "/bucket/xml").body("x").send().await.unwrap();
    let cold = cloud.call(Method::PUT, "/bucket/cold").header("x-goog-storage-class", "COLDLINE");
    cold.body("x").send().await.unwrap();
    let path = "/upload/storage/v1/b/bucket/o?uploadType=media&name=json";
    cloud.call(Method::POST, path).body("x").send().await.unwrap();

    assert_eq!(cloud.class("xml").await, "NEARLINE");
    assert_eq!(cloud.class("json").await, "NEARLINE");
    assert_eq!(cloud.class("cold").await, "COLDLINE");
}
