//! Tests of the JSON and XML APIs of Cloud Storage with raw requests, as clients of other languages
//! send them.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::{Read as _, Write as _};

use emulator::{Emulator, Options};
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// An emulator with a bucket, and a client of it.
struct Cloud {
    emulator: Emulator,
    client: Client,
}

impl Cloud {
    async fn start() -> Self {
        let emulator = Emulator::start(Options::default()).await.unwrap();
        // The tests check the raw answers.
        let client = Client::builder().no_gzip().build().unwrap();
        let cloud = Self { emulator, client };
        let created = cloud.call(Method::POST, "/storage/v1/b?project=p");
        let created = created.json(&json!({ "name": "bucket" })).send().await.unwrap();
        assert_eq!(created.status(), StatusCode::OK);
        cloud
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.emulator.url()))
    }

    async fn json(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let answer = self.call(method, path).json(&body).send().await.unwrap();
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = self.call(Method::GET, path).send().await.unwrap();
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }

    /// Uploads a text and returns the object.
    async fn put(&self, name: &str, content: &str) -> Value {
        let path = format!("/upload/storage/v1/b/bucket/o?uploadType=media&name={name}");
        let sent = self.call(Method::POST, &path).header("content-type", "text/plain");
        let sent = sent.body(content.to_owned()).send().await.unwrap();
        assert_eq!(sent.status(), StatusCode::OK);
        sent.json().await.unwrap()
    }

    async fn text(&self, name: &str) -> String {
        let path = format!("/storage/v1/b/bucket/o/{name}?alt=media");
        self.call(Method::GET, &path).send().await.unwrap().text().await.unwrap()
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn an_object_has_the_sums_the_tag_and_the_times_that_clients_read() {
    let cloud = Cloud::start().await;

    let created = cloud.put("hello", "hello").await;
    let changed = json!({ "metadata": { "k": "v" } });
    let (_, changed) = cloud.json(Method::PATCH, "/storage/v1/b/bucket/o/hello", changed).await;

    assert_eq!(created["md5Hash"], "XUFAKrxLKna5cZ2REBfFkg==");
    assert_eq!(created["crc32c"], "mnG7TA==");
    assert_ne!(created["etag"], changed["etag"]);
    assert_eq!((&changed["metageneration"], &changed["metadata"]["k"]), (&json!("2"), &json!("v")));
    let time = created["timeCreated"].as_str().unwrap();
    assert!(time.len() == "2025-01-01T00:00:00.000Z".len() && time.ends_with('Z'), "{time}");
    let media = created["mediaLink"].as_str().unwrap().to_owned();
    assert_eq!(cloud.client.get(media).send().await.unwrap().text().await.unwrap(), "hello");
}

#[tokio::test]
async fn a_multipart_upload_may_have_lf_line_ends_and_any_quotes() {
    let cloud = Cloud::start().await;
    let body = "--=b=\nContent-Type: application/json\n\n{\"name\":\"lf\"}\n--=b=\n\
                Content-Type: text/plain\n\nhello\n--=b=--\n";

    for boundary in ["=b=", "\"=b=\"", "'=b='"] {
        let sent = cloud
            .call(Method::POST, "/upload/storage/v1/b/bucket/o?uploadType=multipart")
            .header("content-type", format!("multipart/related; boundary={boundary}"));
        let sent = sent.body(body).send().await.unwrap();

        assert_eq!(sent.status(), StatusCode::OK, "{boundary}");
        assert_eq!(cloud.text("lf").await, "hello");
    }
}

#[tokio::test]
async fn a_resumable_upload_of_unknown_length_ends_with_its_body() {
    let cloud = Cloud::start().await;
    for prefix in ["/upload", "/resumable/upload"] {
        let begin = format!("{prefix}/storage/v1/b/bucket/o?uploadType=resumable&name=stream");
        let begun = cloud.call(Method::POST, &begin).send().await.unwrap();
        let location = begun.headers()["location"].to_str().unwrap().to_owned();

        let sent = cloud.client.put(location).header("content-range", "bytes 0-*/*");
        let sent = sent.body("all of it").send().await.unwrap();

        assert_eq!(sent.status(), StatusCode::OK);
        assert_eq!(cloud.text("stream").await, "all of it");
    }
}

#[tokio::test]
async fn gzip_is_undone_only_for_clients_that_cannot() {
    let cloud = Cloud::start().await;
    let path = "/upload/storage/v1/b/bucket/o?uploadType=media&name=z&contentEncoding=gzip";
    let stored = gzip("plain text");
    cloud.call(Method::POST, path).body(stored.clone()).send().await.unwrap();
    let read = cloud.call(Method::GET, "/storage/v1/b/bucket/o/z?alt=media");

    let plain = read.try_clone().unwrap().header("range", "bytes=0-1").send().await.unwrap();
    let packed = read.header("accept-encoding", "gzip").send().await.unwrap();

    assert_eq!(plain.headers().get("content-encoding"), None);
    assert_eq!(plain.headers()["x-goog-stored-content-encoding"], "gzip");
    assert_eq!(plain.text().await.unwrap(), "plain text");
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    let packed = packed.bytes().await.unwrap();
    assert_eq!(packed, stored);
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_ref()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "plain text");
}

