//! Faults that a test can inject.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1::storage_error::StorageErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tonic::Code;

use crate::conditions::{Conditions, pause};
use crate::rights;
use crate::status::Status;

/// A fault of the next calls of a method.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Fault {
    /// Method that fails, such as `Publish`, `StreamingPull`, `Acknowledge` or
    /// `storage.objects.insert`; `*` for all methods.
    pub method: String,
    /// Id of the topic whose `Publish` calls fail. Without it, the calls of all topics fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Most calls that fail.
    pub count: u64,
    /// Longest duration, in milliseconds from now. Without it, the fault lasts until `count` calls
    /// have failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_millis: Option<u64>,
    /// Effect on these calls.
    #[serde(flatten)]
    pub kind: Kind,
}

impl Fault {
    /// Reads a fault from JSON.
    ///
    /// # Errors
    /// Fails for a fault that could never happen, or with a key that has no effect.
    pub(crate) fn read(json: Value) -> Result<Self, Status> {
        let invalid = |error: serde_json::Error| Status::invalid(format!("fault: {error}"));
        let fault: Self = serde_json::from_value(json.clone()).map_err(invalid)?;
        // Serde cannot refuse unknown keys of a flattened field.
        let known = serde_json::to_value(&fault).map_err(invalid)?;
        let mut given = json.as_object().into_iter().flatten();
        if let Some((key, _)) = given.find(|(key, value)| !value.is_null() && known[key].is_null())
        {
            return Err(Status::invalid(format!("fault: {key} says nothing in one of this kind")));
        }
        fault.check()?;
        Ok(fault)
    }

    /// Refuses a fault that could never happen.
    fn check(&self) -> Result<(), Status> {
        let Self { method, topic, count, kind, .. } = self;
        let refused = |why: String| Err(Status::invalid(format!("fault: {why}")));
        let may_be = |wanted: &str| method == wanted || method == "*";
        if *count == 0 {
            return refused("count must be 1 or more".to_owned());
        }
        if method != "*" && !rights::is_method(method) {
            return refused(format!("there is no method {method}"));
        }
        if topic.is_some() && !may_be("Publish") {
            return refused(format!("{method} is about no topic; Publish is"));
        }
        if kind.is_of_rows() && !may_be("AppendRows") {
            return refused(format!("{method} has no rows; AppendRows has"));
        }
        match kind {
            Kind::Refuse { code, .. } | Kind::AppendError { code, .. }
                if !(1..=16).contains(code) =>
            {
                refused(format!("{code} is no code of an error, which is 1 to 16"))
            }
            Kind::AppendError { storage_error: Some(name), .. }
                if StorageErrorCode::from_str_name(name).is_none() =>
            {
                refused(format!("there is no StorageErrorCode {name}"))
            }
            Kind::Refuse { .. }
            | Kind::Delay { .. }
            | Kind::DelayReply { .. }
            | Kind::LoseReply
            | Kind::RefuseRow
            | Kind::AppendError { .. } => Ok(()),
        }
    }
}

/// Effect on a call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// Fails with this gRPC code (for REST the matching HTTP status) and changes nothing.
    Refuse {
        /// Number of the gRPC code, 1 to 16.
        code: i32,
        /// Seconds of a `Retry-After` header, over REST.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
        /// Reason in the body over REST, such as `orgPolicyConstraintFailed`. The default fits the
        /// code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Error message. The default names the method.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// Carries the call out later, unless the caller has gone by then.
    Delay {
        /// Delay in milliseconds.
        millis: u64,
    },
    /// Carries the call out at once, and answers later.
    DelayReply {
        /// Delay in milliseconds.
        millis: u64,
    },
    /// Carries the call out and loses the reply: the caller sees UNAVAILABLE.
    LoseReply,
    /// Refuses the first row of an `AppendRows` request, so nothing of the request is written.
    RefuseRow,
    /// Fails an `AppendRows` request, and writes nothing of it.
    AppendError {
        /// Number of the gRPC code, 1 to 16.
        code: i32,
        /// Code of an additional `StorageError`, such as `SCHEMA_MISMATCH_EXTRA_FIELDS`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        storage_error: Option<String>,
        /// Error message. The default says "on demand".
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// True if the error ends the stream. Otherwise the error is an answer, and the stream
        /// continues.
        #[serde(default)]
        ends_stream: bool,
    },
}

impl Kind {
    /// Refuses with a code, and with defaults for the rest.
    #[must_use]
    pub fn refuse(code: Code) -> Self {
        Self::Refuse { code: code.into(), retry_after: None, reason: None, message: None }
    }

    /// Returns true for an effect on the rows of an `AppendRows` request.
    fn is_of_rows(&self) -> bool {
        matches!(self, Self::RefuseRow | Self::AppendError { .. })
    }

    /// Returns true for an effect on the reply of a call that was carried out.
    fn is_of_reply(&self) -> bool {
        matches!(self, Self::DelayReply { .. } | Self::LoseReply)
    }
}

