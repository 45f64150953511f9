//! Contract tests of streams: listeners and writers.

use std::time::Duration;

use futures::channel::mpsc::{UnboundedSender, unbounded};
use proto::listen_request::TargetChange as Wanted;
use proto::listen_response::ResponseType;
use proto::target::{DocumentsTarget, QueryTarget, ResumeType, TargetType, query_target};
use proto::target_change::TargetChangeType;
use tokio::time::timeout;
use tonic::Streaming;

use super::queries::above;
use super::*;

/// Target id of all tests.
const TARGET: i32 = 7;
const PATIENCE: Duration = Duration::from_secs(30);

/// Stream of a listener.
struct Listener {
    requests: UnboundedSender<proto::ListenRequest>,
    responses: Streaming<proto::ListenResponse>,
    database: String,
    token: prost::bytes::Bytes,
    /// State that a client would show: the field `n` of each document by its id.
    known: BTreeMap<String, i64>,
}

/// A change that a listener reports.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Added,
    Current,
    Reset,
    Removed(i32),
    Changed(String),
    Gone(String),
}

impl Cloud {
    /// Names the database in the headers of a stream. Google's clients do that, and Google's
    /// emulator needs it.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let database = self.database().parse().unwrap();
        request.metadata_mut().insert("google-cloud-resource-prefix", database);
        request
    }

    async fn listen(&self, target: proto::Target) -> Listener {
        let (requests, receiver) = unbounded();
        let database = self.database();
        let added = Wanted::AddTarget(target);
        let first = proto::ListenRequest {
            database: database.clone(),
            target_change: Some(added),
            ..<_>::default()
        };
        requests.unbounded_send(first).unwrap();
        let responses =
            self.client.clone().listen(self.request(receiver)).await.unwrap().into_inner();
        Listener { requests, responses, database, token: <_>::default(), known: BTreeMap::new() }
    }

    fn query_target(&self) -> proto::Target {
        let query = query_target::QueryType::StructuredQuery(above("n", 0));
        let target = QueryTarget { parent: self.root(), query_type: Some(query) };
        let target_type = Some(TargetType::Query(target));
        proto::Target { target_id: TARGET, target_type, ..<_>::default() }
    }

    fn document_target(&self, ids: &[&str]) -> proto::Target {
        let documents = ids.iter().map(|id| self.name(id)).collect();
        let target_type = Some(TargetType::Documents(DocumentsTarget { documents }));
        proto::Target { target_id: TARGET, target_type, ..<_>::default() }
    }
}

impl Listener {
    async fn next(&mut self) -> Result<Option<ResponseType>, Status> {
        let next = timeout(PATIENCE, self.responses.message()).await;
        Ok(next.expect("the stream says something")?.and_then(|next| next.response_type))
    }

    /// Returns all changes up to the next time at which everything is reported, sorted.
    async fn snapshot(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        loop {
            let next = self.next().await.unwrap().expect("the stream goes on");
            let ResponseType::TargetChange(change) = next else {
                told.extend(self.learn(next));
                continue;
            };
            if !change.resume_token.is_empty() {
                self.token = change.resume_token.clone();
            }
            match TargetChangeType::try_from(change.target_change_type).unwrap() {
                // A heartbeat.
                TargetChangeType::NoChange if told.is_empty() => {}
                TargetChangeType::NoChange => {
                    assert!(change.read_time.is_some());
                    break;
                }
                TargetChangeType::Add => told.push(Told::Added),
                TargetChangeType::Current => told.push(Told::Current),
                TargetChangeType::Reset => {
                    self.known.clear();
                    told.push(Told::Reset);
                }
                TargetChangeType::Remove => {
                    told.push(Told::Removed(change.cause.map_or(0, |cause| cause.code)));
                    break;
                }
            }
        }
        told.sort();
        told
    }

    /// Applies a change of a document to the known state.
    fn learn(&mut self, response: ResponseType) -> Option<Told> {
        let id = |name: &str| name.rsplit('/').next().unwrap().to_owned();
        let (name, removed_from) = match response {
            ResponseType::DocumentChange(change) if change.target_ids == [TARGET] => {
                let document = change.document.unwrap();
                let Some(ValueType::IntegerValue(n)) = document.fields["n"].value_type else {
                    panic!("{document:?} has no number");
                };
                self.known.insert(id(&document.name), n);
                return Some(Told::Changed(id(&document.name)));
            }
            ResponseType::DocumentChange(change) => {
                (change.document.unwrap().name, change.removed_target_ids)
            }
            ResponseType::DocumentDelete(gone) => (gone.document, gone.removed_target_ids),
            ResponseType::DocumentRemove(gone) => (gone.document, gone.removed_target_ids),
            ResponseType::TargetChange(_) | ResponseType::Filter(_) => return None,
        };
        assert_eq!(removed_from, [TARGET]);
        self.known.remove(&id(&name));
        Some(Told::Gone(id(&name)))
    }