#[tokio::test]
async fn objects_are_composed_copied_and_moved() {
    let cloud = Cloud::start().await;
    let one = cloud.put("one", "1").await;
    cloud.put("two", "22").await;

    let sources = json!({ "sourceObjects": [{ "name": "one" }, { "name": "two" }] });
    let compose = "/storage/v1/b/bucket/o/both/compose?ifGenerationMatch=0";
    let (composed, both) = cloud.json(Method::POST, compose, sources.clone()).await;
    let (again, _) = cloud.json(Method::POST, compose, sources).await;
    let to = json!({ "contentType": "a/b" });
    let rewrite = "/storage/v1/b/bucket/o/both/rewriteTo/b/bucket/o/copy%2Fof";
    let (_, rewritten) = cloud.json(Method::POST, rewrite, to).await;
    let stale =
        format!("{rewrite}?ifSourceGenerationMatch={}", one["generation"].as_str().unwrap());
    let (stale, _) = cloud.json(Method::POST, &stale, json!({})).await;
    let (moved, _) = cloud.json(Method::POST, "/b/bucket/o/one/moveTo/o/moved", json!({})).await;

    assert_eq!((composed, again), (StatusCode::OK, StatusCode::PRECONDITION_FAILED));
    assert_eq!((&both["componentCount"], both.get("md5Hash")), (&json!(2), None));
    assert_eq!(both.get("contentType"), None, "none of the sources'");
    assert_eq!((&rewritten["done"], &rewritten["objectSize"]), (&json!(true), &json!("3")));
    assert_eq!(rewritten["resource"]["contentType"], "a/b");
    assert_eq!(stale, StatusCode::PRECONDITION_FAILED);
    assert_eq!(cloud.text("copy%2Fof").await, "122");
    assert_eq!((moved, cloud.text("moved").await), (StatusCode::OK, "1".to_owned()));
    assert_eq!(cloud.get("/storage/v1/b/bucket/o/one").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn generations_decide_what_is_read_written_and_not_there() {
    let cloud = Cloud::start().await;
    let old = cloud.put("o", "old").await["generation"].as_str().unwrap().to_owned();
    let new = cloud.put("o", "new").await["generation"].as_str().unwrap().to_owned();
    let object = "/storage/v1/b/bucket/o/o";
    let status = async |query: String| cloud.get(&format!("{object}?{query}")).await.0;

    assert!(new > old, "{new} {old}");
    assert_eq!(status(format!("generation={new}")).await, StatusCode::OK);
    assert_eq!(status(format!("generation={old}")).await, StatusCode::NOT_FOUND);
    assert_eq!(status(format!("ifGenerationMatch={old}")).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(status(format!("ifGenerationNotMatch={new}")).await, StatusCode::NOT_MODIFIED);
    assert_eq!(status("ifMetagenerationNotMatch=1".into()).await, StatusCode::NOT_MODIFIED);
    let delete = format!("{object}?ifGenerationMatch={old}");
    let (kept, _) = cloud.json(Method::DELETE, &delete, json!({})).await;
    assert_eq!((kept, cloud.text("o").await), (StatusCode::PRECONDITION_FAILED, "new".to_owned()));
}

#[tokio::test]
async fn buckets_are_changed_and_say_what_they_cannot() {
    let cloud = Cloud::start().await;
    let other = "/storage/v1/b?project=p&predefinedAcl=projectPrivate";
    let (created, _) = cloud.json(Method::POST, other, json!({ "name": "other" })).await;
    assert_eq!(created, StatusCode::OK, "the list of rights that all buckets have");
    let bucket = "/storage/v1/b/bucket";

    let (_, labelled) =
        cloud.json(Method::PATCH, bucket, json!({ "labels": { "a": "1", "b": "2" } })).await;
    let (_, fewer) = cloud.json(Method::PATCH, bucket, json!({ "labels": { "a": null } })).await;
    let versions = json!({ "versioning": { "enabled": true } });
    let (refused, why) = cloud.json(Method::PATCH, bucket, versions).await;
    let off = json!({ "versioning": { "enabled": false } });
    let (accepted, _) = cloud.json(Method::PATCH, bucket, off).await;

    let (_, replaced) = cloud.json(Method::PUT, bucket, json!({ "name": "bucket" })).await;

    assert_eq!(labelled["labels"], json!({ "a": "1", "b": "2" }));
    assert_eq!(replaced["labels"], Value::Null);
    let located = json!({ "name": "located", "location": "EU" });
    cloud.json(Method::POST, "/storage/v1/b?project=p", located).await;
    let (list, _) = cloud.json(Method::PUT, "/storage/v1/b/located", json!(["no object"])).await;
    assert_eq!(list, StatusCode::BAD_REQUEST);
    let (_, kept) = cloud.json(Method::PUT, "/storage/v1/b/located", json!({})).await;
    assert_eq!(kept["location"], "EU");
    assert_eq!(replaced["location"], labelled["location"]);
    assert_eq!((&fewer["labels"], &fewer["metageneration"]), (&json!({ "b": "2" }), &json!("3")));
    assert_eq!((refused, accepted), (StatusCode::NOT_IMPLEMENTED, StatusCode::OK));
    assert!(why["error"]["message"].as_str().unwrap().contains("`versioning`"), "{why}");
}

#[tokio::test]
async fn etags_decide_what_is_read() {
    let cloud = Cloud::start().await;
    let object = cloud.put("o", "text").await;
    let etag = object["etag"].as_str().unwrap();
    let read = async |header: &str, tag: &str| {
        let path = "/storage/v1/b/bucket/o/o?alt=media";
        let read = cloud.call(Method::GET, path).header(header, tag).send().await.unwrap();
        read.status().as_u16()
    };

    assert_eq!(read("if-match", etag).await, 200);
    assert_eq!(read("if-match", &format!("\"other\", \"{etag}\"")).await, 200);
    assert_eq!(read("if-match", "other").await, 412);
    assert_eq!(read("if-none-match", "other").await, 200);
    assert_eq!(read("if-none-match", etag).await, 304);
    assert_eq!(read("if-none-match", "*").await, 304);
}

#[tokio::test]
async fn a_resumable_upload_checks_the_sums_of_both_places() {
    let cloud = Cloud::start().await;
    let finish = async |sum: &str, header: &str| {
        let path = "/upload/storage/v1/b/bucket/o?uploadType=resumable&name=o";
        let begun = cloud.call(Method::POST, path).json(&json!({ "crc32c": sum })).send().await;
        let begun = begun.unwrap();
        let headers = begun.headers();
        let location = headers["location"].to_str().unwrap();
        let id = headers["x-guploader-uploadid"].to_str().unwrap();
        assert!(location.ends_with(id), "{location} {id}");
        let sent = cloud.client.put(location).header("x-goog-hash", header).body("hello");
        sent.send().await.unwrap().status().as_u16()
    };

    assert_eq!(finish("mnG7TA==", "crc32c=mnG7TA==").await, 200);
    assert_eq!(finish("A0tD7w==", "crc32c=mnG7TA==").await, 400);
}

#[tokio::test]
async fn a_download_names_its_sums_in_one_header() {
    let cloud = Cloud::start().await;
    cloud.put("hello", "hello").await;

    let path = "/storage/v1/b/bucket/o/hello?alt=media";
    let read = cloud.call(Method::GET, path).send().await.unwrap();

    let sums: Vec<_> = read.headers().get_all("x-goog-hash").iter().collect();
    assert_eq!(sums, ["crc32c=mnG7TA==,md5=XUFAKrxLKna5cZ2REBfFkg=="]);
}

#[tokio::test]
async fn a_batch_answers_each_of_its_calls() {
    let cloud = Cloud::start().await;
    cloud.put("one", "1").await;
    let body = format!(
        "--b\nContent-Type: application/http\nContent-ID: <x+1>\n\nDELETE {0}/storage/v1/b/bucket/o/one HTTP/1.1\n\n\n\
         --b\nContent-Type: application/http\nContent-ID: <x+2>\n\nPATCH /storage/v1/b/bucket/o/none HTTP/1.1\n\
         Content-Type: application/json\n\n{{\"contentType\":\"a/b\"}}\n--b--",
        cloud.emulator.url()
    );

    let sent = cloud.call(Method::POST, "/batch/storage/v1");
    let sent = sent.header("content-type", "multipart/mixed; boundary=\"b\"").body(body);
    let answer = sent.send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::OK);
    let text = answer.text().await.unwrap();
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in {text}"));
    assert!(at("<response-x+1>") < at("HTTP/1.1 204 No Content"), "{text}");
    assert!(at("<response-x+2>") < at("HTTP/1.1 404 Not Found"), "{text}");
    assert_eq!(cloud.get("/storage/v1/b/bucket/o/one").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn signed_urls_read_write_and_begin_uploads() {
    let cloud = Cloud::start().await;
    let signed = "/bucket/a/b%20c?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Signature=00";

    let written = cloud.call(Method::PUT, signed).header("content-type", "text/plain");
    let written = written.header("x-goog-meta-k", "v").body("signed").send().await.unwrap();
    let read = cloud.call(Method::GET, signed).send().await.unwrap();
    let head = cloud.call(Method::HEAD, "/bucket/a/b%20c").send().await.unwrap();
    let begun = cloud.call(Method::POST, signed).header("x-goog-resumable", "start");
    let begun = begun.send().await.unwrap();
    let missing = cloud.call(Method::GET, "/bucket/none").send().await.unwrap();

    assert_eq!(written.status(), StatusCode::OK);
    assert_eq!(read.headers()["x-goog-meta-k"], "v");
    assert_eq!(read.text().await.unwrap(), "signed");
    assert_eq!(head.headers()["content-length"], "6");
    assert_eq!(begun.status(), StatusCode::CREATED);
    assert!(begun.headers().contains_key("location"));
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert!(missing.text().await.unwrap().contains("<Code>NoSuchKey</Code>"));
}

#[tokio::test]
async fn what_is_not_there_answers_501_and_names_itself() {
    let cloud = Cloud::start().await;
    cloud.put("x", "x").await;

    for (path, name) in [
        ("/storage/v1/b/bucket/o/x/acl", "storage.objectAccessControls"),
        ("/storage/v1/b/bucket/acl", "storage.bucketAccessControls"),
        ("/storage/v1/b/bucket/iam", "IAM policies"),
        ("/storage/v1/b/bucket/o?matchGlob=*", "matchGlob"),
        ("/storage/v1/b/bucket/o/x?predefinedAcl=private", "predefinedAcl"),
        ("/storage/v1/b/bucket/notificationConfigs", "storage.notifications"),
        ("/discovery/v1/apis/storage/v1/rest", "/discovery/v1"),
    ] {
        let (status, body) = cloud.get(path).await;

        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{path}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(name), "{path}: {message}");
    }
}

#[tokio::test]
async fn an_upload_that_was_refused_or_whose_answer_was_lost_goes_on() {
    let cloud = Cloud::start().await;
    let begin = "/upload/storage/v1/b/bucket/o?uploadType=resumable&name=o&ifGenerationMatch=0";
    let begun = cloud.call(Method::POST, begin).send().await.unwrap();
    let location = begun.headers()["location"].to_str().unwrap().to_owned();
    let put = async |range: &str, body: &'static str| {
        let sent = cloud.client.put(&location).header("content-range", range).body(body);
        let answer = sent.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap_or_default())
    };
    let faults = cloud.emulator.faults();

    cloud.json(Method::DELETE, "/storage/v1/b/bucket", json!({})).await;
    let refused = put("bytes 0-4/5", "hello").await;
    let bucket = json!({ "name": "bucket" });
    cloud.json(Method::POST, "/storage/v1/b?project=p", bucket).await;
    faults.lose_reply("storage.uploads.continue", 1);
    let lost = put("bytes 0-4/5", "hello").await;
    let asked = put("bytes */5", "").await;
    let again = put("bytes 0-4/5", "hello").await;

    assert_eq!([refused.0, lost.0, asked.0, again.0], [404, 503, 200, 200]);
    assert_eq!((&asked.1["name"], &asked.1), (&json!("o"), &again.1));
    assert_eq!(cloud.text("o").await, "hello");
}

#[tokio::test]
async fn pages_of_names_with_percent_signs_leave_none_out() {
    let cloud = Cloud::start().await;
    let names = ["a%251", "a%25252", "a%2525%2541", "b"];
    for name in names {
        cloud.put(name, "x").await;
    }

    let (mut listed, mut token) = (Vec::new(), String::new());
    for _ in 0..=names.len() {
        let token_of = percent(&token);
        let path = format!("/storage/v1/b/bucket/o?maxResults=1&pageToken={token_of}");
        let (_, page) = cloud.get(&path).await;
        listed.extend(page["items"].as_array().unwrap().iter().map(|item| item["name"].clone()));
        match page["nextPageToken"].as_str() {
            Some(next) => next.clone_into(&mut token),
            None => break,
        }
    }

    assert_eq!(json!(listed), json!(["a%1", "a%25%41", "a%252", "b"]));
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn a_precondition_that_is_no_number_is_refused() {
    let cloud = Cloud::start().await;
    cloud.put("o", "old").await;
    let upload = "/upload/storage/v1/b/bucket/o?uploadType=media&name=o&ifGenerationMatch=abc";

    let sent = cloud.call(Method::POST, upload).body("new").send().await.unwrap();
    let signed = cloud.call(Method::PUT, "/bucket/o?X-Goog-Signature=00");
    let signed = signed.header("x-goog-if-generation-match", "abc").body("new");
    let signed = signed.send().await.unwrap();
    let compose = json!({ "sourceObjects": [
        { "name": "o", "objectPreconditions": { "ifGenerationMatch": "abc" } }] });
    let (composed, _) =
        cloud.json(Method::POST, "/storage/v1/b/bucket/o/all/compose", compose).await;

    assert_eq!([sent.status(), signed.status(), composed], [StatusCode::BAD_REQUEST; 3]);
    assert_eq!(cloud.text("o").await, "old");
}

#[tokio::test]
async fn the_xml_api_checks_hashes_and_says_when_to_come_again() {
    let cloud = Cloud::start().await;
    let put = async |hash: &str| {
        let put = cloud.call(Method::PUT, "/bucket/o").header("x-goog-hash", hash).body("hello");
        put.send().await.unwrap()
    };
    let kind =
        emulator::Kind::Refuse { code: 14, retry_after: Some(2), reason: None, message: None };
    let method = "storage.objects.insert".to_owned();

    let wrong = put("crc32c=AAAAAA==").await.status();
    let right = put("crc32c=mnG7TA==,md5=XUFAKrxLKna5cZ2REBfFkg==").await.status();
    cloud.emulator.faults().add(emulator::Fault {
        method,
        topic: None,
        count: 1,
        for_millis: None,
        kind,
    });
    let refused = put("crc32c=mnG7TA==").await;

    assert_eq!((wrong, right), (StatusCode::BAD_REQUEST, StatusCode::OK));
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "2");
    assert!(refused.text().await.unwrap().contains("<Code>ServiceUnavailable</Code>"));
}

#[tokio::test]
async fn copies_need_the_permission_to_create_objects() {
    let cloud = Cloud::start().await;
    cloud.put("o", "o").await;
    let denied = ["storage.objects.create".to_owned()].into();
    cloud.emulator.set_profile(emulator::Profile { denied, ..emulator::Profile::default() });

    let object = "/storage/v1/b/bucket/o/o";
    for path in [
        format!("{object}/copyTo/b/bucket/o/x"),
        format!("{object}/rewriteTo/b/bucket/o/x"),
        format!("{object}/moveTo/o/x"),
        "/storage/v1/b/bucket/o/x/compose".to_owned(),
        "/bucket/x".to_owned(),
    ] {
        let sent = cloud.call(Method::POST, &path).header("x-goog-resumable", "start");
        let sent = sent.json(&json!({ "sourceObjects": [{ "name": "o" }] })).send().await.unwrap();
        assert_eq!(sent.status(), StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn every_path_that_names_a_project_is_refused_for_one_that_was_not_made() {
    let cloud = Cloud::start().await;
    let profile = emulator::Profile::default().with_project("p");
    cloud.emulator.set_profile(profile);

    for path in [
        "/storage/v1/b?project=q",
        "/b?project=q",
        "/upload/bigquery/v2/projects/q/jobs?uploadType=resumable",
        "/resumable/upload/bigquery/v2/projects/q/jobs?uploadType=resumable",
    ] {
        let (status, _) = cloud.json(Method::POST, path, json!({ "name": "other" })).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
}
