//! Contract tests of Firestore. This emulator and, if it is installed, Google's must give the same
//! answers.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

#[macro_use]
#[path = "../google/mod.rs"]
mod google;
mod listening;
mod queries;
mod transactions;
mod writes;

use std::collections::{BTreeMap, HashMap};

use emulator::{Emulator, Options};
use futures::TryStreamExt as _;
use googleapis_tonic_google_firestore_v1::google::firestore::v1 as proto;
use proto::batch_get_documents_response::Result as Found;
use proto::firestore_client::FirestoreClient;
use proto::precondition::ConditionType;
use proto::value::ValueType;
use proto::write::Operation;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

type Client =
    FirestoreClient<InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>>;

/// Adds the credentials of a service account, as Google's server clients do.
fn as_owner(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.metadata_mut().insert("authorization", MetadataValue::from_static("Bearer owner"));
    Ok(request)
}

/// A Firestore to test, with a separate project for each test.
struct Cloud {
    client: Client,
    url: String,
    project: String,
    ours: Option<Emulator>,
}

impl Cloud {
    async fn connect(url: String, project: &str, ours: Option<Emulator>) -> Self {
        let channel = Channel::from_shared(url.clone()).unwrap().connect().await.unwrap();
        let client = FirestoreClient::with_interceptor(channel, as_owner as _);
        Self { client, url, project: project.replace('_', "-"), ours }
    }

    fn database(&self) -> String {
        format!("projects/{}/databases/(default)", self.project)
    }

    fn root(&self) -> String {
        format!("{}/documents", self.database())
    }

    fn name(&self, id: &str) -> String {
        format!("{}/devices/{id}", self.root())
    }

    fn document(&self, id: &str, fields: &[(&str, &str)]) -> proto::Document {
        let fields = fields.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect();
        proto::Document { name: self.name(id), fields, ..<_>::default() }
    }

    /// Commits a write to the database in its document name.
    async fn commit_to_other(&self, write: proto::Write) {
        let Some(Operation::Update(document)) = &write.operation else { panic!("no update") };
        let database = document.name.split("/documents").next().unwrap().to_owned();
        let request = proto::CommitRequest { database, writes: vec![write], ..<_>::default() };
        self.client.clone().commit(request).await.unwrap();
    }

    /// Builds a write of a device whose field `n` is this number.
    fn numbered(&self, id: &str, number: i64) -> proto::Write {
        put(self.name(id), &[("n", integer(number))])
    }

    async fn create(&self, id: &str, fields: &[(&str, &str)]) -> Result<proto::Document, Status> {
        let request = proto::CreateDocumentRequest {
            parent: self.root(),
            collection_id: "devices".into(),
            document_id: id.into(),
            document: Some(proto::Document { name: String::new(), ..self.document(id, fields) }),
            mask: None,
        };
        Ok(self.client.clone().create_document(request).await?.into_inner())
    }

    async fn get(&self, name: String) -> Result<proto::Document, Status> {
        let request = proto::GetDocumentRequest { name, ..<_>::default() };
        Ok(self.client.clone().get_document(request).await?.into_inner())
    }

    async fn commit(&self, writes: Vec<proto::Write>) -> Result<proto::CommitResponse, Status> {
        let database = self.database();
        let request = proto::CommitRequest { database, writes, transaction: <_>::default() };
        Ok(self.client.clone().commit(request).await?.into_inner())
    }
}

fn value(kind: ValueType) -> proto::Value {
    proto::Value { value_type: Some(kind) }
}

fn text(text: &str) -> proto::Value {
    value(ValueType::StringValue(text.into()))
}

fn integer(number: i64) -> proto::Value {
    value(ValueType::IntegerValue(number))
}

fn double(number: f64) -> proto::Value {
    value(ValueType::DoubleValue(number))
}

fn null() -> proto::Value {
    value(ValueType::NullValue(0))
}

fn array(values: &[proto::Value]) -> proto::Value {
    value(ValueType::ArrayValue(proto::ArrayValue { values: values.to_vec() }))
}

fn map(fields: &[(&str, proto::Value)]) -> proto::Value {
    value(ValueType::MapValue(proto::MapValue { fields: all(fields) }))
}

