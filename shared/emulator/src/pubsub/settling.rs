//! Acknowledgements and deadlines of unary calls, with Google's limits and error texts.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use prost::Message;
use tonic::Code;

use super::delivery::Subscription;
use super::{PubSub, proto};
use crate::grpc::check_size;
use crate::status::Status;

/// Largest request, from <https://cloud.google.com/pubsub/quotas#resource_limits>.
const MAX_REQUEST_BYTES: usize = 512 * 1024;
/// Range of a new deadline in seconds; 0 nacks.
const DEADLINE: RangeInclusive<i32> = 0..=600;

impl PubSub {
    /// Acknowledges messages.
    ///
    /// # Errors
    /// With exactly-once delivery, fails if a lease has ended: that message is delivered again.
    pub(super) async fn acknowledge(
        &self,
        request: proto::AcknowledgeRequest,
    ) -> Result<(), Status> {
        let acknowledge = async {
            check_size(&request, MAX_REQUEST_BYTES)?;
            let subscription = self.subscription(&request.subscription)?;
            let unknown = subscription.acknowledge(&request.ack_ids);
            Ok(reported(&subscription, unknown))
        };
        lease_ended(self.faults.around("Acknowledge", acknowledge).await?)
    }

    /// Sets new deadlines; zero nacks.
    ///
    /// # Errors
    /// With exactly-once delivery, fails if a lease has ended: that message is delivered again.
    pub(super) async fn modify_ack_deadline(
        &self,
        request: proto::ModifyAckDeadlineRequest,
    ) -> Result<(), Status> {
        let modify = async {
            check_size(&request, MAX_REQUEST_BYTES)?;
            let seconds = request.ack_deadline_seconds;
            check_deadline(seconds)?;
            let subscription = self.subscription(&request.subscription)?;
            let changes: Vec<_> = request.ack_ids.iter().map(|id| (id.clone(), seconds)).collect();
            let (unknown, exhausted) = subscription.modify(&changes);
            self.dead_letter(&subscription, exhausted);
            Ok(reported(&subscription, unknown))
        };
        lease_ended(self.faults.around("ModifyAckDeadline", modify).await?)
    }
}

/// Refuses a deadline outside of Google's range.
pub(super) fn check_deadline(seconds: i32) -> Result<(), Status> {
    if DEADLINE.contains(&seconds) {
        return Ok(());
    }
    Err(Status::invalid(format!("ack_deadline_seconds must be 0 to 600: {seconds}")))
}

/// Returns the ids that are reported to the caller. Without exactly-once delivery, late
/// acknowledgements are ignored silently.
fn reported(subscription: &Subscription, unknown: Vec<String>) -> Vec<String> {
    if subscription.config().enable_exactly_once_delivery { unknown } else { Vec::new() }
}

/// Builds an error with each id whose lease has ended, in the form that exactly-once clients parse.
fn lease_ended(ack_ids: Vec<String>) -> Result<(), Status> {
    const REASON: &str = "PERMANENT_FAILURE_INVALID_ACK_ID";
    if ack_ids.is_empty() {
        return Ok(());
    }
    let metadata = ack_ids.into_iter().map(|id| (id, REASON.to_owned())).collect();
    let info =
        ErrorInfo { reason: REASON.into(), domain: "pubsub.googleapis.com".into(), metadata };
    let text = "Some acknowledgement ids in the request were invalid.";
    let details = vec![prost_types::Any {
        type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(),
        value: info.encode_to_vec(),
    }];
    Err(Status { details, ..Status::new(Code::FailedPrecondition, text) })
}

/// Message `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: HashMap<String, String>,
}