/// Faults of an emulator. Clones share them.
#[derive(Debug, Clone)]
pub struct Faults {
    planned: Arc<Mutex<Vec<Planned>>>,
    calls: CallCounts,
    refused: CallCounts,
    ended: CallCounts,
    cuts: Arc<watch::Sender<u64>>,
    conditions: Conditions,
}

/// Numbers of calls by method.
type CallCounts = Arc<Mutex<BTreeMap<String, u64>>>;

#[derive(Debug)]
struct Planned {
    fault: Fault,
    ends_at: Option<Instant>,
}

impl Default for Faults {
    fn default() -> Self {
        let cuts = Arc::new(watch::Sender::new(0));
        Self {
            planned: Arc::default(),
            calls: CallCounts::default(),
            refused: CallCounts::default(),
            ended: CallCounts::default(),
            cuts,
            conditions: Conditions::default(),
        }
    }
}

impl Faults {
    /// Adds a fault after those that are already planned. A fault with a count of 0 never happens.
    pub fn add(&self, fault: Fault) {
        if fault.count == 0 {
            return;
        }
        let ends_at = fault.for_millis.map(|millis| Instant::now() + Duration::from_millis(millis));
        self.lock().push(Planned { fault, ends_at });
    }

    /// Refuses the next calls of a method with a code.
    pub fn refuse(&self, method: &str, count: u64, code: Code) {
        self.plan(method, count, Kind::refuse(code));
    }

    /// Delays the next calls of a method.
    pub fn delay(&self, method: &str, count: u64, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.plan(method, count, Kind::Delay { millis });
    }

    /// Carries out the next calls of a method and loses their replies.
    pub fn lose_reply(&self, method: &str, count: u64) {
        self.plan(method, count, Kind::LoseReply);
    }

    fn plan(&self, method: &str, count: u64, kind: Kind) {
        self.add(Fault { method: method.into(), topic: None, count, for_millis: None, kind });
    }

    /// Ends all open streams with UNAVAILABLE.
    pub fn cut_streams(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Removes all planned faults.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Returns the faults that are still planned.
    #[must_use]
    pub fn planned(&self) -> Vec<Fault> {
        self.lock().iter().map(|planned| planned.fault.clone()).collect()
    }

    /// Returns the number of calls that were carried out, by method. It includes calls whose reply
    /// was lost.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the number of calls that a fault refused, by method.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<String, u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the number of streams that ended because they were idle or old, by method.
    #[must_use]
    pub fn ended(&self) -> BTreeMap<String, u64> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a stream that ended because it was idle or old.
    pub(crate) fn note_end(&self, method: &str) {
        count(&self.ended, method);
    }

    /// Returns a channel that changes at each [`Faults::cut_streams`].
    pub(crate) fn cuts(&self) -> watch::Receiver<u64> {
        self.cuts.subscribe()
    }

    /// Returns the conditions that also apply without a fault.
    pub(crate) fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Carries out a call with its planned fault, if there is one.
    pub(crate) async fn around<T>(
        &self,
        method: &str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        self.around_topic(method, "", call).await
    }

    /// Carries out a call for this topic with its planned fault and with the latency of the
    /// profile.
    pub(crate) async fn around_topic<T>(
        &self,
        method: &str,
        topic: &str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let half = self.conditions.latency(method) / 2;
        pause(half).await;
        let answer = self.at_once(method, topic, call).await;
        pause(half).await;
        answer
    }

    /// Carries out a call with its planned fault, but without latency.
    pub(crate) async fn at_once<T>(
        &self,
        method: &str,
        topic: &str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        rights::check(&self.conditions.profile().denied, method)?;
        let is_wanted = |kind: &Kind| !kind.is_of_rows();
        let before = self.take_unless(method, topic, is_wanted, Kind::is_of_reply);
        let had_fault = before.is_some();
        match before {
            Some(Kind::Refuse { code, retry_after, reason, message }) => {
                count(&self.refused, method);
                let message = message.unwrap_or_else(|| format!("{method} refused on demand"));
                let status = Status::new(Code::from_i32(code), message);
                return Err(Status { retry_after, reason, ..status });
            }
            Some(Kind::Delay { millis }) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
            Some(
                Kind::DelayReply { .. }
                | Kind::LoseReply
                | Kind::RefuseRow
                | Kind::AppendError { .. },
            )
            | None => {}
        }
        let answer = call.await?;
        count(&self.calls, method);
        if had_fault {
            return Ok(answer);
        }
        // The reply of a call that failed by itself cannot be lost.
        match self.take_unless(method, topic, is_wanted, |kind| !kind.is_of_reply()) {
            Some(Kind::DelayReply { millis }) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(answer)
            }
            Some(Kind::LoseReply) => {
                Err(Status::new(Code::Unavailable, format!("the reply of {method} was lost")))
            }
            Some(
                Kind::Refuse { .. }
                | Kind::Delay { .. }
                | Kind::RefuseRow
                | Kind::AppendError { .. },
            )
            | None => Ok(answer),
        }
    }