    /// Waits until a client would show these documents.
    async fn until(&mut self, expected: &[(&str, i64)]) {
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(id, n)| ((*id).to_owned(), *n)).collect();
        let shown = async {
            while self.known != expected {
                self.snapshot().await;
            }
        };
        timeout(PATIENCE, shown).await.expect("the documents are shown");
    }
}

fn changed(id: &str) -> Told {
    Told::Changed(id.to_owned())
}

fn gone(id: &str) -> Told {
    Told::Gone(id.to_owned())
}

async fn a_query_is_followed(cloud: &Cloud) {
    cloud.commit(vec![cloud.numbered("old", 1), cloud.numbered("other", 0)]).await.unwrap();
    let mut listener = cloud.listen(cloud.query_target()).await;
    listener.until(&[("old", 1)]).await;

    cloud.commit(vec![cloud.numbered("new", 2), cloud.numbered("old", 3)]).await.unwrap();
    listener.until(&[("new", 2), ("old", 3)]).await;
    cloud.commit(vec![cloud.numbered("old", 0)]).await.unwrap();
    listener.until(&[("new", 2)]).await;
    cloud.commit(vec![delete(cloud.name("new"))]).await.unwrap();
    listener.until(&[]).await;
}

async fn a_document_is_followed(cloud: &Cloud) {
    let mut listener = cloud.listen(cloud.document_target(&["d"])).await;
    assert_eq!(listener.snapshot().await, [Told::Added, Told::Current, gone("d")]);

    cloud.commit(vec![cloud.numbered("d", 1), cloud.numbered("other", 1)]).await.unwrap();
    listener.until(&[("d", 1)]).await;
    cloud.commit(vec![delete(cloud.name("d"))]).await.unwrap();
    listener.until(&[]).await;
}

async fn a_listener_resumes(cloud: &Cloud) {
    let (resumed, told) = cloud.resume().await;

    assert!(told.contains(&Told::Current));
    let expected = [("changed", 2), ("kept", 1), ("new", 1)].map(|(id, n)| (id.to_owned(), n));
    assert_eq!(resumed.known, expected.into());
}

async fn a_resumed_listener_hears_of_changes_alone(cloud: &Cloud) {
    let (_, told) = cloud.resume().await;

    let expected =
        [Told::Added, Told::Current, changed("changed"), changed("new"), gone("deleted")];
    assert_eq!(told, expected);
}

impl Cloud {
    /// Listens to documents, changes some while no stream is open, and listens again.
    async fn resume(&self) -> (Listener, Vec<Told>) {
        let writes = ["kept", "changed", "deleted"].map(|id| self.numbered(id, 1));
        self.commit(writes.into()).await.unwrap();
        let mut listener = self.listen(self.query_target()).await;
        listener.until(&[("changed", 1), ("deleted", 1), ("kept", 1)]).await;
        let (known, token) = (listener.known.clone(), listener.token.clone());
        drop(listener);
        let writes = vec![
            self.numbered("changed", 2),
            delete(self.name("deleted")),
            self.numbered("new", 1),
        ];
        self.commit(writes).await.unwrap();

        let resume_type = Some(ResumeType::ResumeToken(token));
        let target = proto::Target { resume_type, ..self.query_target() };
        let mut listener = Listener { known, ..self.listen(target).await };
        let told = listener.snapshot().await;
        (listener, told)
    }
}

async fn only_changes_are_told(cloud: &Cloud) {
    cloud.commit(vec![cloud.numbered("old", 1), cloud.numbered("other", 0)]).await.unwrap();
    let mut query = cloud.listen(cloud.query_target()).await;
    let mut documents = cloud.listen(cloud.document_target(&["old", "none"])).await;
    assert_eq!(query.snapshot().await, [Told::Added, Told::Current, changed("old")]);
    let expected = [Told::Added, Told::Current, changed("old"), gone("none")];
    assert_eq!(documents.snapshot().await, expected);

    let writes = ["new", "none"].map(|id| cloud.numbered(id, 1));
    cloud.commit([&writes[..], &[cloud.numbered("other", -1)]].concat()).await.unwrap();
    assert_eq!(query.snapshot().await, [changed("new"), changed("none")]);
    assert_eq!(documents.snapshot().await, [changed("none")]);

    // A write without a change is not reported.
    cloud.commit(writes.into()).await.unwrap();
    cloud.commit(vec![cloud.numbered("old", 0)]).await.unwrap();
    assert_eq!(query.snapshot().await, [gone("old")]);
    assert_eq!(documents.snapshot().await, [changed("old")]);
}

