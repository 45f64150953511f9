//! Tests of Cloud Storage with Google's own client, and with raw requests that this client never
//! sends.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
#![expect(
    clippy::large_futures,
    reason = "the client's uploads take 30 KiB, which a test can bear"
)]

use std::path::Path;
use std::time::Duration;

use emulator::{Emulator, Fault, Kind, Options};
use google_cloud_auth::credentials::anonymous;
use google_cloud_storage::client::Storage;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tonic::Code;

/// Longest wait for an upload, because the client retries forever.
const PATIENCE: Duration = Duration::from_secs(30);
const BUCKET: &str = "projects/_/buckets/bucket";

async fn start(folder: Option<&Path>) -> Emulator {
    // An error means that another test has installed it already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let data_dir = folder.map(Path::to_owned);
    let emulator = Emulator::start(Options { data_dir, ..Options::default() }).await.unwrap();
    let created = Client::new().post(format!("{}/storage/v1/b?project=p", emulator.url()));
    let status = created.json(&json!({ "name": "bucket" })).send().await.unwrap().status();
    assert!(status.is_success() || status == StatusCode::CONFLICT, "{status}");
    emulator
}

async fn client(emulator: &Emulator) -> Storage {
    let builder = Storage::builder().with_endpoint(emulator.url());
    builder.with_credentials(anonymous::Builder::new().build()).build().await.unwrap()
}

async fn read(emulator: &Emulator, name: &str) -> Vec<u8> {
    let url =
        format!("{}/storage/v1/b/bucket/o/{}?alt=media", emulator.url(), name.replace('/', "%2F"));
    reqwest::get(url).await.unwrap().error_for_status().unwrap().bytes().await.unwrap().to_vec()
}

async fn get(url: String) -> (StatusCode, Value) {
    let answer = reqwest::get(url).await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

#[tokio::test]
async fn an_upload_in_one_shot_arrives_with_its_metadata() {
    let emulator = start(None).await;

    let uploaded = client(&emulator)
        .await
        .write_object(BUCKET, "a/b.txt", "hello")
        .set_if_generation_match(0)
        .set_content_type("text/plain")
        .set_metadata([("records", "1")])
        .send_unbuffered()
        .await
        .unwrap();

    assert_eq!((uploaded.size, uploaded.name.as_str()), (5, "a/b.txt"));
    assert_eq!(read(&emulator, "a/b.txt").await, b"hello");
    let (_, found) = get(format!("{}/storage/v1/b/bucket/o/a%2Fb.txt", emulator.url())).await;
    assert_eq!(found["contentType"], "text/plain");
    assert_eq!(found["metadata"]["records"], "1");
    assert_eq!(found["crc32c"], "mnG7TA==");
    assert_eq!(
        std::fs::read(emulator.data_dir().join("storage/bucket/a/b.txt")).unwrap(),
        b"hello"
    );
}

#[tokio::test]
async fn a_resumable_upload_arrives_whole() {
    let emulator = start(None).await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();

    for (name, buffered) in [("buffered", true), ("unbuffered", false)] {
        let upload = client(&emulator)
            .await
            .write_object(BUCKET, name, bytes::Bytes::from(content.clone()))
            .set_if_generation_match(0)
            .with_resumable_upload_threshold(0_usize)
            .with_resumable_upload_buffer_size(1_000_000_usize);
        let sent = async {
            if buffered { upload.send_buffered().await } else { upload.send_unbuffered().await }
        };
        tokio::time::timeout(PATIENCE, sent).await.unwrap().unwrap();
        assert!(read(&emulator, name).await == content, "{name}");
    }
}

#[tokio::test]
async fn an_object_is_created_once() {
    let emulator = start(None).await;
    let storage = client(&emulator).await;
    let create = |content: &'static str| {
        storage.write_object(BUCKET, "once", content).set_if_generation_match(0).send_unbuffered()
    };

    create("first").await.unwrap();
    let refused = create("second").await.unwrap_err();

    assert_eq!(refused.http_status_code(), Some(412));
    assert_eq!(read(&emulator, "once").await, b"first");
}

#[tokio::test]
async fn a_wrong_checksum_is_refused() {
    let emulator = start(None).await;
    let url = format!("{}/upload/storage/v1/b/bucket/o?uploadType=media&name=x", emulator.url());

    let upload =
        |hash: &'static str| Client::new().post(&url).header("x-goog-hash", hash).body("hello");
    let wrong = upload("crc32c=AAAAAA==").send().await.unwrap();
    let right = upload("crc32c=mnG7TA==").send().await.unwrap();

    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    assert_eq!(right.status(), StatusCode::OK);
}

