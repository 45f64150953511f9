//! Tests of clients and credentials that are handed in, and of a credentials file.

use std::future::poll_fn;
use std::path::Path;
use std::task::Poll;

use emulator::{Emulator, Options};
use google_cloud_auth::credentials::anonymous;
use google_cloud_storage::client::Storage;
use serde_json::json;
use service::google::{GoogleSettings, Identity, Login};
use service::tools::preflight::State;
use storage::{Bucket, Clients, Endpoint, ObjectStore as _};

use crate::scripted::Scripted;
use crate::{BUCKET, make_bucket, object};

async fn open(endpoint: &Endpoint, identity: &Identity, clients: &Clients) -> Bucket {
    service::install_crypto();
    Bucket::open(&"bucket".parse().unwrap(), endpoint, identity, clients).await.unwrap()
}

fn at(url: &str, credentials: Option<Login>) -> Endpoint {
    Endpoint { endpoint: Some(url.into()), credentials }
}

/// Writes a key, with this id, of a service account that nobody knows.
fn write_key(file: &Path, id: &str) -> Identity {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let content = json!({
        "type": "service_account", "client_email": "robot@p.iam.gserviceaccount.com", "private_key_id": id,
        "private_key": key.serialize_pem(), "project_id": "p",
    });
    std::fs::write(file, content.to_string()).unwrap();
    GoogleSettings { credentials_file: Some(file.to_owned()) }.identity()
}

#[tokio::test]
async fn uploads_and_checks_bear_a_token_of_the_credentials_file() {
    let server = Scripted::start().await;
    server.answers(BUCKET, 200, "{}");
    let folder = tempfile::tempdir().unwrap();
    let identity = write_key(&folder.path().join("key.json"), "1");
    let endpoint = at(&server.url, Some(Login::ApplicationDefault));
    let bucket = open(&endpoint, &identity, &Clients::default()).await;

    bucket.dependency().await;
    bucket.create(&object("a", "content")).await.unwrap_err();

    let (asked, tokens) = (server.asked(), server.header("authorization"));
    assert!(asked.iter().any(|path| path.starts_with("/upload/")), "{asked:?}");
    assert_eq!(tokens.len(), asked.len(), "{asked:?}");
    assert!(tokens.iter().all(|token| token.starts_with("Bearer ey")), "{asked:?}");
}

/// Starts an upload, and drops it before its answer.
async fn cancel_upload(bucket: &Bucket) {
    let object = object("cancelled", "content");
    let mut upload = Box::pin(bucket.create(&object));
    let is_waiting = poll_fn(|context| Poll::Ready(upload.as_mut().poll(context).is_pending()));
    assert!(is_waiting.await);
}

#[tokio::test]
async fn a_client_that_is_rebuilt_has_the_credentials_of_a_replaced_file() {
    let server = Scripted::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.json");
    let identity = write_key(&file, "1");
    let endpoint = at(&server.url, Some(Login::ApplicationDefault));
    let bucket = open(&endpoint, &identity, &Clients::default()).await;
    // The first part of a token names its key.
    let key = async || {
        bucket.create(&object("a", "content")).await.unwrap_err();
        let token = server.header("authorization").pop().unwrap();
        token.split('.').next().unwrap().to_owned()
    };

    let first = key().await;
    write_key(&file, "2");
    let kept = key().await;
    cancel_upload(&bucket).await;
    let rebuilt = key().await;

    assert_eq!(kept, first, "a client is not rebuilt without a reason");
    assert_ne!(rebuilt, first);
}

#[tokio::test]
async fn an_emulator_gets_no_token_of_the_credentials_file() {
    let server = Scripted::start().await;
    let folder = tempfile::tempdir().unwrap();
    let identity = write_key(&folder.path().join("key.json"), "1");
    let bucket = open(&at(&server.url, None), &identity, &Clients::default()).await;

    bucket.dependency().await;
    bucket.create(&object("a", "content")).await.unwrap_err();

    assert!(server.asked().len() >= 2);
    assert!(server.header("authorization").is_empty());
}

#[tokio::test]
async fn objects_are_created_by_the_client_that_is_handed_in() {
    let emulator = Emulator::start(Options::default()).await.unwrap();
    make_bucket(&emulator).await;
    service::install_crypto();
    let uploads = Storage::builder()
        .with_endpoint(emulator.url())
        .with_credentials(anonymous::Builder::new().build());
    let clients = Clients { uploads: Some(uploads.build().await.unwrap()), ..Clients::default() };
    // Nobody listens at the address of the settings.
    let bucket = open(&at("http://127.0.0.1:1", None), &Identity::default(), &clients).await;

    bucket.create(&object("a", "content")).await.unwrap();

    let other = crate::bucket(&emulator.url()).await;
    assert_eq!(other.read("a").await.unwrap(), "content");
}

#[tokio::test]
async fn checks_use_the_http_client_that_is_handed_in() {
    let server = Scripted::start().await;
    server.answers(BUCKET, 200, "{}");
    let permission = r#"{"permissions": ["storage.objects.create"]}"#;
    server.answers(&format!("{BUCKET}/iam/testPermissions"), 200, permission);
    let http = reqwest::Client::builder().user_agent("own").build().unwrap();
    let clients = Clients { http: Some(http), ..Clients::default() };
    let bucket = open(&at(&server.url, None), &Identity::default(), &clients).await;

    assert_eq!(bucket.dependency().await.state, State::Ready);

    assert_eq!(server.header("user-agent"), ["own", "own"]);
}