fn all(fields: &[(&str, proto::Value)]) -> HashMap<String, proto::Value> {
    fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

/// Builds a write of a document with these fields.
fn put(name: String, fields: &[(&str, proto::Value)]) -> proto::Write {
    set(proto::Document { name, fields: all(fields), ..<_>::default() })
}

fn set(document: proto::Document) -> proto::Write {
    proto::Write { operation: Some(Operation::Update(document)), ..<_>::default() }
}

fn merge(document: proto::Document, paths: &[&str]) -> proto::Write {
    let field_paths = paths.iter().map(ToString::to_string).collect();
    proto::Write { update_mask: Some(proto::DocumentMask { field_paths }), ..set(document) }
}

fn only_if(write: proto::Write, condition: ConditionType) -> proto::Write {
    let condition = proto::Precondition { condition_type: Some(condition) };
    proto::Write { current_document: Some(condition), ..write }
}

fn delete(name: String) -> proto::Write {
    proto::Write { operation: Some(Operation::Delete(name)), ..<_>::default() }
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Status>) -> Code {
    outcome.unwrap_err().code()
}

async fn a_created_document_can_be_read(cloud: &Cloud) {
    let created = cloud.create("d", &[("name", "client")]).await.unwrap();

    let read = cloud.get(cloud.name("d")).await.unwrap();

    assert_eq!(read, created);
    assert_eq!(read.fields["name"], text("client"));
    assert!(read.create_time.is_some());
    assert_eq!(read.create_time, read.update_time);
}

async fn a_second_creation_is_refused(cloud: &Cloud) {
    cloud.create("d", &[]).await.unwrap();

    assert_eq!(code(cloud.create("d", &[]).await), Code::AlreadyExists);
}

async fn a_missing_document_is_not_found(cloud: &Cloud) {
    assert_eq!(code(cloud.get(cloud.name("none")).await), Code::NotFound);
}

async fn names_that_cannot_be_are_refused(cloud: &Cloud) {
    for id in [".", "..", "__x__", "a/b"] {
        assert_eq!(code(cloud.get(cloud.name(id)).await), Code::InvalidArgument, "{id}");
    }
}

async fn a_batch_read_says_of_each_document_whether_it_is_there(cloud: &Cloud) {
    cloud.create("a", &[("name", "one")]).await.unwrap();
    cloud.create("b", &[("name", "two")]).await.unwrap();
    let documents = ["a", "none", "b", "a"].map(|id| cloud.name(id)).to_vec();
    let database = cloud.database();
    let request = proto::BatchGetDocumentsRequest { database, documents, ..<_>::default() };

    let answers = cloud.client.clone().batch_get_documents(request).await.unwrap();
    let answers: Vec<_> = answers.into_inner().try_collect().await.unwrap();

    let mut found = BTreeMap::new();
    for answer in answers.into_iter().filter_map(|answer| answer.result) {
        match answer {
            Found::Found(document) => found.insert(document.name.clone(), Some(document)),
            Found::Missing(name) => found.insert(name, None),
        };
    }
    assert_eq!(found.len(), 3);
    assert_eq!(found[&cloud.name("none")], None);
    assert_eq!(found[&cloud.name("b")].as_ref().unwrap().fields["name"], text("two"));
}

async fn a_commit_replaces_merges_and_deletes(cloud: &Cloud) {
    cloud.create("replaced", &[("a", "1"), ("b", "2")]).await.unwrap();
    cloud.create("merged", &[("a", "1"), ("b", "2"), ("c", "3")]).await.unwrap();
    cloud.create("deleted", &[]).await.unwrap();

    let committed = cloud.commit(vec![
        set(cloud.document("replaced", &[("a", "9")])),
        merge(cloud.document("merged", &[("a", "9")]), &["a", "c"]),
        delete(cloud.name("deleted")),
        set(cloud.document("new", &[("a", "9")])),
    ]);

    assert_eq!(committed.await.unwrap().write_results.len(), 4);
    let fields = |pairs: &[(&str, &str)]| -> HashMap<String, proto::Value> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect()
    };
    let read = async |id: &str| cloud.get(cloud.name(id)).await.unwrap().fields;
    assert_eq!(read("replaced").await, fields(&[("a", "9")]));
    assert_eq!(read("merged").await, fields(&[("a", "9"), ("b", "2")]));
    assert_eq!(read("new").await, fields(&[("a", "9")]));
    assert_eq!(code(cloud.get(cloud.name("deleted")).await), Code::NotFound);
}

async fn a_nested_field_is_set_alone(cloud: &Cloud) {
    let map = |fields: &[(&str, &str)]| proto::Value {
        value_type: Some(ValueType::MapValue(proto::MapValue {
            fields: fields.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect(),
        })),
    };
    let mut document = cloud.document("d", &[]);
    document.fields.insert("place".into(), map(&[("city", "A"), ("street", "B")]));
    cloud.commit(vec![set(document.clone())]).await.unwrap();
    document.fields.insert("place".into(), map(&[("city", "C")]));

    cloud.commit(vec![merge(document, &["place.city"])]).await.unwrap();

    let read = cloud.get(cloud.name("d")).await.unwrap();
    assert_eq!(read.fields["place"], map(&[("city", "C"), ("street", "B")]));
}

