//! Contract tests of transactions.

use proto::transaction_options::{Mode, ReadOnly, ReadWrite, read_only};

use super::queries::{above, devices, run};
use super::*;

type Id = prost::bytes::Bytes;

fn read_write() -> proto::TransactionOptions {
    proto::TransactionOptions { mode: Some(Mode::ReadWrite(ReadWrite::default())) }
}

fn read_only(time: Option<prost_types::Timestamp>) -> proto::TransactionOptions {
    let consistency_selector = time.map(read_only::ConsistencySelector::ReadTime);
    proto::TransactionOptions { mode: Some(Mode::ReadOnly(ReadOnly { consistency_selector })) }
}

impl Cloud {
    async fn begin(&self, options: proto::TransactionOptions) -> Result<Id, Status> {
        let database = self.database();
        let request = proto::BeginTransactionRequest { database, options: Some(options) };
        Ok(self.client.clone().begin_transaction(request).await?.into_inner().transaction)
    }

    async fn get_in(&self, id: &str, transaction: &Id) -> Result<proto::Document, Status> {
        use proto::get_document_request::ConsistencySelector;
        let request = proto::GetDocumentRequest {
            name: self.name(id),
            consistency_selector: Some(ConsistencySelector::Transaction(transaction.clone())),
            ..<_>::default()
        };
        Ok(self.client.clone().get_document(request).await?.into_inner())
    }

    /// Returns the number of devices that a query finds in a transaction.
    async fn count_in(
        &self,
        query: proto::StructuredQuery,
        transaction: &Id,
    ) -> Result<usize, Status> {
        use proto::run_query_request::ConsistencySelector;
        let consistency_selector = Some(ConsistencySelector::Transaction(transaction.clone()));
        let request = proto::RunQueryRequest { consistency_selector, ..run(self.root(), query) };
        let responses = self.responses(request).await?;
        Ok(responses.iter().filter(|response| response.document.is_some()).count())
    }

    async fn commit_in(
        &self,
        transaction: Id,
        writes: Vec<proto::Write>,
    ) -> Result<proto::CommitResponse, Status> {
        let request = proto::CommitRequest { database: self.database(), writes, transaction };
        Ok(self.client.clone().commit(request).await?.into_inner())
    }

    async fn roll_back(&self, transaction: Id) -> Result<(), Status> {
        let request = proto::RollbackRequest { database: self.database(), transaction };
        self.client.clone().rollback(request).await.map(drop)
    }
}

async fn a_transaction_writes_what_it_has_read(cloud: &Cloud) {
    cloud.commit(vec![cloud.numbered("d", 1)]).await.unwrap();

    let id = cloud.begin(read_write()).await.unwrap();
    let read = cloud.get_in("d", &id).await.unwrap();
    assert_eq!(cloud.count_in(above("n", 0), &id).await.unwrap(), 1);
    cloud.commit_in(id.clone(), vec![cloud.numbered("d", 2)]).await.unwrap();

    assert_eq!(read.fields["n"], integer(1));
    assert_eq!(cloud.get(cloud.name("d")).await.unwrap().fields["n"], integer(2));
    // The commit has ended the transaction.
    assert_eq!(code(cloud.commit_in(id.clone(), vec![]).await), Code::InvalidArgument);
    assert_eq!(code(cloud.get_in("d", &id).await), Code::InvalidArgument);
}

async fn reads_can_begin_a_transaction(cloud: &Cloud) {
    cloud.commit(vec![cloud.numbered("d", 1)]).await.unwrap();

    let request = proto::BatchGetDocumentsRequest {
        database: cloud.database(),
        documents: vec![cloud.name("d")],
        consistency_selector: Some(
            proto::batch_get_documents_request::ConsistencySelector::NewTransaction(read_write()),
        ),
        ..<_>::default()
    };
    let answers = cloud.client.clone().batch_get_documents(request).await.unwrap();
    let answers: Vec<_> = answers.into_inner().try_collect().await.unwrap();
    let id = answers[0].transaction.clone();
    assert!(answers.iter().any(|answer| matches!(answer.result, Some(Found::Found(_)))));
    cloud.commit_in(id, vec![cloud.numbered("d", 2)]).await.unwrap();

    let consistency_selector =
        Some(proto::run_query_request::ConsistencySelector::NewTransaction(read_write()));
    let query = run(cloud.root(), above("n", 1));
    let responses =
        cloud.responses(proto::RunQueryRequest { consistency_selector, ..query }).await.unwrap();
    cloud.roll_back(responses[0].transaction.clone()).await.unwrap();
}