#[tokio::test]
async fn listings_have_prefixes_delimiters_and_pages() {
    let emulator = start(None).await;
    let storage = client(&emulator).await;
    for name in ["a/1", "a/2", "a/b/3", "c", "d/4"] {
        storage.write_object(BUCKET, name, "x").send_unbuffered().await.unwrap();
    }
    let list = |query: &str| get(format!("{}/storage/v1/b/bucket/o?{query}", emulator.url()));
    let names = |page: &Value| {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };

    let (_, all) = list("").await;
    let (_, folder) = list("prefix=a/&delimiter=/").await;
    let (_, top) = list("delimiter=/").await;
    let mut paged = Vec::new();
    let mut token = String::new();
    loop {
        let (_, page) =
            list(&format!("maxResults=2&pageToken={}", token.replace('/', "%2F"))).await;
        paged.extend(names(&page));
        match page["nextPageToken"].as_str() {
            Some(next) => next.clone_into(&mut token),
            None => break,
        }
    }

    assert_eq!(names(&all), ["a/1", "a/2", "a/b/3", "c", "d/4"]);
    assert_eq!(
        (names(&folder), &folder["prefixes"]),
        (vec!["a/1".into(), "a/2".into()], &json!(["a/b/"]))
    );
    assert_eq!((names(&top), &top["prefixes"]), (vec!["c".into()], &json!(["a/", "d/"])));
    assert_eq!(paged, names(&all));
}

#[tokio::test]
async fn objects_survive_a_restart_and_staged_data_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let emulator = start(Some(folder.path())).await;
    let storage = client(&emulator).await;
    // Names that cannot be file names. One of them is also the folder of another one.
    let names = ["plain", "a", "a/b", "..", "x//y", "with %2F and #", &"long".repeat(200)];
    for name in names.iter().filter(|name| **name != "..") {
        storage.write_object(BUCKET, *name, "one").send_unbuffered().await.unwrap();
    }
    storage.write_object(BUCKET, "plain", "two").send_unbuffered().await.unwrap();
    storage.write_object(BUCKET, "gone", "x").send_unbuffered().await.unwrap();
    let gone = format!("{}/storage/v1/b/bucket/o/gone", emulator.url());
    assert!(Client::new().delete(gone).send().await.unwrap().status().is_success());
    emulator.shutdown().await;
    // A file that a crash in the middle of an upload leaves.
    let staged = folder.path().join("storage/.state/bucket/staged/half");
    std::fs::write(&staged, "ha").unwrap();

    let emulator = start(Some(folder.path())).await;

    let (_, listed) = get(format!("{}/storage/v1/b/bucket/o", emulator.url())).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), names.len() - 1);
    assert_eq!(read(&emulator, "plain").await, b"two");
    assert_eq!(read(&emulator, "a").await, b"one");
    assert_eq!(read(&emulator, "a/b").await, b"one");
    assert_eq!(read(&emulator, "x//y").await, b"one");
    assert!(!staged.exists());
}

#[tokio::test]
async fn what_is_missing_is_404_and_what_is_not_supported_names_itself() {
    let emulator = start(None).await;
    let url = emulator.url();

    let (no_bucket, _) = get(format!("{url}/storage/v1/b/nowhere")).await;
    let (no_object, _) = get(format!("{url}/storage/v1/b/bucket/o/nothing")).await;
    let (unsupported, _) = get(format!("{url}/bigquery/v2/projects")).await;

    assert_eq!(no_bucket, StatusCode::NOT_FOUND);
    assert_eq!(no_object, StatusCode::NOT_FOUND);
    assert_eq!(unsupported, StatusCode::NOT_IMPLEMENTED);
}