    /// Returns true if a planned fault refuses the first row of an `AppendRows` request.
    pub(crate) fn refuses_row(&self) -> bool {
        self.take("AppendRows", "", |kind| *kind == Kind::RefuseRow).is_some()
    }

    /// Returns the planned error of the next `AppendRows` request.
    pub(crate) fn append_error(&self) -> Option<Kind> {
        let kind = self.take("AppendRows", "", |kind| matches!(kind, Kind::AppendError { .. }))?;
        count(&self.refused, "AppendRows");
        Some(kind)
    }

    /// Takes the first planned fault of a wanted kind for a call.
    fn take(&self, method: &str, topic: &str, is_wanted: impl Fn(&Kind) -> bool) -> Option<Kind> {
        self.take_unless(method, topic, is_wanted, |_| false)
    }

    /// Takes the first planned fault of a wanted kind for a call, unless it applies to a later
    /// step.
    fn take_unless(
        &self,
        method: &str,
        topic: &str,
        is_wanted: impl Fn(&Kind) -> bool,
        is_later: impl Fn(&Kind) -> bool,
    ) -> Option<Kind> {
        let mut planned = self.lock();
        if planned.is_empty() {
            return None;
        }
        let now = Instant::now();
        planned.retain(|planned| planned.ends_at.is_none_or(|end| now < end));
        let at = planned.iter().position(|Planned { fault, .. }| {
            let id = topic.rsplit('/').next();
            (fault.method == method || fault.method == "*")
                && (fault.topic.is_none() || fault.topic.as_deref() == id)
                && is_wanted(&fault.kind)
        })?;
        let fault = &mut planned[at].fault;
        if is_later(&fault.kind) {
            return None;
        }
        fault.count = fault.count.saturating_sub(1);
        let kind = fault.kind.clone();
        if fault.count == 0 {
            planned.remove(at);
        }
        Some(kind)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Planned>> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counts: &CallCounts, method: &str) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    match counts.get_mut(method) {
        Some(count) => *count += 1,
        None => drop(counts.insert(method.to_owned(), 1)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_fault_of_a_topic_hits_that_topic_alone_and_is_counted() {
        let faults = Faults::default();
        let kind = Kind::refuse(Code::InvalidArgument);
        let (method, topic) = ("Publish".to_owned(), Some("dead".to_owned()));
        faults.add(Fault { method, topic, count: 9, for_millis: None, kind });
        let publish = async |topic| faults.around_topic("Publish", topic, async { Ok(()) }).await;

        assert!(publish("projects/p/topics/raw").await.is_ok());
        assert!(publish("projects/p/topics/dead").await.is_err());

        assert_eq!(faults.calls(), BTreeMap::from([("Publish".into(), 1)]));
        assert_eq!(faults.refused(), BTreeMap::from([("Publish".into(), 1)]));
    }

    #[tokio::test]
    async fn a_call_that_fails_by_itself_leaves_the_fault_of_its_reply() {
        let faults = Faults::default();
        faults.lose_reply("GetTopic", 1);
        faults.refuse("GetTopic", 1, Code::Internal);
        let get = async |outcome: Result<(), Status>| {
            let answer = faults.around("GetTopic", async { outcome }).await;
            answer.map_err(|status| status.code)
        };

        assert_eq!(get(Err(Status::not_found("topic"))).await, Err(Code::NotFound));
        assert_eq!(get(Ok(())).await, Err(Code::Unavailable));
        assert_eq!(get(Ok(())).await, Err(Code::Internal));
        assert_eq!(get(Ok(())).await, Ok(()));
    }

    #[test]
    fn faults_that_could_never_happen_are_refused() {
        let read = |changes: Value| {
            let mut fault =
                json!({ "method": "Publish", "count": 1, "kind": "refuse", "code": 14 });
            for (key, value) in changes.as_object().expect("an object") {
                fault[key] = value.clone();
            }
            Fault::read(fault)
        };

        for wrong in [
            json!({ "code": 0 }),
            json!({ "code": 17 }),
            json!({ "count": 0 }),
            json!({ "method": "Publsh" }),
            json!({ "method": "GetTopic", "topic": "dead" }),
            json!({ "topics": "dead" }),
            json!({ "kind": "lose_reply" }),
            json!({ "kind": "refuse_row", "code": null }),
            json!({ "kind": "append_error" }),
            json!({ "kind": "append_error", "method": "AppendRows", "code": 0 }),
            json!({ "kind": "append_error", "method": "AppendRows", "storage_error": "NONE" }),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
        for right in [
            json!({}),
            json!({ "method": "*", "topic": "dead", "for_millis": 5, "retry_after": 2 }),
            json!({ "kind": "lose_reply", "code": null }),
            json!({ "kind": "refuse_row", "method": "*", "code": null }),
            json!({ "kind": "append_error", "method": "AppendRows", "ends_stream": false }),
        ] {
            assert!(read(right.clone()).is_ok(), "{right}");
        }
    }
}