/// Lets two transactions read a document with the number 0 and set it to 1 and 2. Returns both
/// outcomes.
async fn change_what_both_read(cloud: &Cloud) -> [Result<proto::CommitResponse, Status>; 2] {
    cloud.commit(vec![cloud.numbered("d", 0)]).await.unwrap();
    let first = cloud.begin(read_write()).await.unwrap();
    let second = cloud.begin(read_write()).await.unwrap();
    cloud.get_in("d", &first).await.unwrap();
    cloud.get_in("d", &second).await.unwrap();

    let (one, other) = tokio::join!(
        cloud.commit_in(first, vec![cloud.numbered("d", 1)]),
        cloud.commit_in(second, vec![cloud.numbered("d", 2)]),
    );
    [one, other]
}

/// Google's emulator uses locks, and sometimes aborts both transactions.
async fn of_two_that_change_what_both_read_at_most_one_is_committed(cloud: &Cloud) {
    let [one, other] = change_what_both_read(cloud).await;

    let expected = match (one.is_ok(), other.is_ok()) {
        (true, false) => 1,
        (false, true) => 2,
        (false, false) => 0,
        (true, true) => panic!("both are committed"),
    };
    for aborted in [one, other].into_iter().filter(Result::is_err) {
        assert_eq!(code(aborted), Code::Aborted);
    }
    assert_eq!(cloud.get(cloud.name("d")).await.unwrap().fields["n"], integer(expected));
}

async fn of_two_that_change_what_both_read_one_is_committed(cloud: &Cloud) {
    let [one, other] = change_what_both_read(cloud).await;

    assert_ne!(one.is_ok(), other.is_ok());
}

async fn a_change_of_what_was_read_aborts(cloud: &Cloud) {
    type Act = fn(&Cloud) -> proto::Write;
    let changes: [(&str, Act); 4] = [
        ("of the document", |cloud| cloud.numbered("read", 7)),
        ("deletes the document", |cloud| delete(cloud.name("read"))),
        ("creates one that was missing", |cloud| cloud.numbered("none", 0)),
        ("adds one to the query", |cloud| cloud.numbered("new", 9)),
    ];
    for (what, change) in changes {
        let clean = ["none", "new"].map(|id| delete(cloud.name(id)));
        cloud.commit(clean.into()).await.unwrap();
        cloud.commit(vec![cloud.numbered("read", 1)]).await.unwrap();
        let id = cloud.begin(read_write()).await.unwrap();
        cloud.get_in("read", &id).await.unwrap();
        assert_eq!(code(cloud.get_in("none", &id).await), Code::NotFound);
        cloud.count_in(above("n", 5), &id).await.unwrap();

        cloud.commit(vec![change(cloud)]).await.unwrap();

        let outcome = cloud.commit_in(id, vec![cloud.numbered("other", 1)]).await;
        assert_eq!(code(outcome), Code::Aborted, "{what}");
        assert_eq!(code(cloud.get(cloud.name("other")).await), Code::NotFound, "{what}");
    }
}

async fn a_change_of_what_was_not_read_does_not_abort(cloud: &Cloud) {
    let id = cloud.begin(read_write()).await.unwrap();
    cloud.count_in(above("n", 5), &id).await.unwrap();

    cloud.commit(vec![cloud.numbered("small", 1)]).await.unwrap();

    cloud.commit_in(id, vec![cloud.numbered("other", 1)]).await.unwrap();
}

async fn a_rollback_ends_a_transaction(cloud: &Cloud) {
    let id = cloud.begin(read_write()).await.unwrap();

    cloud.roll_back(id.clone()).await.unwrap();

    assert_eq!(code(cloud.commit_in(id.clone(), vec![]).await), Code::InvalidArgument);
    // Clients may roll back a transaction that has already ended.
    cloud.roll_back(id).await.unwrap();
}