#[tokio::test]
async fn faults_hit_the_next_calls_and_no_more() {
    let emulator = start(None).await;
    let upload = async |name: &str| {
        let url =
            format!("{}/upload/storage/v1/b/bucket/o?uploadType=media&name={name}", emulator.url());
        Client::new().post(url).body("x").send().await.unwrap().status()
    };
    let exists = async |name: &str| {
        get(format!("{}/storage/v1/b/bucket/o/{name}", emulator.url())).await.0 == StatusCode::OK
    };

    emulator.faults().refuse("storage.objects.insert", 1, Code::ResourceExhausted);
    emulator.faults().lose_reply("storage.objects.insert", 1);

    assert_eq!(upload("refused").await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(upload("lost").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(upload("fine").await, StatusCode::OK);
    assert!(!exists("refused").await);
    assert!(exists("lost").await);
    let planned = format!("{}/emulator/v1/faults", emulator.url());
    assert_eq!(get(planned).await.1, json!([]));
}

#[tokio::test]
async fn a_fault_can_end_with_time_and_say_when_to_come_again() {
    let emulator = start(None).await;
    let upload = format!("{}/upload/storage/v1/b/bucket/o?uploadType=media&name=o", emulator.url());
    let upload = async || Client::new().post(&upload).body("x").send().await.unwrap();
    let method = "storage.objects.insert";
    let plan = async |fault: Value| {
        let url = format!("{}/emulator/v1/faults", emulator.url());
        let planned = Client::new().post(url).json(&fault).send().await.unwrap();
        assert_eq!(planned.status(), StatusCode::OK);
    };

    plan(json!({ "method": method, "count": 9, "for_millis": 0, "kind": "lose_reply" })).await;
    plan(json!({ "method": method, "count": 1, "kind": "refuse", "code": 8, "retry_after": 2 }))
        .await;
    plan(json!({ "method": method, "count": 1, "kind": "delay_reply", "millis": 1 })).await;

    let refused = upload().await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "2");
    assert_eq!(upload().await.status(), StatusCode::OK);
    assert_eq!(emulator.faults().planned(), []);
    let (_, calls) = get(format!("{}/emulator/v1/calls", emulator.url())).await;
    assert_eq!(calls[method], 1, "{calls}");
}

#[tokio::test]
async fn errors_of_downloads_are_text() {
    let emulator = start(None).await;
    client(&emulator).await.write_object(BUCKET, "o", "text").send_unbuffered().await.unwrap();
    let read = async |path: &str, range: &str| {
        let url = format!("{}{path}", emulator.url());
        let read = Client::new().get(url).header("range", range).send().await.unwrap();
        let headers = read.headers().clone();
        assert_eq!(headers["content-type"], "text/html; charset=UTF-8", "{path}");
        (read.status().as_u16(), read.text().await.unwrap(), headers.contains_key("retry-after"))
    };

    for (path, range, expected) in [
        ("/download/storage/v1/b/bucket/o/x?alt=media", "", (404, "No such object: bucket/x")),
        ("/storage/v1/b/none/o/x?alt=media", "", (404, "The specified bucket does not exist.")),
        ("/b/bucket/o/o?alt=media", "bytes=9-", (416, "Request range not satisfiable")),
    ] {
        let (status, body, _) = read(path, range).await;
        assert_eq!((status, &*body), expected, "{path}");
    }
    let kind = Kind::Refuse { code: 14, retry_after: Some(2), reason: None, message: None };
    let method = "storage.objects.read".to_owned();
    emulator.faults().add(Fault { method, topic: None, count: 1, for_millis: None, kind });
    let (status, body, is_told) = read("/b/bucket/o/o?alt=media", "").await;
    assert_eq!((status, &*body, is_told), (503, "storage.objects.read refused on demand", true));

    let (status, body) = get(format!("{}/storage/v1/b/bucket/o/x", emulator.url())).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (404, &json!(404)), "no download");
}

#[tokio::test]
async fn what_a_bucket_was_given_is_shown_or_refused() {
    let emulator = start(None).await;
    let create = async |parameters: &str, bucket: &Value| {
        let url = format!("{}/storage/v1/b?project=p{parameters}", emulator.url());
        Client::new().post(url).json(bucket).send().await.unwrap().status()
    };
    let off = json!({ "enabled": false });
    let given = json!({ "name": "given", "rpo": "DEFAULT", "hierarchicalNamespace": off });

    assert_eq!(create("", &given).await, StatusCode::OK);
    let (_, shown) = get(format!("{}/storage/v1/b/given", emulator.url())).await;
    for field in ["rpo", "hierarchicalNamespace"] {
        assert_eq!(shown[field], given[field], "{shown}");
    }

    let bucket = json!({ "name": "retained" });
    let retained = create("&enableObjectRetention=True", &bucket).await;
    assert_eq!(retained, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(create("&enableObjectRetention=false", &bucket).await, StatusCode::OK);
}
