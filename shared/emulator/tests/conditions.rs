//! Tests of each part of the profile, as clients experience it.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use emulator::{Emulator, Options, Profile};
use googleapis_tonic_google_cloud_bigquery_storage_v1::google as bigquery;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as pubsub;
use prost::Message as _;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use bigquery::cloud::bigquery::storage::v1 as write;
use bigquery::rpc;
use write::append_rows_response::Response;
use write::big_query_write_client::BigQueryWriteClient;
use write::storage_error::StorageErrorCode;

/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(60);
const TABLE: &str = "bigquery/v2/projects/p/datasets/d/tables/t";

struct Cloud {
    emulator: Emulator,
    client: Client,
}

impl Cloud {
    /// Starts with a dataset and a table of one column `a`.
    async fn start() -> Self {
        // An error means that another test has installed it already.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let cloud = Self { emulator, client: Client::new() };
        let dataset = json!({ "datasetReference": { "datasetId": "d" } });
        cloud.call(Method::POST, "bigquery/v2/projects/p/datasets", dataset).await;
        assert_eq!(cloud.create_table("t").await.0, StatusCode::OK);
        cloud
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let url = format!("{}/{path}", self.emulator.url());
        let answer = self.client.request(method, url).json(&body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }

    /// Changes parts of the profile over HTTP, as a test in another language would.
    async fn set(&self, parts: Value) {
        let (status, answer) = self.call(Method::PATCH, "emulator/v1/profile", parts).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    async fn create_table(&self, id: &str) -> (StatusCode, Value) {
        let table = json!({
            "tableReference": { "tableId": id },
            "schema": { "fields": [{ "name": "a", "type": "INTEGER" }] },
        });
        self.call(Method::POST, "bigquery/v2/projects/p/datasets/d/tables", table).await
    }

    async fn add_column(&self, name: &str) -> (StatusCode, Value) {
        let (_, mut table) = self.call(Method::GET, TABLE, json!({})).await;
        let fields = table["schema"]["fields"].as_array_mut().unwrap();
        fields.push(json!({ "name": name, "type": "INTEGER" }));
        self.call(Method::PATCH, TABLE, json!({ "schema": table["schema"] })).await
    }

    async fn insert(&self, row: Value) -> (StatusCode, Value) {
        let rows = json!({ "rows": [{ "json": row }] });
        self.call(Method::POST, &format!("{TABLE}/insertAll"), rows).await
    }

    async fn upload(&self, name: &str) -> (StatusCode, Value) {
        let path = format!("upload/storage/v1/b/bucket/o?uploadType=media&name={name}");
        self.call(Method::POST, &path, json!("content")).await
    }

    /// Opens a streaming pull, and returns the sender of its requests and its answers.
    async fn pull(
        &self,
    ) -> (mpsc::Sender<pubsub::StreamingPullRequest>, Streaming<pubsub::StreamingPullResponse>)
    {
        let name = |kind: &str| format!("projects/p/{kind}/xyz");
        self.call(Method::PUT, &format!("v1/{}", name("topics")), json!({})).await;
        let subscription = json!({ "topic": name("topics") });
        self.call(Method::PUT, &format!("v1/{}", name("subscriptions")), subscription).await;
        let mut client = pubsub::subscriber_client::SubscriberClient::new(self.channel().await);
        let request = pubsub::StreamingPullRequest {
            subscription: name("subscriptions"),
            stream_ack_deadline_seconds: 10,
            ..<_>::default()
        };
        let (open, requests) = mpsc::channel(1);
        open.send(request).await.unwrap();
        let mut pull =
            client.streaming_pull(ReceiverStream::new(requests)).await.unwrap().into_inner();
        pull.message().await.unwrap().unwrap();
        (open, pull)
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(self.emulator.url()).unwrap().connect().await.unwrap()
    }

    /// Opens a stream, and sends a number of requests on it.
    async fn append(&self, requests: usize, columns: &[&str]) -> Appends {
        let (sender, receiver) = mpsc::channel(requests.max(1));
        for _ in 0..requests {
            sender.send(append(columns)).await.unwrap();
        }
        let mut client = BigQueryWriteClient::new(self.channel().await);
        let opened = client.append_rows(ReceiverStream::new(receiver)).await;
        Appends { answers: opened.unwrap().into_inner(), sender }
    }
}

/// An open `AppendRows` stream.
struct Appends {
    answers: Streaming<write::AppendRowsResponse>,
    sender: mpsc::Sender<write::AppendRowsRequest>,
}

impl Appends {
    async fn next(&mut self) -> Result<Response, tonic::Status> {
        let answer = timeout(PATIENCE, self.answers.message()).await.expect("an answer in time")?;
        Ok(answer.expect("an answer").response.expect("an answer with content"))
    }

    /// Returns the error in the next answer.
    async fn error(&mut self) -> rpc::Status {
        match self.next().await {
            Ok(Response::Error(status)) => status,
            other => panic!("no error: {other:?}"),
        }
    }

    async fn is_taken(&mut self) -> bool {
        matches!(self.next().await, Ok(Response::AppendResult(_)))
    }
}

/// Builds a request of one row with these columns.
fn append(columns: &[&str]) -> write::AppendRowsRequest {
    let values = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let batch = columns.iter().map(|name| (*name, values(), true));
    let batch = RecordBatch::try_from_iter_with_nullable(batch).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    let schema = writer.get_ref().clone();
    writer.write(&batch).unwrap();
    let rows = writer.get_ref()[schema.len()..].to_vec();
    let rows = write::append_rows_request::ArrowData {
        writer_schema: Some(write::ArrowSchema { serialized_schema: schema.into() }),
        rows: Some(write::ArrowRecordBatch {
            serialized_record_batch: rows.into(),
            ..<_>::default()
        }),
    };
    write::AppendRowsRequest {
        write_stream: "projects/p/datasets/d/tables/t/streams/_default".into(),
        rows: Some(write::append_rows_request::Rows::ArrowRows(rows)),
        ..<_>::default()
    }
}

#[tokio::test]
async fn requests_of_one_stream_wait_for_their_answers_together() {
    let cloud = Cloud::start().await;
    cloud
        .set(json!({ "latencies": { "AppendRows": { "min_millis": 500, "max_millis": 500 } } }))
        .await;
    let begin = Instant::now();

    let mut stream = cloud.append(40, &["a"]).await;
    for _ in 0..40 {
        assert!(stream.is_taken().await);
    }

    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    assert!(took < Duration::from_secs(20), "one after the other: {took:?}");
}

#[tokio::test]
async fn a_call_takes_the_time_of_its_method() {
    let cloud = Cloud::start().await;
    let latency = json!({ "min_millis": 300, "max_millis": 300 });
    cloud.set(json!({ "latencies": { "bigquery.tables.get": latency } })).await;
    let begin = Instant::now();

    cloud.call(Method::GET, TABLE, json!({})).await;

    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn an_append_stream_without_requests_is_closed_in_googles_words() {
    let cloud = Cloud::start().await;
    cloud.set(json!({ "append_idle_millis": 1000 })).await;
    let mut stream = cloud.append(1, &["a"]).await;
    assert!(stream.is_taken().await);

    let ended = stream.next().await.unwrap_err();

    assert_eq!(ended.code(), Code::Aborted);
    assert!(
        ended.message().starts_with("Closing the stream because it has been inactive for 1 sec"),
        "{ended}"
    );
}

#[tokio::test]
async fn old_streams_end_however_busy_they_are() {
    let cloud = Cloud::start().await;
    let (_requests, mut pull) = cloud.pull().await;
    let mut appends = cloud.append(1, &["a"]).await;
    assert!(appends.is_taken().await);

    // A new limit also applies to streams that are already open.
    cloud.set(json!({ "stream_age_millis": 1000 })).await;

    let pull = timeout(PATIENCE, pull.message()).await.unwrap().unwrap_err();
    assert_eq!(pull.code(), Code::Unavailable, "{pull}");
    let ended = timeout(PATIENCE, async {
        loop {
            // The stream may have ended in the meantime.
            drop(appends.sender.send(append(&["a"])).await);
            if let Err(status) = appends.next().await {
                break status;
            }
        }
    });
    let ended = ended.await.expect("an end in time");
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert!(ended.message().contains("client is advised to reconnect"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_is_told_to_go_away() {
    const GOAWAY: u8 = 7;
    let cloud = Cloud::start().await;
    cloud.set(json!({ "connection_age_millis": 500 })).await;
    let mut http2 = TcpStream::connect(cloud.emulator.address()).unwrap();
    http2.set_read_timeout(Some(PATIENCE)).unwrap();
    http2
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        .unwrap();

    let content = loop {
        let mut header = [0; 9];
        http2.read_exact(&mut header).expect("a GOAWAY before the end");
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut content = vec![0; length as usize];
        http2.read_exact(&mut content).unwrap();
        if header[3] == GOAWAY {
            break content;
        }
    };

    // No call is cut off and nothing is wrong. The end of a silent connection would look different.
    assert_eq!(content[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
}

#[tokio::test]
async fn an_old_connection_of_http1_is_closed_with_an_answer() {
    let cloud = Cloud::start().await;
    cloud.set(json!({ "connection_age_millis": 1 })).await;
    let get = || cloud.client.get(format!("{}/{TABLE}", cloud.emulator.url())).send();

    // The connection over which the age was set is old now.
    let mut closes = false;
    for _ in 0..50 {
        closes = get().await.unwrap().headers().contains_key("connection");
        if closes {
            break;
        }
    }

    assert!(closes, "no answer closes it");
}

#[tokio::test]
async fn a_new_table_is_not_found_by_writers_for_a_while() {
    let cloud = Cloud::start().await;
    cloud.set(json!({ "new_table_millis": 3_600_000 })).await;
    cloud.call(Method::DELETE, TABLE, json!({})).await;
    cloud.create_table("t").await;

    let appended = cloud.append(1, &["a"]).await.next().await.unwrap_err();
    assert_eq!(appended.code(), Code::NotFound, "{appended}");
    let (status, answer) = cloud.insert(json!({ "a": 1 })).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    assert_eq!(cloud.call(Method::GET, TABLE, json!({})).await.0, StatusCode::OK);

    cloud.set(json!({ "new_table_millis": 0 })).await;
    assert!(cloud.append(1, &["a"]).await.is_taken().await);
    assert_eq!(cloud.insert(json!({ "a": 1 })).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_new_column_is_unknown_to_writers_for_a_while() {
    let cloud = Cloud::start().await;
    cloud.set(json!({ "new_column_millis": 3_600_000 })).await;
    cloud.add_column("b").await;

    let error = cloud.append(1, &["a", "b"]).await.error().await;
    let [detail] = error.details.as_slice() else { panic!("{error:?}") };
    let detail = write::StorageError::decode(detail.value.as_slice()).unwrap();
    assert_eq!(detail.code(), StorageErrorCode::SchemaMismatchExtraFields);
    let (_, answer) = cloud.insert(json!({ "a": 1, "b": 1 })).await;
    assert_eq!(answer["insertErrors"][0]["errors"][0]["message"], "no such field: b.");
    let (_, answer) = cloud.insert(json!({ "a": 1 })).await;
    assert_eq!(answer.get("insertErrors"), None, "a row of known columns: {answer}");

    cloud.set(json!({ "new_column_millis": 0 })).await;
    assert!(cloud.append(1, &["a", "b"]).await.is_taken().await);
    let (_, answer) = cloud.insert(json!({ "a": 1, "b": 1 })).await;
    assert_eq!(answer.get("insertErrors"), None, "{answer}");
}

#[tokio::test]
async fn a_table_changes_so_often_and_no_more() {
    let cloud = Cloud::start().await;
    cloud.set(json!({ "table_updates_per_10_seconds": 2 })).await;
    // The creation is not counted because it was before the limit.
    for name in ["b", "c"] {
        assert_eq!(cloud.add_column(name).await.0, StatusCode::OK);
    }

    let (status, answer) = cloud.add_column("d").await;

    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(answer["error"]["errors"][0]["reason"], "rateLimitExceeded");
    let text = answer["error"]["message"].as_str().unwrap();
    assert!(text.starts_with("Exceeded rate limits: too many table update operations"), "{text}");
    assert_eq!(cloud.create_table("other").await.0, StatusCode::OK);
}

#[tokio::test]
async fn appends_above_the_throughput_are_refused_and_their_stream_goes_on() {
    let cloud = Cloud::start().await;
    cloud.set(json!({ "append_bytes_per_second": 1 })).await;
    let mut stream = cloud.append(2, &["a"]).await;
    assert!(stream.is_taken().await, "a first request fits");

    let error = stream.error().await;

    assert_eq!(error.code, i32::from(Code::ResourceExhausted));
    assert!(error.message.starts_with("Exceeds 'AppendRows throughput' quota"), "{error:?}");
    cloud.set(json!({ "append_bytes_per_second": null })).await;
    stream.sender.send(append(&["a"])).await.unwrap();
    assert!(stream.is_taken().await, "the stream goes on");
}

#[tokio::test]
async fn an_object_is_written_once_a_second() {
    let cloud = Cloud::start().await;
    cloud.call(Method::POST, "storage/v1/b?project=p", json!({ "name": "bucket" })).await;
    cloud.set(json!({ "object_writes_per_second": 1 })).await;
    // On a slow machine a second may pass between two writes, but not between all of them.
    let mut refused = None;
    for _ in 0..50 {
        let (status, answer) = cloud.upload("x").await;
        if status != StatusCode::OK {
            refused = Some((status, answer));
            break;
        }
    }

    let (status, answer) = refused.expect("one of fifty is refused");

    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer["error"]["errors"][0]["reason"], "rateLimitExceeded");
    assert_eq!(cloud.upload("y").await.0, StatusCode::OK);
}

#[tokio::test]
async fn projects_and_databases_that_were_not_made_do_not_exist() {
    let cloud = Cloud::start().await;
    cloud.emulator.set_profile(Profile::default().with_project("p"));

    for path in ["v1/projects/q/topics", "bigquery/v2/projects/q/datasets"] {
        let (status, answer) = cloud.call(Method::GET, path, json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {answer}");
        let own = path.replace("/q/", "/p/");
        assert_eq!(cloud.call(Method::GET, &own, json!({})).await.0, StatusCode::OK, "{own}");
    }
    let bucket = json!({ "name": "bucket" });
    let (status, _) = cloud.call(Method::POST, "storage/v1/b?project=q", bucket.clone()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = cloud.call(Method::POST, "storage/v1/b?project=p", bucket).await;
    assert_eq!(status, StatusCode::OK);

    let mut publisher = pubsub::publisher_client::PublisherClient::new(cloud.channel().await);
    let of =
        async |project: &str,
               header: &'static str,
               publisher: &mut pubsub::publisher_client::PublisherClient<Channel>| {
            let topic = format!("projects/{project}/topics/none");
            let value = if header.starts_with('x') {
                format!("topic={}", topic.replace('/', "%2F"))
            } else {
                format!("projects/{project}/databases/other")
            };
            let mut request = tonic::Request::new(pubsub::GetTopicRequest { topic });
            request.metadata_mut().insert(header, value.parse().unwrap());
            publisher.get_topic(request).await.unwrap_err().message().to_owned()
        };
    let text = of("q", "x-goog-request-params", &mut publisher).await;
    assert!(text.starts_with("Requested project not found"), "{text}");
    let text = of("p", "google-cloud-resource-prefix", &mut publisher).await;
    assert_eq!(text, "The database other does not exist for project p");
    let text = of("p", "x-goog-request-params", &mut publisher).await;
    assert!(text.contains("Resource not found"), "the topic alone is missing: {text}");
}

#[tokio::test]
async fn rights_can_be_taken_away_and_tests_of_permissions_say_so() {
    let cloud = Cloud::start().await;
    cloud.call(Method::POST, "storage/v1/b?project=p", json!({ "name": "bucket" })).await;
    let denied = ["AppendRows", "bigquery.tables.get", "storage.objects.create"];
    cloud.set(json!({ "denied": denied })).await;

    let appended = cloud.append(1, &["a"]).await.next().await.unwrap_err();
    assert_eq!(appended.code(), Code::PermissionDenied, "{appended}");
    let (status, answer) = cloud.call(Method::GET, TABLE, json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(answer["error"]["errors"][0]["reason"], "accessDenied");
    let (status, answer) = cloud.upload("x").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(answer["error"]["errors"][0]["reason"], "forbidden");

    let asked = json!({ "permissions": [
        "bigquery.tables.updateData", "bigquery.tables.get", "bigquery.tables.getData"] });
    let path = format!("{TABLE}:testIamPermissions");
    let (_, granted) = cloud.call(Method::POST, &path, asked).await;
    assert_eq!(granted["permissions"], json!(["bigquery.tables.getData"]));
    let path = "storage/v1/b/bucket/iam/testPermissions?permissions=storage.objects.create\
                &permissions=storage.objects.get";
    let (_, granted) = cloud.call(Method::GET, path, json!({})).await;
    assert_eq!(granted["permissions"], json!(["storage.objects.get"]));

    cloud.set(json!({ "denied": [] })).await;
    assert!(cloud.append(1, &["a"]).await.is_taken().await);
}

#[tokio::test]
async fn a_stream_that_is_open_ends_when_its_permission_is_taken_away() {
    let cloud = Cloud::start().await;
    let (_requests, mut answers) = cloud.pull().await;

    cloud.set(json!({ "denied": ["pubsub.subscriptions.consume"] })).await;

    let ended = timeout(PATIENCE, answers.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
}

#[tokio::test]
async fn an_append_can_fail_with_any_detail_as_an_answer_and_as_the_end_of_the_stream() {
    let cloud = Cloud::start().await;
    let plan = async |ends_stream: bool| {
        let fault = json!({
            "method": "AppendRows", "count": 1, "kind": "append_error", "code": 9,
            "storage_error": "STREAM_FINALIZED", "message": "it is over", "ends_stream": ends_stream,
        });
        let (status, answer) = cloud.call(Method::POST, "emulator/v1/faults", fault).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    };
    let detail = |status: &rpc::Status| {
        assert_eq!(status.code, 9);
        let [detail] = status.details.as_slice() else { panic!("{status:?}") };
        assert!(detail.type_url.ends_with("/google.cloud.bigquery.storage.v1.StorageError"));
        write::StorageError::decode(detail.value.as_slice()).unwrap().code()
    };

    plan(false).await;
    let mut stream = cloud.append(2, &["a"]).await;
    let error = stream.error().await;
    assert_eq!(detail(&error), StorageErrorCode::StreamFinalized);
    assert!(error.message.starts_with("it is over"), "{error:?}");
    assert!(stream.is_taken().await, "the next request");

    plan(true).await;
    let ended = cloud.append(1, &["a"]).await.next().await.unwrap_err();
    assert_eq!((ended.code(), ended.message()), (Code::FailedPrecondition, "it is over"));
    let status = rpc::Status::decode(ended.details()).unwrap();
    assert_eq!(detail(&status), StorageErrorCode::StreamFinalized);

    let (_, listed) = cloud.call(Method::GET, &format!("{TABLE}/data"), json!({})).await;
    assert_eq!(listed["rows"].as_array().unwrap().len(), 1, "nothing of what failed: {listed}");
    let wrong = json!({
        "method": "AppendRows", "count": 1, "kind": "append_error", "code": 9,
        "storage_error": "NONE_SUCH",
    });
    let (status, _) = cloud.call(Method::POST, "emulator/v1/faults", wrong).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_profile_is_read_and_set_as_a_whole() {
    let cloud = Cloud::start().await;
    let profile = "emulator/v1/profile";

    let (_, set) = cloud.call(Method::POST, "emulator/v1/profile/like-google", json!({})).await;
    assert_eq!(cloud.emulator.profile(), Profile::like_google());
    assert_eq!(cloud.call(Method::GET, profile, json!({})).await.1, set);
    cloud.call(Method::DELETE, profile, json!({})).await;

    assert_eq!(cloud.emulator.profile(), Profile::default());
    let (status, _) = cloud.call(Method::PATCH, profile, json!({ "none_such": 1 })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}