async fn a_commit_that_fails_ends_a_transaction(cloud: &Cloud) {
    let id = cloud.begin(read_write()).await.unwrap();
    let refused = only_if(cloud.numbered("none", 1), ConditionType::Exists(true));

    assert_eq!(code(cloud.commit_in(id.clone(), vec![refused]).await), Code::NotFound);

    assert_eq!(code(cloud.commit_in(id.clone(), vec![]).await), Code::InvalidArgument);
    cloud.roll_back(id).await.unwrap();
}

async fn an_unknown_transaction_is_invalid(cloud: &Cloud) {
    let id = Id::from_static(b"unknown");

    assert_eq!(code(cloud.get_in("d", &id).await), Code::InvalidArgument);
    assert_eq!(code(cloud.commit_in(id.clone(), vec![]).await), Code::InvalidArgument);
    assert_eq!(code(cloud.roll_back(id).await), Code::InvalidArgument);
}

async fn a_read_only_transaction_writes_nothing(cloud: &Cloud) {
    let id = cloud.begin(read_only(None)).await.unwrap();
    let outcome = cloud.commit_in(id, vec![cloud.numbered("d", 1)]).await;
    assert_eq!(code(outcome), Code::InvalidArgument);

    let id = cloud.begin(read_only(None)).await.unwrap();
    cloud.commit_in(id, vec![]).await.unwrap();
}

async fn a_read_only_transaction_sees_one_time(cloud: &Cloud) {
    cloud.commit(vec![cloud.numbered("d", 1)]).await.unwrap();
    let id = cloud.begin(read_only(None)).await.unwrap();
    cloud.get_in("d", &id).await.unwrap();

    cloud.commit(vec![cloud.numbered("d", 2), cloud.numbered("new", 2)]).await.unwrap();

    assert_eq!(cloud.get_in("d", &id).await.unwrap().fields["n"], integer(1));
    assert_eq!(cloud.count_in(devices(), &id).await.unwrap(), 1);
}

async fn the_past_can_be_read(cloud: &Cloud) {
    let committed = cloud.commit(vec![cloud.numbered("d", 1)]).await.unwrap();
    let then = committed.commit_time.unwrap();
    cloud.commit(vec![cloud.numbered("d", 2)]).await.unwrap();
    cloud.commit(vec![delete(cloud.name("d"))]).await.unwrap();

    let id = cloud.begin(read_only(Some(then))).await.unwrap();
    assert_eq!(cloud.get_in("d", &id).await.unwrap().fields["n"], integer(1));
    assert_eq!(cloud.count_in(above("n", 0), &id).await.unwrap(), 1);

    let request = proto::GetDocumentRequest {
        name: cloud.name("d"),
        consistency_selector: Some(proto::get_document_request::ConsistencySelector::ReadTime(
            then,
        )),
        ..<_>::default()
    };
    let read = cloud.client.clone().get_document(request).await.unwrap().into_inner();
    assert_eq!(read.fields["n"], integer(1));
}

async fn times_that_cannot_be_read_are_refused(cloud: &Cloud) {
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });

    let future = cloud.begin(read_only(time(4_000_000_000))).await;
    let forgotten = cloud.begin(read_only(time(1_000_000_000))).await;

    assert_eq!(code(future), Code::InvalidArgument);
    assert_eq!(code(forgotten), Code::FailedPrecondition);
}

contracts!(
    both: a_transaction_writes_what_it_has_read,
    reads_can_begin_a_transaction,
    of_two_that_change_what_both_read_at_most_one_is_committed,
    a_rollback_ends_a_transaction,
    a_commit_that_fails_ends_a_transaction,
    an_unknown_transaction_is_invalid,
    a_read_only_transaction_writes_nothing,
    a_read_only_transaction_sees_one_time,
    the_past_can_be_read,
    times_that_cannot_be_read_are_refused;
    // Google's emulator makes the second writer wait for the end of the first one.
    ours: of_two_that_change_what_both_read_one_is_committed,
    a_change_of_what_was_read_aborts,
    a_change_of_what_was_not_read_does_not_abort,
);