async fn a_commit_whose_precondition_fails_changes_nothing(cloud: &Cloud) {
    let existing = cloud.create("there", &[]).await.unwrap();
    let stale = prost_types::Timestamp { seconds: 1_000_000_000, nanos: 0 };
    let conditions = [
        ("there", ConditionType::Exists(false), Code::AlreadyExists),
        ("missing", ConditionType::Exists(true), Code::NotFound),
        ("there", ConditionType::UpdateTime(stale), Code::FailedPrecondition),
    ];

    for (id, condition, expected) in conditions {
        let refused = only_if(set(cloud.document(id, &[("a", "1")])), condition);
        let writes = vec![set(cloud.document("other", &[])), refused];
        assert_eq!(code(cloud.commit(writes).await), expected, "{id}");
    }

    assert_eq!(cloud.get(cloud.name("there")).await.unwrap(), existing);
    assert_eq!(code(cloud.get(cloud.name("other")).await), Code::NotFound);
}

async fn a_write_with_the_right_time_passes(cloud: &Cloud) {
    let existing = cloud.create("d", &[("a", "1")]).await.unwrap();
    let condition = ConditionType::UpdateTime(existing.update_time.unwrap());

    let write = only_if(set(cloud.document("d", &[("a", "2")])), condition);

    cloud.commit(vec![write]).await.unwrap();
    assert_eq!(cloud.get(cloud.name("d")).await.unwrap().fields["a"], text("2"));
}

async fn a_listing_comes_in_pages(cloud: &Cloud) {
    for id in ["a", "b", "c"] {
        cloud.create(id, &[]).await.unwrap();
    }
    let mut request = proto::ListDocumentsRequest {
        parent: cloud.root(),
        collection_id: "devices".into(),
        page_size: 2,
        ..<_>::default()
    };

    let first = cloud.client.clone().list_documents(request.clone()).await.unwrap().into_inner();
    request.page_token = first.next_page_token.clone();
    let second = cloud.client.clone().list_documents(request).await.unwrap().into_inner();

    let names = |page: &[proto::Document]| -> Vec<String> {
        page.iter().map(|document| document.name.clone()).collect()
    };
    assert_eq!(names(&first.documents), [cloud.name("a"), cloud.name("b")]);
    assert_eq!(names(&second.documents), [cloud.name("c")]);
    assert_eq!(second.next_page_token, "");
}

async fn a_document_above_one_mebibyte_is_refused(cloud: &Cloud) {
    let large = "x".repeat(1024 * 1024 + 1);

    assert_eq!(code(cloud.create("d", &[("a", &large)]).await), Code::InvalidArgument);
}

async fn a_database_is_cleared_between_tests(cloud: &Cloud) {
    cloud.commit(vec![cloud.numbered("d", 1), cloud.numbered("d/below/e", 1)]).await.unwrap();
    let other = cloud.name("d").replace(&cloud.project, &format!("{}-other", cloud.project));
    cloud.commit_to_other(put(other.clone(), &[])).await;

    let url = format!("{}/emulator/v1/{}", cloud.url, cloud.root());
    let cleared = reqwest::Client::new().delete(url).send().await.unwrap();

    assert!(cleared.status().is_success(), "{cleared:?}");
    assert_eq!(code(cloud.get(cloud.name("d")).await), Code::NotFound);
    assert_eq!(code(cloud.get(cloud.name("d/below/e")).await), Code::NotFound);
    assert!(cloud.get(other).await.is_ok());
}

contracts!(
    both: a_created_document_can_be_read,
    a_second_creation_is_refused,
    a_missing_document_is_not_found,
    names_that_cannot_be_are_refused,
    a_batch_read_says_of_each_document_whether_it_is_there,
    a_commit_replaces_merges_and_deletes,
    a_nested_field_is_set_alone,
    a_commit_whose_precondition_fails_changes_nothing,
    a_write_with_the_right_time_passes,
    a_listing_comes_in_pages,
    a_document_above_one_mebibyte_is_refused,
    a_database_is_cleared_between_tests;
    ours:
);

fn install_crypto() {
    // The first test installs it, and for the others it is already there.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

async fn ours() -> Cloud {
    let emulator = Emulator::start(Options::default()).await.unwrap();
    Cloud::connect(emulator.url(), "ours", Some(emulator)).await
}

async fn googles(test: &str) -> Option<Cloud> {
    let url = google::start(&google::FIRESTORE).await?;
    Some(Cloud::connect(url, test, None).await)
}
