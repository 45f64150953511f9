//! Listeners: streams that report documents and results of queries as they change.

mod target;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures::Stream;
use googleapis_tonic_google_firestore_v1::google::rpc;
use proto::listen_request::TargetChange as Wanted;
use proto::listen_response::ResponseType;
use proto::target_change::TargetChangeType;
use proto::{ListenRequest, ListenResponse};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::{Code, Streaming};

use super::time::Time;
use super::{Firestore, proto};
use crate::status::Status;
use target::Target;

/// Time after which a silent stream sends a message to show that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Most targets of a stream. Google has a limit, too, but does not document it.
const MAX_TARGETS: usize = 1000;

impl Firestore {
    /// Answers a stream of targets with their documents and later changes.
    pub(super) fn listen(
        &self,
        requests: Streaming<ListenRequest>,
    ) -> impl Stream<Item = Result<ListenResponse, tonic::Status>> + Send + use<> {
        let listener = Listener {
            firestore: self.clone(),
            requests,
            cuts: self.faults.cuts(),
            commits: self.commits.subscribe(),
            targets: BTreeMap::new(),
            seen: None,
            responses: VecDeque::new(),
        };
        futures::stream::unfold(Some(listener), async |listener| {
            let mut listener = listener?;
            match listener.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(listener))),
                Ok(None) => None,
                Err(status) => Some((Err(status.into()), None)),
            }
        })
    }
}

struct Listener {
    firestore: Firestore,
    requests: Streaming<ListenRequest>,
    cuts: watch::Receiver<u64>,
    commits: watch::Receiver<()>,
    targets: BTreeMap<i32, Target>,
    /// Time of the last check of the targets.
    seen: Option<Time>,
    /// Responses of one check. The next check waits until they are sent.
    responses: VecDeque<ListenResponse>,
}

impl Listener {
    /// Returns the next response; `None` after the client has closed the stream.
    async fn next(&mut self) -> Result<Option<ListenResponse>, Status> {
        let conditions = self.firestore.faults.conditions().clone();
        loop {
            if let Some(response) = self.responses.pop_front() {
                return Ok(Some(response));
            }
            tokio::select! {
                request = self.requests.message() => match request {
                    Ok(Some(request)) => self.handle(request).await?,
                    Ok(None) | Err(_) => return Ok(None),
                },
                // The sender is in `firestore`, so the channel stays open.
                _ = self.commits.changed() => self.look(),
                _ = self.cuts.changed() => {
                    return Err(Status::new(Code::Unavailable, "the stream was cut on demand"));
                }
                refusal = conditions.denial("Listen") => return Err(refusal),
                () = sleep(HEARTBEAT) => self.send_time(),
            }
        }
    }

    async fn handle(&mut self, request: ListenRequest) -> Result<(), Status> {
        match request.target_change {
            Some(Wanted::AddTarget(target)) => {
                let faults = self.firestore.faults.clone();
                faults.around("Listen", async { Ok(()) }).await?;
                self.add(target);
                Ok(())
            }
            Some(Wanted::RemoveTarget(id)) => {
                // An unknown target is confirmed, too: it may have been removed in the meantime.
                self.targets.remove(&id);
                self.send(change(TargetChangeType::Remove, vec![id]));
                Ok(())
            }
            None => Err(Status::invalid("A request must add or remove a target.")),
        }
    }

    fn add(&mut self, wanted: proto::Target) {
        let is_once = wanted.once;
        let highest = self.targets.keys().next_back().copied().unwrap_or(0);
        let id = if wanted.target_id == 0 { highest + 1 } else { wanted.target_id };
        let resume = wanted.resume_type;
        let target = match wanted.target_type {
            _ if self.targets.len() >= MAX_TARGETS => {
                let text = format!("a stream has at most {MAX_TARGETS} targets");
                Err(Status::new(Code::ResourceExhausted, text))
            }
            Some(target) => Target::read(target),
            None => Err(Status::invalid("A target must have a query or documents.")),
        };
        let mut target = match target {
            Ok(target) => target,
            Err(status) => return self.refuse(id, status),
        };
        let firestore = self.firestore.clone();
        let mut store = firestore.lock();
        let documents = &mut store.documents;
        let now = documents.read_time();
        self.send(change(TargetChangeType::Add, vec![id]));
        if let Some(resume) = resume
            && target.resume(documents, &resume).is_err()
        {
            self.send(change(TargetChangeType::Reset, vec![id]));
        }
        let changes = target.changes(id, &documents.latest(), now);
        drop(store);
        self.responses.extend(changes.into_iter().map(response));
        self.send(at(now, change(TargetChangeType::Current, vec![id])));
        self.send(at(now, change(TargetChangeType::NoChange, Vec::new())));
        if is_once {
            self.send(change(TargetChangeType::Remove, vec![id]));
        } else {
            // An older time is safe here: the next check sees at least the same changes.
            self.seen = self.seen.or(Some(now));
            self.targets.insert(id, target);
        }
    }

    fn refuse(&mut self, id: i32, status: Status) {
        let (code, message) = (status.code.into(), status.message);
        let cause = Some(rpc::Status { code, message, details: Vec::new() });
        let removed = change(TargetChangeType::Remove, vec![id]);
        self.send(proto::TargetChange { cause, ..removed });
    }

    /// Checks all targets for changes.
    fn look(&mut self) {
        let firestore = self.firestore.clone();
        let mut store = firestore.lock();
        let now = store.documents.read_time();
        let Some(seen) = self.seen.replace(now) else { return };
        let documents = &store.documents;
        for (id, target) in &mut self.targets {
            let is_touched = documents
                .touched_since(seen)
                .is_none_or(|mut names| names.any(|name| target.has(name)));
            if is_touched {
                let changes = target.changes(*id, &documents.latest(), now);
                self.responses.extend(changes.into_iter().map(response));
            }
        }
        drop(store);
        if !self.responses.is_empty() {
            self.send(at(now, change(TargetChangeType::NoChange, Vec::new())));
        }
    }

    /// Reports that the client has all changes up to now.
    fn send_time(&mut self) {
        self.look();
        if self.responses.is_empty()
            && let Some(seen) = self.seen
        {
            self.send(at(seen, change(TargetChangeType::NoChange, Vec::new())));
        }
    }

    fn send(&mut self, change: proto::TargetChange) {
        self.responses.push_back(response(ResponseType::TargetChange(change)));
    }
}

fn response(response: ResponseType) -> ListenResponse {
    ListenResponse { response_type: Some(response) }
}

fn change(kind: TargetChangeType, target_ids: Vec<i32>) -> proto::TargetChange {
    proto::TargetChange { target_change_type: kind.into(), target_ids, ..<_>::default() }
}

/// Marks a time up to which everything was reported. A later stream can resume there.
fn at(time: Time, change: proto::TargetChange) -> proto::TargetChange {
    let resume_token = time.to_bytes().to_vec().into();
    proto::TargetChange { resume_token, read_time: Some(time.into()), ..change }
}