async fn a_listener_with_an_unknown_token_begins_anew(cloud: &Cloud) {
    cloud.commit(vec![cloud.numbered("d", 1)]).await.unwrap();
    for token in ["12345678", "short"] {
        let resume_type = Some(ResumeType::ResumeToken(token.into()));
        let target = proto::Target { resume_type, ..cloud.query_target() };

        let told = cloud.listen(target).await.snapshot().await;

        assert_eq!(told, [Told::Added, Told::Current, Told::Reset, changed("d")]);
    }
}

async fn a_target_can_be_removed(cloud: &Cloud) {
    let mut listener = cloud.listen(cloud.query_target()).await;
    listener.snapshot().await;

    let target_change = Some(Wanted::RemoveTarget(TARGET));
    let database = listener.database.clone();
    let request = proto::ListenRequest { database, target_change, ..<_>::default() };
    listener.requests.unbounded_send(request).unwrap();

    assert_eq!(listener.snapshot().await, [Told::Removed(0)]);
}

async fn a_target_for_once_is_removed_after_its_snapshot(cloud: &Cloud) {
    cloud.commit(vec![cloud.numbered("d", 1)]).await.unwrap();
    let target = proto::Target { once: true, ..cloud.query_target() };
    let mut listener = cloud.listen(target).await;

    assert_eq!(listener.snapshot().await, [Told::Added, Told::Current, changed("d")]);
    assert_eq!(listener.snapshot().await, [Told::Removed(0)]);
}

async fn a_target_that_cannot_be_is_removed_with_its_cause(cloud: &Cloud) {
    let mut target = cloud.query_target();
    if let Some(TargetType::Query(query)) = &mut target.target_type
        && let Some(query_target::QueryType::StructuredQuery(query)) = &mut query.query_type
    {
        query.offset = -1;
    }

    let told = cloud.listen(target).await.snapshot().await;

    assert_eq!(told, [Told::Removed(Code::InvalidArgument.into())]);
}

async fn a_cut_ends_the_streams(cloud: &Cloud) {
    let mut listener = cloud.listen(cloud.query_target()).await;
    listener.snapshot().await;
    let (requests, mut responses) = cloud.write_stream().await;
    responses.message().await.unwrap();

    cloud.ours.as_ref().unwrap().faults().cut_streams();

    assert_eq!(code(listener.next().await), Code::Unavailable);
    assert_eq!(code(responses.message().await), Code::Unavailable);
    drop(requests);
}

async fn a_fault_refuses_a_listener(cloud: &Cloud) {
    let faults = cloud.ours.as_ref().unwrap().faults();
    faults.refuse("Listen", 1, Code::Unavailable);

    let refused = cloud.listen(cloud.query_target()).await.next().await;

    assert_eq!(code(refused), Code::Unavailable);
}

impl Cloud {
    /// Opens a write stream.
    async fn write_stream(
        &self,
    ) -> (UnboundedSender<proto::WriteRequest>, Streaming<proto::WriteResponse>) {
        let (requests, receiver) = unbounded();
        let first = proto::WriteRequest { database: self.database(), ..<_>::default() };
        requests.unbounded_send(first).unwrap();
        let responses =
            self.client.clone().write(self.request(receiver)).await.unwrap().into_inner();
        (requests, responses)
    }
}

async fn a_stream_of_writes_commits_each(cloud: &Cloud) {
    let (requests, mut responses) = cloud.write_stream().await;
    let opened = responses.message().await.unwrap().unwrap();
    assert!(!opened.stream_token.is_empty());

    let mut stream_token = opened.stream_token;
    for number in 1..=2 {
        let writes = vec![cloud.numbered("d", number), cloud.numbered("e", number)];
        let request = proto::WriteRequest {
            database: cloud.database(),
            writes,
            stream_token,
            ..<_>::default()
        };
        requests.unbounded_send(request).unwrap();
        let response = responses.message().await.unwrap().unwrap();
        assert_eq!(response.write_results.len(), 2);
        assert!(response.commit_time.is_some());
        stream_token = response.stream_token;
    }

    assert_eq!(cloud.get(cloud.name("e")).await.unwrap().fields["n"], integer(2));
    let refused = vec![only_if(cloud.numbered("none", 1), ConditionType::Exists(true))];
    let request = proto::WriteRequest { writes: refused, stream_token, ..<_>::default() };
    requests.unbounded_send(request).unwrap();
    assert_eq!(code(responses.message().await), Code::NotFound);
}

contracts!(
    both: a_query_is_followed,
    a_document_is_followed,
    a_listener_resumes,
    a_target_can_be_removed,
    a_stream_of_writes_commits_each;
    // Google's emulator resets more often. It also ends the whole stream if one target is
    // impossible.
    ours: only_changes_are_told,
    a_resumed_listener_hears_of_changes_alone,
    a_target_that_cannot_be_is_removed_with_its_cause,
    a_listener_with_an_unknown_token_begins_anew,
    a_target_for_once_is_removed_after_its_snapshot,
    a_cut_ends_the_streams,
    a_fault_refuses_a_listener,
);
