//! Tests of the promise of every store: objects are created whole or not at all, and never replaced.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod folder;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "s3")]
mod s3_double;

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use emulator::{Emulator, Options};
use pipeline::Recovery;
use service::create::Created;
use storage::{Bucket, Endpoint, Folder, Object, ObjectStore, Outage, Store};

/// Returns an object that no attempt has sent yet.
pub(crate) fn object(name: &str, content: &str) -> Object {
    Object {
        name: name.into(),
        content: Bytes::copy_from_slice(content.as_bytes()),
        content_type: "text/plain",
        metadata: vec![("first_event_time", "2025-06-15T10:00:00Z".into())],
        may_exist: AtomicBool::new(false),
    }
}

/// Checks the promise of a store that exists and is empty.
pub(crate) async fn check_promise(store: impl ObjectStore) {
    let names = ["a/b c%2Fd", "a/b/1", "a/b/2", "a/b/3", "a/b=1/#", "a/ä", "b"];
    for name in names {
        store.create(&object(name, name)).await.unwrap();
    }
    let ours = object("a/b/ours", "ours");

    store.create(&ours).await.unwrap();
    store.create(&ours).await.unwrap();
    let replaced = store.create(&object("a/b/ours", "theirs")).await.unwrap_err();

    assert_eq!(replaced.recovery(), Recovery::Retry);
    assert_eq!(store.read("a/b/ours").await.unwrap(), "ours");
    for name in names {
        assert_eq!(store.read(name).await.unwrap(), name);
    }
    assert_eq!(store.read("missing").await.unwrap_err().recovery(), Recovery::Retry);
    let mut listed = Vec::new();
    let mut page: Option<String> = None;
    loop {
        let (found, next) = store.list("a/b", page.as_deref()).await.unwrap();
        listed.extend(found);
        page = next;
        if page.is_none() {
            break;
        }
    }
    assert_eq!(listed, ["a/b c%2Fd", "a/b/1", "a/b/2", "a/b/3", "a/b/ours", "a/b=1/#"]);
    assert_eq!(store.find().await, Ok(()));
    assert!(store.dependency().await.state.is_fine());
}

#[tokio::test]
async fn cloud_storage_keeps_the_promise() {
    service::install_crypto();
    let emulator = Emulator::start(Options::default()).await.unwrap();
    let endpoint = Endpoint { endpoint: Some(emulator.url().into()), ..Endpoint::default() };
    let bucket = Bucket::new(&"bucket".parse().unwrap(), &endpoint).await.unwrap();
    assert!(matches!(bucket.find().await, Err(Outage::Missing(_))));
    assert_eq!(bucket.ensure("p").await.unwrap(), Created::Now);

    check_promise(Store::Bucket(bucket.clone())).await;

    assert_eq!(bucket.ensure("p").await.unwrap(), Created::Before);
    assert_eq!(bucket.address("a/b"), "gs://bucket/a/b");
}

#[tokio::test]
async fn a_folder_keeps_the_promise() {
    let folder = tempfile::tempdir().unwrap();

    check_promise(Store::Folder(Folder::new(folder.path()))).await;
}
