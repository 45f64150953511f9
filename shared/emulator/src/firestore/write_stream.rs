//! Write streams: each request is a commit, in the order of the stream.

use futures::Stream;
use tokio::sync::watch;
use tonic::{Code, Streaming};
use uuid::Uuid;

use super::Firestore;
use super::proto::{WriteRequest, WriteResponse};
use super::rpc::MAX_REQUEST_BYTES;
use crate::grpc::check_size;
use crate::status::Status;

impl Firestore {
    /// Answers a stream of commits.
    pub(super) fn write_stream(
        &self,
        requests: Streaming<WriteRequest>,
    ) -> impl Stream<Item = Result<WriteResponse, tonic::Status>> + Send + use<> {
        let cuts = self.faults.cuts();
        let writer = StreamWriter {
            firestore: self.clone(),
            requests,
            cuts,
            id: String::new(),
            answered: 0,
        };
        futures::stream::unfold(Some(writer), async |writer| {
            let mut writer = writer?;
            match writer.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(writer))),
                Ok(None) => None,
                Err(status) => Some((Err(status.into()), None)),
            }
        })
    }
}

struct StreamWriter {
    firestore: Firestore,
    requests: Streaming<WriteRequest>,
    cuts: watch::Receiver<u64>,
    /// Empty before the first request.
    id: String,
    answered: u64,
}

impl StreamWriter {
    /// Returns the next response; `None` after the client has closed the stream.
    async fn next(&mut self) -> Result<Option<WriteResponse>, Status> {
        let request = tokio::select! {
            request = self.requests.message() => request,
            _ = self.cuts.changed() => {
                return Err(Status::new(Code::Unavailable, "the stream was cut on demand"));
            }
        };
        let Ok(Some(request)) = request else { return Ok(None) };
        check_size(&request, MAX_REQUEST_BYTES)?;
        if self.id.is_empty() {
            self.open(&request)?;
        }
        let faults = self.firestore.faults.clone();
        let mut response = WriteResponse { stream_id: self.id.clone(), ..<_>::default() };
        if !request.writes.is_empty() {
            let write = async {
                self.firestore.check_rights(&request.writes)?;
                self.firestore.apply(&request.writes)
            };
            let (write_results, commit_time) = faults.around("Write", write).await?;
            response.write_results = write_results;
            response.commit_time = Some(commit_time);
        }
        self.answered += 1;
        response.stream_token = self.answered.to_be_bytes().to_vec().into();
        Ok(Some(response))
    }

    /// Opens the stream. The first request must not have writes.
    fn open(&mut self, first: &WriteRequest) -> Result<(), Status> {
        if !first.stream_id.is_empty() {
            return Err(Status::unimplemented("the resumption of write streams"));
        }
        if first.database.is_empty() || !first.writes.is_empty() {
            let text = "The first request must name the database and have no writes.";
            return Err(Status::invalid(text));
        }
        self.id = Uuid::new_v4().simple().to_string();
        Ok(())
    }
}
